"""What the records of the ``who_predicts`` experiment say, as tables and figures."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from companion.experiments.experiment import Report, Table
from companion.experiments.who_predicts_analysis import ERROR, LABELS, SAME_ATTACK, SHOWN, Rank, networks, ranking
from companion.plots import COLORS, subplots

MOMENTS = {"first_fit": "first epoch without training error", "equal_loss": "training loss 0.01"}
GROUPS = {
    "SGD": {"activation": "relu", "optimizer": "sgd"},
    "Adam": {"activation": "relu", "optimizer": "adam"},
    "both": {"activation": "relu"},
    "both, tanh": {"activation": "tanh"},
}


def outcome_table(records: Sequence[Mapping]) -> Table:
    """How many networks there are, how many reached each moment, and between which test errors they lie."""
    rows = []
    for group, chosen in GROUPS.items():
        for attack in sorted({record["settings"]["attack"] for record in records}):
            here = [r for r in records if all(r["settings"][k] == v for k, v in {**chosen, "attack": attack}.items())]
            reached = [networks(here, moment) for moment in MOMENTS]
            errors = [row[ERROR] for row in reached[0]]
            spread = f"{min(errors):.3f} to {max(errors):.3f}" if errors else "–"
            diverged = sum(record["result"]["diverged"] for record in here)
            if here:
                rows.append((group, attack, len(here), *map(len, reached), diverged, spread))
    columns = ("networks", "attack set", "trained", "without error", "at loss 0.01", "diverged", "test error")
    return Table("What was trained", columns, rows)


def tau_table(records: Sequence[Mapping], moment: str, strata: Sequence[str], *, rescaled: bool = False) -> Table:
    """Kendall's τ of every measure in every group of networks."""
    ranks = {}
    for group, chosen in GROUPS.items():
        found = networks(records, moment, rescaled=rescaled, **chosen)
        ranks[group] = {rank.key: rank for rank in ranking(found, tuple(LABELS), strata=strata)}
    ordered = sorted(LABELS, key=lambda key: -(ranks["both"][key].tau or 0))
    rows = [(LABELS[key], *(interval(ranks[group][key]) for group in GROUPS)) for key in ordered]
    pairs = "networks with the same attack set" if strata else "all networks"
    when = MOMENTS[moment] + (", layers rescaled" if rescaled else "")
    return Table(f"Kendall's τ with test error, pairs of {pairs}; {when}", ("measure", *GROUPS), rows)


def interval(rank: Rank) -> str:
    """τ with its interval, as a table has it."""
    return "–" if rank.tau is None else f"{rank.tau:+.2f} [{rank.low:+.2f}, {rank.high:+.2f}]"


def report(records: Sequence[Mapping]) -> Report:
    """Tables of τ at both moments, over all pairs and within attack sets, before and after the rescaling."""
    records = one_protocol(records)
    tables = [outcome_table(records)]
    for moment in MOMENTS:
        tables += [tau_table(records, moment, strata) for strata in ((), SAME_ATTACK)]
        tables.append(tau_table(records, moment, SAME_ATTACK, rescaled=True))
    return Report(tables, {
        "who-predicts-ranking": lambda: ranking_figure(records),
        "who-predicts-rescaling": lambda: rescaling_figure(records),
        "who-predicts-scatter": lambda: scatter_figure(records),
    })  # fmt: skip


def one_protocol(records: Sequence[Mapping]) -> list[Mapping]:
    """The records of the data set and training size that most of them have."""
    kinds = [(record["settings"]["data"], record["settings"]["train_size"]) for record in records]
    most = [kind for kind, _ in Counter(kinds).most_common(1)]
    return [record for record, kind in zip(records, kinds, strict=True) if kind in most]


def ranking_figure(records: Sequence[Mapping], moment: str = "first_fit", keys: Sequence[str] = SHOWN) -> Figure:
    """τ of each measure for SGD, for Adam and for both: over all pairs, and within attack sets."""
    figure, panels = subplots(ncols=3, width=7.4, height=1.0 + 0.19 * len(keys), sharex=True, sharey=True)
    both = ranking(networks(records, moment, **GROUPS["both"]), keys)
    order = [rank.key for rank in reversed(both)]
    kinds = ((SAME_ATTACK, "same attack set", "blue", 0.15), ((), "all pairs", "orange", -0.15))
    for panel, group in zip(panels, ("SGD", "Adam", "both"), strict=True):
        found = networks(records, moment, **GROUPS[group])
        for strata, name, color, offset in kinds:
            _intervals(panel, ranking(found, keys, strata=strata), order, name, color, offset)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set(title=f"{group}, {len(found)} networks", xlabel="Kendall's τ", xlim=(-1.02, 1.02))
    panels[0].set_yticks(range(len(order)), [LABELS[key] for key in order], fontsize=7)
    panels[-1].legend(fontsize=7, loc="lower right")
    return figure


def rescaling_figure(
    records: Sequence[Mapping], moment: str = "first_fit", keys: Sequence[str] = SHOWN, group: str = "both"
) -> Figure:
    """τ within attack sets before and after every network's layers were rescaled by factors of its own."""
    figure, panel = subplots(width=6.2, height=1.0 + 0.19 * len(keys))
    kinds = ((False, "as trained", "blue", 0.15), (True, "layers rescaled", "orange", -0.15))
    rows = [networks(records, moment, rescaled=rescaled, **GROUPS[group]) for rescaled, *_ in kinds]
    order = [rank.key for rank in reversed(ranking(rows[0], keys))]
    for found, (_, name, color, offset) in zip(rows, kinds, strict=True):
        _intervals(panel, ranking(found, keys), order, name, color, offset)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(range(len(order)), [LABELS[key] for key in order], fontsize=7)
    panel.set(xlabel="Kendall's τ with test error, same attack set")
    panel.legend(fontsize=8, loc="lower right")
    return figure


def forest_figure(panels: Mapping[str, Mapping[str, Sequence[Rank]]], width: float = 7.0) -> Figure:
    """τ with its 95 % interval, one row a measure, in the order of the first ranking of the first panel.

    Parameters
    ----------
    panels : mapping
        By the panel's title, rankings of the same measures by what the legend calls them.
    width : float
        Of the figure, in inches.
    """
    order = [rank.key for rank in reversed(next(iter(next(iter(panels.values())).values())))]
    size = {"width": width, "height": 1.4 + 0.24 * len(order)}
    figure, axes = subplots(ncols=len(panels), **size, sharex=True, sharey=True, squeeze=False)
    for panel, (title, rankings) in zip(axes[0], panels.items(), strict=True):
        offsets = np.linspace(0.24, -0.24, len(rankings)) if len(rankings) > 1 else [0.0]
        for (name, ranks), color, offset in zip(rankings.items(), COLORS, offsets, strict=False):
            _intervals(panel, ranks, order, name, color, offset)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set(title=title, xlabel="Kendall's τ with test error", xlim=(-1.02, 1.02))
    axes[0, 0].set_yticks(range(len(order)), [LABELS[key] for key in order], fontsize=8)
    lines, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, names, fontsize=8, loc="outside lower center", ncols=len(names))
    return figure


def scatter_figure(
    records: Sequence[Mapping],
    moment: str = "first_fit",
    keys: Sequence[str] = (
        "trace_hessian", "riemannian_exact_0.0001", "keskar", "trace_noise", "shift_curvature", "log_prior",
    ),
) -> Figure:  # fmt: skip
    """Test error against a measure, one panel each; colours are attack sets, markers optimizers; ReLU networks."""
    figure, panels = subplots(2, 3, width=7.4, height=4.6, sharey=True)
    rows = networks(records, moment, **GROUPS["both"])
    sizes = sorted({row["attack"] for row in rows})
    for panel, key in zip(panels.ravel(), keys, strict=True):
        for size, color in zip(sizes, COLORS.values(), strict=False):
            for optimizer, marker in (("sgd", "o"), ("adam", "x")):
                here = [r for r in rows if (r["attack"], r["optimizer"]) == (size, optimizer) and r[key] is not None]
                values = [abs(row[key]) for row in here]
                name = f"|A| = {size}" if optimizer == "sgd" else None
                panel.plot(values, [row[ERROR] for row in here], marker, ms=3, color=color, label=name)
        panel.set(xlabel=LABELS[key])
        if rows and key != "log_prior":
            panel.set_xscale("log")
    for panel in panels[:, 0]:
        panel.set_ylabel("test error")
    if rows:
        panels[0, 0].legend(fontsize=7)
    return figure


def _intervals(panel, ranks: Sequence[Rank], order: Sequence[str], name: str, color: str, offset: float) -> None:
    known = [rank for rank in ranks if rank.tau is not None]
    at = [order.index(rank.key) + offset for rank in known]
    values = np.array([(rank.tau, rank.tau - rank.low, rank.high - rank.tau) for rank in known]).reshape(-1, 3)
    errors = values[:, 1:].T.clip(0)
    panel.errorbar(values[:, 0], at, xerr=errors, fmt="o", ms=3, linewidth=1, color=COLORS[color], label=name)
