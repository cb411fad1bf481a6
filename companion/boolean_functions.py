"""Boolean functions that networks with random weights compute, and how often each one turns up.

A function of n bits is its truth table: the outputs 0 or 1 on the 2ⁿ inputs in the order of
:func:`boolean_inputs`, packed eight to a byte.  Source: ``prior`` definition 2.3 and sec. 5.1.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from companion import validate
from companion.files import replacing

BLOCK = 10_000  # networks that share one random stream: the unit in which work is repeated or kept
SLICE = 250  # networks whose activations are in memory at once, some megabytes
BLOCKS_PER_CHECKPOINT = 50


@dataclass(frozen=True)
class FunctionCounts:
    """How often each function turned up among ``samples`` networks, the most frequent first.

    ``functions`` has shape (k, bytes) and dtype uint8, one packed truth table a row; ``counts``
    has shape (k,).  Ties are in the order of the packed bytes.
    """

    functions: np.ndarray
    counts: np.ndarray
    samples: int
    bits: int  # 2ⁿ, the length of a truth table

    def tables(self, most: int | None = None) -> np.ndarray:
        """The truth tables of the ``most`` frequent functions (default: all), shape (k, 2ⁿ), 0 or 1."""
        return np.unpackbits(self.functions[:most], axis=1, count=self.bits)

    def count(self, tables) -> np.ndarray:
        """The counts of given truth tables, shape (..., 2ⁿ) to (...); 0 for one that never turned up."""
        tables = _truth_tables("tables", tables, self.bits)
        order = np.argsort(_keys(self.functions))
        known, wanted = _keys(self.functions)[order], _keys(np.packbits(tables.reshape(-1, self.bits), axis=1))
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        found = np.where(known[place] == wanted, self.counts[order][place], 0)
        return found.reshape(tables.shape[:-1])

    def fitting(self, inputs, labels) -> "FunctionCounts":
        """The functions with these labels on these inputs: the posterior of a 0-1 likelihood.

        Parameters
        ----------
        inputs : array_like of int, shape (m,)
            Positions in :func:`boolean_inputs`.
        labels : array_like, shape (m,)
            0 or 1.

        Returns
        -------
        FunctionCounts
            ``samples`` is the number of networks that fit, so that ``counts / samples`` estimates
            the posterior and ``samples`` of this over ``samples`` of all the marginal likelihood.

        Raises
        ------
        ValueError
            If an input is not one of the 2ⁿ positions, a label not 0 or 1, or nothing fits.
        """
        inputs = np.atleast_1d(np.asarray(inputs))
        if inputs.ndim != 1 or inputs.dtype.kind not in "iu" or not np.all((inputs >= 0) & (inputs < self.bits)):
            raise ValueError(f"inputs must be positions from 0 to {self.bits - 1}, got {inputs.tolist()}")
        labels = _truth_tables("labels", labels, len(inputs)).ravel()
        fit = np.ones(len(self.functions), dtype=bool)
        for place, label in zip(inputs, labels, strict=True):  # a column at a time: the tables are never unpacked
            fit &= (self.functions[:, place // 8] >> (7 - place % 8)) & 1 == label
        if not fit.any():
            raise ValueError(f"labels must fit at least one sampled function; none of {len(fit)} fits")
        return FunctionCounts(self.functions[fit], self.counts[fit], int(self.counts[fit].sum()), self.bits)


def boolean_inputs(bits: int) -> np.ndarray:
    """All inputs of ``bits`` bits in binary order, shape (2^bits, bits), entries 0.0 and 1.0."""
    size = validate.count("bits", bits)
    if size > 16:
        raise ValueError(f"bits must be at most 16, for 65,536 inputs, got {bits}")
    return ((np.arange(2**size)[:, None] >> np.arange(size)[::-1]) & 1).astype(float)


def sample_boolean_functions(
    samples: int,
    *,
    seed: int,
    inputs: int = 7,
    widths: Sequence[int] = (40, 40),
    weight_scale: float = 1.0,
    bias_scale: float = 0.1,
    checkpoint: Path | str | None = None,
) -> FunctionCounts:
    """Draw ReLU networks with random weights and count the functions of their outputs' signs.

    Parameters
    ----------
    samples : int
        Number of networks.
    seed : int
        At least 0.  One seed gives one result, however often the run was interrupted.
    inputs : int
        n, at most 16.
    widths : sequence of int
        Units of the hidden layers.
    weight_scale, bias_scale : float
        σ_w > 0 and σ_b ≥ 0: weights are Gaussian with variance σ_w²/fan-in, biases with σ_b².
    checkpoint : path, optional
        A file that keeps what is done, replaced in one step every 500,000 networks.  If it exists
        the run goes on from there, or further, if it was to fewer samples.

    Returns
    -------
    FunctionCounts
        An output of exactly 0 counts as 0.

    Raises
    ------
    ValueError
        If an argument is not what is said above, or the checkpoint is damaged or was made with
        other arguments.

    Notes
    -----
    ``prior`` sec. 5.1: 7-40-40-1, σ_w = 1, σ_b = 0.1.  Sums are in single precision: one output
    in some millions is so near 0 that its sign would be another in double precision.
    """
    samples = validate.count("samples", samples)
    points = torch.from_numpy(boolean_inputs(inputs)).float()
    configuration = _configuration(seed, inputs, widths, weight_scale, bias_scale)
    path = None if checkpoint is None else Path(checkpoint)
    start, merged = _resume(path, configuration, samples // BLOCK) if path else (0, _nothing(len(points)))
    pending: list[np.ndarray] = []
    for block in range(start, samples // BLOCK):
        pending.append(_block(points, configuration, block, BLOCK))
        if len(pending) == BLOCKS_PER_CHECKPOINT:
            merged, pending = _merge(merged, pending), []
            if path:
                _save(path, configuration, block + 1, *merged)
    if path and pending:
        merged, pending = _merge(merged, pending), []
        _save(path, configuration, samples // BLOCK, *merged)
    if samples % BLOCK:
        pending.append(_block(points, configuration, samples // BLOCK, samples % BLOCK))
    functions, counts = _merge(merged, pending)
    order = np.argsort(-counts, kind="stable")
    return FunctionCounts(functions[order], counts[order], samples, len(points))


def random_networks(
    count: int, sizes: Sequence[int], weight_scale: float, bias_scale: float, generator: np.random.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Weights (count, in, out) and biases (count, 1, out) of each layer, in single precision."""
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        weight = generator.standard_normal((count, fan_in, fan_out), dtype=np.float32)
        bias = generator.standard_normal((count, 1, fan_out), dtype=np.float32)
        weight *= np.float32(weight_scale / fan_in**0.5)
        bias *= np.float32(bias_scale)
        layers.append((torch.from_numpy(weight), torch.from_numpy(bias)))
    return layers


def network_outputs(layers: Sequence[tuple[Tensor, Tensor]], points: Tensor) -> Tensor:
    """The outputs of many ReLU networks: points (m, n), or (count, m, n), to (count, m)."""
    (weight, bias), *rest = layers
    hidden = torch.matmul(points, weight) + bias
    for weight, bias in rest:
        hidden = torch.baddbmm(bias, hidden.relu(), weight)
    return hidden.squeeze(-1)


def _block(points: Tensor, configuration: dict, block: int, size: int) -> np.ndarray:
    """The packed functions of one block's networks, shape (size, bytes)."""
    stream = np.random.SeedSequence(configuration["seed"], spawn_key=(block,))
    generator = np.random.Generator(np.random.SFC64(stream))
    scales = configuration["weight_scale"], configuration["bias_scale"]
    found = []
    for first in range(0, size, SLICE):
        layers = random_networks(min(SLICE, size - first), configuration["sizes"], *scales, generator)
        found.append(np.packbits((network_outputs(layers, points) > 0).numpy(), axis=1))
    return np.concatenate(found)


def _nothing(bits: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((0, -(-bits // 8)), dtype=np.uint8), np.zeros(0, dtype=np.int64)


def _merge(known: tuple[np.ndarray, np.ndarray], fresh: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct functions in the order of their bytes, and their counts."""
    functions = np.concatenate([known[0], *fresh])
    counts = np.concatenate([known[1], np.ones(len(functions) - len(known[0]), dtype=np.int64)])
    keys = _keys(functions)
    order = np.argsort(keys, kind="stable")
    new = np.append(True, keys[order][1:] != keys[order][:-1])
    starts = np.flatnonzero(new)
    return functions[order[starts]], np.add.reduceat(counts[order], starts)


def _keys(functions: np.ndarray) -> np.ndarray:
    """One sortable value a function, in the order of its bytes."""
    return np.ascontiguousarray(functions).view(f"S{functions.shape[1]}").ravel()


def _configuration(seed, inputs, widths, weight_scale, bias_scale) -> dict:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    widths = [validate.count("widths", width) for width in widths]
    if not widths:
        raise ValueError("widths must name at least one hidden layer, got none")
    return {
        "seed": int(seed),
        "sizes": [int(inputs), *widths, 1],
        "weight_scale": validate.positive("weight_scale", weight_scale),
        "bias_scale": validate.non_negative("bias_scale", bias_scale),
    }


def _resume(path: Path, configuration: dict, blocks: int) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
    if not path.exists():
        return 0, _nothing(2 ** configuration["sizes"][0])
    try:
        with np.load(path, allow_pickle=False) as saved:
            kept, done = json.loads(str(saved["configuration"])), int(saved["blocks"])
            functions, counts = saved["functions"], saved["counts"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(f"checkpoint must be a file this function wrote; {path} is damaged ({error})") from None
    differing = [f"{key} = {kept.get(key)}" for key, value in configuration.items() if kept.get(key) != value]
    if differing:
        raise ValueError(f"checkpoint must come from the same arguments; {path} has {', '.join(differing)}")
    if done > blocks:
        raise ValueError(f"samples must be at least the {done * BLOCK} that {path} holds already")
    return done, (functions, counts)


def _save(path: Path, configuration: dict, blocks: int, functions: np.ndarray, counts: np.ndarray) -> None:
    with replacing(path) as file:
        np.savez(file, configuration=json.dumps(configuration), blocks=blocks, functions=functions, counts=counts)


def _truth_tables(name: str, values, length: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 0 or array.shape[-1] != length or not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must hold 0 and 1 along a last axis of length {length}, got shape {array.shape}")
    return array.astype(np.uint8)
