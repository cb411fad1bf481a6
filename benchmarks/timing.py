"""Time and memory of a call: the median of its runs after a first one, in this process."""

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


@dataclass(frozen=True)
class Measured:
    """What the runs of one call took.

    Attributes
    ----------
    seconds : float
        The median time of a run.
    first : float
        The time of the run before those, with whatever it compiled.
    mebibytes : float or None
        The peak of the process' memory in one more run, less what it held before; None where the
        system does not tell.
    result : object
        What the last run returned.
    """

    seconds: float
    first: float
    mebibytes: float | None
    result: object


def measure(*calls: Callable, repeats: int = 5) -> list[Measured]:
    """Run each call once, then all of them in turns ``repeats`` times, then once more for the memory.

    Turns, so that a busy moment of the machine meets every call alike.
    """
    first = [_seconds(call)[0] for call in calls]
    rounds = [[_seconds(call) for call in calls] for _ in range(repeats)]
    return [
        Measured(statistics.median(run[0] for run in runs), start, _peak(call), runs[-1][1])
        for call, start, runs in zip(calls, first, zip(*rounds, strict=True), strict=True)
    ]


def _seconds(call: Callable) -> tuple[float, object]:
    gc.collect()
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _peak(call: Callable) -> float | None:
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or the call could live in memory freed before it
        CLEAR.write_text(RESET_PEAK)
    except (OSError, AttributeError):  # not Linux, or not allowed
        return None
    before = _kibibytes("VmRSS")
    call()
    return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", STATUS.read_text())[1])
