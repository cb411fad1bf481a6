"""One run, wherever it is computed, and how far it is."""

import json
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from companion.data import load_dataset
from companion.experiments.experiment import Experiment, Workplace, content_hash
from companion.experiments.store import WORKSHOP
from companion.files import replacing
from companion.records import circumstances

EVERY = 0.5  # seconds between two notes of progress, at least


def perform_runs(
    experiment: Experiment, group: Sequence[Any], profile: str, data: str | None, device: str, notes: Path
) -> list[dict]:
    """The records of one run, or of several that are computed together.

    What goes wrong comes back as a record with ``error`` in place of a result: one run that fails does
    not take the others with it.
    """
    torch.set_num_threads(1)  # the processes take the cores
    keys = [content_hash(experiment.name, settings) for settings in group]
    tick, start = progress_note(notes, keys[0]), time.time()
    scratch = scratch_folder(notes, keys[0])
    workplace = Workplace(data, device, tick, scratch)
    try:
        together = len(group) > 1
        results = experiment.together.perform(group, workplace) if together else [experiment.perform(*group, workplace)]
        outcomes = [{"result": result} for result in results]
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    except Exception as error:
        outcomes = [{"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}] * len(group)
    finally:
        note_path(notes, keys[0]).unlink(missing_ok=True)
    seconds = round((time.time() - start) / len(group), 3)
    about = {"profile": profile, "seconds": seconds, "device": device_name(device), **circumstances()}
    return [
        {"key": key, "experiment": experiment.name, "settings": asdict(settings)}
        | about
        | used_data(settings, data)
        | outcome
        for key, settings, outcome in zip(keys, group, outcomes, strict=True)
    ]


def used_data(settings: Any, folder: str | None) -> dict:
    """Name and digest of the data set that the settings name, if they name one."""
    name = getattr(settings, "data", None)
    if name is None:
        return {}
    try:
        dataset = load_dataset(name, folder)
    except FileNotFoundError:
        return {}
    return {"data": {"name": dataset.name, "digest": dataset.digest}}


def device_name(device: str) -> str:
    """What the device is called, for the record."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def note_path(notes: Path, key: str) -> Path:
    """Where a run notes how far it is."""
    return notes / WORKSHOP / "progress" / f"{key}.json"


def scratch_folder(notes: Path, key: str) -> Path | None:
    """Where a run keeps what it goes on from; None on a worker that does not share the folder of the records."""
    return notes / WORKSHOP / "scratch" / key if notes.is_dir() else None


def progress_note(notes: Path, key: str) -> Callable[[int, int], None]:
    """A ``tick`` that notes the epoch in a file, where the machine that computes can write it."""
    path, start, last = note_path(notes, key), time.time(), 0.0

    def tick(epoch: int, epochs: int) -> None:
        nonlocal last
        if time.time() - last < EVERY:
            return
        last = time.time()
        try:
            with replacing(path) as file:
                file.write(json.dumps({"epoch": epoch, "epochs": epochs, "start": start}).encode())
        except OSError:  # a worker elsewhere that does not share the folder: its progress is not seen, its result is
            pass

    return tick


def read_note(notes: Path, key: str) -> dict | None:
    """How far a run is, if it has said so."""
    try:
        return json.loads(note_path(notes, key).read_text())
    except (OSError, ValueError):
        return None
