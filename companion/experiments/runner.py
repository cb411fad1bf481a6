"""Computes what is missing: claims runs, hands them to processes or a cluster, adds each record as it comes.

Only this process writes records, each as soon as it has it.  A run is claimed by a file lock, which the
operating system releases when the process ends, however it ends: two runners share the work.
"""

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
from filelock import FileLock, Timeout
from tqdm import tqdm

from companion.experiments.experiment import Experiment, content_hash
from companion.experiments.store import WORKSHOP, append_record, read_records, set_damaged_aside
from companion.experiments.workers import perform_runs, read_note


@dataclass
class Outcome:
    """What a runner did.

    Attributes
    ----------
    recorded : int
        Runs that were on record before.
    added : int
    elsewhere : int
        Runs that another runner on the same folder has claimed.
    failed : list of dict
        Records with ``error``; they are not written, so that the next runner tries again.
    damaged : dict
        By file name, the numbers of the lines that were set aside and run again.
    """

    recorded: int = 0
    added: int = 0
    elsewhere: int = 0
    failed: list[dict] = field(default_factory=list)
    damaged: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Runs that are computed together: one, or on a GPU a batch of networks."""

    experiment: Experiment
    settings: tuple[Any, ...]

    @property
    def keys(self) -> list[str]:
        return [content_hash(self.experiment.name, settings) for settings in self.settings]


def record_path(out: Path, experiment: Experiment) -> Path:
    """The file of an experiment's records."""
    return out / f"{experiment.name}.jsonl"


def run(
    experiments: Sequence[Experiment],
    profile: str,
    *,
    out: Path,
    data: str | None = None,
    device: str = "cpu",
    jobs: int = 1,
    cluster: str | None = None,
    quiet: bool = False,
) -> Outcome:
    """Compute the runs of a profile that are not on record.

    Parameters
    ----------
    experiments : sequence of Experiment
    profile : {"smoke", "laptop", "paper"}
    out : Path
        Folder of the records; made if it is missing.
    data : str, optional
        As for :func:`companion.data.load_dataset`.
    device : {"cpu", "cuda"}
    jobs : int
        Processes, of one thread each.
    cluster : str, optional
        Address of a Dask scheduler; its workers then take the place of the processes.
    quiet : bool
        No progress bar.

    Raises
    ------
    OSError
        If a record cannot be written.  What was recorded before stays.
    """
    outcome = Outcome()
    for experiment in experiments:
        if lines := set_damaged_aside(record_path(out, experiment)):
            outcome.damaged[record_path(out, experiment).name] = lines
    tasks = missing_tasks(experiments, profile, out, device)
    total = sum(len(experiment.settings(profile)) for experiment in experiments)
    outcome.recorded = total - sum(len(task.settings) for task in tasks)
    held: dict[str, FileLock] = {}
    workers = _workers(jobs, cluster, len(tasks))
    with workers as parallel, _progress(out, total, outcome, held, quiet):
        calls = (
            joblib.delayed(perform_runs)(task.experiment, task.settings, profile, data, device, out)
            for task in _claimed(tasks, out, held, outcome)
        )
        for records in parallel(calls):
            for record in records:
                _keep(record, out, outcome)
                held.pop(record["key"]).release()
    return outcome


def missing_tasks(experiments: Sequence[Experiment], profile: str, out: Path, device: str) -> list[Task]:
    """What is not on record, on a GPU in groups that can be computed together."""
    tasks = []
    for experiment in experiments:
        there = {record["key"] for record in read_records(record_path(out, experiment)).records}
        groups: dict[Any, list] = {}
        for number, settings in enumerate(experiment.settings(profile)):
            if content_hash(experiment.name, settings) not in there:
                together = experiment.together is not None and device == "cuda"
                groups.setdefault(experiment.together.key(settings) if together else number, []).append(settings)
        tasks += [Task(experiment, tuple(group)) for group in groups.values()]
    return tasks


def claim(out: Path, key: str) -> FileLock | None:
    """The lock of a run, or None if another runner holds it."""
    folder = out / WORKSHOP / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / key, thread_local=False)  # taken and released by different threads
    try:
        return lock.acquire(blocking=False).lock
    except Timeout:
        return None


def _claimed(tasks: Sequence[Task], out: Path, held: dict, outcome: Outcome) -> Iterator[Task]:
    """The tasks that this runner may compute, each claimed when a worker is about to take it."""
    for task in tasks:
        locks = {key: claim(out, key) for key in task.keys}
        done = {record["key"] for record in read_records(record_path(out, task.experiment)).records}
        mine = {key: lock for key, lock in locks.items() if lock is not None}
        for key in done & mine.keys():  # by another runner, meanwhile
            mine.pop(key).release()
        outcome.recorded += len(done & locks.keys())
        outcome.elsewhere += len(locks.keys() - mine.keys() - done)
        settings = tuple(s for s, key in zip(task.settings, task.keys, strict=True) if key in mine)
        held.update(mine)
        if settings:
            yield Task(task.experiment, settings)


def _keep(record: dict, out: Path, outcome: Outcome) -> None:
    if "error" in record:
        outcome.failed.append(record)
        return
    path = out / f"{record['experiment']}.jsonl"
    try:
        append_record(path, record)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kept = f"{outcome.added} new records were kept"
            raise OSError(f"no space left for {path}; {kept}. Free some, then run again") from error
        raise
    outcome.added += 1


@contextmanager
def _workers(jobs: int, cluster: str | None, tasks: int):
    settings = {"return_as": "generator_unordered", "batch_size": 1}
    if cluster is None:
        yield joblib.Parallel(n_jobs=min(jobs, max(tasks, 1)), pre_dispatch="n_jobs", **settings)
        return
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("--cluster needs the package distributed: pip install distributed") from None

    with Client(cluster, timeout=10) as client, joblib.parallel_config("dask", client=client):
        # Twice as many as there are cores: a worker never waits for its next run.
        yield joblib.Parallel(n_jobs=-1, pre_dispatch="2*n_jobs", **settings)


@contextmanager
def _progress(out: Path, total: int, outcome: Outcome, held: dict, quiet: bool):
    """A bar over all runs, with those under way counted by their epochs."""
    if quiet:
        yield
        return
    stop = threading.Event()
    form = "{l_bar}{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}{postfix}]"
    bar = tqdm(total=total, initial=outcome.recorded, bar_format=form, dynamic_ncols=True)

    def follow() -> None:
        while not stop.wait(1):
            notes = [note for key in list(held) if (note := read_note(out, key))]
            done = outcome.recorded + outcome.added + len(outcome.failed) + outcome.elsewhere
            bar.n = done + sum(note["epoch"] / note["epochs"] for note in notes)
            bar.set_postfix_str(", ".join(f"epoch {note['epoch']}/{note['epochs']}" for note in notes[:4]))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        bar.n = outcome.recorded + outcome.added + len(outcome.failed) + outcome.elsewhere
        bar.set_postfix_str("")
        bar.close()
