"""Comparisons of methods in the records of ``msharp-accuracy``: pure functions, seeds in pairs."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.stats import kendalltau

NAMES = {
    "sgd": "SGD",
    "sam": "SAM",
    "usam": "USAM",
    "n-sam": "n-SAM",
    "asam": "ASAM",
    "rw-sam": "RW-SAM",
    "rw-asam": "RW-ASAM",
}
METHOD = ("method", "micro_batch", "eta", "probes")
ACCURACY, TRACE, NOISE = "test_accuracy", "trace_hessian", "trace_covariance"
TUNED = "RW-SAM, best η"


class Comparison(NamedTuple):
    """A mean over seeds with its standard error (NaN for fewer than two), and the number of seeds."""

    mean: float
    error: float
    seeds: int


def tasks(records: Iterable[dict]) -> dict[tuple, list[dict]]:
    """The records by what is not the method, ρ or the seeds; methods are compared within one such group only."""
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        left_out = (*METHOD, "rho", "seeds")
        rest = {name: value for name, value in record["settings"].items() if name not in left_out}
        key = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(rest.items()))
        groups.setdefault(key, []).append(record)
    return dict(sorted(groups.items(), key=lambda item: str(item[0])))


def task_name(records: Sequence[dict]) -> str:
    """Data, network and noise of a group of :func:`tasks`."""
    settings = records[0]["settings"]
    data = records[0].get("data", {}).get("name", settings["data"])
    return f"{data}, {settings['network']}, {settings['label_noise']:.0%} wrong labels"


def method_name(settings: dict) -> str:
    """The method as tables have it, without ρ."""
    name = NAMES[settings["method"]]
    if settings["micro_batch"]:
        name += f", m = {settings['micro_batch']}"
    if settings["eta"]:
        name += f", η = {settings['eta']:g}"
    return name if settings["probes"] == 1 else f"{name}, Q = {settings['probes']}"


def grids(records: Iterable[dict]) -> dict[str, dict[float, dict]]:
    """By method and ρ the record, of one group of :func:`tasks`; in the book's order."""
    order = list(NAMES)
    found: dict[str, dict[float, dict]] = {}
    for record in sorted(records, key=lambda r: _order(r["settings"], order)):
        settings = record["settings"]
        there = found.setdefault(method_name(settings), {})
        if settings["rho"] not in there or len(settings["seeds"]) > len(there[settings["rho"]]["settings"]["seeds"]):
            there[settings["rho"]] = record
    return found


def final(record: dict, measure: str) -> dict[int, float]:
    """A measure at the end of training by seed; a run that diverged has none."""
    runs = record["result"]["runs"]
    return {run["seed"]: run["curve"][-1][measure] for run in runs if run["diverged"] is None}


def average(values: Iterable[float]) -> Comparison:
    """The mean of independent values and its standard error."""
    values = np.array(list(values), dtype=float)
    if not len(values):
        return Comparison(float("nan"), float("nan"), 0)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return Comparison(float(values.mean()), float(error), len(values))


def tuned(grid: dict[float, dict]) -> dict | None:
    """The record with the largest mean validation accuracy among those of which no run diverged."""
    whole = [record for record in grid.values() if all(run["diverged"] is None for run in record["result"]["runs"])]
    scores = [average(final(record, "validation_accuracy").values()).mean for record in whole]
    return whole[int(np.argmax(scores))] if whole else None


def at_edge(record: dict, grid: dict[float, dict]) -> bool:
    """Whether its ρ is the smallest or largest of several: then a better one may lie outside."""
    return len(grid) > 1 and record["settings"]["rho"] in (min(grid), max(grid))


def best_records(records: Iterable[dict]) -> dict[str, tuple[dict, bool]]:
    """By method the record at its best ρ and whether that is at the edge; RW-SAM also at its best η > 0.

    ρ, and η for the latter, are chosen by the accuracy on images set aside from the training set.
    """
    found, every = grids(records), {}
    for name, grid in found.items():
        record = tuned(grid)
        if record is not None:
            every[name] = record, at_edge(record, grid)
    weighted = {
        name: record
        for name, (record, _) in every.items()
        if record["settings"]["method"] == "rw-sam" and record["settings"]["eta"] > 0 and "Q" not in name
    }
    if len(weighted) > 1:
        best = tuned(weighted)
        every[TUNED] = best, every[method_name(best["settings"])][1]
    return every


def reference_of(name: str) -> str:
    """What a method is compared with: ASAM with weights with ASAM, USAM on micro-batches with USAM, others with SAM."""
    kind, _, options = name.partition(",")
    if kind == "RW-ASAM":
        return "ASAM"
    return "USAM" if kind == "USAM" and options else "SAM"


def difference(record: dict, reference: dict, measure: str, *, relative: bool = False) -> Comparison:
    """Of the two at the end of training, over their common seeds; ``relative``: of the logarithms.

    The error is that of the mean of the differences: what a seed does to both drops out.
    """
    ours, theirs = final(record, measure), final(reference, measure)
    seeds = sorted(ours.keys() & theirs.keys())
    if relative:
        seeds = [seed for seed in seeds if ours[seed] > 0 and theirs[seed] > 0]
        return average(np.log(ours[seed] / theirs[seed]) for seed in seeds)
    return average(ours[seed] - theirs[seed] for seed in seeds)


def matched(record: dict, grid: dict[float, dict], measure: str = TRACE) -> tuple[Comparison, Comparison]:
    """A record beside the method of ``grid``, by ρ, at whatever ρ gives the latter the same measure.

    Returns that ρ over the record's own, and the record's test accuracy minus the other's there.  ρ and accuracy are
    interpolated between those of ``grid`` as functions of the logarithm of the measure, seed by seed (PCHIP).  A
    seed is left out if its measure lies outside of the grid's or the grid's does not fall with ρ.
    """
    rhos = sorted(grid)
    ours, accuracy = final(record, measure), final(record, ACCURACY)
    curves, heights = ([final(grid[rho], name) for rho in rhos] for name in (measure, ACCURACY))
    ratios, gaps = [], []
    for seed in sorted(set(ours).intersection(*curves)):
        levels, level = -np.log([curve[seed] for curve in curves]), -np.log(ours[seed])
        if np.all(np.diff(levels) > 0) and levels[0] <= level <= levels[-1]:
            there = [height[seed] for height in heights]
            ratios.append(PchipInterpolator(levels, rhos)(level) / record["settings"]["rho"])
            gaps.append(accuracy[seed] - PchipInterpolator(levels, there)(level))
    return average(ratios), average(gaps)


def noise_and_sharpness(records: Iterable[dict], *, epoch: int | None = None) -> list[tuple[float, float]]:
    """(tr H, tr D) of every network that has both above 0, at a logged epoch or at the end."""
    points = []
    for record in records:
        for run in record["result"]["runs"]:
            rows = [row for row in run["curve"] if row["epoch"] == epoch] if epoch else run["curve"][-1:]
            if run["diverged"] is None:
                points += [(row[TRACE], row[NOISE]) for row in rows if row[TRACE] > 0 and row[NOISE] > 0]
    return points


def rank_correlation(points: Sequence[tuple[float, float]]) -> float:
    """Kendall's τ; NaN for fewer than three points."""
    return float(kendalltau(*zip(*points, strict=True)).statistic) if len(points) > 2 else float("nan")


def over_micro_batches(records: Iterable[dict], method: str = "sam") -> dict[float, dict[int, dict]]:
    """By ρ, and by m with 0 for the whole batch, the records of a method without weights."""
    found: dict[float, dict[int, dict]] = {}
    for grid in grids(records).values():
        for rho, record in grid.items():
            if record["settings"]["method"] == method:
                found.setdefault(rho, {})[record["settings"]["micro_batch"]] = record
    return {rho: dict(sorted(found[rho].items())) for rho in sorted(found)}


def _order(settings: dict, order: list[str]) -> tuple:
    whole = settings["micro_batch"] or settings["batch_size"]
    return order.index(settings["method"]), -whole, settings["eta"], settings["probes"], settings["rho"]
