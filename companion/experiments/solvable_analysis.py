"""Tables and plots of the label-noise experiments: pure functions of their records."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from companion.experiments.experiment import Report, Table
from companion.plots import COLORS, subplots

NAMES = {
    "linear": "two linear layers",
    "relu": "two layers, ReLU",
    "mlp": "three layers, ReLU",
    "rnn": "recurrent",
    "transformer": "transformer",
}
KINDS = {
    ("squared", "additive"): "squared error",
    ("cross-entropy", "additive"): "cross-entropy, noise added",
    ("cross-entropy", "flips"): "cross-entropy, labels flipped",
}
LATE = 0.75  # what is logged after this part of the training counts as its end
PALETTE = ("blue", "sky", "green", "amber", "orange", "purple", "black")


def largest_runs(records: Sequence[dict]) -> dict[tuple[str, str, str], dict]:
    """By (model or data set, loss, noise) the record of most steps, then most seeds; in the book's order."""
    best: dict[tuple[str, str, str], dict] = {}
    for record in records:
        settings = record["settings"]
        case = (settings["data"] or settings["model"], settings["loss"], settings["noise"])
        if case not in best or _size(record) > _size(best[case]):
            best[case] = record
    order = {name: i for i, name in enumerate([*NAMES, "mnist", "digits"])}
    kinds = list(KINDS)
    return dict(sorted(best.items(), key=lambda item: (kinds.index(item[0][1:]), order.get(item[0][0], len(order)))))


def name_of(case: tuple[str, str, str]) -> str:
    """The network of a case, as tables have it."""
    return NAMES.get(case[0], f"two layers, ReLU, {case[0]}")


def series(record: dict, phase: str, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, shape (n,), and values, shape (n, seeds, κ), NaN where a network has diverged.

    ``phase`` is "sgd" or "descent", ``measure`` one of those that were logged.
    """
    rows = record["result"][phase]
    shape = (len(rows), len(record["settings"]["seeds"]), len(record["settings"]["kappas"]))
    values = np.array([row[measure] for row in rows], dtype=float).reshape(shape)
    return np.array([row["step"] for row in rows]), values


def at_end(record: dict, measure: str) -> np.ndarray:
    """The mean over what was logged in the last quarter of SGD, shape (seeds, κ)."""
    steps, values = series(record, "sgd", measure)
    return values[steps >= LATE * record["settings"]["steps"]].mean(0)


def relative(values: np.ndarray) -> np.ndarray:
    """Over κ, which is the last axis, relative to the same seed's value under isotropic noise, κ = 1."""
    return values / values[..., :1]


def mean_and_error(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over the seeds that have not diverged; NaN where fewer than one, or two, are left."""
    values = np.moveaxis(np.asarray(values, dtype=float), axis, 0)
    there = np.isfinite(values)
    count = there.sum(0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(0) / count
        spread = np.where(there, (values - mean) ** 2, 0).sum(0) / (count - 1)
        return mean, np.sqrt(np.where(count > 1, spread, np.nan) / count)


def relative_rows(records: Sequence[dict]) -> list[list]:
    """A row for each case: its names, then tr H relative to κ = 1 at the end of SGD for each κ of its run."""
    rows = []
    for case, record in largest_runs(records).items():
        means, errors = mean_and_error(relative(at_end(record, "trace")))
        cells = [_number(*pair) for pair in zip(means, errors, strict=True)]
        rows.append([KINDS[case[1:]], name_of(case), *cells])
    return rows


def rank_rows(records: Sequence[dict]) -> list[list]:
    """A row for each case: in how many seeds the end is sharper at the largest κ than at κ = 1, for tr H and ‖H‖."""
    rows = []
    for case, record in largest_runs(records).items():
        counts = []
        for measure in ("trace", "top"):
            ratio = relative(at_end(record, measure))[:, -1]
            counts.append(f"{int((ratio > 1).sum())} of {int(np.isfinite(ratio).sum())}")
        top = _number(*(part[-1] for part in mean_and_error(relative(at_end(record, "top")))))
        rows.append([KINDS[case[1:]], name_of(case), *counts, top])
    return rows


def switch_rows(records: Sequence[dict]) -> list[list]:
    """Four rows a case at most: tr H at the switch, at the end of SGD and of the descent, for κ = 1 and the largest.

    Beside it the same relative to κ = 1, and the misfit, which the descent takes away.
    """
    rows = []
    for case, record in largest_runs(records).items():
        for place, trace, misfit in _places(record):
            cells = [_number(*(part[i] for part in mean_and_error(trace))) for i in (0, -1)]
            ratio = _number(*(part[-1] for part in mean_and_error(relative(trace))))
            left = _number(mean_and_error(misfit)[0][-1], np.nan)
            rows.append([KINDS[case[1:]], name_of(case), place, *cells, ratio, left])
    return rows


def noise_rows(records: Sequence[dict]) -> list[list]:
    """A row for each case but one: fluctuation over tr H, scaled, at κ = 1 and at the largest κ.

    The scale makes it 1 where the loss is the likelihood of the label noise: at an exact fit tr D = tr H
    for flipped classes, and tr D = 2c tr H for squared error and isotropic noise of variance c.  For noise
    that is added under cross-entropy there is no such scale.
    """
    rows = []
    for case, record in largest_runs(records).items():
        settings = record["settings"]
        if case[1:] == ("cross-entropy", "additive"):
            continue
        scale = 1.0 if settings["loss"] != "squared" else 2 * settings["total_noise"] / settings["outputs"]
        ratio = at_end(record, "fluctuation") / at_end(record, "trace") / scale
        means, errors = mean_and_error(ratio)
        rows.append([KINDS[case[1:]], name_of(case), *(_number(means[i], errors[i]) for i in (0, -1))])
    return rows


def report(records: Sequence[dict]) -> Report:
    """Tables and figures of whatever records there are."""
    cases = largest_runs(records)
    kappas = max((record["settings"]["kappas"] for record in cases.values()), key=len, default=())
    tables = [
        Table(
            "tr H at the end of SGD, relative to isotropic noise",
            ("loss", "network", *(f"κ = {kappa:g}" for kappa in kappas)),
            [row for row in relative_rows(records) if len(row) == 2 + len(kappas)],
        ),
        Table(
            "seeds that end sharper at the largest κ than at κ = 1, and ‖H‖ relative to it",
            ("loss", "network", "by tr H", "by ‖H‖", "‖H‖"),
            rank_rows(records),
        ),
        Table(
            "tr H when SGD is replaced by full-batch descent",
            ("loss", "network", "when", "κ = 1", "largest κ", "ratio", "misfit"),
            switch_rows(records),
        ),
        Table(
            "fluctuation over tr H, scaled to 1 for noise of the likelihood's shape",
            ("loss", "network", "κ = 1", "largest κ"),
            noise_rows(records),
        ),
    ]
    figures = {}
    if cases:
        figures = {
            "sharpening": partial(sharpening_figure, records),
            "relative-sharpness": partial(relative_figure, records),
            "switch": partial(switch_figure, records),
            "eigenvalue": partial(sharpening_figure, records, measure="top"),
        }
    return Report([table for table in tables if table.rows], figures)


def sharpening_figure(
    records: Sequence[dict], measure: str = "trace", kind: tuple[str, str] = ("squared", "additive")
) -> Figure:
    """A measure along SGD for every κ, a panel a network; bands are a standard error wide on either side."""
    cases = {case: record for case, record in largest_runs(records).items() if case[1:] == kind}
    figure, panels = _panels(len(cases))
    for axis, (case, record) in zip(panels, cases.items(), strict=False):
        steps, values = series(record, "sgd", measure)
        means, errors = mean_and_error(values, axis=1)
        for i, kappa in enumerate(record["settings"]["kappas"]):
            _band(axis, steps, means[:, i], errors[:, i], PALETTE[i], f"κ = {kappa:g}")
            if measure == "trace" and "predicted" in record["result"]:
                end = np.mean(np.array(record["result"]["predicted"], dtype=float)[:, i])
                axis.axhline(end, color=COLORS[PALETTE[i]], ls=":", lw=1)
        axis.set(title=name_of(case), xlabel="steps", ylim=(0, None))
    if cases:
        panels[0].set_ylabel("tr H" if measure == "trace" else "‖H‖")
        panels[0].legend(fontsize=7)
    return figure


def relative_figure(records: Sequence[dict]) -> Figure:
    """tr H at the end of SGD relative to isotropic noise, over κ; a panel for each loss and kind of noise."""
    cases = largest_runs(records)
    kinds = [kind for kind in KINDS if any(case[1:] == kind for case in cases)]
    figure, panels = _panels(len(kinds), sharey=True)
    for axis, kind in zip(panels, kinds, strict=False):
        for i, (case, record) in enumerate((c, r) for c, r in cases.items() if c[1:] == kind):
            means, errors = mean_and_error(relative(at_end(record, "trace")))
            color = COLORS[PALETTE[i % len(PALETTE)]]
            axis.errorbar(
                record["settings"]["kappas"], means, errors, color=color, marker="o", ms=3, label=name_of(case)
            )
        axis.axhline(1, color="black", ls=":", lw=1)
        axis.set(title=KINDS[kind], xscale="log", xlabel="condition number κ")
    if kinds:
        panels[0].set_ylabel("tr H / tr H at κ = 1")
        panels[0].legend(fontsize=7)
    return figure


def switch_figure(records: Sequence[dict], kind: tuple[str, str] = ("squared", "additive")) -> Figure:
    """tr H along SGD, and where full-batch descent takes over, for κ = 1 and the largest; a panel a network."""
    cases = {case: record for case, record in largest_runs(records).items() if case[1:] == kind}
    figure, panels = _panels(len(cases))
    for axis, (case, record) in zip(panels, cases.items(), strict=False):
        for i, color in ((0, "blue"), (-1, "orange")):
            kappa = record["settings"]["kappas"][i]
            for phase, line, label in (("sgd", "-", f"SGD, κ = {kappa:g}"), ("descent", "--", "full batch from there")):
                steps, values = series(record, phase, "trace")
                means, errors = mean_and_error(values, axis=1)
                _band(axis, steps, means[:, i], errors[:, i], color, label, line)
        axis.axvline(record["settings"]["switch"], color="black", ls=":", lw=1)
        axis.set(title=name_of(case), xlabel="steps", ylim=(0, None))
    if cases:
        panels[0].set_ylabel("tr H")
        panels[0].legend(fontsize=7)
    return figure


def _places(record: dict) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """tr H and misfit, shape (seeds, κ), at the switch, at the end of SGD, at the end of the descent."""
    places = [("end of SGD", at_end(record, "trace"), at_end(record, "misfit"))]
    if record["result"]["descent"]:
        trace, misfit = (series(record, "descent", measure)[1] for measure in ("trace", "misfit"))
        places = [("switch", trace[0], misfit[0]), *places, ("end of descent", trace[-1], misfit[-1])]
    return places


def _panels(count: int, **kwargs) -> tuple[Figure, Sequence[Axes]]:
    columns = min(max(count, 1), 3)
    rows = -(-max(count, 1) // columns)
    figure, panels = subplots(rows, columns, width=7.2, height=2.6 * rows, squeeze=False, **kwargs)
    for axis in panels.ravel()[count:]:
        axis.set_visible(False)
    return figure, panels.ravel()


def _band(axis: Axes, steps, means, errors, color: str, label: str, line: str = "-") -> None:
    axis.plot(steps, means, line, color=COLORS[color], lw=1.3, label=label)
    axis.fill_between(steps, means - errors, means + errors, color=COLORS[color], alpha=0.2, lw=0)


def _number(mean: float, error: float) -> str:
    """Mean and standard error as a table has them; a dash for what is not there."""
    if not np.isfinite(mean):
        return "–"
    digits = max(0, 2 - int(np.floor(np.log10(abs(mean) or 1))))
    return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if np.isfinite(error) else "")


def _size(record: dict) -> tuple[int, int]:
    return record["settings"]["steps"], len(record["settings"]["seeds"])
