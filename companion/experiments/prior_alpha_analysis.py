"""Tables and plots of ``prior-alpha``, made of its records."""

import math
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from companion.experiments.experiment import Report, Table
from companion.experiments.summaries import groups_of, mean_of_known
from companion.plots import COLORS, subplots

SCANNED = ("sharpness", "first_order", "trace", "top_eigenvalue")
MEASURED = ("jump", "end", "half_life", "step", "same", "most_changed", "changed", "prior_most", "prior_end")


def spike_rows(records: Iterable[dict]) -> list[dict]:
    """For each seed and α of ``prior-alpha``: the jump, what became of the labels, and how it ended.

    ``jump`` and ``end`` are the sharpness over that of the control, the same network not rescaled, at the
    rescaling and at the end; ``step`` is the learning rate times the largest eigenvalue right after the
    rescaling, above 2 for a minimum that full-batch descent would leave; ``half_life`` the first measured
    epoch with at most the square root of a jump upwards; ``most_changed`` and ``changed`` are the labels of S and
    E that differed from those at the rescaling, at most and at the end; ``prior_most`` and ``prior_end`` the
    change of log₁₀ P since, the largest measured and that at the end.
    """
    rows = []
    for record in records:
        settings, curves = record["settings"], {a["alpha"]: a["rows"] for a in record["result"]["after"]}
        control = curves.get(1.0)
        for alpha, curve in curves.items():
            ratios = (
                [_ratio(row, other) for row, other in zip(curve, control, strict=True)]
                if control
                else [None] * len(curve)
            )
            jump, last = ratios[0], curve[-1]
            back = (r["epoch"] for r, q in zip(curve, ratios, strict=True) if q is not None and q <= math.sqrt(jump))
            rows.append({
                "profile": record.get("profile"), "data": settings["data"], "seed": settings["seed"], "alpha": alpha,
                "jump": jump, "end": ratios[-1], "half_life": next(back, None) if jump and jump > 1 else None,
                "step": settings["learning_rate"] * curve[0]["top_eigenvalue"],
                "same": curve[0]["changed"], "most_changed": last.get("most_changed"), "changed": last.get("changed"),
                "prior_most": _largest_change(curve), "prior_end": _change(curve[0], last),
            })  # fmt: skip
    return rows


def scan_rows(records: Iterable[dict]) -> list[dict]:
    """The measures at the rescaling by seed, layer (0 or 1) and α."""
    about = (
        {"profile": r.get("profile"), "data": r["settings"]["data"], "seed": r["settings"]["seed"]} for r in records
    )
    return [{**one, **row} for one, r in zip(about, records, strict=True) for row in r["result"]["scan"]]


def _ratio(row: dict, control: dict) -> float | None:
    return row["sharpness"] / control["sharpness"] if row.get("sharpness") and control.get("sharpness") else None


def _change(first: dict, row: dict) -> float | None:
    values = first.get("log10_prior"), row.get("log10_prior")
    return None if None in values else values[1] - values[0]


def _largest_change(curve: Sequence[dict]) -> float | None:
    changes = [change for row in curve if (change := _change(curve[0], row)) is not None]
    return max(changes, key=abs, default=None)


def alpha_report(records: Sequence[dict]) -> Report:
    """What each α did, the course before the rescaling, and a figure for each seed."""
    rows = spike_rows(records)
    spikes = [
        (*key, len(group), *(mean_of_known(row[name] for row in group) for name in MEASURED))
        for key, group in groups_of(rows, ("profile", "data", "alpha")).items()
    ]
    names = ("loss", "sharpness", "top_eigenvalue", "log10_prior")
    course = [
        (r.get("profile"), r["settings"]["data"], r["settings"]["seed"], r["result"]["fit"], when,
         *(f"{row[name]:.4g}" if row.get(name) is not None else "-" for name in names))
        for r in records for when, row in course_rows(r).items()
    ]  # fmt: skip
    scan = [
        (*key, len(group), *(mean_of_known(row[name] for row in group) for name in SCANNED))
        for key, group in groups_of(scan_rows(records), ("profile", "data", "layer", "alpha")).items()
    ]
    tables = (
        Table("Rescaling by α", ("profile", "data", "α", "seeds", *MEASURED), spikes),
        Table("At the rescaling", ("profile", "data", "layer", "α", "seeds", *SCANNED), scan),
        Table("Before it", ("profile", "data", "seed", "zero error at", "when", *names), course),
    )
    figures = {
        f"prior-alpha-{r.get('profile')}-{r['settings']['data']}-{r['settings']['seed']}": partial(course_figure, r)
        for r in records
        if r["result"]["fit"] is not None
    }
    return Report(tables, figures)


def course_rows(record: dict) -> dict[str, dict]:
    """The measurements at the start, at the first epoch without error, and right before the rescaling."""
    before, fit = record["result"]["before"], record["result"]["fit"]
    found = {"start": before[0]}
    if fit is not None:
        found |= {"zero error": next(row for row in before if row["epoch"] == fit), "before rescaling": before[-1]}
    return found


def course_figure(record: dict) -> Figure:
    """Sharpness and log P over the epochs of one network, up to the rescaling and after it for each α."""
    before, result = record["result"]["before"], record["result"]
    figure, panels = subplots(2, 2, width=7.2, height=4.6, sharey="row", sharex="col")
    for line, name in zip(panels, ("sharpness", "log10_prior"), strict=True):
        _curve(line[0], before, name, color="black")
        line[0].axvline(result["fit"], color=COLORS["green"], ls="--", lw=1)
        for one, color in zip(result["after"], COLORS.values(), strict=False):
            _curve(line[1], one["rows"], name, color=color, label=f"α = {one['alpha']:g}")
    for panel in panels[0]:
        panel.set_yscale("log")
    panels[0, 0].set(ylabel="sharpness, %", title="training")
    panels[0, 1].set_title("after the rescaling")
    panels[1, 0].set(ylabel="log₁₀ P(f)", xlabel="epoch", xscale="log")
    panels[1, 1].set(xlabel="epochs since (plus one)", xscale="log")
    panels[0, 1].legend(fontsize=8)
    return figure


def _curve(panel, rows: Sequence[dict], name: str, **style) -> None:
    there = [(row["epoch"] + 1, row[name]) for row in rows if row.get(name) is not None]
    panel.plot(*np.array(there, dtype=float).reshape(-1, 2).T, marker=".", ms=4, lw=1.2, **style)
