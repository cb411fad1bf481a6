"""An experiment of a few milliseconds a run, for the runner's tests; ``python toy_experiment.py OUT …`` runs it."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from companion.experiments.experiment import Experiment, Report, Table, Together
from companion.experiments.runner import run

RUNS = 12


@dataclass(frozen=True)
class Settings:
    seed: int
    padding: int = 0
    seconds: float = 0.0
    bad: bool = False


def perform(settings, workplace):
    if settings.bad:
        raise RuntimeError(f"seed {settings.seed} is bad")
    for epoch in range(1, 3):
        time.sleep(settings.seconds / 2)
        workplace.tick(epoch, 2)
    return {"square": settings.seed**2, "padding": "σ" * settings.padding}


def together(group, workplace):
    return [{"square": s.seed**2, "padding": "", "in a batch of": len(group)} for s in group]


def experiment(count=RUNS, batched=False, **change):
    return Experiment(
        "toy",
        "Are squares squares?",
        lambda profile: [Settings(seed, **change) for seed in range(count)],
        perform,
        lambda records: Report([Table("squares", ("runs",), [(len(records),)])]),
        {"smoke": "nothing"},
        Together(lambda s: s.seed % 2, together) if batched else None,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=RUNS)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--padding", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    # Under its importable name, not __main__, so that workers find the functions.
    import toy_experiment

    toy = toy_experiment.experiment(options.count, seconds=options.seconds, padding=options.padding)
    outcome = run([toy], "smoke", out=options.out, jobs=options.jobs, quiet=True)
    print(outcome.recorded, outcome.added, outcome.elsewhere)
