"""Means over seeds with their standard errors, as every report needs them."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean over runs, its standard error (None from one run) and how many runs there were."""

    value: float
    error: float | None
    runs: int

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.value:.3g}"
        places = max(0, -int(np.floor(np.log10(self.error))) if self.error > 0 else 3)
        return f"{self.value:,.{places}f} ± {self.error:,.{places}f}"


def mean_of(values: Iterable[float]) -> Mean:
    """The mean of at least one number, and the standard error of the mean."""
    array = np.asarray(list(values), dtype=float)
    if not array.size:
        raise ValueError("values must hold at least one number")
    error = array.std(ddof=1) / np.sqrt(array.size) if array.size > 1 else None
    return Mean(float(array.mean()), None if error is None else float(error), array.size)


def mean_of_known(values: Iterable[float | None]) -> Mean | str:
    """The mean of the numbers that there are; "–" for none."""
    known = [value for value in values if value is not None]
    return mean_of(known) if known else "–"


def groups_of(rows: Iterable[dict], names: Sequence[str]) -> dict[tuple, list[dict]]:
    """Rows by the values of these columns, in the order of their first appearance."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def grouped(records: Iterable[dict], *names: str) -> dict[tuple, list[dict]]:
    """The records by the values of these settings, in the order of those values."""
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault(tuple(record["settings"][name] for name in names), []).append(record)
    return dict(sorted(groups.items()))


def mean_over(records: Iterable[dict], value: Callable[[dict], float]) -> Mean:
    """The mean of ``value(record["result"])``."""
    return mean_of(value(record["result"]) for record in records)
