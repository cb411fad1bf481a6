"""What an experiment is: settings by profile, one run of them, and how its records become tables and plots."""

import hashlib
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PROFILES = ("smoke", "laptop", "paper")


def _silent(epoch: int, epochs: int) -> None:
    """Progress that nobody follows."""


@dataclass(frozen=True)
class Workplace:
    """Where a run finds its data and computes.

    Attributes
    ----------
    data : str, optional
        Folder for :func:`companion.data.load_dataset`.
    device : str
        "cpu" or "cuda".
    tick : callable
        ``tick(epoch, epochs)`` after every epoch, or whatever the run counts.
    scratch : Path, optional
        A folder of the run's own, made by whoever needs it, for what it goes on from after an interruption;
        removed when the run is done.
    """

    data: str | None = None
    device: str = "cpu"
    tick: Callable[[int, int], None] = _silent
    scratch: Path | None = None


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of values below the names of their columns; a notebook shows it as a table."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]

    def __repr__(self) -> str:
        """In columns of equal width."""
        cells = [tuple(map(str, row)) for row in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        def line(tag: str, row: Sequence[Any]) -> str:
            return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in row)}</tr>"

        body = "".join(line("td", row) for row in self.rows)
        return (
            f'<div style="overflow-x:auto" tabindex="0"><table><caption>{html.escape(self.title)}</caption>'
            f"<thead>{line('th', self.columns)}</thead><tbody>{body}</tbody></table></div>"
        )


@dataclass(frozen=True)
class Report:
    """What an experiment's records say: tables, and plots by file name without its ending."""

    tables: Sequence[Table]
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)


@dataclass(frozen=True)
class Together:
    """How runs are computed as one batch of networks, which pays on a GPU.

    Attributes
    ----------
    key : callable
        ``key(settings)``: runs with equal keys can share a batch.
    perform : callable
        ``perform(group, workplace)``: what the experiment's ``perform`` measures, for each of them.
    """

    key: Callable[[Any], Any]
    perform: Callable[[Sequence[Any], Workplace], list[dict]]


@dataclass(frozen=True)
class Experiment:
    """A list of independent runs, each given by frozen settings.

    Attributes
    ----------
    name : str
        Its records are in ``name.jsonl``.
    asks : str
        The question, in one line.
    settings : callable
        ``settings(profile)``: a frozen dataclass of JSON values for every run, none twice.
    perform : callable
        ``perform(settings, workplace)``: what was measured, as JSON values.  The same settings give the
        same measurement: every source of randomness is seeded from them.
    report : callable
        ``report(records)`` makes a :class:`Report` of the records there are, complete or not.
    differs : mapping
        By profile, what is not as in the paper.
    together : Together, optional
    """

    name: str
    asks: str
    settings: Callable[[str], Sequence[Any]]
    perform: Callable[[Any, Workplace], dict]
    report: Callable[[Sequence[dict]], Report]
    differs: Mapping[str, str]
    together: Together | None = None


def content_hash(experiment: str, settings: Any) -> str:
    """Twelve hexadecimal digits that depend on the experiment's name and on every setting, and on nothing else."""
    content = json.dumps([experiment, asdict(settings)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
