"""What an experiment measured, as a text file: a line that says how, then one line a result, each of them JSON."""

import json
import os
import platform
import subprocess
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from companion.files import replacing

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Record:
    """``about`` says what was run, how and where; ``rows`` is what came out."""

    about: dict
    rows: tuple[dict, ...]


def read_record(name: str, folder: Path = RESULTS) -> Record:
    """The record of that name, ``folder / name.jsonl``.

    Raises
    ------
    FileNotFoundError
        If there is none; the message lists those that there are.
    ValueError
        If the first line, which says how the others came about, is damaged.

    Warns
    -----
    UserWarning
        For each damaged line, which is left out.  Every other line is kept.
    """
    path = Path(folder) / f"{name}.jsonl"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in Path(folder).glob("*.jsonl"))) or "none"
        raise FileNotFoundError(f"no record {name!r} in {folder}; there are: {there}")
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    about = _parsed(first)
    if about is None:
        raise ValueError(
            f"{path}, line 1: damaged, and it says how the other lines came about; run the experiment again"
        )
    rows = []
    for number, line in enumerate(lines, start=2):
        row = _parsed(line)
        if row is None:
            warnings.warn(f"{path}, line {number}: damaged, left out", stacklevel=2)
        else:
            rows.append(row)
    return Record(about, tuple(rows))


def write_record(name: str, about: dict, rows: Iterable[dict], folder: Path = RESULTS) -> Path:
    """Write a record in one step, with this machine and these versions added to ``about``."""
    lines = [json.dumps(row, ensure_ascii=False) for row in ({**about, **circumstances()}, *rows)]
    path = Path(folder) / f"{name}.jsonl"
    with replacing(path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path


def _parsed(line: str) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def circumstances() -> dict:
    """The machine, the versions of the libraries and the revision of the code, as a record needs them."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("numpy", "torch", "scipy")},
        "revision": _revision(),
    }


def _revision() -> str:
    """The commit that ran, with a + if the tree had changes; empty where there is no repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
