"""What the records of the ``shift`` experiments say: pure functions from records to rows and tests."""

from collections.abc import Sequence

import numpy as np

from companion.experiments.summaries import Mean, mean_of
from companion.shift import symmetrized_quadratic_fit


def protocols(records: Sequence[dict]) -> list[list[dict]]:
    """The records by data set and network, the most numerous first."""
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        settings = record["settings"]
        groups.setdefault((settings["data"], tuple(settings["convolutions"])), []).append(record)
    return sorted(groups.values(), key=len, reverse=True)


def line_rows(records: Sequence[dict]) -> list[dict]:
    """One row for each line: the terms of ``shift`` eq. 3, curvatures, and how well a parabola describes them.

    Returns
    -------
    list of dict
        Settings ``seed``, ``temperature``, ``time``, ``train``, ``split``; ``flow_time``; ``shift``, |s|;
        ``depth_train`` U_tr(θ_tr), ``depth_test`` U_te(θ_te), ``test_at_train`` U_te(θ_tr) and its
        ``test_error``; ``shift_curvature`` ½ sᵀCs by the paper's fit and ``exact_shift_curvature`` by the
        second derivative at θ_te; ``slope`` and ``slope_train``, d/dr of the test loss at θ_te and of the
        training loss at θ_tr, zero at a minimum;
        ``curvature_test``, ``curvature_train`` by the fit and ``exact_curvature_test``,
        ``exact_curvature_train``, all over |s|²; ``share`` ½ sᵀCs / U_te(θ_te); ``flattened_test`` and
        ``flattened_train``, fitted over exact curvature; ``asymmetry``, the fit on the far side of θ_te
        over that on the side of θ_tr; ``predicted``, what eq. 3 gives for U_te(θ_tr) with the exact curvature.
    """
    return [
        {name: record["settings"].get(name) for name in ("seed", "temperature", "time", "train", "split")}
        | _line_row(line)
        for record in records
        for line in record["result"]["lines"]
        if line["shift"]
    ]


def power_law(rows: Sequence[dict], name: str, of: str = "temperature") -> Mean | None:
    """The exponent a in ``name`` ∝ ``of``ᵃ: a least-squares line through logarithms for each seed.

    Values that are not positive are left out, and so is a seed with values at fewer than two abscissas.
    None if no seed is left.
    """
    slopes = []
    for seed in sorted({row["seed"] for row in rows}):
        points = [(row[of], row[name]) for row in rows if row["seed"] == seed and (row[name] or 0) > 0]
        if len({x for x, _ in points}) > 1:
            x, y = np.log(np.array(points)).T
            slopes.append(np.polyfit(x, y, 1)[0])
    return mean_of(slopes) if slopes else None


def sample_rows(records: Sequence[dict]) -> list[dict]:
    """One row for each trained network: size, split, seed, its losses, and those of its line."""
    ended = [record for record in records if record["result"]["end"]]
    rows = []
    for record in ended:
        row = {name: record["settings"][name] for name in ("train", "split", "seed")} | {
            f"end_{name}": value for name, value in record["result"]["end"].items()
        }
        lines = line_rows([record])
        rows.append({**lines[-1], **row} if lines else row)
    return rows


def difference(first: Sequence[float], second: Sequence[float], seed: int = 0, permutations: int = 9999) -> tuple:
    """Mean of the first minus mean of the second, its standard error, and the p-value of a permutation test.

    None for the error and for p if either has fewer than two values.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    apart = float(first.mean() - second.mean())
    if min(first.size, second.size) < 2:
        return apart, None, None
    error = float(np.sqrt(first.var(ddof=1) / first.size + second.var(ddof=1) / second.size))
    both = np.concatenate([first, second])
    mixed = np.random.default_rng(seed).permuted(np.broadcast_to(both, (permutations, both.size)), axis=1)
    others = np.abs(mixed[:, : first.size].mean(axis=1) - mixed[:, first.size :].mean(axis=1))
    return apart, error, p_value(abs(apart), others)


def p_value(value: float, others: np.ndarray) -> float:
    """The share of permutations with at least this value, the identity among them."""
    return float((1 + np.sum(others >= value * (1 - 1e-9))) / (1 + len(others)))


def _line_row(line: dict) -> dict:
    profile = {round(point["r"], 6): point for point in line["profile"]}
    fits = {
        "toward": _fit(profile, "test", 1.0, -1.0),
        "beyond": _fit(profile, "test", 1.0, 1.0),
        "train": _fit(profile, "train", 0.0, -1.0),
    }
    at_train, at_test, square = profile[0.0], profile[1.0], line["shift"] ** 2
    ratio = lambda a, b: a / b if b and b > 0 else None  # noqa: E731
    return {
        "flow_time": line["time"],
        "shift": line["shift"],
        "depth_train": at_train["train"],
        "depth_test": at_test["test"],
        "test_at_train": at_train["test"],
        "test_error": at_train["test_error"],
        "shift_curvature": fits["toward"] / 2,
        "exact_shift_curvature": line["test_curvature"] / 2,
        "slope": line["test_slope"],
        "slope_train": line["train_slope"],
        "curvature_test": fits["toward"] / square,
        "curvature_train": fits["train"] / square,
        "exact_curvature_test": line["test_curvature"] / square,
        "exact_curvature_train": line["train_curvature"] / square,
        "share": ratio(fits["toward"] / 2, at_test["test"]),
        "flattened_test": ratio(fits["toward"], line["test_curvature"]),
        "flattened_train": ratio(fits["train"], line["train_curvature"]),
        "asymmetry": ratio(fits["beyond"], fits["toward"]),
        "predicted": at_test["test"] + line["test_curvature"] / 2,
    }


def _fit(profile: dict[float, dict], loss: str, centre: float, way: float) -> float:
    """The second derivative in r of the paper's parabola from one minimum, over one length |s|."""
    points = sum(0 < r <= 1 for r in profile)
    value = lambda r: profile[round(round(float(r[0]) * points) / points, 6)][loss]  # noqa: E731
    return symmetrized_quadratic_fit(value, [centre], [way], 1.0, points=points).curvature
