"""The command line: ``python -m companion list | run NAME … | status | report``."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from companion.data import DATA_VARIABLE, load_dataset
from companion.experiments.catalogue import chosen, unknown
from companion.experiments.experiment import PROFILES, Experiment, Table, content_hash
from companion.experiments.runner import Outcome, claim, record_path, run
from companion.experiments.store import read_records
from companion.experiments.workers import read_note
from companion.files import replacing
from companion.records import RESULTS

DEVICES = ("cpu", "cuda")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, do, and say what was wrong in one line; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.do(options) or 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: every record so far is kept; the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m companion", description="The experiments of the book.")
    commands = parser.add_subparsers(required=True, metavar="list | run | status | report")
    for name, do, text in (
        ("list", _list, "the experiments, and how many runs each profile has"),
        ("run", _run, "compute the runs that are not on record"),
        ("status", _status, "what is on record, under way and missing"),
        ("report", _report, "print the tables and write the plots"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(do=do)
        command.add_argument(
            "names",
            nargs="+" if name == "run" else "*",
            metavar="NAME",
            help="an experiment, or a paper",
        )
        if name == "list":
            continue
        command.add_argument(
            "--out", type=Path, default=RESULTS, help="folder of the records (default: the book’s own)"
        )
        command.add_argument("--profile", default="laptop", help=f"{', '.join(PROFILES)} (default: laptop)")
        if name == "run":
            _add_run_options(command)
    return parser


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    command.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    command.add_argument("--data", help=f"folder of the data (default: ${DATA_VARIABLE}, or the cache, downloaded)")
    command.add_argument("--cluster", metavar="ADDRESS", help="hand the runs to this Dask scheduler")


def _list(options: argparse.Namespace) -> None:
    rows = []
    for experiment in chosen(options.names):
        counts = [len(experiment.settings(profile)) for profile in PROFILES]
        rows.append((experiment.name, *counts, experiment.asks))
    print(Table("runs by profile", ("name", *PROFILES, "asks"), rows))


def _run(options: argparse.Namespace) -> int:
    experiments = _checked(options)
    if options.jobs < 1:
        raise ValueError(f"--jobs must be a whole number of at least 1, got {options.jobs}")
    _check_device(options.device)
    _check_writable(options.out)
    if options.cluster is None:  # the workers of a cluster have a look of their own
        for name in {getattr(s, "data", None) for e in experiments for s in e.settings(options.profile)} - {None}:
            load_dataset(name, options.data)
    outcome = run(
        experiments,
        options.profile,
        out=options.out,
        data=options.data,
        device=options.device,
        jobs=options.jobs,
        cluster=options.cluster,
        quiet=not sys.stderr.isatty(),
    )
    _tell(outcome, options.out)
    return 1 if outcome.failed else 0


def _tell(outcome: Outcome, out: Path) -> None:
    for name, lines in outcome.damaged.items():
        where = ", ".join(map(str, lines))
        print(f"{out / name}: damaged at line {where}; moved to {Path(name).stem}.damaged and run again")
    print(f"{outcome.added} runs added to {out}, {outcome.recorded} were on record")
    if not outcome.added and outcome.recorded:
        print("nothing was missing; give another folder with --out to run them again")
    if outcome.elsewhere:
        print(f"{outcome.elsewhere} are under way in another runner on this folder")
    for record in outcome.failed:
        print(f"failed: {record['experiment']} {record['key']} {record['settings']}", file=sys.stderr)
        print(record["trace"], file=sys.stderr)


def _status(options: argparse.Namespace) -> None:
    rows, damaged = [], []
    for experiment in _checked(options):
        path = record_path(options.out, experiment)
        stored = read_records(path)
        damaged += [f"{path}: line {number} is damaged" for number in stored.damaged]
        keys = [content_hash(experiment.name, settings) for settings in experiment.settings(options.profile)]
        seconds = {record["key"]: record["seconds"] for record in stored.records}
        missing = [key for key in keys if key not in seconds]
        known = [seconds[key] for key in keys if key in seconds]
        left = f"{len(missing) * sum(known) / len(known) / 60:.0f}" if known and missing else ""
        under_way = [text for key in missing if (text := _progress(options.out, key))]
        rows.append((experiment.name, len(known), len(missing), left, ", ".join(under_way)))
    columns = ("name", "on record", "missing", "core minutes left", "under way")
    print(Table(f"profile {options.profile} in {options.out}", columns, rows))
    print(*damaged, sep="\n", end="\n" if damaged else "")


def _progress(out: Path, key: str) -> str:
    """How far a run is, where a runner holds it."""
    note = read_note(out, key)
    if note is None:
        return ""
    if lock := claim(out, key):  # the runner is gone
        lock.release()
        return ""
    minutes = (time.time() - note["start"]) / 60
    left = minutes * (note["epochs"] - note["epoch"]) / max(note["epoch"], 1)
    return f"{key} epoch {note['epoch']}/{note['epochs']}, {left:.0f} min left"


def _report(options: argparse.Namespace) -> None:
    for experiment in _checked(options):
        keys = {content_hash(experiment.name, settings) for settings in experiment.settings(options.profile)}
        stored = read_records(record_path(options.out, experiment)).records
        records = [record for record in stored if record["key"] in keys]
        print(f"\n{experiment.name}: {experiment.asks}\n{len(records)} of {len(keys)} runs on record")
        if options.profile in experiment.differs:
            print(f"differs from the paper: {experiment.differs[options.profile]}")
        if not records:
            continue
        report = experiment.report(records)
        for table in report.tables:
            print(f"\n{table}")
        for name, draw in report.figures.items():
            path = options.out / "plots" / f"{name}.png"
            figure = draw()
            with replacing(path) as file:
                figure.savefig(file, format="png", facecolor="white", dpi=150)
            plt.close(figure)
            print(f"plot: {path}")


def _checked(options: argparse.Namespace) -> list[Experiment]:
    if options.profile not in PROFILES:
        raise ValueError(unknown("--profile", options.profile, list(PROFILES)))
    return chosen(options.names)


def _check_device(device: str) -> None:
    if device not in DEVICES:
        raise ValueError(unknown("--device", device, list(DEVICES)))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a CUDA device, and torch sees none; leave it out to compute on the CPU")


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"--out {out} cannot be written ({error.strerror}); give another folder") from error
