"""Whether two simulations draw from one law, by their first two moments."""

import numpy as np

from benchmarks.table import verdict
from benchmarks.timing import Measured

ALLOWED = 4.0


def moments(paths: np.ndarray) -> str:
    return f"⟨θ⟩ {paths.mean():.3f}, ⟨θ²⟩ {(paths**2).mean():.3f}"


def compared(side: Measured, ours: Measured) -> dict[str, str]:
    """For a row: the moments of ``side`` and, in standard errors, how far the worse one is from ours."""
    far = max(_distance(side.result**power, ours.result**power) for power in (1, 2))
    found = f"{moments(side.result)}, {far:.1f} s.e. apart"
    return {"found": found, "target": verdict(far, ALLOWED, f"{ALLOWED:g} s.e.")}


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return abs(one.mean() - other.mean()) / np.sqrt(one.var() / one.size + other.var() / other.size)
