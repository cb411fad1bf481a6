"""Small networks with seeded weights."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from companion import validate


def mlp(
    *widths: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    bias: bool = True,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> nn.Sequential:
    """A multilayer perceptron, for example ``mlp(64, 16, 10, generator=...)``.

    Parameters
    ----------
    *widths : int
        Inputs, hidden layers, outputs: at least two numbers.
    activation : callable
        Makes the layer between two linear ones.
    bias : bool
    generator : torch.Generator
        Source of the weights, Gaussian with variance 2/inputs; biases start at 0.
    dtype : torch.dtype
    """
    if len(widths) < 2:
        raise ValueError(f"widths must be at least inputs and outputs, got {widths}")
    widths = [validate.count("widths", width) for width in widths]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [skip_init(nn.Linear, inputs, outputs, bias=bias, dtype=dtype), activation()]
    return _initialized(nn.Sequential(*layers[:-1]), generator)


def small_cnn(
    channels: tuple[int, int] = (4, 8),
    *,
    image: tuple[int, int, int] = (1, 8, 8),
    activation: Callable[[], nn.Module] = nn.ReLU,
    classes: int = 10,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> nn.Sequential:
    """Two 3 × 3 convolutions with max-pooling and a linear layer, for images (channels, rows, columns).

    Rows and columns must be divisible by four.
    """
    if len(channels) != 2:
        raise ValueError(f"channels must be two numbers, got {channels}")
    if len(image) != 3 or any(side % 4 for side in image[1:]):
        raise ValueError(f"image must be channels, rows and columns, both divisible by 4, got {image}")
    first, second = (validate.count("channels", width) for width in channels)
    classes = validate.count("classes", classes)
    layers = [
        skip_init(nn.Conv2d, image[0], first, 3, padding=1, dtype=dtype),
        activation(),
        nn.MaxPool2d(2),
        skip_init(nn.Conv2d, first, second, 3, padding=1, dtype=dtype),
        activation(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        skip_init(nn.Linear, second * image[1] * image[2] // 16, classes, dtype=dtype),
    ]
    return _initialized(nn.Sequential(*layers), generator)


def rnn(
    inputs: int, width: int, outputs: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> "RecurrentNetwork":
    """A recurrent network for sequences of shape (N, length, inputs) of any length.

    h_t = tanh(W h_{t-1} + A x_t + b) from h_0 = 0, and a linear layer on the last h_t: shape (N, outputs).

    Parameters
    ----------
    inputs, width, outputs : int
    generator : torch.Generator
        Source of the weights, Gaussian: W of variance 1/width, which keeps h from growing or
        vanishing, the others of variance 2/inputs of the layer; biases start at 0.
    dtype : torch.dtype
    """
    sizes = _counts(inputs=inputs, width=width, outputs=outputs)
    model = _initialized(RecurrentNetwork(*sizes, dtype), generator)
    with torch.no_grad():
        model.recurrent.weight.mul_(0.5**0.5)
    return model


def transformer(
    inputs: int,
    width: int,
    outputs: int,
    *,
    length: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> "Transformer":
    """A transformer of one block for sequences of shape (N, length, inputs).

    Linear embedding plus learned positions, one head of attention and a ReLU layer of 2·width
    units, each behind a layer norm and added to what it is given, and a linear layer on the mean
    over the positions of their layer norm: shape (N, outputs).  The norms have no weights.

    Parameters
    ----------
    inputs, width, outputs, length : int
    generator : torch.Generator
        Source of the weights, Gaussian with variance 2/inputs of the layer, and of the positions,
        with variance 1; biases start at 0.
    dtype : torch.dtype
    """
    sizes = _counts(inputs=inputs, width=width, outputs=outputs, length=length)
    model = _initialized(Transformer(*sizes, dtype), generator)
    with torch.no_grad():
        model.positions.normal_(generator=generator)
    return model


class RecurrentNetwork(nn.Module):
    """What :func:`rnn` makes."""

    def __init__(self, inputs: int, width: int, outputs: int, dtype: torch.dtype):
        super().__init__()
        self.encode = skip_init(nn.Linear, inputs, width, dtype=dtype)
        self.recurrent = skip_init(nn.Linear, width, width, bias=False, dtype=dtype)
        self.decode = skip_init(nn.Linear, width, outputs, dtype=dtype)

    def forward(self, sequences: Tensor) -> Tensor:
        encoded = self.encode(sequences)
        hidden = encoded[:, 0].tanh()
        for t in range(1, sequences.shape[1]):
            hidden = (encoded[:, t] + self.recurrent(hidden)).tanh()
        return self.decode(hidden)


class Transformer(nn.Module):
    """What :func:`transformer` makes.

    Norm and attention are written out: fused attention has no second derivative, and Hessian-vector
    products by forward mode over reverse mode came out wrong with ``nn.LayerNorm`` (torch 2.15).
    """

    def __init__(self, inputs: int, width: int, outputs: int, length: int, dtype: torch.dtype):
        super().__init__()
        self.embed = skip_init(nn.Linear, inputs, width, dtype=dtype)
        self.positions = nn.Parameter(torch.empty(length, width, dtype=dtype))
        self.attend = skip_init(nn.Linear, width, 3 * width, dtype=dtype)
        self.mix = skip_init(nn.Linear, width, width, dtype=dtype)
        self.widen = skip_init(nn.Linear, width, 2 * width, dtype=dtype)
        self.narrow = skip_init(nn.Linear, 2 * width, width, dtype=dtype)
        self.decode = skip_init(nn.Linear, width, outputs, dtype=dtype)

    def forward(self, sequences: Tensor) -> Tensor:
        hidden = self.embed(sequences) + self.positions
        query, key, value = self.attend(_normalized(hidden)).chunk(3, dim=-1)
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        hidden = hidden + self.mix(weights @ value)
        hidden = hidden + self.narrow(self.widen(_normalized(hidden)).relu())
        return self.decode(_normalized(hidden).mean(1))


def _normalized(hidden: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last axis."""
    centred = hidden - hidden.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


def _counts(**sizes: int) -> list[int]:
    return [validate.count(name, size) for name, size in sizes.items()]


def _initialized(model: nn.Module, generator: torch.Generator):
    """The model, its linear and convolutional layers Gaussian with variance 2/inputs, without bias."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.normal_(std=(2 / layer.weight[0].numel()) ** 0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
    return model
