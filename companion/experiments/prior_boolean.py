"""The Boolean system of ``prior`` sec. 5.1: sampled prior, flatness, and what SGD finds against Bayes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import nn

from companion.boolean_functions import (
    FunctionCounts,
    boolean_inputs,
    network_outputs,
    random_networks,
    sample_boolean_functions,
)
from companion.ensembles import Ensemble, as_module, train_ensemble
from companion.experiments.experiment import PROFILES, Experiment, Report, Table, Workplace
from companion.hessian import top_eigenvalues
from companion.sharpness import keskar_sharpness

SIZES = (7, 40, 40, 1)
SCALES = {"weight_scale": 1.0, "bias_scale": 0.1}
BOX = 1e-4  # ζ of ``prior`` table 1
RATES = {"sgd": 0.1, "adam": 0.003}
MOST = 1500  # functions whose counts are kept


@dataclass(frozen=True)
class BooleanSettings:
    """One sample of random networks, and what is trained beside it.

    Attributes
    ----------
    samples : int
        Random 7-40-40-1 networks.
    functions : int
        Most frequent functions whose flatness is measured.
    networks : int
        Trained on each part of a truth table.
    targets : tuple of pairs of int
        Rank of the target among the sampled functions, and how many of its 128 values are the training
        set: enough that hundreds of functions fit, few enough that thousands of sampled networks do.
    batch_size, max_epochs : int
    long_epochs : int
        For a second look at all networks after equally long training.
    seed : int
    """

    samples: int
    functions: int
    networks: int
    targets: tuple[tuple[int, int], ...] = ((2, 96), (300, 64), (3000, 64), (10_000, 48))
    batch_size: int = 16
    max_epochs: int = 5000
    long_epochs: int = 300
    seed: int = 1


def boolean_settings(profile: str) -> list[BooleanSettings]:
    """The paper samples ten million networks, which is no more than a quarter of an hour on one core."""
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    if profile == "smoke":
        return [BooleanSettings(samples=30_000, functions=6, networks=30, seed=4)]
    return [BooleanSettings(samples=10_000_000, functions=1000, networks=4000)]


def perform_boolean(settings: BooleanSettings, workplace: Workplace) -> dict:
    """Sample, then train.

    Returns
    -------
    dict
        ``distinct`` functions in the sample; ``counts_of_counts``, how many of them occur how often;
        ``functions``, the most frequent ones with their ``count``; ``flatness``, from :func:`flatness_rows`;
        ``sgd_bayes``, for each target what :func:`sgd_and_bayes` finds.  A function is the hexadecimal
        digits of its packed truth table.
    """
    checkpoint = workplace.scratch / "sample.npz" if workplace.scratch else None
    counts = sample_boolean_functions(settings.samples, seed=settings.seed, **SCALES, checkpoint=checkpoint)
    targets = [target for target in settings.targets if target[0] < len(counts.counts)]
    parts = 2 + len(targets)
    workplace.tick(1, parts)
    result = {**sample_rows(counts), "flatness": flatness_rows(settings, counts), "sgd_bayes": []}
    workplace.tick(2, parts)
    for done, (rank, samples) in enumerate(targets, start=3):
        result["sgd_bayes"].append(sgd_and_bayes(settings, counts, rank, samples))
        workplace.tick(done, parts)
    return result


def sample_rows(counts: FunctionCounts) -> dict:
    """How often each number of occurrences occurs, and the most frequent functions."""
    values, how_many = np.unique(counts.counts, return_counts=True)
    rows = [
        {"function": function.tobytes().hex(), "count": int(count)}
        for function, count in zip(counts.functions[:MOST], counts.counts[:MOST], strict=True)
    ]
    of_counts = np.stack([values, how_many], axis=1).tolist()
    return {"distinct": len(counts.counts), "counts_of_counts": of_counts, "functions": rows}


def flatness_rows(settings: BooleanSettings, counts: FunctionCounts) -> list[dict]:
    """One network a function: sharpness after the first epoch of SGD without error, and after ``long_epochs``."""
    seed = settings.seed
    tables = torch.from_numpy(counts.tables(settings.functions)).long()
    points = torch.from_numpy(boolean_inputs(SIZES[0]))
    ensemble = _train(settings, points.float(), tables, "sgd", seed)
    longer = {"max_epochs": settings.long_epochs, "stop_when_fit": False}
    trained_on = _train(settings, points.float(), tables, "sgd", seed, **longer)
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


def sgd_and_bayes(settings: BooleanSettings, counts: FunctionCounts, rank: int, samples: int) -> dict:
    """Which functions fit ``samples`` values of the target of that rank: by training and by chance."""
    target = counts.tables(rank + 1)[rank]
    inputs = np.sort(np.random.default_rng([settings.seed, rank]).permutation(counts.bits)[:samples])
    posterior = counts.fitting(inputs, target[inputs])
    rest = np.setdiff1d(np.arange(counts.bits), inputs)
    points = torch.from_numpy(boolean_inputs(SIZES[0])).float()
    labels = torch.from_numpy(target[inputs]).long().expand(settings.networks, -1)
    found = {"bayes": Counter(dict(zip(_hex(posterior.functions), posterior.counts.tolist(), strict=True)))}
    errors = {"bayes": _mean_error(posterior.tables(), posterior.counts, target, rest)}
    for optimizer in RATES:
        ensemble = _train(settings, points[inputs], labels, optimizer, settings.seed + rank)
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


def _train(
    settings: BooleanSettings, points: torch.Tensor, labels: torch.Tensor, optimizer: str, seed: int, **changes
) -> Ensemble:
    layers = random_networks(len(labels), SIZES, **SCALES, generator=np.random.default_rng([seed, 1]))
    limits = {"max_epochs": settings.max_epochs} | changes
    return train_ensemble(
        layers, points, labels, learning_rate=RATES[optimizer], batch_size=min(settings.batch_size, len(points)),
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


def boolean_report(records: Sequence[dict]) -> Report:
    """The most frequent functions, how flatness ranks them, and which functions training finds."""
    frequent, ranks, found = [], [], []
    for record in records:
        total, result = record["settings"]["samples"], record["result"]
        frequent += [(f"{total:,}", row["function"], f"{row['count'] / total:.2e}") for row in result["functions"][:10]]
        counts, first = [row["count"] for row in result["flatness"]], result["flatness"]
        for moment, rows in (("first epoch without error", first), ("much later", [row["long"] for row in first])):
            tau = kendalltau(counts, [-row["sharpness"] for row in rows]).statistic
            ranks.append((f"{total:,}", moment, len(rows), f"{tau:.2f}"))
        for row in result["sgd_bayes"]:
            distances = [f"{total_variation(row, name):.2f}" for name in RATES]
            found.append((f"{total:,}", row["rank"], len(row["training_inputs"]), row["totals"]["bayes"], *distances))
    tables = [
        Table("the most frequent functions", ("networks", "function", "P(f)"), frequent),
        Table("Kendall's τ of P(f) and flatness", ("networks", "moment", "functions", "τ"), ranks),
        Table(
            "total variation distance from the sampled posterior",
            ("networks", "rank of the target", "training inputs", "sampled networks that fit", *RATES),
            found,
        ),
    ]
    return Report([table for table in tables if table.rows])


def total_variation(row: dict, optimizer: str) -> float:
    """Half the summed difference between the functions an optimizer finds and the posterior.

    Functions that were hardly seen are not listed in the row and count as one: a lower bound.
    """
    bayes, other = list(row["totals"]).index("bayes"), list(row["totals"]).index(optimizer)
    totals = np.array(list(row["totals"].values()), dtype=float)
    shares = np.array(list(row["functions"].values()), dtype=float).reshape(-1, len(totals)) / totals
    shares = np.vstack([shares, 1 - shares.sum(axis=0)])
    return float(np.abs(shares[:, bayes] - shares[:, other]).sum() / 2)


BOOLEAN = Experiment(
    name="prior-boolean",
    asks="Which Boolean functions do random networks compute, how flat are they, and does SGD find them as often?",
    settings=boolean_settings,
    perform=perform_boolean,
    report=boolean_report,
    differs={
        "smoke": "30,000 networks in place of ten million: a test of the code.",
        **dict.fromkeys(("laptop", "paper"), "Learning rates, batch size and the parts of truth tables are ours."),
    },
)
