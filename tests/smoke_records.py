"""Every smoke run of some experiments, as the runner's records come back from a file."""

import json
from collections.abc import Iterable
from dataclasses import asdict

from companion.experiments.experiment import Experiment, Workplace, content_hash


def smoke_records(experiments: Iterable[Experiment]) -> dict[str, list[dict]]:
    """By the experiment's name; a value that JSON cannot hold is an error."""
    return {
        experiment.name: [_record(experiment, s) for s in experiment.settings("smoke")] for experiment in experiments
    }


def _record(experiment: Experiment, settings) -> dict:
    result = experiment.perform(settings, Workplace())
    record = {"key": content_hash(experiment.name, settings), "settings": asdict(settings), "result": result}
    return json.loads(json.dumps({**record, "profile": "smoke"}, allow_nan=False))
