"""Tables and plots of ``msharp-accuracy``."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from companion.experiments.experiment import Report, Table
from companion.experiments.msharp_analysis import (
    ACCURACY,
    NOISE,
    TRACE,
    Comparison,
    average,
    best_records,
    difference,
    final,
    grids,
    noise_and_sharpness,
    over_micro_batches,
    rank_correlation,
    reference_of,
    task_name,
    tasks,
)
from companion.plots import COLORS, subplots

LINES = {
    "SAM": ("black", "o-"),
    "SAM, m = 64": ("sky", "s-"),
    "SAM, m = 16": ("blue", "s-"),
    "SAM, m = 4": ("green", "s-"),
    "RW-SAM, η = 1": ("orange", "^--"),
    "RW-SAM, η = 2": ("amber", "^--"),
    "RW-SAM, η = -1": ("purple", "v:"),
}


def accuracy_rows(records: Sequence[dict]) -> list[tuple]:
    """Each method at its best ρ: accuracies in percent, differences in percentage points, the traces."""
    best, rows = best_records(records), []
    for name, (record, edge) in best.items():
        reference = best.get(reference_of(name))
        against = "–"
        if reference and name != "SAM":
            change = difference(record, reference[0], ACCURACY)
            against = f"{with_error(change, 100)} {reference_of(name)}"
        accuracy, validation = (average(final(record, key).values()) for key in (ACCURACY, "validation_accuracy"))
        traces = (f"{average(final(record, key).values()).mean:.3g}" for key in (TRACE, NOISE))
        remembered = average(v for v in final(record, "memorized").values() if v is not None)
        kept = f"{100 * remembered.mean:.0f} %" if remembered.seeds else "–"
        rho = f"{record['settings']['rho']:g}{' (edge)' * edge}"
        shown = (f"{100 * validation.mean:.2f}", with_error(accuracy, 100, sign=False))
        rows.append((name, rho, *shown, against, *traces, kept, accuracy.seeds))
    return rows


def equal_rho_rows(records: Sequence[dict]) -> list[tuple]:
    """Each method beside SAM (RW-ASAM: ASAM) at the same ρ: accuracy in points, factors on tr H and tr D."""
    found, rows = grids(records), []
    for name, grid in found.items():
        base = found.get(reference_of(name), {})
        if name in ("SGD", "SAM", "ASAM", "USAM"):
            continue
        for rho in sorted(grid.keys() & base.keys()):
            change = difference(grid[rho], base[rho], ACCURACY)
            factors = [difference(grid[rho], base[rho], key, relative=True) for key in (TRACE, NOISE)]
            shown = (with_error(change, 100), *(factor_of(factor) for factor in factors))
            rows.append((f"{name} beside {reference_of(name)}", f"{rho:g}", *shown, change.seeds))
    return rows


def flatness_rows(records: Sequence[dict]) -> list[tuple]:
    """Each method at its best ρ: factors on tr H and tr D beside its reference at its own best ρ."""
    best, rows = best_records(records), []
    for name, (record, _) in best.items():
        base = best.get(reference_of(name))
        if base and name != "SAM":
            factors = [difference(record, base[0], key, relative=True) for key in (TRACE, NOISE)]
            rows.append((name, reference_of(name), *(factor_of(factor) for factor in factors), factors[0].seeds))
    return rows


def micro_batch_rows(records: Sequence[dict]) -> list[tuple]:
    """SAM and USAM at equal ρ over m: accuracy in percent, tr H and tr D."""
    rows = []
    for method in ("sam", "usam"):
        for rho, by_size in over_micro_batches(records, method).items():
            for size, record in by_size.items() if len(by_size) > 1 else ():
                accuracy = with_error(average(final(record, ACCURACY).values()), 100, sign=False)
                traces = (f"{average(final(record, key).values()).mean:.3g}" for key in (TRACE, NOISE))
                rows.append((method.upper(), f"{rho:g}", size or "B", accuracy, *traces))
    return rows


def mechanism_rows(records: Sequence[dict]) -> list[tuple]:
    """At every logged epoch: how tr D and tr H rank the networks alike, and their ratio's quartiles and extremes."""
    rows = []
    for epoch in sorted({row["epoch"] for r in records for run in r["result"]["runs"] for row in run["curve"]}):
        points = noise_and_sharpness(records, epoch=epoch)
        if points:
            ratios = np.quantile([noise / trace for trace, noise in points], [0, 0.25, 0.5, 0.75, 1])
            shown = tuple(f"{ratio:.3g}" for ratio in ratios)
            rows.append((epoch, len(points), f"{rank_correlation(points):.2f}", *shown))
    return rows


def with_error(value: Comparison, scale: float = 1, *, sign: bool = True) -> str:
    """Mean ± standard error, times ``scale``."""
    if not value.seeds:
        return "–"
    error = "" if np.isnan(value.error) else f" ± {scale * value.error:.2f}"
    return (f"{scale * value.mean:+.2f}" if sign else f"{scale * value.mean:.2f}") + error


def factor_of(logarithm: Comparison) -> str:
    """The geometric mean of ratios, with the factor that a standard error is."""
    if not logarithm.seeds:
        return "–"
    error = "" if np.isnan(logarithm.error) else f" ×/÷ {np.exp(logarithm.error):.2f}"
    return f"{np.exp(logarithm.mean):.2f}{error}"


def accuracy_figure(groups: Sequence[Sequence[dict]]) -> Figure:
    """Test accuracy over ρ, with standard errors, a panel for each group of :func:`~msharp_analysis.tasks`."""
    figure, panels = subplots(ncols=len(groups), width=2.7 * len(groups) + 0.8, height=3.4, squeeze=False)
    for panel, records in zip(panels[0], groups, strict=True):
        found = grids(records)
        for plain in found.get("SGD", {}).values():
            panel.axhline(100 * average(final(plain, ACCURACY).values()).mean, color="grey", label="SGD")
        for name, (color, line) in LINES.items():
            values = {rho: average(final(record, ACCURACY).values()) for rho, record in found.get(name, {}).items()}
            values = {rho: value for rho, value in values.items() if value.seeds}
            means, errors = ([100 * getattr(v, key) for v in values.values()] for key in ("mean", "error"))
            if values:
                style = dict(color=COLORS[color], markersize=4, linewidth=1.2, label=name)
                panel.errorbar(list(values), means, np.nan_to_num(errors), fmt=line, **style)
        panel.set(xscale="log", xlabel="ρ", title=task_name(records))
        panel.title.set_fontsize(8)
    panels[0][0].set_ylabel("test accuracy, %")
    panels[0][0].legend(fontsize=7)
    return figure


def mechanism_figure(groups: Sequence[Sequence[dict]]) -> Figure:
    """tr D over tr H at the end of training, a point a network, a colour for each group."""
    figure, panel = subplots(width=5.2, height=3.6)
    for records, color in zip(groups, COLORS.values(), strict=False):
        points = noise_and_sharpness(records)
        if points:
            panel.plot(*zip(*points, strict=True), ".", markersize=4, color=color, label=task_name(records))
    ends = np.array(panel.get_xlim())
    panel.plot(ends, ends, color="grey", linewidth=1, label="tr D = tr H")
    panel.set(xscale="log", yscale="log", xlabel="tr H", ylabel="tr D")
    panel.legend(fontsize=7)
    return figure


def report(records: Sequence[dict]) -> Report:
    """For each data set and noise: the methods at their best ρ, at equal ρ, over m, and the two traces."""
    groups, tables = list(tasks(records).values()), []
    for group in groups:
        name = task_name(group)
        columns = ("method", "best ρ", "validation, %", "test, %", "points against", "tr H", "tr D", "memorized")
        tables.append(Table(f"{name}: at the best ρ", (*columns, "seeds"), accuracy_rows(group)))
        columns = ("method", "against", "tr H", "tr D", "seeds")
        tables.append(Table(f"{name}: factors on the traces at the best ρ", columns, flatness_rows(group)))
        columns = ("method", "ρ", "points", "factor on tr H", "factor on tr D", "seeds")
        tables.append(Table(f"{name}: at equal ρ", columns, equal_rho_rows(group)))
        columns = ("method", "ρ", "m", "test, %", "tr H", "tr D")
        tables.append(Table(f"{name}: over m", columns, micro_batch_rows(group)))
        columns = ("epoch", "networks", "Kendall's τ", "tr D / tr H: least", "quarter", "median", "quarter", "largest")
        tables.append(Table(f"{name}: tr D beside tr H", columns, mechanism_rows(group)))
    figures = {"msharp-accuracy": lambda: accuracy_figure(groups), "msharp-traces": lambda: mechanism_figure(groups)}
    return Report([table for table in tables if table.rows], figures if groups else {})
