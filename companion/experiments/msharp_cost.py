"""What a step of each optimizer of ``msharp`` costs: passes, which are counted, and time, beside SAM's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from companion.experiments.experiment import PROFILES, Experiment, Report, Table, Workplace
from companion.experiments.msharp_training import CLASSES, EACH, MEAN, build
from companion.plots import COLORS, subplots
from companion.sam import RWSAM, SAM


@dataclass(frozen=True)
class CostSettings:
    """One network whose optimizers are timed in turn, on random images.

    Attributes
    ----------
    network : {"mlp", "cnn", "resnet18"}
    widths : tuple of int
        As for :class:`~companion.experiments.msharp_settings.Settings`.
    image : tuple of int
        Channels, rows, columns.
    batch_size : int
    micro_batches : tuple of int
        m of m-SAM.
    probes : tuple of int
        Q of RW-SAM.
    steps : int
        Of each optimizer in a round.
    rounds : int
        One after the other, so that whatever else the machine does strikes all optimizers alike.
    """

    network: str
    widths: tuple[int, ...]
    image: tuple[int, int, int]
    batch_size: int
    micro_batches: tuple[int, ...]
    probes: tuple[int, ...]
    steps: int
    rounds: int


def cost_settings(profile: str) -> list[CostSettings]:
    """The networks of the accuracy runs, and larger ones."""
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    if profile == "smoke":
        return [CostSettings("mlp", (16,), (1, 8, 8), 16, (4,), (1,), 1, 3)]
    if profile == "paper":
        return [CostSettings("resnet18", (), (3, 32, 32), size, (64, 16, 4), (1, 10), 3, 15) for size in (128, 512)]
    rest = ((64, 16, 4), (1, 10), 4, 25)
    return [
        CostSettings("mlp", (64, 64), (1, 14, 14), 128, *rest),
        CostSettings("mlp", (512, 512), (1, 28, 28), 128, *rest),
        CostSettings("cnn", (16, 32), (3, 16, 16), 128, (64, 16, 4), (1, 10), 2, 15),
    ]


def perform(settings: CostSettings, workplace: Workplace) -> dict:
    """Time every optimizer in every round.

    Returns
    -------
    dict
        ``optimizers``: for each its ``name``, the ``seconds`` of a step in each round, and ``forward``,
        ``backward`` and ``samples``, how many passes a step has and how many samples pass forward; ``threads``.
        The seconds are those of a clock and differ from run to run; on a CPU they are the process's own,
        summed over threads, which other processes lengthen little.
    """
    device = workplace.device
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(settings.batch_size, *settings.image, generator=source).to(device)
    targets = torch.randint(CLASSES, (settings.batch_size,), generator=source).to(device)
    steps = optimizers(settings, device)
    counted = {name: count_passes(*pair, inputs, targets) for name, pair in steps.items()}  # and warms up
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for done in range(settings.rounds):
        for name, (_, step) in steps.items():
            seconds[name].append(float(f"{_timed(step, inputs, targets, settings.steps, device):.4g}"))
        workplace.tick(done + 1, settings.rounds)
    found = [{"name": name, "seconds": seconds[name], **counted[name]} for name in steps]
    return {"optimizers": found, "threads": torch.get_num_threads()}


def optimizers(settings: CostSettings, device: str) -> dict[str, tuple[nn.Module, Callable]]:
    """By name, a network and a function (inputs, targets) that makes a step with it."""
    kinds = {"SGD": None, "SAM": {}}
    kinds |= {f"SAM, m = {m}": {"micro_batch_size": m} for m in settings.micro_batches}
    kinds |= {f"RW-SAM, Q = {q}": {"probes": q} for q in settings.probes}
    result = {}
    for name, options in kinds.items():
        model = build(settings, settings.image, 0).to(device)
        if options is None:
            result[name] = model, _plain_step(model)
            continue
        if "probes" in options:
            options = {"generator": torch.Generator().manual_seed(1), **options}
        optimizer = (RWSAM if "probes" in options else SAM)(model, torch.optim.SGD, lr=0.01, rho=0.05, **options)
        result[name] = model, lambda x, y, one=optimizer: one.step(EACH, x, y)
    return result


def count_passes(model: nn.Module, step: Callable, inputs, targets) -> dict[str, int]:
    """Forward and backward passes of one step, and the samples that pass forward in it."""
    count = {"forward": 0, "backward": 0, "samples": 0}

    def on_backward(gradient):
        count["backward"] += 1

    def on_forward(module, args, output):
        count["forward"] += 1
        count["samples"] += len(output)
        if output.requires_grad:
            output.register_hook(on_backward)

    handle = model.register_forward_hook(on_forward)
    step(inputs, targets)
    handle.remove()
    return count


def cost_rows(record: dict) -> list[tuple]:
    """Name, passes forward and backward, samples forward, milliseconds, and the time beside SAM's with its quartiles.

    The ratio to SAM is taken in each round.
    """
    rows, relative = [], relative_times(record)
    for one in record["result"]["optimizers"]:
        low, middle, high = np.quantile(relative[one["name"]], [0.25, 0.5, 0.75])
        counts = (one["forward"], one["backward"], one["samples"])
        milliseconds = f"{1000 * np.median(one['seconds']):.3g}"
        rows.append((one["name"], *counts, milliseconds, f"{middle:.2f} [{low:.2f}, {high:.2f}]"))
    return rows


def relative_times(record: dict) -> dict[str, np.ndarray]:
    """Each optimizer's time over SAM's in the same round, shape (rounds,), by name."""
    seconds = {one["name"]: np.array(one["seconds"]) for one in record["result"]["optimizers"]}
    return {name: values / seconds["SAM"] for name, values in seconds.items()}


def cost_figure(records: Sequence[dict]) -> Figure:
    """Times beside SAM's, a panel a network."""
    size = {"width": 2.6 * len(records) + 0.6, "height": 2.8}
    figure, panels = subplots(ncols=len(records), **size, squeeze=False, sharey=True)
    for panel, record in zip(panels[0], records, strict=True):
        times = {name: np.median(ratios) for name, ratios in relative_times(record).items()}
        panel.barh(list(times), list(times.values()), color=COLORS["blue"])
        panel.axvline(1, color="black", linewidth=1)
        panel.set(xscale="log", xlabel="time beside SAM's", title=title(record))
    panels[0][0].invert_yaxis()
    return figure


def title(record: dict) -> str:
    """The network, the batch and the device of a record."""
    settings = record["settings"]
    return f"{settings['network']} {'-'.join(map(str, settings['widths']))}, B = {settings['batch_size']}".strip()


def report(records: Sequence[dict]) -> Report:
    """A table a network, and a figure."""
    columns = ("optimizer", "forward", "backward", "samples", "ms a step", "beside SAM")
    tables = [
        Table(f"{title(record)}, {record.get('device', 'cpu')}", columns, cost_rows(record)) for record in records
    ]
    return Report(tables, {"msharp-cost": lambda: cost_figure(records)} if records else {})


def _plain_step(model: nn.Module) -> Callable:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(inputs, targets):
        optimizer.zero_grad()
        MEAN(model(inputs), targets).backward()
        optimizer.step()

    return step


def _timed(step: Callable, inputs, targets, steps: int, device: str) -> float:
    """Seconds of a step, the mean of ``steps``: on a GPU as they pass, else this process's own."""
    gpu = device == "cuda"
    wait, clock = (torch.cuda.synchronize, time.perf_counter) if gpu else (lambda: None, time.process_time)
    wait()
    start = clock()
    for _ in range(steps):
        step(inputs, targets)
    wait()
    return (clock() - start) / steps


COST = Experiment(
    "msharp-cost",
    "What does a step of SAM, m-SAM and RW-SAM cost, in passes and in time?",
    cost_settings,
    perform,
    report,
    {
        "smoke": "One small network and three rounds.",
        "laptop": "Small networks on one core, where the micro-batches of m-SAM lose nothing but overhead; the paper "
        "times ImageNet on GPUs.",
        "paper": "One GPU and ResNet-18 on images of the size of CIFAR-10, in place of ImageNet; random images.",
    },
)
