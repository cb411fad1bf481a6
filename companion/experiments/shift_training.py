"""Images, networks and training for the experiments on ``shift``."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from companion.data import load_dataset
from companion.experiments.experiment import Workplace
from companion.problem import evaluating
from companion.training import train_epochs

LOSS = nn.CrossEntropyLoss()
CHUNK = 500  # samples at once: larger ones leave the processor's cache
DIVIDED_AT = (0.5, 0.75, 0.9)  # of the epochs: where a falling learning rate is divided by ten
POOLING = 0  # among the widths of convolutions: a max-pooling over 2 × 2


@dataclass(frozen=True)
class Images:
    """Which images a network sees, and which network it is.

    Attributes
    ----------
    data : str
    train, test : int
        How many images, drawn by the seed.
    split : {"default", "reshuffled"}
        Drawn from the data set's own training and test part, or both from all of it.
    pool : int
        Images are averaged over pool × pool pixels.
    convolutions : tuple of int
        Widths of 3 × 3 convolutions, each with a ReLU; 0 is a max-pooling over 2 × 2.
    hidden : tuple of int
        Widths of linear layers between them and the outputs.
    batch_norm : bool
        After every convolution.
    seed : int
    """

    data: str
    train: int
    test: int
    split: str
    pool: int
    convolutions: tuple[int, ...]
    hidden: tuple[int, ...]
    batch_norm: bool
    seed: int


@dataclass(frozen=True)
class Falling(Images):
    """A first stage, with momentum and a learning rate that falls to a thousandth in three steps."""

    first_epochs: int
    first_batch_size: int
    first_learning_rate: float
    first_momentum: float
    weight_decay: float  # in all stages


@dataclass(frozen=True)
class Split:
    """A training and a test set, on the device."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def losses(self, model: nn.Module) -> dict[str, float]:
        """Mean loss and share of wrong classes on both sets, in evaluation mode."""
        train, train_error = _loss_and_error(model, self.inputs, self.targets)
        test, test_error = _loss_and_error(model, self.test_inputs, self.test_targets)
        return {"train": train, "test": test, "train_error": train_error, "test_error": test_error}


def draw(settings: Images, workplace: Workplace) -> Split:
    """The images that the settings and their seed choose, each channel standardized by the training images.

    Raises
    ------
    ValueError
        If the split is unknown or the data set has fewer images.
    """
    data, order = load_dataset(settings.data, workplace.data), _generator(settings.seed, 0)
    parts = [(data.train_inputs, data.train_targets), (data.test_inputs, data.test_targets)]
    sizes = [settings.train, settings.test]
    if settings.split == "default":
        chosen = [torch.randperm(len(y), generator=order)[:n] for (_, y), n in zip(parts, sizes, strict=True)]
        pieces = [(x[index], y[index]) for (x, y), index in zip(parts, chosen, strict=True)]
    elif settings.split == "reshuffled":
        own, edge = len(parts[0][1]), torch.randperm(sum(len(y) for _, y in parts), generator=order)
        pieces = [_gathered(parts, own, index) for index in (edge[: sizes[0]], edge[sizes[0] : sum(sizes)])]
    else:
        raise ValueError(f"split must be default or reshuffled, got {settings.split!r}")
    if [len(y) for _, y in pieces] != sizes:
        raise ValueError(f"train and test must not exceed what {data.name} has, got {sizes[0]} and {sizes[1]}")
    (x, y), (x_test, y_test) = ((avg_pool2d(x, settings.pool), y) for x, y in pieces)
    mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    place = {"device": workplace.device, "memory_format": torch.channels_last}  # half as fast again on a CPU
    x, x_test = (((part - mean) / deviation).to(**place) for part in (x, x_test))
    return Split(x, y.to(workplace.device), x_test, y_test.to(workplace.device))


def network(settings: Images, split: Split) -> nn.Sequential:
    """The network with the seed's weights, float32, on the device of the images.

    Weights are Gaussian with variance 2/inputs, biases start at 0.

    Raises
    ------
    ValueError
        If the images are too small for the poolings.
    """
    _, width, rows, columns = split.inputs.shape
    layers: list[nn.Module] = []
    for convolution in settings.convolutions:
        if convolution == POOLING:
            layers.append(nn.MaxPool2d(2))
            rows, columns = rows // 2, columns // 2
        else:
            layers += [nn.Conv2d(width, convolution, 3, padding=1)]
            layers += [nn.BatchNorm2d(convolution)] if settings.batch_norm else []
            layers += [nn.ReLU()]
            width = convolution
    if rows * columns == 0:
        raise ValueError(f"convolutions must leave a pixel of the images, got {settings.convolutions}")
    layers, width = [*layers, nn.Flatten()], width * rows * columns
    for hidden in settings.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    generator = _generator(settings.seed, 1)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.normal_(std=(2 / layer.weight[0].numel()) ** 0.5, generator=generator)
                layer.bias.zero_()
    return model.to(device=split.inputs.device, memory_format=torch.channels_last)


def trained(
    model: nn.Module, split: Split, optimizer: torch.optim.Optimizer, batch_size: int, epochs: int, seed: int
) -> Iterator[int]:
    """Train and yield the epochs done; a ``ValueError`` says that the loss is no longer finite."""
    options = {"optimizer": optimizer, "batch_size": batch_size, "epochs": epochs, "generator": _generator(seed, 2)}
    return train_epochs(model, LOSS, split.inputs, split.targets, **options)


def fallen(model: nn.Module, split: Split, settings: Falling) -> Iterator[int]:
    """Train through the first stage and yield the epochs done."""
    rate, epochs = settings.first_learning_rate, settings.first_epochs
    optimizer = torch.optim.SGD(
        model.parameters(), rate, settings.first_momentum, weight_decay=settings.weight_decay
    )  # fmt: skip
    size = min(settings.first_batch_size, settings.train)
    for epoch in trained(model, split, optimizer, size, epochs, settings.seed):
        optimizer.param_groups[0]["lr"] = rate * 0.1 ** sum(epoch >= at * epochs for at in DIVIDED_AT)
        yield epoch


def _gathered(parts: list[tuple[Tensor, Tensor]], own: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """Images and classes at these places of the training part with the test part after it."""
    (x, y), (x_test, y_test) = parts
    first, second = index[index < own], index[index >= own] - own
    return torch.cat([x[first], x_test[second]]), torch.cat([y[first], y_test[second]])


@torch.no_grad()
def _loss_and_error(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    with evaluating(model):
        outputs = torch.cat([model(piece) for piece in inputs.split(CHUNK)]).double()
    return float(LOSS(outputs, targets)), float((outputs.argmax(1) != targets).double().mean())


def _generator(seed: int, purpose: int) -> torch.Generator:
    """A source of its own for images, weights and batches."""
    return torch.Generator().manual_seed(3 * seed + purpose)
