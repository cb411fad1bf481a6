"""Do the final losses of ``shift-temperature`` collapse onto T = λ/B, and is it T or the time that counts?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from companion import validate
from companion.experiments.shift_analysis import p_value
from companion.experiments.summaries import Mean

LAST = 0.75  # the share of the epochs after which the logged losses count as final


@dataclass(frozen=True)
class EqualTemperature:
    """Runs at one T = λ/B: how far batch sizes differ, beside how far seeds do."""

    temperature: float
    seeds: int
    mean: float
    over_batch_sizes: float  # standard deviation of the batch sizes' means
    over_seeds: float  # standard deviation of the seeds' means
    f_ratio: float | None  # mean square of the batch sizes over that of the residual; None for one seed
    p: float | None  # of as large an f_ratio if batch sizes are exchanged within each seed


@dataclass(frozen=True)
class Collapse:
    """How well final losses collapse onto a function of T alone."""

    by_temperature: tuple[EqualTemperature, ...]
    p: float | None  # for all temperatures together
    over_batch_sizes: float  # root mean square of the spread over batch sizes at equal T
    over_temperatures: float  # standard deviation of the temperatures' means


def final_rows(records: Sequence[dict]) -> list[dict]:
    """One row for each λ and B: medians of losses and errors over the last quarter of the epochs."""
    rows = []
    for record in records:
        for run in record["result"]["runs"]:
            if run["diverged"] or not run["curve"]:
                continue
            last = run["curve"][-1]
            late = [point for point in run["curve"] if point["epoch"] > LAST * last["epoch"]]
            medians = {
                k: float(np.median([p[k] for p in late])) for k in ("train", "test", "train_error", "test_error")
            }
            settings = {name: record["settings"][name] for name in ("seed", "temperature")}
            sizes = {name: run[name] for name in ("batch_size", "learning_rate")}
            rows.append(settings | sizes | {"time": last["time"]} | medians)
    return rows


def collapse_test(rows: Sequence[dict], name: str, seed: int = 0, permutations: int = 9999) -> Collapse:
    """Do losses at equal T differ by batch size more than chance makes them?

    The seeds are blocks: the same network was continued with every batch size.  At each temperature the
    seeds with all its batch sizes count, and the p-value is that of exchanging batch sizes within each
    seed, which leaves everything as likely if only T matters.  For all temperatures together the
    statistic is the sum of the shares of the batch sizes in the sum of squares.

    Parameters
    ----------
    rows : list of dict
        As from :func:`final_rows`.
    name : str
        "train", "test", "train_error" or "test_error".
    seed, permutations : int
        Of the random permutations.

    Raises
    ------
    ValueError
        If no temperature has a seed with two batch sizes.
    """
    tables = {t: table for t in sorted({row["temperature"] for row in rows}) if (table := _table(rows, name, t)).size}
    if not tables:
        raise ValueError("rows must hold a temperature with two batch sizes, got none")
    rng = np.random.default_rng(seed)
    found = [_equal(t, table, rng, validate.count("permutations", permutations)) for t, table in tables.items()]
    each, statistics = [one for one, _ in found], np.sum([shares for _, shares in found], axis=0)
    means = [one.mean for one in each]
    return Collapse(
        tuple(each),
        p_value(statistics[0], statistics[1:]) if any(one.seeds > 1 for one in each) else None,
        float(np.sqrt(np.mean([one.over_batch_sizes**2 for one in each]))),
        float(np.std(means, ddof=1)) if len(means) > 1 else 0.0,
    )


def collapse_exponent(rows: Sequence[dict], name: str) -> Mean | None:
    """γ for which final losses collapse best onto a parabola in ln(λ/B^γ); the paper says 1.

    Each seed's mean is taken out first.  The standard error is the jackknife's over seeds.  None from
    fewer than two seeds, two batch sizes or three temperatures.
    """
    counts = {key: len({row[key] for row in rows}) for key in ("seed", "batch_size", "temperature")}
    if counts["seed"] < 2 or counts["batch_size"] < 2 or counts["temperature"] < 3:
        return None
    whole = _best_exponent(rows, name)
    seeds = sorted({row["seed"] for row in rows})
    left = np.array([_best_exponent([row for row in rows if row["seed"] != seed], name) for seed in seeds])
    error = np.sqrt((len(seeds) - 1) / len(seeds) * np.sum((left - left.mean()) ** 2))
    return Mean(whole, float(error), len(seeds))


def equal_time_rows(records: Sequence[dict]) -> list[dict]:
    """A run's final losses beside those of the next higher T, when that has run for as long a time λ · steps.

    At equal epochs time is proportional to T = λ/B, so that a trend over T can be one over time.

    Returns
    -------
    list of dict
        ``seed``, ``batch_size``, ``temperature``, ``higher``, ``time``; ``train``, ``test``, ``test_error`` of the
        run; ``train_higher``, ``test_higher``, ``test_error_higher``, interpolated linearly in time.
    """
    curves = {
        (record["settings"]["seed"], run["batch_size"], record["settings"]["temperature"]): [
            {"time": 0.0, **record["result"]["start"]},
            *run["curve"],
        ]
        for record in records
        for run in record["result"]["runs"]
        if run["curve"] and not run["diverged"]
    }
    rows = []
    for (seed, batch_size, temperature), curve in sorted(curves.items()):
        above = [t for s, b, t in curves if (s, b) == (seed, batch_size) and t > temperature]
        if not above:
            continue
        other, time = curves[seed, batch_size, min(above)], curve[-1]["time"]
        row = {"seed": seed, "batch_size": batch_size, "temperature": temperature, "higher": min(above), "time": time}
        for name in ("train", "test", "test_error"):
            row[name] = curve[-1][name]
            row[f"{name}_higher"] = float(np.interp(time, [p["time"] for p in other], [p[name] for p in other]))
        rows.append(row)
    return rows


def _equal(
    temperature: float, table: np.ndarray, rng: np.random.Generator, permutations: int
) -> tuple[EqualTemperature, np.ndarray]:
    """One temperature, and the share of the batch sizes as measured and permuted, shape (1 + permutations,)."""
    seeds = len(table)
    over_batch_sizes, over_seeds = table.mean(axis=0).std(ddof=1), table.mean(axis=1).std(ddof=1) if seeds > 1 else 0.0
    shares, f_ratio, p = np.zeros(1 + permutations), None, None
    if seeds > 1:
        shuffled = rng.permuted(np.broadcast_to(table, (permutations, *table.shape)), axis=2)
        shares = _share(np.concatenate([table[None], shuffled]))
        f_ratio = float(shares[0] / (1 - shares[0]) * (seeds - 1)) if shares[0] < 1 - 1e-9 else None
        p = p_value(shares[0], shares[1:])
    spreads = float(over_batch_sizes), float(over_seeds)
    return EqualTemperature(temperature, seeds, float(table.mean()), *spreads, f_ratio, p), shares


def _table(rows: Sequence[dict], name: str, temperature: float) -> np.ndarray:
    """Losses at one temperature, seeds × batch sizes, of the seeds that have all batch sizes; empty below two."""
    here = {(row["seed"], row["batch_size"]): row[name] for row in rows if row["temperature"] == temperature}
    sizes = sorted({size for _, size in here})
    complete = [s for s in sorted({s for s, _ in here}) if all((s, size) in here for size in sizes)]
    if len(sizes) < 2 or not complete:
        return np.empty((0, 0))
    return np.array([[here[s, size] for size in sizes] for s in complete])


def _share(tables: np.ndarray) -> np.ndarray:
    """The batch sizes' part of the sum of squares within seeds, for tables (..., seeds, sizes)."""
    centred = tables - tables.mean(axis=-1, keepdims=True)
    within = np.sum(centred**2, axis=(-2, -1))
    between = tables.shape[-2] * np.sum(centred.mean(axis=-2) ** 2, axis=-1)
    return np.divide(between, within, out=np.zeros_like(within), where=within > 0)


def _best_exponent(rows: Sequence[dict], name: str) -> float:
    rate, size, loss = (np.array([row[k] for row in rows], dtype=float) for k in ("learning_rate", "batch_size", name))
    seeds = np.array([row["seed"] for row in rows])
    for seed in set(seeds.tolist()):
        loss[seeds == seed] -= loss[seeds == seed].mean()

    def residual(gamma: float) -> float:
        x = np.log(rate) - gamma * np.log(size)
        x = (x - x.mean()) / x.std()
        return float(np.sum((loss - np.polyval(np.polyfit(x, loss, 2), x)) ** 2))

    grid = np.linspace(-2, 4, 61)
    best = grid[np.argmin([residual(gamma) for gamma in grid])]
    return float(minimize_scalar(residual, bounds=(best - 0.1, best + 0.1), method="bounded").x)
