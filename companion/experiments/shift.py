"""``shift`` figs. 1-3 and 5: lines between train and test minima, collapse onto T = λ/B, finite samples.

``shift-line`` trains a network at one temperature, goes down to a minimum of the training loss and to
one of the test loss, and measures both losses on the line through them (sec. 3, app. F).
``shift-temperature`` continues one converged network at many learning rates and batch sizes (fig. 5
left, app. G.1).  ``shift-sample`` trains on small samples and on reshuffled ones (fig. 5 right).
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from companion.experiments.experiment import Experiment, Workplace
from companion.experiments.shift_line import lines_between
from companion.experiments.shift_report import report_line, report_sample, report_temperature
from companion.experiments.shift_settings import (
    LINE_DIFFERS,
    SAMPLE_DIFFERS,
    TEMPERATURE_DIFFERS,
    Line,
    Sample,
    Temperature,
    line_settings,
    sample_settings,
    temperature_settings,
)
from companion.experiments.shift_training import Split, draw, fallen, network, trained

LOGGED = 10  # times in the first training of a line
DIGITS = 7  # significant ones that are kept


def perform_line(settings: Line, workplace: Workplace) -> dict:
    """SGD at one temperature, and the line through the minima next to where it ends.

    Returns
    -------
    dict
        ``learning_rate``, ``epochs``; ``curve``, losses and errors over the time λ · steps; ``diverged``;
        ``lines``, as :func:`~companion.experiments.shift_line.lines_between` has them, none if it diverged.
    """
    split = draw(settings, workplace)
    model = network(settings, split)
    rate = settings.temperature * settings.batch_size
    steps = max(1, settings.train // settings.batch_size)  # in an epoch
    epochs = max(1, round(settings.time / (rate * steps)))
    tick = lambda epoch: workplace.tick(epoch, epochs)  # noqa: E731
    curve, diverged = _at_temperature(model, split, settings, settings.batch_size, epochs, min(LOGGED, epochs), tick)
    lines = []
    if not diverged:
        lines = lines_between(model, split, settings.flow_times, settings.weight_decay, settings.points)
    return _plain({"learning_rate": rate, "epochs": epochs, "curve": curve, "diverged": diverged, "lines": lines})


def perform_temperature(settings: Temperature, workplace: Workplace) -> dict:
    """One converged network, continued at the same T = λ/B with every batch size.

    Returns
    -------
    dict
        ``start``, losses and errors after the first stage, None if it diverged; ``runs``, for each batch
        size ``learning_rate``, ``diverged`` and ``curve``.
    """
    split = draw(settings, workplace)
    model = network(settings, split)
    total = settings.first_epochs + settings.epochs * len(settings.batch_sizes)
    if _first_stage(model, split, settings, lambda epoch: workplace.tick(epoch, total)):
        return {"start": None, "runs": []}
    start, runs = split.losses(model), []
    for number, batch_size in enumerate(settings.batch_sizes):
        done = settings.first_epochs + number * settings.epochs
        tick = lambda epoch, done=done: workplace.tick(done + epoch, total)  # noqa: E731
        one = copy.deepcopy(model)
        curve, diverged = _at_temperature(one, split, settings, batch_size, settings.epochs, settings.logged, tick)
        rate = settings.temperature * batch_size
        runs.append({"batch_size": batch_size, "learning_rate": rate, "diverged": diverged, "curve": curve})
    return _plain({"start": start, "runs": runs})


def perform_sample(settings: Sample, workplace: Workplace) -> dict:
    """Training on a sample of this size and origin, and the shift between the minima.

    Returns
    -------
    dict
        ``end``, losses and errors after training, None if it diverged; ``lines`` as for :func:`perform_line`.
    """
    split = draw(settings, workplace)
    model = network(settings, split)
    if _first_stage(model, split, settings, lambda epoch: workplace.tick(epoch, settings.first_epochs)):
        return {"end": None, "lines": []}
    lines = lines_between(model, split, settings.flow_times, settings.weight_decay, settings.points)
    return _plain({"end": split.losses(model), "lines": lines})


def _at_temperature(
    model: nn.Module,
    split: Split,
    settings: Line | Temperature,
    batch_size: int,
    epochs: int,
    logged: int,
    tick: Callable[[int], None],
) -> tuple[list[dict], bool]:
    """Plain SGD at λ = T B: losses at ``logged`` of the epochs, and whether it diverged."""
    rate, curve = settings.temperature * batch_size, []
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=settings.weight_decay)
    try:
        for epoch in trained(model, split, optimizer, batch_size, epochs, settings.seed):
            tick(epoch)
            if epoch * logged // epochs > (epoch - 1) * logged // epochs:
                time = epoch * rate * (settings.train // batch_size)
                curve.append({"epoch": epoch, "time": time, **split.losses(model)})
    except ValueError:
        if _finite(split, model):  # then something else is wrong
            raise
        return curve, True
    return curve, not _finite(split, model)


def _first_stage(model: nn.Module, split: Split, settings: Sample | Temperature, tick: Callable[[int], None]) -> bool:
    """Train to convergence; whether it diverged."""
    try:
        for epoch in fallen(model, split, settings):
            tick(epoch)
    except ValueError:
        if _finite(split, model):
            raise
    return not _finite(split, model)


def _finite(split: Split, model: nn.Module) -> bool:
    return all(math.isfinite(value) for value in split.losses(model).values())


def _plain(value):
    """The same with every number to ``DIGITS`` digits, and None where it is not finite."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


EXPERIMENTS = (
    Experiment(
        "shift-line",
        "Do curvature and shift-curvature between train and test minima fall with the temperature of SGD?",
        line_settings,
        perform_line,
        report_line,
        LINE_DIFFERS,
    ),
    Experiment(
        "shift-temperature",
        "Do the losses of SGD depend on learning rate and batch size through T = λ/B alone?",
        temperature_settings,
        perform_temperature,
        report_temperature,
        TEMPERATURE_DIFFERS,
    ),
    Experiment(
        "shift-sample",
        "Does the shift come from finite samples, or from a difference between the training and the test set?",
        sample_settings,
        perform_sample,
        report_sample,
        SAMPLE_DIFFERS,
    ),
)
