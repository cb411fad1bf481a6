"""The Boolean system of ``prior`` sec. 5.1: sampled prior, flatness, and what SGD finds against Bayes.

``python -m companion.experiments.boolean_prior`` writes three records: ``boolean-prior``, how often
random 7-40-40-1 networks compute each function; ``boolean-flatness``, how sharp the loss is where
SGD first fits the most frequent functions; ``boolean-sgd-bayes``, which functions SGD and Adam find
that fit part of a truth table, beside the random networks that fit it too.  Interrupted, it goes
on where it was: the sample has a checkpoint, the other two are short.
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn

from companion.boolean_functions import (
    FunctionCounts,
    boolean_inputs,
    network_outputs,
    random_networks,
    sample_boolean_functions,
)
from companion.ensembles import Ensemble, as_module, train_ensemble
from companion.hessian import top_eigenvalues
from companion.records import RESULTS, write_record
from companion.sharpness import keskar_sharpness

SIZES = (7, 40, 40, 1)
SCALES = {"weight_scale": 1.0, "bias_scale": 0.1}
BOX = 1e-4  # ζ of ``prior`` table 1
BATCH = 16
RATES = {"sgd": 0.1, "adam": 0.003}
MAX_EPOCHS = 5000
LONG = 300  # epochs for a second look at all of them after equally long training
# Rank of the target among the sampled functions, and how many of its 128 values are the training set:
# enough that hundreds of functions fit, few enough that thousands of sampled networks do.
TARGETS = ((2, 96), (300, 64), (3000, 64), (10_000, 48))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=10_000_000, help="random networks")
    parser.add_argument(
        "--functions", type=int, default=1000, help="most frequent functions whose flatness is measured"
    )
    parser.add_argument("--networks", type=int, default=4000, help="networks trained on each part of a truth table")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the records")
    parser.add_argument("--checkpoint", type=Path, help="file that keeps the sample; default: in the folder")
    chosen = parser.parse_args(arguments)
    checkpoint = chosen.checkpoint or chosen.out / ".boolean-prior.npz"
    start = time.perf_counter()
    counts = sample_boolean_functions(chosen.samples, seed=chosen.seed, **SCALES, checkpoint=checkpoint)
    about = {"network": "7-40-40-1", **SCALES, "samples": chosen.samples, "seed": chosen.seed}
    _write(chosen.out, "boolean-prior", about, *prior_rows(counts), start)
    about = {**about, "box": BOX, "batch_size": BATCH, "max_epochs": MAX_EPOCHS, "long_epochs": LONG}
    start = time.perf_counter()
    rows = flatness_rows(counts, chosen.functions, chosen.seed)
    _write(chosen.out, "boolean-flatness", about, {"learning_rate": RATES["sgd"], "optimizer": "sgd"}, rows, start)
    start = time.perf_counter()
    targets = [target for target in TARGETS if target[0] < len(counts.counts)]
    rows = [sgd_and_bayes(counts, *target, chosen.networks, chosen.seed) for target in targets]
    _write(chosen.out, "boolean-sgd-bayes", about, {"learning_rates": RATES, "networks": chosen.networks}, rows, start)


def prior_rows(counts: FunctionCounts, most: int = 1500) -> tuple[dict, list[dict]]:
    """How often each number of occurrences occurs, and the most frequent functions."""
    values, how_many = np.unique(counts.counts, return_counts=True)
    ranks = {"distinct": len(counts.counts), "counts_of_counts": np.stack([values, how_many], axis=1).tolist()}
    rows = [
        {"function": function.tobytes().hex(), "count": int(count)}
        for function, count in zip(counts.functions[:most], counts.counts[:most], strict=True)
    ]
    return ranks, rows


def flatness_rows(counts: FunctionCounts, functions: int, seed: int) -> list[dict]:
    """One network a function: sharpness after the first epoch of SGD without error, and after ``LONG`` epochs."""
    tables = torch.from_numpy(counts.tables(functions)).long()
    points = torch.from_numpy(boolean_inputs(SIZES[0]))
    ensemble = _train(points.float(), tables, "sgd", seed)
    trained_on = _train(points.float(), tables, "sgd", seed, max_epochs=LONG, stop_when_fit=False)
    rows = []
    for k in torch.nonzero(ensemble.fits & trained_on.fits).flatten().tolist():
        ones, targets = int(tables[k].sum()), tables[k].double()[:, None]
        rows.append({
            "function": counts.functions[k].tobytes().hex(),
            "count": int(counts.counts[k]),
            "minority": min(ones, len(points) - ones),
            "epochs": int(ensemble.epochs[k]),
            **flatness(as_module(ensemble.layers, k), points, targets, seed),
            "long": flatness(as_module(trained_on.layers, k), points, targets, seed),
        })  # fmt: skip
    return rows


def flatness(model: nn.Module, points: torch.Tensor, targets: torch.Tensor, seed: int) -> dict[str, float]:
    """Keskar's sharpness in the box of ``prior`` eq. 8, the part of it that is the gradient's, and ‖H‖₂."""
    loss, generator = nn.BCEWithLogitsLoss(), torch.Generator().manual_seed(seed)
    value = loss(model(points), targets)
    gradient = nn.utils.parameters_to_vector(torch.autograd.grad(value, list(model.parameters())))
    sides = BOX * (nn.utils.parameters_to_vector(model.parameters()).detach().abs() + 1)
    value = float(value.detach())
    return {
        "loss": value,
        "sharpness": keskar_sharpness(model, loss, points, targets, rho=BOX, adaptive=True, generator=generator),
        "first_order": 100 * float(gradient.abs() @ sides) / (1 + value),
        "top_eigenvalue": float(top_eigenvalues(model, loss, points, targets)[0]),
    }


def sgd_and_bayes(counts: FunctionCounts, rank: int, samples: int, networks: int, seed: int) -> dict:
    """Which functions fit ``samples`` values of the target of that rank: by training and by chance."""
    target = counts.tables(rank + 1)[rank]
    inputs = np.sort(np.random.default_rng([seed, rank]).permutation(counts.bits)[:samples])
    posterior = counts.fitting(inputs, target[inputs])
    rest = np.setdiff1d(np.arange(counts.bits), inputs)
    points = torch.from_numpy(boolean_inputs(SIZES[0])).float()
    labels = torch.from_numpy(target[inputs]).long().expand(networks, -1)
    found = {"bayes": Counter(dict(zip(_hex(posterior.functions), posterior.counts.tolist(), strict=True)))}
    errors = {"bayes": _mean_error(posterior.tables(), posterior.counts, target, rest)}
    for optimizer in RATES:
        ensemble = _train(points[inputs], labels, optimizer, seed + rank)
        fitting = [(weight[ensemble.fits], bias[ensemble.fits]) for weight, bias in ensemble.layers]
        tables = (network_outputs(fitting, points) > 0).numpy().astype(np.uint8)
        found[optimizer] = Counter(_hex(np.packbits(tables, axis=1)))
        errors[optimizer] = _mean_error(tables, np.ones(len(tables), dtype=int), target, rest)
    # A function that was seen once or twice says nothing by itself; all of them count in the totals.
    worth = {f for f, n in found["bayes"].items() if n >= 5} | {f for o in RATES for f, n in found[o].items() if n >= 3}
    names = ("bayes", *RATES)
    return {
        "rank": rank,
        "target": counts.functions[rank].tobytes().hex(),
        "training_inputs": inputs.tolist(),
        "totals": {name: sum(found[name].values()) for name in names},
        "distinct": {name: len(found[name]) for name in names},
        "error": errors,
        "functions": {f: [found[name][f] for name in names] for f in sorted(worth, key=lambda f: -found["bayes"][f])},
    }


def _train(points: torch.Tensor, labels: torch.Tensor, optimizer: str, seed: int, **changes) -> Ensemble:
    layers = random_networks(len(labels), SIZES, **SCALES, generator=np.random.default_rng([seed, 1]))
    limits = {"max_epochs": MAX_EPOCHS} | changes
    return train_ensemble(
        layers, points, labels, learning_rate=RATES[optimizer], batch_size=min(BATCH, len(points)),
        generator=torch.Generator().manual_seed(seed), optimizer=optimizer, **limits,
    )  # fmt: skip


def _mean_error(tables: np.ndarray, counts: np.ndarray, target: np.ndarray, rest: np.ndarray) -> list[float]:
    """The mean error on the inputs outside the training set, and its standard error over networks."""
    wrong = (tables[:, rest] != target[rest]).mean(axis=1)
    mean = float(np.average(wrong, weights=counts))
    spread = float(np.average((wrong - mean) ** 2, weights=counts)) ** 0.5
    return [mean, spread / float(counts.sum()) ** 0.5]


def _hex(functions: np.ndarray) -> list[str]:
    return [function.tobytes().hex() for function in functions]


def _write(folder: Path, name: str, about: dict, more: dict, rows: list[dict], start: float) -> None:
    path = write_record(name, {**about, **more, "seconds": round(time.perf_counter() - start, 1)}, rows, folder)
    print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
