"""Does the sharpness rise with the anisotropy of the label noise in other networks than the solvable one?

``solvable`` figures 2 to 5: networks are trained with SGD on labels with fresh noise, whose total is
fixed and whose imbalance κ is not; some way on, copies of them go on with full-batch gradient descent.
A run is one architecture with one loss and one kind of noise, for all κ and seeds at once.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from companion.data import load_dataset
from companion.experiments.experiment import Experiment, Workplace
from companion.experiments.solvable_analysis import report
from companion.experiments.solvable_labels import LOSSES, NoisyLabels, additive_root, flipped
from companion.experiments.solvable_settings import DIFFERS, Settings, image_settings, teacher_settings
from companion.experiments.solvable_training import MEASURES, Networks, measured
from companion.linear_network import TwoLayerLinear, flattest_minimum, least_fluctuation_minimum
from companion.models import mlp, rnn, transformer

TASK_SEED, ORDER_SEED, NOISE_SEED = 1000, 2000, 3000  # added to a run's seeds: streams of their own
LOGIT_SCALE = 2.0  # of a teacher whose softmax is the labels' mean
DIGITS = 5  # significant ones that are kept


def perform(settings: Settings, workplace: Workplace) -> dict:
    """Train all networks of a run and measure them on the way.

    Returns
    -------
    dict
        ``parameters`` of a network; ``sgd`` and ``descent``, a dict for each logged step with the step and
        the measures of :func:`~companion.experiments.solvable_training.measured`, each of them a list over
        seeds of lists over κ, with None for a network that has diverged; ``predicted`` and ``flattest``, the
        sharpness of two minima in closed form where there is one, likewise.
    """
    tasks = [_task(settings, seed, workplace) for seed in settings.seeds]
    orders = noisy_places(settings)
    inputs = torch.stack([x for x, _ in tasks]).float().to(workplace.device)
    labels = noisy_labels(settings, [y for _, y in tasks], orders, workplace.device)
    models = [starting_model(settings, seed).to(workplace.device) for seed in settings.seeds]
    networks = Networks(models, len(settings.kappas))
    sgd, descent = _trained(settings, networks, inputs, labels, workplace)
    result = {"parameters": sum(p.numel() for p in models[0].parameters()), "sgd": sgd, "descent": descent}
    if settings.model == "linear" and settings.loss == "squared":
        result |= closed_forms(settings, tasks, orders)
    return result


def noisy_places(settings: Settings) -> list[Tensor]:
    """A random order of the outputs for each seed; the second half of it are the noisy ones."""
    return [torch.randperm(settings.outputs, generator=_generator(ORDER_SEED + seed)) for seed in settings.seeds]


def noisy_labels(settings: Settings, targets: Sequence[Tensor], orders: Sequence[Tensor], device: str) -> NoisyLabels:
    """The labels of all seeds and κ; ``orders`` are those of :func:`noisy_places`."""
    outputs, total = settings.outputs, settings.total_noise
    if settings.noise == "flips":
        means = [
            torch.stack([flipped(y.argmax(1), outputs, kappa, total, order) for kappa in settings.kappas])
            for y, order in zip(targets, orders, strict=True)
        ]
        return NoisyLabels(torch.stack(means).float().to(device), None)
    entropic = settings.loss == "cross-entropy"
    means = [(LOGIT_SCALE * y).softmax(-1) if entropic else y for y in targets]
    roots = [
        torch.stack([additive_root(outputs, kappa, total, order, simplex=entropic) for kappa in settings.kappas])
        for order in orders
    ]
    mean = torch.stack(means)[:, None].expand(-1, len(settings.kappas), -1, -1)
    return NoisyLabels(mean.float().to(device), torch.stack(roots).float().to(device))


def teacher_task(settings: Settings, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian inputs and the whitened outputs of a random teacher, both float64, for one seed."""
    generator = _generator(TASK_SEED + seed)
    sequences = settings.model in ("rnn", "transformer")
    shape = (settings.samples, *([settings.length] if sequences else []), settings.inputs)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    with torch.no_grad():
        y = _network(settings, settings.teacher_width, generator, torch.float64)(x)
    return x, whitened(y)


def whitened(outputs: Tensor) -> Tensor:
    """A linear function of the outputs, shape (N, C), with mean 0 and covariance 1."""
    centred = outputs - outputs.mean(0)
    covariance = centred.T @ centred / len(outputs)
    eigenvalues = torch.linalg.eigvalsh(covariance)
    if eigenvalues[0] <= 1e-10 * eigenvalues[-1]:
        rank = int((eigenvalues > 1e-10 * eigenvalues[-1]).sum())
        raise ValueError(f"teacher_width must let {len(covariance)} outputs be independent, got {rank} of them")
    return centred @ torch.linalg.cholesky(torch.linalg.inv(covariance))


def image_task(settings: Settings, seed: int, workplace: Workplace) -> tuple[Tensor, Tensor]:
    """Images and their one-hot classes, standardized as if all classes were equally frequent, for one seed."""
    dataset = load_dataset(settings.data, workplace.data)
    index = torch.randperm(len(dataset.train_inputs), generator=_generator(TASK_SEED + seed))[: settings.samples]
    images = torch.nn.functional.avg_pool2d(dataset.train_inputs[index].double(), settings.pool)
    share = 1 / settings.outputs
    y = torch.nn.functional.one_hot(dataset.train_targets[index], settings.outputs).double()
    return images.flatten(1), (y - share) / (share * (1 - share)) ** 0.5


def starting_model(settings: Settings, seed: int) -> nn.Module:
    """The network of a seed before training, float32."""
    model = _network(settings, settings.width, _generator(seed), torch.float32)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(settings.gain)
    return model


def closed_forms(settings: Settings, tasks: Sequence[tuple], orders: Sequence[Tensor]) -> dict:
    """tr H of the least-fluctuating and of the flattest minimum of the linear network, seeds × κ."""
    predicted, flattest = [], []
    for (x, y), order in zip(tasks, orders, strict=True):
        teacher, second = torch.linalg.lstsq(x, y).solution.T.numpy(), (x.T @ x / len(x)).numpy()
        options = settings.outputs, settings.total_noise, order
        roots = [additive_root(options[0], kappa, *options[1:], simplex=False) for kappa in settings.kappas]
        models = [TwoLayerLinear(teacher, (root @ root.T).numpy(), second, settings.width) for root in roots]
        predicted.append([_rounded(least_fluctuation_minimum(model).sharpness) for model in models])
        flattest.append([_rounded(flattest_minimum(model).sharpness) for model in models])
    return {"predicted": predicted, "flattest": flattest}


def _trained(
    settings: Settings, networks: Networks, inputs: Tensor, labels: NoisyLabels, workplace: Workplace
) -> tuple[list, list]:
    """The rows of SGD and those of the descent that leaves it at ``settings.switch``."""
    loss, kinds = LOSSES[settings.loss][0], len(settings.kappas)
    generator = _generator(NOISE_SEED + settings.seeds[0])
    total = len(settings.logged) + len(settings.logged_descent)
    rows, branch = [], networks.copied()
    seeds = torch.arange(len(settings.seeds), device=inputs.device)[:, None]
    for step in range(settings.steps + 1):
        if step in settings.logged:
            rows.append({"step": step, **_measured(settings, networks, inputs, labels)})
            workplace.tick(len(rows), total)
        if step == settings.switch:
            branch = networks.copied()
        if step < settings.steps:
            shape = (len(settings.seeds), settings.batch_size)
            index = torch.randint(settings.samples, shape, generator=generator).to(inputs.device)
            batch = inputs[seeds, index].repeat_interleave(kinds, 0)
            networks.step(loss, batch, labels.draw(index, generator), settings.learning_rate)
    everything, means, descent = inputs.repeat_interleave(kinds, 0), labels.mean.flatten(0, 1), []
    for step in range(settings.descent + 1):
        if step in settings.logged_descent:
            descent.append({"step": settings.switch + step, **_measured(settings, branch, inputs, labels)})
            workplace.tick(len(rows) + len(descent), total)
        if step < settings.descent:
            branch.step(loss, everything, means, settings.learning_rate)
    return rows, descent


def _measured(settings: Settings, networks: Networks, inputs: Tensor, labels: NoisyLabels) -> dict:
    """Each measure as a list over seeds of lists over κ."""
    first = slice(settings.measured)
    table = [
        [
            measured(
                networks.model(seed * len(settings.kappas) + kind),
                settings.loss,
                inputs[seed, first].double(),
                labels.mean[seed, kind, first].double(),
                labels.covariances(seed, kind)[first],
            )
            for kind in range(len(settings.kappas))
        ]
        for seed in range(len(settings.seeds))
    ]
    return {name: [[cell and _rounded(cell[name]) for cell in row] for row in table] for name in MEASURES}


def _task(settings: Settings, seed: int, workplace: Workplace) -> tuple[Tensor, Tensor]:
    return teacher_task(settings, seed) if settings.data is None else image_task(settings, seed, workplace)


def _network(settings: Settings, width: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Module:
    ends, options = (settings.inputs, settings.outputs), {"generator": generator, "dtype": dtype}
    if settings.model == "linear":
        return mlp(ends[0], width, ends[1], activation=nn.Identity, bias=False, **options)
    if settings.model in ("relu", "mlp"):
        return mlp(ends[0], *[width] * (1 if settings.model == "relu" else 2), ends[1], **options)
    if settings.model == "rnn":
        return rnn(ends[0], width, ends[1], **options)
    if settings.model == "transformer":
        return transformer(ends[0], width, ends[1], length=settings.length, **options)
    raise ValueError(f"model must be linear, relu, mlp, rnn or transformer, got {settings.model!r}")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


EXPERIMENTS = (
    Experiment(
        "solvable-architectures",
        "Do networks of other architectures end sharper, the more anisotropic the noise in the labels is?",
        teacher_settings,
        perform,
        report,
        DIFFERS,
    ),
    Experiment(
        "solvable-images",
        "The same for two layers with ReLU on images of digits, with squared error.",
        image_settings,
        perform,
        report,
        DIFFERS,
    ),
)
