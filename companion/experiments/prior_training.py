"""Stacks of networks on data of their own, trained as one, with the optimizers of ``prior`` sec. 5.3 and app. J.2."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from companion.boolean_functions import network_outputs
from companion.ensembles import Layers


class EntropySGD(torch.optim.Optimizer):
    """Gradient steps towards the mean of a short Langevin run around the weights, which seeks wide valleys.

    Each step runs x' ← x' - η'(∂U(x') - γ(x - x')) + √η' ε · noise and m ← a m + (1-a) x' for
    ``length`` mini-batches, then x ← x - η(x - m).  The scope γ grows by a factor with each step.

    Parameters
    ----------
    parameters : iterable of Tensor
    lr : float
        η; 1 puts the weights at the mean.
    generator : torch.Generator
        Source of the noise, on the CPU.
    inner_rate, length, memory, noise : float
        η', the number of mini-batches, a, ε.
    scope, growth : float
        γ at first, and by how much of itself it grows a step.

    Notes
    -----
    Chaudhari et al. (2017), algorithm 1, with the constants of their MNIST example and without momentum.
    """

    def __init__(
        self, parameters, lr: float = 1.0, *, generator: torch.Generator, inner_rate: float = 0.1, length: int = 20,
        memory: float = 0.75, noise: float = 1e-4, scope: float = 1e-4, growth: float = 1e-3,
    ):  # fmt: skip
        names = {"lr": lr, "inner_rate": inner_rate, "memory": memory, "noise": noise, "scope": scope}
        super().__init__(parameters, names)
        self.length, self.growth, self.generator = length, growth, generator

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One outer step; the closure leaves the gradient of one mini-batch after another."""
        (group,) = self.param_groups
        moving = group["params"]
        centers, means = ([value.clone() for value in moving] for _ in range(2))
        for _ in range(self.length):
            with torch.enable_grad():
                value = closure()
            for x, center, mean in zip(moving, centers, means, strict=True):
                kick = torch.randn(x.shape, generator=self.generator, dtype=x.dtype).to(x.device)
                x -= group["inner_rate"] * (x.grad - group["scope"] * (center - x))
                x += group["inner_rate"] ** 0.5 * group["noise"] * kick
                mean.lerp_(x, 1 - group["memory"])
        for x, center, mean in zip(moving, centers, means, strict=True):
            x.copy_(center - group["lr"] * (center - mean))
        group["scope"] *= 1 + self.growth
        return value


OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "full-batch": torch.optim.SGD,
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "rmsprop": lambda parameters, lr: torch.optim.RMSprop(parameters, lr=lr, alpha=0.9),
    "adagrad": torch.optim.Adagrad,
}


def train_stack(
    layers: Layers,
    points: Tensor,
    labels: Tensor,
    *,
    optimizer: str,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    generator: torch.Generator,
    one_order: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Train a stack of ReLU networks in place on the mean logistic loss; no network feels another.

    Parameters
    ----------
    layers : list of (weight, bias)
        As :func:`~companion.boolean_functions.random_networks` makes them; changed in place.
    points, labels : Tensor, shapes (count, N, d) and (count, N)
        Each network's own samples and labels 0.0 or 1.0.
    optimizer : {"sgd", "full-batch", "momentum", "adam", "rmsprop", "adagrad", "entropy-sgd"}
        Each acts on every weight by itself, so that one optimizer serves the stack.
    batch_size : int
        B; the last batch of an epoch has what is left.
    generator : torch.Generator
        Source of the shuffles, and of Entropy-SGD's noise, on the CPU.
    one_order : bool, default False
        Shuffle alike for all networks.

    Yields
    ------
    epoch : int
        From 1.  Entropy-SGD's is a whole number of its steps, about as many batches as N/B.
    outputs : Tensor, shape (count, N)
    """
    if optimizer != "entropy-sgd" and optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be entropy-sgd or one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    moving = [value.requires_grad_(True) for layer in layers for value in layer]
    if optimizer == "entropy-sgd":
        chosen = EntropySGD(moving, lr=learning_rate, generator=generator)
    else:
        chosen = OPTIMIZERS[optimizer](moving, lr=learning_rate)
    batches = _batches(*labels.shape, batch_size, generator, one_order)
    networks = torch.arange(len(labels), device=labels.device)[:, None]

    def closure() -> Tensor:
        batch = next(batches).to(labels.device)
        chosen.zero_grad()
        # The sum over networks of each one's mean: no network's gradient feels another network.
        loss = binary_cross_entropy_with_logits(
            network_outputs(layers, points[networks, batch]), labels[networks, batch], reduction="sum"
        )
        (loss / batch.shape[1]).backward()
        return loss

    steps = max(1, round(math.ceil(labels.shape[1] / batch_size) / getattr(chosen, "length", 1)))
    for epoch in range(1, epochs + 1):
        for _ in range(steps):
            chosen.step(closure)
        with torch.no_grad():
            yield epoch, network_outputs(layers, points)


def _batches(count: int, samples: int, size: int, generator: torch.Generator, one_order: bool) -> Iterator[Tensor]:
    while True:
        order = torch.rand(1 if one_order else count, samples, generator=generator).argsort(dim=1).expand(count, -1)
        yield from order.split(size, dim=1)


def rescaled(layers: Layers, alphas: Sequence[float], layer: int = 0) -> Layers:
    """A stack of copies of one network, each with one layer times α and the next one's weight over α.

    As :func:`~companion.reparametrization.rescale_layers`, for a stack; source: ``prior`` eq. 9.
    """
    factors = torch.tensor(alphas, dtype=layers[0][0].dtype, device=layers[0][0].device)[:, None, None]
    copies = [tuple(value.detach().repeat(len(alphas), 1, 1) for value in pair) for pair in layers]
    (weight, bias), (after, other) = copies[layer : layer + 2]
    copies[layer : layer + 2] = [(factors * weight, factors * bias), (after / factors, other)]
    return copies
