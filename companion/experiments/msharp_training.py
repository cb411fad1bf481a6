"""Images with wrong labels, networks and optimizers of the ``msharp`` experiments, and their training."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

from companion.data import Dataset
from companion.experiments.msharp_settings import Settings
from companion.hessian import hessian_trace
from companion.models import mlp, small_cnn
from companion.noise import gradient_covariance_diagonal
from companion.sam import RWSAM, SAM, gradient_norm_estimates

CLASSES = 10
IMAGES, WRONG, WEIGHTS, SHUFFLES, SIGNS, MEASURES = range(6)  # what a seed's streams of random numbers are for
MOST_SHIFT = 4  # pixels
NORM_PROBES = 16  # random vectors behind the gradient norms that are reported
CHUNK = 100  # images measured at once where the trace is estimated: its networks are large
DIGITS = 6  # significant ones that are kept
METHODS = {
    "sgd": {},
    "sam": {},
    "usam": {"normalize": False},
    "n-sam": {},
    "asam": {"adaptive": True},
    "rw-sam": {},
    "rw-asam": {"adaptive": True},
}
MEAN, EACH = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")


@dataclass(frozen=True)
class Images:
    """What a network is trained, tuned and tested on.

    Attributes
    ----------
    inputs, validation_inputs, test_inputs : Tensor, shapes (N, channels, rows, columns)
    targets : Tensor, shape (N,)
        As trained on: some are wrong.
    wrong : Tensor of bool, shape (N,)
    validation_targets, test_targets : Tensor, shapes (N,)
        All of them right.
    """

    inputs: Tensor
    targets: Tensor
    wrong: Tensor
    validation_inputs: Tensor
    validation_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def to(self, device: str) -> "Images":
        """On that device."""
        return Images(**{name: value.to(device) for name, value in vars(self).items()})


def stream(seed: int, what: int) -> torch.Generator:
    """A generator of its own for each seed and purpose."""
    return torch.Generator().manual_seed(10 * seed + what)


def draw_images(settings: Settings, data: Dataset, seed: int) -> Images:
    """The images of a seed, standardized by the mean and deviation of each channel in the training ones."""
    wanted = settings.train_images + settings.validation_images
    if wanted > len(data.train_inputs):
        raise ValueError(
            f"train_images + validation_images must be at most {len(data.train_inputs)}, the size of the training "
            f"set of {data.name}, got {wanted}"
        )
    order = torch.randperm(len(data.train_inputs), generator=stream(seed, IMAGES))
    chosen, aside = order[:wanted].split([settings.train_images, settings.validation_images])
    inputs = data.train_inputs[chosen]
    mean, deviation = inputs.mean((0, 2, 3), keepdim=True), inputs.std((0, 2, 3), keepdim=True)

    def prepared(part: Tensor) -> Tensor:
        return avg_pool2d((part - mean) / deviation, settings.pool)

    targets, wrong = with_wrong_labels(data.train_targets[chosen], settings.label_noise, stream(seed, WRONG))
    validation = prepared(data.train_inputs[aside]), data.train_targets[aside]
    return Images(prepared(inputs), targets, wrong, *validation, prepared(data.test_inputs), data.test_targets)


def with_wrong_labels(targets: Tensor, part: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The classes with that part of them, rounded to whole images, replaced by one of the others; and which.

    From equal states of the generator, the replaced ones of a smaller part are among those of a larger one.
    """
    if not 0 <= part <= 1:
        raise ValueError(f"label_noise must be between 0 and 1, got {part}")
    first = torch.randperm(len(targets), generator=generator)[: round(part * len(targets))]
    step = torch.randint(1, CLASSES, (len(targets),), generator=generator)
    wrong = torch.zeros(len(targets), dtype=torch.bool)
    wrong[first] = True
    return torch.where(wrong, (targets + step) % CLASSES, targets), wrong


def build(settings, image: tuple[int, int, int], seed: int) -> nn.Module:
    """The network of a seed before training, float32, for images (channels, rows, columns).

    ``settings`` has ``network`` and ``widths``, as :class:`~companion.experiments.msharp_settings.Settings` has.
    """
    options = {"generator": stream(seed, WEIGHTS), "dtype": torch.float32}
    if settings.network == "mlp":
        return nn.Sequential(nn.Flatten(), *mlp(math.prod(image), *settings.widths, CLASSES, **options))
    if settings.network == "cnn":
        return small_cnn(settings.widths, image=image, classes=CLASSES, **options)
    if settings.network == "resnet18":
        return residual_network(image[0], seed)
    raise ValueError(f"network must be one of mlp, cnn, resnet18, got {settings.network!r}")


def residual_network(channels: int, seed: int) -> nn.Module:
    """ResNet-18 as it is used for small images: a first convolution of 3 × 3 with stride 1, no pooling after it."""
    from torchvision.models import resnet18

    with torch.random.fork_rng(devices=[]):  # torchvision draws from the default generator
        torch.manual_seed(stream(seed, WEIGHTS).initial_seed())
        model = resnet18(num_classes=CLASSES)
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def make_optimizer(settings: Settings, model: nn.Module, seed: int) -> torch.optim.Optimizer:
    """SGD with momentum, alone or inside SAM or RW-SAM."""
    if settings.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {settings.method!r}")
    names = ("momentum", "weight_decay")
    options = {"lr": settings.learning_rate} | {name: getattr(settings, name) for name in names}
    if settings.method == "sgd":
        return torch.optim.SGD(model.parameters(), **options)
    options |= {"rho": settings.rho, "micro_batch_size": settings.micro_batch or None, **METHODS[settings.method]}
    if settings.method in ("rw-sam", "rw-asam"):
        weights = {"eta": settings.eta, "probes": settings.probes, "generator": stream(seed, SIGNS)}
        return RWSAM(model, torch.optim.SGD, **weights, **options)
    return SAM(model, torch.optim.SGD, **options)


def train(settings: Settings, images: Images, seed: int, tick: Callable[[int], None]) -> dict:
    """Train a network and measure it on the way.

    Returns
    -------
    dict
        ``seed``; ``curve``: what :func:`measure` measures after each logged epoch, with ``epoch``;
        ``diverged``: the message where training ended early because of it, else None.
    """
    model = build(settings, tuple(images.inputs.shape[1:]), seed).to(images.inputs.device)
    optimizer, shuffles = make_optimizer(settings, model, seed), stream(seed, SHUFFLES)
    steps, curve = len(images.inputs) // settings.batch_size, []
    try:
        for epoch in range(settings.epochs):
            order = torch.randperm(len(images.inputs), generator=shuffles).to(images.inputs.device)
            for k, batch in enumerate(order[: steps * settings.batch_size].split(settings.batch_size)):
                done = (epoch * steps + k) / (settings.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * done)) / 2
                inputs = augmented(images.inputs[batch], shuffles) if settings.augment else images.inputs[batch]
                _step(settings, model, optimizer, inputs, images.targets[batch], images)
            if epoch + 1 in settings.logged:
                curve.append({"epoch": epoch + 1, **measure(settings, model, images, seed)})
            tick(epoch + 1)
    except FloatingPointError as error:
        return {"seed": seed, "curve": curve, "diverged": str(error)}
    return {"seed": seed, "curve": curve, "diverged": None}


def augmented(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """The images, shape (B, channels, rows, columns), each shifted with zeros coming in, and half of them mirrored."""
    size, _, rows, columns = inputs.shape
    padded = pad(inputs, [MOST_SHIFT] * 4)
    down, right = torch.randint(2 * MOST_SHIFT + 1, (2, size, 1), generator=generator).to(inputs.device)
    mirror = torch.rand(size, 1, generator=generator).to(inputs.device) < 0.5
    row, column = (torch.arange(length, device=inputs.device)[None] for length in (rows, columns))
    column = torch.where(mirror, columns - 1 - column, column) + right
    index = torch.arange(size, device=inputs.device)[:, None, None]
    return padded[index, :, (row + down)[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


def measure(settings: Settings, model: nn.Module, images: Images, seed: int) -> dict:
    """What is known of a network, in evaluation mode; the traces in float64.

    Returns
    -------
    dict
        ``train_loss``, in nats, and ``train_accuracy``, on the labels trained on; ``memorized``, the part of
        the wrong labels that the network gives; ``validation_accuracy`` and ``test_accuracy``;
        ``trace_hessian`` and ``trace_covariance``, of the training loss without weight decay; ``norm_ratio``,
        the mean gradient norm of images with wrong labels over that of the others.  Accuracies are between
        0 and 1.  None where there are no wrong labels.
    """
    mode, chosen = model.training, slice(settings.measured_images)
    double = copy.deepcopy(model).double().eval()
    inputs, targets, wrong = images.inputs[chosen].double(), images.targets[chosen], images.wrong[chosen]
    outputs = _outputs(model.eval(), images.inputs)
    right = outputs.argmax(1) == images.targets
    loss = MEAN(outputs, images.targets).item()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the training loss became {loss}; lower lr or rho = {settings.rho:g}")
    found = {
        "train_loss": loss,
        "train_accuracy": right.double().mean().item(),
        "memorized": right[images.wrong].double().mean().item() if images.wrong.any() else None,
    }
    for part in ("validation", "test"):
        x, y = getattr(images, f"{part}_inputs"), getattr(images, f"{part}_targets")
        found[f"{part}_accuracy"] = (_outputs(model, x).argmax(1) == y).double().mean().item()
    found |= _traces(settings, double, inputs, targets, stream(seed, MEASURES))
    found["norm_ratio"] = None
    if wrong.any() and not wrong.all():
        probes = {"probes": NORM_PROBES, "generator": stream(seed, MEASURES)}
        norms = gradient_norm_estimates(double, EACH, inputs, targets, **probes)
        found["norm_ratio"] = (norms[wrong].mean() / norms[~wrong].mean()).item()
    model.train(mode)
    return {name: None if value is None else float(f"{value:.{DIGITS}g}") for name, value in found.items()}


def _step(settings, model, optimizer, inputs: Tensor, targets: Tensor, images: Images) -> None:
    """One step on a batch; n-SAM perturbs with the gradient of all training images."""
    if isinstance(optimizer, SAM):
        everything = (images.inputs, images.targets) if settings.method == "n-sam" else None
        try:
            optimizer.step(EACH, inputs, targets, perturbation_batch=everything)
        except ValueError as error:
            raise FloatingPointError(str(error)) from error
        return
    optimizer.zero_grad()
    loss = MEAN(model(inputs), targets)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss.item()}; lower the learning rate {settings.learning_rate:g}")
    loss.backward()
    optimizer.step()


def _traces(settings: Settings, model: nn.Module, inputs: Tensor, targets: Tensor, generator) -> dict[str, float]:
    covariance, options = gradient_covariance_diagonal(model, MEAN, inputs, targets), {}
    if settings.trace_probes:
        probes = {"samples": settings.trace_probes, "generator": generator}
        options = {"method": "hutchinson", "chunk_size": CHUNK, **probes}
    trace = hessian_trace(model, MEAN, inputs, targets, **options).value
    return {"trace_hessian": trace, "trace_covariance": sum(float(value.sum()) for value in covariance.values())}


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([model(part) for part in inputs.split(1000)])
