"""Tables and plots of the ``prior`` experiments, made of their records."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from companion.experiments.experiment import Report, Table
from companion.experiments.summaries import groups_of, mean_of_known
from companion.experiments.who_predicts_analysis import bootstrap_weights
from companion.experiments.who_predicts_analysis import tau as weighted_tau
from companion.experiments.who_predicts_estimates import Estimate
from companion.plots import subplots

DRAWS = 500  # bootstrap resamples
MOMENTS = {"fit": "first epoch without error", "level": "equal loss", "late": "after overtraining"}
# What is to rank test accuracy: each is larger where its paper would have the network generalize better.
PREDICTORS = {
    "log10_prior": "log P",
    "flatness": "flatness",
    "clean_flatness": "flatness on S",
    "top_flatness": "1/largest eigenvalue",
    "product_flatness": "1/product of eigenvalues",
    "trace_flatness": "1/trace",
    "low_loss": "1/loss",
    "like_kernel": "like kernel regression",
}
RUN = ("data", "train", "optimizer", "learning_rate", "attack")
ATTACK_SET = ("data", "train", "attack", "network")  # whatever the optimizer, networks of one number share theirs
GROUP = ("profile", "data", "train", "optimizer", "learning_rate", "moment")


def network_rows(records: Iterable[dict]) -> list[dict]:
    """One row for each network and moment of ``prior-attack``: settings, accuracy and all predictors.

    ``network`` numbers the networks of a run.  Of several profiles' records each row says which; a predictor
    that was not measured is None.
    """
    rows = []
    for record in records:
        settings = record["settings"]
        about = {name: settings[name] for name in RUN}
        for number, network in enumerate(record["result"]["networks"]):
            about["network"] = number
            for moment, measured in network.items():
                rows.append({"profile": record.get("profile"), **about, "moment": moment, **_predictors(measured)})
    return rows


def _predictors(measured: dict) -> dict:
    product = measured.get("log10_product")
    return {
        **{name: measured[name] for name in ("accuracy", "epoch", "loss", "sharpness", "first_order", "log10_prior")},
        "flatness": _inverse(measured["sharpness"]),
        "clean_flatness": _inverse(measured["clean_sharpness"]),
        "top_flatness": _inverse(measured.get("top_eigenvalue")),
        "product_flatness": None if product is None else -product,
        "trace_flatness": _inverse(measured["trace"]),
        "low_loss": _inverse(measured["loss"]),
        "like_kernel": 1 - measured["unlike_kernel"],
    }


def _inverse(value: float | None) -> float | None:
    return None if value is None or value <= 0 else -math.log10(value)


def kendall(x, y, groups=None) -> float:
    """Kendall's τ_b; with ``groups`` only pairs within a group count.

    Parameters
    ----------
    x, y : array_like, shape (n,)
    groups : array_like, shape (n,), optional

    Returns
    -------
    float
        NaN where no pair differs in x, or none in y.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    a, b = np.sign(np.subtract.outer(x, x)), np.sign(np.subtract.outer(y, y))
    if groups is not None:
        same = np.equal.outer(np.asarray(groups), np.asarray(groups))
        a, b = a * same, b * same
    pairs = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / pairs if pairs else math.nan


def tau(
    rows: Sequence[dict], predictor: str, *, target: str = "accuracy", within: bool = False, minus: str = ""
) -> tuple[float, float, float] | None:
    """How well a predictor ranks networks by accuracy: Kendall's τ and its 95 % bootstrap interval over networks.

    Parameters
    ----------
    rows : sequence of dict
        Of :func:`network_rows`; those without the predictor are left out.
    predictor, target : str
    within : bool, default False
        Count only pairs of networks with attack sets of one size, between which nothing but chance differs.
    minus : str, optional
        A second predictor, whose τ on the same networks is subtracted.

    Returns
    -------
    tuple of float, or None
        None for fewer than four networks, or where all of them are alike.
    """
    names = [target, predictor, *([minus] if minus else [])]
    table = np.array([[row[n] for n in names] for row in rows if all(row[n] is not None for n in names)], dtype=float)
    sizes = np.array([row["attack"] for row in rows if all(row[n] is not None for n in names)])
    if len(table) < 4:
        return None

    def statistic(chosen: np.ndarray) -> float:
        groups = sizes[chosen] if within else None
        y, *x = table[chosen].T
        values = [kendall(one, y, groups) for one in x]
        return values[0] - values[1] if minus else values[0]

    value, draw = statistic(np.arange(len(table))), np.random.default_rng(0)
    draws = [statistic(draw.integers(0, len(table), len(table))) for _ in range(DRAWS)]
    if math.isnan(value) or np.isnan(draws).all():
        return None
    return value, *(float(q) for q in np.nanquantile(draws, [0.025, 0.975]))


def estimate(
    rows: Sequence[dict], predictor: str, *, strata: Sequence[str] = (), draws: int = 1000, seed: int = 0, **chosen
) -> Estimate:
    """Kendall's τ of a predictor with test accuracy, with its bootstrap draws over attack sets.

    Parameters
    ----------
    rows : sequence of dict
        Of :func:`network_rows`.  All of them are drawn from, the chosen and the others, and all networks with one
        attack set together, so that estimates from one list can be subtracted.
    predictor : str
        Rows without it count in no pair.
    strata : sequence of str, default ()
        Columns that the networks of a pair must share.
    draws, seed : int
    **chosen
        Columns that must have these values, for instance ``optimizer="adam"``.

    Raises
    ------
    ValueError
        Where no pair of networks can be ranked.
    """
    sets = {key: number for number, key in enumerate(groups_of(rows, ATTACK_SET))}
    part = [row for row in rows if all(row[name] == value for name, value in chosen.items())]
    weights = bootstrap_weights(len(sets), draws, seed)[:, [sets[tuple(row[n] for n in ATTACK_SET)] for row in part]]
    groups = {key: number for number, key in enumerate(groups_of(part, strata))}
    strata = [groups[tuple(row[n] for n in strata)] for row in part]
    values = [math.nan if row[predictor] is None else row[predictor] for row in part]
    target = [row["accuracy"] for row in part]
    value = float(weighted_tau(values, target, strata)[0])
    if not math.isfinite(value):
        raise ValueError(f"predictor {predictor!r} ranks no pair of the {len(part)} networks within strata {strata!r}")
    return Estimate(value, weighted_tau(values, target, strata, weights))


def _interval(found: tuple[float, float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:+.2f} [{found[1]:+.2f}, {found[2]:+.2f}]"


def attack_report(records: Sequence[dict]) -> Report:
    """Rank correlations by optimizer, data and moment; means by size of the attack set; figures 3 and 4."""
    rows = network_rows(records)
    groups = groups_of(rows, GROUP)
    columns = (*GROUP, "networks", *PREDICTORS.values())
    everywhere, within = (
        [
            (*key, len(group), *(_interval(tau(group, name, within=inside)) for name in PREDICTORS))
            for key, group in groups.items()
        ]
        for inside in (False, True)
    )
    names = ("accuracy", "log10_prior", "flatness", "clean_flatness", "epoch", "loss")
    means = [
        (*key, len(group), *(mean_of_known(row[name] for row in group) for name in names))
        for key, group in groups_of(rows, (*GROUP, "attack")).items()
    ]
    tables = (
        Table("Kendall's τ with test accuracy, over all networks", columns, everywhere),
        Table("Kendall's τ with test accuracy, within sizes of the attack set", columns, within),
        Table("Means over networks", (*GROUP, "attack", "networks", *names), means),
        Table("Networks that reached no error", ("profile", *RUN, "networks"), _fits(records)),
    )
    first = [row for row in rows if row["moment"] == "fit"]
    figures: dict[str, Callable[[], Figure]] = {}
    for (profile, data, train), group in groups_of(first, ("profile", "data", "train")).items():
        figures[f"prior-attack-{profile}-{data}-{train}"] = partial(scatter, group)
    return Report(tables, figures)


def _fits(records: Iterable[dict]) -> list[tuple]:
    return [
        (r.get("profile"), *(r["settings"][name] for name in RUN),
         f"{sum('fit' in n for n in r['result']['networks'])} of {len(r['result']['networks'])}")
        for r in records
    ]  # fmt: skip


def scatter(rows: Sequence[dict], *, predictors: Sequence[str] = ("log10_prior", "flatness")) -> Figure:
    """Test accuracy against each predictor (rows of panels) for each optimizer and rate (columns).

    The darker a point, the smaller was the attack set.
    """
    groups = groups_of(rows, ("optimizer", "learning_rate"))
    size = {"width": max(3.5, 1.9 * len(groups)), "height": 2.1 * len(predictors) + 0.3}
    figure, panels = subplots(len(predictors), len(groups), **size, squeeze=False, sharey=True)
    largest = max(row["attack"] for row in rows) or 1
    for line, predictor in zip(panels, predictors, strict=True):
        for panel, ((optimizer, rate), group) in zip(line, groups.items(), strict=True):
            there = [row for row in group if row[predictor] is not None]
            values = [[row[predictor] for row in there], [100 * row["accuracy"] for row in there]]
            shades = [row["attack"] / largest for row in there]
            panel.scatter(*values, c=shades, cmap="viridis", vmin=0, vmax=1, s=12)
            panel.set_xlabel({"log10_prior": "log₁₀ P(f)", "flatness": "-log₁₀ sharpness"}.get(predictor, predictor))
            panel.set_title(f"{optimizer}, λ = {rate:g}" if predictor == predictors[0] else "", fontsize=9)
        line[0].set_ylabel("test accuracy, %")
    return figure


def label_rows(records: Iterable[dict]) -> list[dict]:
    """The rows of ``prior-labels`` with their data set."""
    return [
        {"profile": r.get("profile"), "data": r["settings"]["data"], **row}
        for r in records
        for row in r["result"]["rows"]
    ]


def label_report(records: Sequence[dict]) -> Report:
    """Accuracy and log P of labels that no network found."""
    rows = label_rows(records)
    table = [
        (
            *key,
            len(group),
            mean_of_known(r["accuracy"] for r in group),
            mean_of_known(r["log10_prior"] for r in group),
        )
        for key, group in groups_of(rows, ("profile", "data", "source", "wrong")).items()
    ]
    columns = ("profile", "data", "source", "wrong", "draws", "accuracy", "log10 P")
    return Report((Table("Labels that no network found", columns, table),))
