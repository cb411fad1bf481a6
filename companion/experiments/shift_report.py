"""Tables and plots of the ``shift`` experiments, made of their records."""

from collections.abc import Sequence
from functools import partial

from companion.experiments.experiment import Report, Table
from companion.experiments.shift_analysis import difference, line_rows, power_law, protocols, sample_rows
from companion.experiments.shift_collapse import collapse_exponent, collapse_test, equal_time_rows, final_rows
from companion.experiments.shift_figures import profile_figure, sample_figure, temperature_figure, trend_figure
from companion.experiments.summaries import Mean, mean_of, mean_of_known

LOSSES = ("train", "test", "test_error")
TERMS = {
    "U_train(θ_train)": "depth_train",
    "U_test(θ_test)": "depth_test",
    "U_test(θ_train)": "test_at_train",
    "test error": "test_error",
    "|s|": "shift",
    "½ sᵀCs, fit": "shift_curvature",
    "test curvature, fit": "curvature_test",
    "train curvature, fit": "curvature_train",
}
SHAPES = {
    "½ sᵀCs / U_test(θ_test)": "share",
    "U_test(θ_test) + ½ sᵀCs, exact C": "predicted",
    "slope at θ_test along s": "slope",
    "test curvature, fit / exact": "flattened_test",
    "train curvature, fit / exact": "flattened_train",
    "fit beyond / fit toward θ_train": "asymmetry",
}


def report_line(records: Sequence[dict]) -> Report:
    """``shift`` figs. 1 to 3: the terms of eq. 3, curvatures and how they change with T."""
    tables, figures = [], {}
    for group in protocols(records):
        rows, about = line_rows(group), _about(group)
        tables.append(line_table(rows, f"Lines between train and test minima: {about}", TERMS))
        tables.append(line_table(rows, f"The shape of the loss along them: {about}", SHAPES))
        tables.append(exponent_table(rows, f"Exponents of T at equal time: {about}"))
        tables.append(_diverged_table([record["result"] for record in group], about))
    if tables and (rows := line_rows(group := protocols(records)[0])):
        figures = {"shift-profiles": partial(profile_figure, group), "shift-trends": partial(trend_figure, rows)}
    return Report(tables, figures)


def report_temperature(records: Sequence[dict]) -> Report:
    """``shift`` fig. 5 left: final losses, the test of the collapse, and the same at equal time."""
    tables, figures = [], {}
    for group in protocols(records):
        rows, about = final_rows(group), _about(group)
        tables.append(final_table(rows, f"Final losses: {about}"))
        tables.append(collapse_table(rows, f"Batch sizes at equal T: {about}"))
        tables.append(time_table(equal_time_rows(group), f"Two temperatures at equal time: {about}"))
        tables.append(_diverged_table([run for record in group for run in record["result"]["runs"]], about))
    if tables and final_rows(group := protocols(records)[0]):
        figures = {"shift-temperature": partial(temperature_figure, group)}
    return Report(tables, figures)


def report_sample(records: Sequence[dict]) -> Report:
    """``shift`` fig. 5 right: losses and shift by sample size, and the default split beside reshuffled ones."""
    tables, figures = [], {}
    for group in protocols(records):
        rows, about = sample_rows(group), _about(group)
        tables.append(sample_table(rows, f"Sample sizes and splits: {about}"))
        tables.append(split_table(rows, f"Reshuffled minus default split: {about}"))
    if tables and (rows := sample_rows(protocols(records)[0])):
        figures = {"shift-sample": partial(sample_figure, rows)}
    return Report(tables, figures)


def line_table(rows: Sequence[dict], title: str, quantities: dict[str, str]) -> Table:
    """Means over seeds for each time of SGD, temperature and time of the flow; "–" where there is none."""
    kinds = sorted({(row["time"], row["temperature"], row["flow_time"]) for row in rows})
    body = []
    for kind in kinds:
        here = [row for row in rows if (row["time"], row["temperature"], row["flow_time"]) == kind]
        body.append((*kind, len(here), *(_mean(here, name) for name in quantities.values())))
    return Table(title, ("time", "T", "flow time", "runs", *quantities), body)


def exponent_table(rows: Sequence[dict], title: str) -> Table:
    """The exponent of T in each quantity, over seeds, for each flow time, at the most common time of SGD."""
    body = []
    for flow_time in sorted({row["flow_time"] for row in rows}):
        here = [row for row in at_common_time(rows) if row["flow_time"] == flow_time]
        body.append((flow_time, *(power_law(here, name) or "–" for name in TERMS.values())))
    return Table(title, ("flow time", *TERMS), body)


def at_common_time(rows: Sequence[dict]) -> list[dict]:
    """The rows at the time of SGD that most of them have."""
    times = [row["time"] for row in rows]
    common = max(sorted(set(times)), key=times.count, default=None)
    return [row for row in rows if row["time"] == common]


def final_table(rows: Sequence[dict], title: str) -> Table:
    """Final losses and test error for each temperature and batch size."""
    body = []
    for kind in sorted({(row["temperature"], row["batch_size"], row["learning_rate"]) for row in rows}):
        here = [row for row in rows if (row["temperature"], row["batch_size"], row["learning_rate"]) == kind]
        body.append((*kind, len(here), *(_mean(here, name) for name in LOSSES)))
    return Table(title, ("T", "B", "λ", "runs", "train loss", "test loss", "test error"), body)


def collapse_table(rows: Sequence[dict], title: str) -> Table:
    """For each loss the spread over batch sizes at equal T, beside those over seeds and temperatures, and γ."""
    names = ("loss", "T", "seeds", "mean", "s.d. over B", "s.d. over seeds", "F", "p", "γ of λ/B^γ")
    body = []
    for name in LOSSES if len({(row["temperature"], row["batch_size"]) for row in rows}) > 1 else ():
        try:
            found = collapse_test(rows, name)
        except ValueError:  # no two batch sizes at any temperature yet
            continue
        body += [
            (name, e.temperature, e.seeds, e.mean, e.over_batch_sizes, e.over_seeds, e.f_ratio, e.p, "")
            for e in found.by_temperature
        ]
        gamma = collapse_exponent(rows, name) or "–"
        mean = mean_of(e.mean for e in found.by_temperature).value
        body.append((name, "all", "", mean, found.over_batch_sizes, f"over T: {found.over_temperatures:.3g}",
                     "", found.p, gamma))  # fmt: skip
    return Table(title, names, body)


def time_table(rows: Sequence[dict], title: str) -> Table:
    """Losses at the end of the runs at one T, and at the same time of those at the next higher T."""
    body = []
    for kind in sorted({(row["temperature"], row["higher"]) for row in rows}):
        here = [row for row in rows if (row["temperature"], row["higher"]) == kind]
        time = mean_of(row["time"] for row in here).value
        body.append((*kind, f"{time:.3g}", len(here), *(_mean(here, n) for n in LOSSES),
                     *(_mean(here, f"{n}_higher") for n in LOSSES)))  # fmt: skip
    losses = ("train loss", "test loss", "test error")
    return Table(title, ("T", "T'", "time", "pairs", *losses, *(f"{name} at T'" for name in losses)), body)


def sample_table(rows: Sequence[dict], title: str) -> Table:
    """Means over seeds for each sample size and split; the last rows are exponents of the size."""
    names = {"train loss": "end_train", "test loss": "end_test", "test error": "end_test_error"}
    names |= {"|s|": "shift", "½ sᵀCs, fit": "shift_curvature", "U_test(θ_test)": "depth_test"}
    body = []
    for kind in sorted({(row["train"], row["split"]) for row in rows}):
        here = [row for row in rows if (row["train"], row["split"]) == kind]
        body.append((*kind, len(here), *(_mean(here, name) for name in names.values())))
    reshuffled = [row for row in rows if row["split"] == "reshuffled"]
    laws = [_law(reshuffled, name) for name in names.values()]
    if any(law != "–" for law in laws):
        body.append(("exponent", "reshuffled", len(reshuffled), *laws))
    return Table(title, ("training images", "split", "runs", *names), body)


def split_table(rows: Sequence[dict], title: str) -> Table:
    """Reshuffled minus default split at the sizes that have both: mean, standard error, p of a permutation test."""
    names = {"train loss": "end_train", "test loss": "end_test", "test error": "end_test_error", "|s|": "shift"}
    names |= {"½ sᵀCs, fit": "shift_curvature"}
    body = []
    for size in sorted({row["train"] for row in rows if row["split"] == "default"}):
        for title_, name in names.items():
            sides = [
                [row[name] for row in rows if (row["train"], row["split"]) == (size, split) and name in row]
                for split in ("reshuffled", "default")
            ]
            if all(sides):
                apart, error, p = difference(*sides)
                body.append((size, title_, Mean(apart, error, len(sides[0]) + len(sides[1])), p))
    return Table(title, ("training images", "quantity", "difference", "p"), body)


def _law(rows: Sequence[dict], name: str) -> Mean | str:
    return power_law([row for row in rows if name in row], name, of="train") or "–"


def _mean(rows: Sequence[dict], name: str) -> Mean | str:
    return mean_of_known(row.get(name) for row in rows)


def _diverged_table(runs: Sequence[dict], about: str) -> Table:
    counted = (len(runs), sum(run["diverged"] for run in runs))
    return Table(f"Runs that diverged: {about}", ("runs", "diverged"), [counted])


def _about(records: Sequence[dict]) -> str:
    first = records[0]
    name = (first.get("data") or {}).get("name", first["settings"]["data"])
    return f"{name}, convolutions {'-'.join(str(width) for width in first['settings']['convolutions'])}"
