"""Tables and plots of the ``fisher`` experiments, made of their records."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from companion import plots
from companion.experiments.experiment import Report, Table
from companion.experiments.fisher_settings import BASE
from companion.experiments.summaries import Mean, grouped, groups_of, mean_of, mean_over
from companion.experiments.who_predicts_analysis import bootstrap_weights, tau

# What S_R can have meant: column, Fisher estimate, damping.
READINGS = {
    "S_R, ε = 0": ("exact", "0"),
    "S_R, ε = 0.001": ("exact", "0.001"),
    "mini-batch, ε = 1e-08": ("mini-batch", "1e-08"),
    "mini-batch, ε = 0.001": ("mini-batch", "0.001"),
    "empirical, ε = 0.001": ("empirical", "0.001"),
}
VARIED = {"table 4": "batch_size", "table 5": "learning_rate"}


def report(records: Sequence[dict]) -> Report:
    """The paper's tables on what was measured, and S_R over damping."""
    tables = [
        sharpness_table(records, title, setting)
        for title, setting in VARIED.items()
        if len({record["settings"][setting] for record in records}) > 1
    ]
    tables += [dynamics_table(records), alignment_table(records), rescaling_table(records)]
    return Report(tables, {"fisher-damping": lambda: damping_figure(records)} if finished(records) else {})


def time_report(records: Sequence[dict]) -> Report:
    """Every batch size at the same training times, as a table and over λn."""
    figures = {"fisher-time": lambda: time_figure(records)} if finished(records) else {}
    return Report([time_table(records)], figures)


def finished(records: Sequence[dict]) -> list[dict]:
    """The records of runs that did not diverge."""
    return [record for record in records if record["result"]["epochs"] and "diverged" not in record["result"]]


def reading(estimate: str, damping: str, place: int = -1) -> Callable[[dict], float]:
    """Σ Hᵢᵢ/(F̂ᵢᵢ + ε) of a result, at the last logged epoch or another one."""
    return lambda result: result["epochs"][place]["riemannian"][estimate][damping]


def last(name: str, place: int = -1) -> Callable[[dict], float]:
    """A plain number of a result, at the last logged epoch or another one."""
    return lambda result: result["epochs"][place][name]


def columns(group: Sequence[dict], place: int = -1) -> list[Mean]:
    """Test accuracy in percent, tr H, and S_R under every reading."""
    accuracy = mean_over(group, lambda result: 100 * last("test_accuracy", place)(result))
    readings = [mean_over(group, reading(*which, place)) for which in READINGS.values()]
    return [accuracy, mean_over(group, last("trace", place)), *readings]


def sharpness_table(records: Sequence[dict], title: str, setting: str) -> Table:
    """The last epoch's measures by optimizer, activation and one more setting, at the base of the others."""
    kinds = grouped(finished(at_base(records, setting)), "optimizer", "activation", setting)
    rows = [(*kind, len(group), *columns(group)) for kind, group in kinds.items()]
    names = ("optimizer", "activation", setting, "runs", "test accuracy, %", "tr H", *READINGS)
    return Table(f"{title}: at the last epoch, by {setting.replace('_', ' ')}", names, rows)


def at_base(records: Sequence[dict], setting: str) -> list[dict]:
    """Those in which only this setting varies: the other one as in the base, but for Adam's learning rate."""
    other = next(name for name in VARIED.values() if name != setting)
    return [
        record
        for record in records
        if record["settings"][other] == getattr(BASE[record["settings"]["data"]], other)
        or (other == "learning_rate" and record["settings"]["optimizer"] == "adam")
    ]


def dynamics_table(records: Sequence[dict]) -> Table:
    """Tables 6 and 7: the logged epochs of the runs at the base learning rate."""
    rows = []
    for kind, group in grouped(
        finished(at_base(records, "batch_size")), "optimizer", "activation", "batch_size"
    ).items():
        for place, entry in enumerate(group[0]["result"]["epochs"]):
            rows.append((*kind, entry["epoch"], *columns(group, place)))
    names = ("optimizer", "activation", "batch_size", "epoch", "test accuracy, %", "tr H", *READINGS)
    return Table("tables 6 and 7: during training", names, rows)


def time_table(records: Sequence[dict]) -> Table:
    """The logged epochs of every batch size, with their λn."""
    rows, kinds = [], list(READINGS.values())
    for (size, epoch, time), group in groups_of(logged(records), ("batch_size", "epoch", "time")).items():
        measures = [mean_of(row[name] for row in group) for name in ("train_loss", "trace")]
        readings = [mean_of(row["riemannian"][fisher][damping] for row in group) for fisher, damping in kinds]
        accuracy = mean_of(100 * row["test_accuracy"] for row in group)
        rows.append((size, epoch, f"{time:.0f}", len(group), accuracy, *measures, *readings))
    names = ("batch_size", "epoch", "λn", "runs", "test accuracy, %", "training loss", "tr H", *READINGS)
    return Table("at equal training time", names, sorted(rows, key=lambda row: row[:2]))


def time_figure(records: Sequence[dict]) -> Figure:
    """S_R and tr H over λn for each batch size."""
    figure, panels = plots.subplots(ncols=2, width=7.2, height=3.0)
    values = {
        "S_R, exact Fisher, ε = 0.001": lambda row: row["riemannian"]["exact"]["0.001"],
        "tr H": lambda row: row["trace"],
    }
    for panel, (title, value) in zip(panels, values.items(), strict=True):
        sizes = sorted(groups_of(logged(records), ("batch_size",)).items())
        for ((size,), rows), line in zip(sizes, ("o-", "s--", "^:"), strict=False):
            places = sorted(groups_of(rows, ("time",)).items())
            means = [mean_of(map(value, group)) for _, group in places]
            heights, errors = [mean.value for mean in means], [mean.error or 0 for mean in means]
            panel.errorbar([time for (time,), _ in places], heights, errors, fmt=line, label=f"B = {size}")
        panel.set(title=title, xlabel="training time λn", xscale="log", yscale="log")
    panels[0].legend(fontsize=8)
    return figure


def alignment_table(records: Sequence[dict]) -> Table:
    """Tables 1 to 3: half-way through training, cosines with their nulls, and Frobenius distances."""
    rows = []
    kinds = grouped(with_alignment(records), "optimizer", "activation", "batch_size", "learning_rate")
    names: tuple[str, ...] = ()
    for kind, group in kinds.items():
        values = {
            f"{part}: {name}": mean_over(group, lambda result, p=part, n=name: result["alignment"][p][n])
            for part in ("cosine", "frobenius")
            for name in group[0]["result"]["alignment"][part]
        }
        names = tuple(values)
        rows.append((*kind, *values.values()))
    fixed = ("optimizer", "activation", "batch_size", "learning_rate")
    return Table("tables 1 to 3: noise against Fisher, half-way", (*fixed, *names), rows)


def with_alignment(records: Sequence[dict]) -> list[dict]:
    """The records that got half-way."""
    return [record for record in records if "alignment" in record["result"]]


def rescaling_table(records: Sequence[dict]) -> Table:
    """Section 6.5: every measure after α-rescaling over before, all SGD runs with ReLU together."""
    kept = [record for record in finished(records) if record["result"].get("rescaled")]
    rows = []
    for place, alpha in enumerate(entry["alpha"] for entry in (kept[0]["result"]["rescaled"] if kept else ())):
        trace = mean_over(kept, lambda r, p=place: r["rescaled"][p]["trace"] / r["epochs"][-1]["trace"])
        rest = [
            mean_over(
                kept,
                lambda r, p=place, e=estimate, d=damping: (
                    r["rescaled"][p]["riemannian"][e][d] / r["epochs"][-1]["riemannian"][e][d]
                ),
            )
            for estimate, damping in READINGS.values()
        ]
        rows.append((f"{alpha:g}", trace, *rest))
    return Table("section 6.5: after rescaling, over before", ("α", "tr H", *READINGS), rows)


def damping_figure(records: Sequence[dict]) -> Figure:
    """S_R over the damping ε for each batch size: exact Fisher, and its mini-batch reading."""
    kept = [r for r in finished(at_base(records, "batch_size")) if r["settings"]["optimizer"] == "sgd"]
    kept = [record for record in kept if record["settings"]["activation"] == "relu"]
    figure, panels = plots.subplots(ncols=2, width=7.2, height=3.0, sharey=True)
    for panel, estimate in zip(panels, ("exact", "mini-batch"), strict=True):
        for ((batch,), group), line in zip(grouped(kept, "batch_size").items(), ("o-", "s--", "^:"), strict=False):
            dampings = [d for d in group[0]["result"]["epochs"][-1]["riemannian"][estimate] if float(d) > 0]
            means = [mean_over(group, reading(estimate, damping)) for damping in dampings]
            heights, errors = [mean.value for mean in means], [mean.error or 0 for mean in means]
            panel.errorbar([float(d) for d in dampings], heights, errors, fmt=line, label=f"B = {batch}")
        panel.set(title=f"{estimate} Fisher", xlabel="damping ε", xscale="log", yscale="log")
    panels[0].set_ylabel("S_R")
    panels[0].legend(fontsize=8)
    return figure


def logged(records: Sequence[dict]) -> list[dict]:
    """One dict a logged epoch: the run's settings, what was measured, and what follows from the settings.

    ``temperature`` is T = λ/B, and ``time`` is λ times the number of steps so far, of which an epoch has
    N/B, rounded down.  So ``time`` is T N times the epochs, but for the rounding: after one number of
    epochs temperature and training time are the same number.  Runs that diverged are left out.
    """
    rows = []
    for record in finished(records):
        settings = record["settings"]
        steps = settings["train_size"] // settings["batch_size"]
        derived = {"temperature": settings["learning_rate"] / settings["batch_size"]}
        for entry in record["result"]["epochs"]:
            time = settings["learning_rate"] * steps * entry["epoch"]
            rows.append({**settings, **entry, **derived, "time": time})
    return rows


def halfway(records: Sequence[dict]) -> list[dict]:
    """One dict a run that got half-way: its settings, what was measured there, noise against Fisher matrix."""
    rows = []
    for record in with_alignment(records):
        settings, result = record["settings"], record["result"]
        entry = next(entry for entry in result["epochs"] if entry["epoch"] == settings["epochs"] // 2)
        rows.append({**settings, **entry, **result["alignment"]})
    return rows


def sharing(rows: Sequence[dict], name: str, tolerance: float = 0.0) -> list[list[dict]]:
    """The rows in groups of one value of ``name``, or of values that exceed the group's least by ``tolerance`` of it.

    A group with rows of one temperature only compares nothing and is left out.
    """
    groups: list[list[dict]] = []
    for row in sorted(rows, key=lambda row: row[name]):
        if groups and row[name] <= (1 + tolerance) * groups[-1][0][name]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [group for group in groups if len({row["temperature"] for row in group}) > 1]


def temperature_exponent(
    rows: Sequence[dict], value: Callable[[dict], float], same: str, tolerance: float = 0.0
) -> Mean:
    """The exponent b in value ∝ T^b among rows that share something, by least squares in logarithms.

    Parameters
    ----------
    rows : sequence of dict
        From :func:`logged`.
    value : callable
        Of a row; positive.
    same : str
        What the rows of a group share, for instance ``"epoch"`` or ``"time"``; every group has a constant
        factor of its own.
    tolerance : float, default 0
        How far, relatively, they may differ in it.

    Returns
    -------
    Mean
        Over seeds, each of which gives one exponent.  ``fisher`` sec. 6.1 has b = -1 for S_R.
    """
    exponents = []
    for seed in sorted({row["seed"] for row in rows}):
        groups = sharing([row for row in rows if row["seed"] == seed], same, tolerance)
        if not groups:
            raise ValueError(f"rows must hold two temperatures at one {same} for every seed, got none for seed {seed}")
        pairs = [np.log([(row["temperature"], value(row)) for row in group]) for group in groups]
        centred = np.concatenate([pair - pair.mean(axis=0) for pair in pairs])
        exponents.append(centred[:, 0] @ centred[:, 1] / (centred[:, 0] @ centred[:, 0]))
    return mean_of(exponents)


def log_ratio(upper: Sequence[dict], lower: Sequence[dict], value: Callable[[dict], float]) -> Mean:
    """The mean of log value over ``upper`` minus that over ``lower``, for independent runs; its standard error."""
    above, below = (mean_of(np.log([value(row) for row in rows])) for rows in (upper, lower))
    error = None if above.error is None or below.error is None else float(np.hypot(above.error, below.error))
    return Mean(above.value - below.value, error, above.runs + below.runs)


def ranks(
    rows: Sequence[dict],
    measures: Mapping[str, Callable[[dict], float]],
    *,
    against: str | None = None,
    together: Sequence[str] = (),
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """Kendall's τ of each measure with test error, and its 95 % interval by bootstrap over the rows.

    Parameters
    ----------
    rows : sequence of dict
        From :func:`logged`, one a run.
    measures : mapping
        By name, a function of a row that should rise with test error.
    against : str, optional
        One of the measures: what is returned is then τ minus its τ, over the same draws.
    together : sequence of str
        Rows that agree in these, such as the seeds of one setting, are drawn together; each alone, if left out.
    draws, seed : int
        Of the bootstrap.
    """
    errors = [1 - row["test_accuracy"] for row in rows]
    kinds = [tuple(row[name] for name in together) or number for number, row in enumerate(rows)]
    places = {kind: place for place, kind in enumerate(dict.fromkeys(kinds))}
    counts = bootstrap_weights(len(places), draws, seed)[:, [places[kind] for kind in kinds]]
    weights = np.vstack([np.ones(len(rows)), counts])  # the first draw is the sample itself
    taus = {name: tau([measure(row) for row in rows], errors, weights=weights) for name, measure in measures.items()}
    base = taus[against] if against is not None else 0.0
    found = {name: values - base for name, values in taus.items()}
    return {
        name: (float(v[0]), *(float(q) for q in np.nanquantile(v[1:], [0.025, 0.975]))) for name, v in found.items()
    }
