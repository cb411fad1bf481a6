"""Plots of the ``shift`` experiments."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from companion import plots
from companion.experiments.shift_collapse import final_rows

COLORS = list(plots.COLORS.values())
MARKERS = "osD^v"


def profile_figure(records: Sequence[dict], place: int = -1) -> Figure:
    """``shift`` fig. 1: both losses and errors along the line, at the lowest and the highest temperature.

    Of each temperature's first run, at the flow time with this index, over the distance r |s| from θ_train.
    """
    figure, (error, loss) = plots.subplots(ncols=2, width=7.2, height=3.2)
    there = [record for record in records if record["result"]["lines"]]
    times = [record["settings"]["time"] for record in there]
    there = [record for record in there if record["settings"]["time"] == max(sorted(set(times)), key=times.count)]
    there = sorted(there, key=lambda record: (record["settings"]["temperature"], record["settings"]["seed"]))
    ends = {record["settings"]["temperature"]: record for record in reversed(there)}
    for temperature, color in zip(sorted({min(ends), max(ends)}), ("blue", "orange"), strict=False):
        line = ends[temperature]["result"]["lines"][place]
        distance = [point["r"] * line["shift"] for point in line["profile"]]
        for name, style in (("train", "-"), ("test", "--")):
            label = f"{name}, T = {temperature:g}"
            error.plot(distance, [p[f"{name}_error"] for p in line["profile"]], style, color=plots.COLORS[color])
            loss.plot(distance, [p[name] for p in line["profile"]], style, color=plots.COLORS[color], label=label)
        for panel in (error, loss):
            panel.axvline(line["shift"], color=plots.COLORS[color], lw=0.8, ls=":")
    error.set(title="error", xlabel="distance from the train minimum")
    loss.set(title="loss", xlabel="distance from the train minimum")
    loss.legend(fontsize=8)
    return figure


def trend_figure(rows: Sequence[dict], flow_time: float | None = None) -> Figure:
    """``shift`` fig. 2: the terms of eq. 3 and the curvatures over T, means over seeds with standard errors.

    At one flow time, by default the middle one; each time of SGD has its own marker.
    """
    times = sorted({row["flow_time"] for row in rows})
    flow_time = times[len(times) // 2] if flow_time is None else flow_time
    rows = [row for row in rows if row["flow_time"] == flow_time]
    figure, panels = plots.subplots(2, 2, width=7.2, height=5.4)
    groups = (
        ("test loss", {"at the train minimum": "test_at_train", "predicted by the fit": "fitted"}),
        ("shift", {"½ sᵀCs": "shift_curvature", "|s|": "shift"}),
        ("loss at its own minimum", {"train": "depth_train", "test": "depth_test"}),
        ("curvature along the line", {"train": "curvature_train", "test": "curvature_test"}),
    )
    rows = [row | {"fitted": row["depth_test"] + row["shift_curvature"]} for row in rows]
    for panel, (title, names) in zip(panels.ravel(), groups, strict=True):
        for (label, name), color, style in zip(names.items(), ("blue", "orange"), ("-", "--"), strict=True):
            for time, marker in zip(sorted({row["time"] for row in rows}), MARKERS, strict=False):
                here = [row for row in rows if row["time"] == time and row[name] is not None]
                note = label if time == min(row["time"] for row in rows) else f"{label}, time {time:g}"
                _means(panel, here, "temperature", name, color=plots.COLORS[color], fmt=marker + style, label=note)
        panel.set(title=title, xlabel="temperature T", xscale="log", yscale="log")
        _finish(panel)
    return figure


def temperature_figure(records: Sequence[dict]) -> Figure:
    """``shift`` fig. 5 left: final losses over T for each B; at the right, the test loss over time."""
    figure, (train, test, course) = plots.subplots(ncols=3, width=8.6, height=3.2)
    rows = final_rows(records)
    sizes = sorted({row["batch_size"] for row in rows})
    for size, color, marker in zip(sizes, COLORS, MARKERS, strict=False):
        here = [row for row in rows if row["batch_size"] == size]
        for panel, name in ((train, "train"), (test, "test")):
            _means(panel, here, "temperature", name, color=color, fmt=f"{marker}-", label=f"B = {size}")
    middle = sizes[len(sizes) // 2]
    temperatures = sorted({row["temperature"] for row in rows})
    for temperature, color in zip(temperatures, COLORS, strict=False):
        curves = [
            run["curve"]
            for record in records
            for run in record["result"]["runs"]
            if (record["settings"]["temperature"], run["batch_size"]) == (temperature, middle) and not run["diverged"]
        ]
        if curves:
            losses = np.mean([[point["test"] for point in curve] for curve in curves], axis=0)
            course.plot([point["time"] for point in curves[0]], losses, color=color, label=f"T = {temperature:g}")
    train.set(title="final train loss", xlabel="temperature T", xscale="log", yscale="log")
    test.set(title="final test loss", xlabel="temperature T", xscale="log")
    course.set(title=f"test loss, B = {middle}", xlabel="time λ · steps", xscale="log")
    for panel in (train, test, course):
        _finish(panel)
    return figure


def sample_figure(rows: Sequence[dict]) -> Figure:
    """``shift`` fig. 5 right: losses over the sample size, and the shift; the default split has its own marker."""
    figure, (loss, shift) = plots.subplots(ncols=2, width=7.2, height=3.2)
    for split, marker in (("reshuffled", "o"), ("default", "^")):
        here = [row for row in rows if row["split"] == split]
        if here:
            for name, color in (("train", "blue"), ("test", "orange")):
                label = f"{name}, {split}"
                _means(loss, here, "train", f"end_{name}", color=plots.COLORS[color], fmt=f"{marker}-", label=label)
            here = [row for row in here if "shift" in row]
            _means(shift, here, "train", "shift_curvature", color=plots.COLORS["green"], fmt=f"{marker}-",
                   label=f"½ sᵀCs, {split}")  # fmt: skip
            _means(shift, here, "train", "shift", color=plots.COLORS["purple"], fmt=f"{marker}--",
                   label=f"|s|, {split}")  # fmt: skip
    loss.set(title="loss", xlabel="training images", xscale="log", yscale="log")
    shift.set(title="shift", xlabel="training images", xscale="log", yscale="log")
    for panel in (loss, shift):
        _finish(panel)
    return figure


def _means(panel: Axes, rows: Sequence[dict], over: str, name: str, **style) -> None:
    """Means over seeds with standard errors."""
    at = sorted({row[over] for row in rows})
    values = [np.array([row[name] for row in rows if row[over] == x]) for x in at]
    errors = [v.std(ddof=1) / v.size**0.5 if v.size > 1 else 0.0 for v in values]
    if at:
        panel.errorbar(at, [v.mean() for v in values], errors, markersize=4, capsize=2, **style)


def _finish(panel: Axes) -> None:
    """The legend, and no labels between the powers of ten, where they would overlap."""
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.legend(fontsize=7)
