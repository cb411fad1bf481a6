"""The Hessian H = ∂²U of a network's training loss: dense, its diagonal, its trace, its top eigenvalues.

What is estimated with random probes comes as an :class:`Estimate` with its standard error.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import grad, vjp, vmap

from companion import validate
from companion.per_sample import backpack_diagonal, knows, without_script_warning
from companion.problem import Problem

METHODS = ("exact", "hutchinson", "hutch++")
COLUMNS = 64  # columns of a dense Hessian computed at once
RUNS = 4  # independent runs of Hutch++, whose spread gives the standard error


class Estimate(NamedTuple):
    """A value with its standard error and the number of random samples it rests on.

    ``value`` and ``standard_error`` are numbers or dicts of tensors by parameter name.  What was
    computed exactly has the standard error 0 from 0 samples.
    """

    value: float | dict[str, Tensor]
    standard_error: float | dict[str, Tensor]
    samples: int


def hessian_matrix(
    model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor, *, chunk_size: int | None = None
) -> Tensor:
    """The dense Hessian of the mean loss, for small models.

    Parameters
    ----------
    model : nn.Module
        Measured in evaluation mode over its parameters that require gradients.
    loss : callable
        ``loss(outputs, targets)``, a mean over samples.
    inputs, targets : Tensor, shapes (N, ...)
    chunk_size : int, optional
        Samples handled at once, which bounds the memory.

    Returns
    -------
    Tensor, shape (p, p)
        In units of loss over parameters squared.  At a kink of the loss it is what automatic
        differentiation takes it to be.

    Raises
    ------
    ValueError
        If an argument is out of its range, the loss is not finite, or the model is too large for a
        dense matrix.
    """
    problem = Problem(model, loss, inputs, targets).need_targets().need_small().checked(chunk_size)
    return torch.cat([rows for _, rows in _rows(problem, chunk_size)])


def hessian_diagonal(
    model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor, *, chunk_size: int | None = None
) -> dict[str, Tensor]:
    """The exact diagonal of the Hessian, a tensor a parameter, by name.

    Arguments and errors as for :func:`hessian_matrix`.  BackPACK does it in about one backward
    pass an output where the model is an ``nn.Sequential`` of layers it knows; elsewhere it takes
    p Hessian-vector products: see :func:`hutchinson_diagonal` for large models.
    """
    problem = Problem(model, loss, inputs, targets).need_targets()
    if knows(problem):
        from backpack.extensions import DiagHessian

        return backpack_diagonal(problem, DiagHessian(), "diag_h", lambda value, n: value * n, chunk_size)
    pieces = [rows.diagonal(offset=start) for start, rows in _rows(problem.checked(chunk_size), chunk_size)]
    return problem.unflatten(torch.cat(pieces))


def hutchinson_diagonal(
    model: nn.Module,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    *,
    samples: int = 100,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Estimate:
    """The diagonal of the Hessian as the mean of z ⊙ Hz over vectors z of independent signs.

    Unbiased; the variance of entry i is Σ_{j≠i} H_ij² / samples.

    Parameters
    ----------
    model, loss, inputs, targets
        As for :func:`hessian_matrix`.
    samples : int
        Probes z, at least 2.
    generator : torch.Generator, optional
        Source of the signs; torch's global one if none is given.
    chunk_size : int, optional
        Samples handled at once.  Without it one graph of the whole batch serves all probes, which
        is fastest; with it the graph of each chunk is built anew for each probe.

    Returns
    -------
    Estimate
        ``value`` and ``standard_error`` are dicts of tensors by parameter name.

    Notes
    -----
    Source: ``fisher`` eq. 3 (reconstructed).
    """
    problem = Problem(model, loss, inputs, targets).need_targets().checked(chunk_size)
    samples = _probes(samples)
    mean = torch.zeros_like(problem.vector)
    spread = torch.zeros_like(mean)
    for n, (probe, product) in enumerate(_products(problem, samples, generator, chunk_size), start=1):
        # Welford's update: the variance without the cancellation of a difference of two sums.
        deviation = probe * product - mean
        mean += deviation / n
        spread += deviation * (probe * product - mean)
    error = (spread / (samples - 1) / samples).sqrt()
    return Estimate(problem.unflatten(mean), problem.unflatten(error), samples)


def hessian_trace(
    model: nn.Module,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    *,
    method: str = "exact",
    samples: int = 100,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Estimate:
    """The trace of the Hessian.

    Parameters
    ----------
    model, loss, inputs, targets, generator, chunk_size
        As for :func:`hutchinson_diagonal`.
    method : {"exact", "hutchinson", "hutch++"}
        ``"exact"`` sums :func:`hessian_diagonal`.  ``"hutchinson"`` is the mean of zᵀHz, of
        variance 2 Σ_{i≠j} H_ij² / samples.  ``"hutch++"`` (curvlinops) takes the part of a random
        subspace exactly and probes the rest: better where few eigenvalues dominate.
    samples : int
        Hessian-vector products, at least 2; at least 12 for ``"hutch++"``, which divides them among
        4 runs, each with a multiple of 3.

    Returns
    -------
    Estimate
        For ``"exact"`` with the standard error 0 from 0 samples.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "exact":
        diagonal = hessian_diagonal(model, loss, inputs, targets, chunk_size=chunk_size)
        return Estimate(sum(float(value.sum()) for value in diagonal.values()), 0.0, 0)
    problem = Problem(model, loss, inputs, targets).need_targets().checked(chunk_size)
    samples = _probes(samples)
    if method == "hutch++":
        return _hutchpp(problem, samples, generator, chunk_size)
    values = [float(z @ product) for z, product in _products(problem, samples, generator, chunk_size)]
    return _estimate(values, samples)


def top_eigenvalues(
    model: nn.Module,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    *,
    count: int = 1,
    chunk_size: int | None = None,
) -> Tensor:
    """The ``count`` largest eigenvalues of the Hessian, in descending order, by Lanczos iteration.

    Arguments and errors as for :func:`hessian_matrix`.  "Largest" is algebraic: a saddle's most
    negative eigenvalue is not among them.  Lanczos by ARPACK to its full accuracy.  The
    result is a float64 tensor of shape (count,).
    """
    problem = Problem(model, loss, inputs, targets).need_targets().checked(chunk_size)
    if not 1 <= validate.count("count", count) <= problem.size:
        raise ValueError(f"count must be at most the model's {problem.size} parameters, got {count}")
    if count >= problem.size - 1:  # Lanczos needs room; such a matrix is tiny or wanted whole
        full = hessian_matrix(model, loss, inputs, targets, chunk_size=chunk_size)
        return torch.linalg.eigvalsh(full.double().cpu()).flip(0)[:count]
    start = np.random.default_rng(0).standard_normal(problem.size)
    operator = _Matrix(problem, chunk_size).to_scipy()
    largest = eigsh(operator, k=count, which="LA", v0=start.astype(operator.dtype), return_eigenvectors=False)
    return torch.from_numpy(np.sort(largest)[::-1].astype(float))


def _rows(problem: Problem, chunk_size: int | None) -> Iterator[tuple[int, Tensor]]:
    """The Hessian's rows, ``COLUMNS`` at a time, each with the index of the first."""
    size = problem.size
    for start in range(0, size, COLUMNS):
        stop = min(start + COLUMNS, size)
        units = torch.zeros(stop - start, size, dtype=problem.vector.dtype, device=problem.inputs.device)
        units[torch.arange(stop - start), torch.arange(start, stop)] = 1
        rows = torch.zeros_like(units)
        for inputs, targets in problem.chunks(chunk_size):
            rows += vmap(_product(problem, inputs, targets))(units)
        yield start, rows


def _product(problem: Problem, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """z ↦ these samples' part of Hz, through one gradient graph that serves every z."""
    at = grad(lambda vector: problem.sum_of(problem.unflatten(vector), inputs, targets))
    _, pullback = vjp(at, problem.vector)  # H is symmetric: its transpose's product is its own
    return lambda probe: pullback(probe)[0]


def _products(
    problem: Problem, samples: int, generator: torch.Generator | None, chunk_size: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """``samples`` pairs (z, Hz) with z of independent signs."""
    where = problem.inputs.device if generator is None else generator.device
    product = _apply(problem, chunk_size)
    for _ in range(samples):
        signs = torch.randint(2, (problem.size,), generator=generator, device=where)
        probe = (2 * signs - 1).to(problem.vector)
        yield probe, product(probe)


def _apply(problem: Problem, chunk_size: int | None) -> Callable[[Tensor], Tensor]:
    """z ↦ Hz, with one graph for all z or, in chunks, with a new one for each."""
    if chunk_size is None or chunk_size >= len(problem):
        return _graph(problem, problem.inputs, problem.targets)
    return lambda probe: sum(_graph(problem, *piece)(probe) for piece in problem.chunks(chunk_size))


def _graph(problem: Problem, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """As :func:`_product`, by plain autograd, which is faster for one probe at a time."""
    leaves = {name: value.clone().requires_grad_(True) for name, value in problem.parameters.items()}
    with torch.enable_grad():
        total = problem.sum_of(leaves, inputs, targets)
        gradients = torch.autograd.grad(total, list(leaves.values()), create_graph=True, materialize_grads=True)
    live = [i for i, g in enumerate(gradients) if g.requires_grad]  # the others are constant

    def product(probe: Tensor) -> Tensor:
        along = list(problem.unflatten(probe).values())
        curved, along = [gradients[i] for i in live], [along[i] for i in live]
        options = {"retain_graph": True, "materialize_grads": True}
        back = torch.autograd.grad(curved, list(leaves.values()), along, **options) if live else [0 * probe]
        return torch.cat([value.reshape(-1) for value in back])

    return product


def _probes(samples: int) -> int:
    if validate.count("samples", samples) < 2:
        raise ValueError(f"samples must be at least 2, for a standard error, got {samples}")
    return samples


def _estimate(values: list[float], samples: int) -> Estimate:
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5), samples)


class _Matrix:
    """What curvlinops' estimators ask of a matrix: its shape, its place and products with columns.

    Not curvlinops' own Hessian: that differentiates the gradient in forward mode, for which PyTorch has a
    wrong formula behind ``nn.LayerNorm`` and none behind ``nn.GroupNorm``.
    """

    def __init__(self, problem: Problem, chunk_size: int | None):
        self.product = _apply(problem, chunk_size)
        self.shape = (problem.size, problem.size)
        self.dtype, self.device = problem.vector.dtype, problem.vector.device

    def __matmul__(self, columns: Tensor) -> Tensor:
        return torch.stack([self.product(column) for column in columns.mT], dim=1)

    def to_scipy(self) -> LinearOperator:
        def matvec(vector: np.ndarray) -> np.ndarray:
            return self.product(torch.as_tensor(vector, dtype=self.dtype, device=self.device)).cpu().numpy()

        return LinearOperator(self.shape, matvec, dtype=torch.empty(0, dtype=self.dtype).numpy().dtype)


def _hutchpp(problem: Problem, samples: int, generator: torch.Generator | None, chunk_size: int | None) -> Estimate:
    with without_script_warning():
        from curvlinops import hutchpp_trace
    each = samples // RUNS // 3 * 3
    if each < 3:
        raise ValueError(f"samples must be at least {3 * RUNS} for hutch++, got {samples}")
    if each >= problem.size:
        below = f"samples must be below {RUNS * ((problem.size + 2) // 3 * 3)} for hutch++"
        raise ValueError(f"{below} and {problem.size} parameters, whose trace is cheap exactly, got {samples}")
    operator = _Matrix(problem, chunk_size)
    where = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**62, (1,), generator=generator, device=where))
    # curvlinops draws from the global generator, which is put back afterwards.
    with torch.random.fork_rng(), without_script_warning():
        torch.manual_seed(seed)
        values = [float(hutchpp_trace(operator, each)) for _ in range(RUNS)]
    return _estimate(values, each * RUNS)
