"""Records as lines that are only ever added, each with a checksum of its own: what is damaged costs itself.

A line is a JSON object whose last field, ``sum``, is a checksum of the others.  Lines are added under a
lock and in one write, so that several runners can share a folder; a line torn by a crash or a full disk
is closed by the next one.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from companion.files import replacing

WORKSHOP = ".companion"  # folder for locks, claims and progress, beside the records


@dataclass(frozen=True)
class Stored:
    """The records of a file, and the numbers of its lines that are damaged."""

    records: tuple[dict, ...]
    damaged: tuple[int, ...]


def append_record(path: Path, record: Mapping) -> None:
    """Add one line.

    Raises
    ------
    OSError
        If the line cannot be written in full; what was written of it is taken back.
    """
    line = encode(record)
    with _lock(path), open(path, "ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and _last_byte(file) != b"\n":
            line = b"\n" + line
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "only a part of the record fits", str(path))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def read_records(path: Path) -> Stored:
    """All records that are whole, the first of each key; a missing file has none."""
    if not path.exists():
        return Stored((), ())
    lines = path.read_bytes().split(b"\n")
    records, damaged = {}, []
    for number, line in enumerate(lines, start=1):
        record = decode(line)
        if record is not None:
            records.setdefault(record["key"], record)
        elif line:
            damaged.append(number)
    return Stored(tuple(records.values()), tuple(damaged))


def set_damaged_aside(path: Path) -> tuple[int, ...]:
    """Move damaged lines into ``name.damaged`` beside the file, so that they are reported once; their numbers."""
    if not read_records(path).damaged:
        return ()
    with _lock(path):
        damaged = read_records(path).damaged
        lines = path.read_bytes().split(b"\n")
        with open(path.with_suffix(".damaged"), "ab") as aside:
            aside.writelines(lines[number - 1] + b"\n" for number in damaged)
        with replacing(path) as file:
            file.writelines(line + b"\n" for line in lines if decode(line) is not None)
    return damaged


def encode(record: Mapping) -> bytes:
    """The line of a record, with its end."""
    return (_text({**record, "sum": _sum(_text(record))}) + "\n").encode()


def decode(line: bytes) -> dict | None:
    """The record of a line, without its checksum; None if the line is not as it was written."""
    try:
        record = json.loads(line)
        told = record.pop("sum")
        return record if "key" in record and told == _sum(_text(record)) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _text(record: Mapping) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _last_byte(file) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _lock(path: Path) -> FileLock:
    folder = path.parent / WORKSHOP
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{path.name}.lock")
