"""A sweep of 256 deep linear networks, 3 layers of 8 × 8, each with its learning rate: 50 steps of SGD, B = 16."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, vmap

from benchmarks.table import Row, timed, verdict
from benchmarks.timing import measure
from companion.linear_model import TwoLayerLinear
from companion.linear_sgd import sgd_paths

NETWORKS, DEPTH, SIZE, BATCH, STEPS = 256, 3, 8, 16, 50
FASTER_THAN_LOOP = 10
MODEL = TwoLayerLinear(np.eye(SIZE), np.diag(np.linspace(0.1, 1, SIZE)))
RATES = torch.logspace(-3, -2, NETWORKS, dtype=torch.float64)


def rows() -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    shape = dict(generator=generator, dtype=torch.float64)
    layers = [torch.randn(NETWORKS, SIZE, SIZE, **shape) / SIZE**0.5 for _ in range(DEPTH)]
    x = torch.randn(STEPS, NETWORKS, SIZE, BATCH, **shape)
    y = x + torch.from_numpy(MODEL.noise_root) @ torch.randn(STEPS, NETWORKS, SIZE, BATCH, **shape)
    batched, ours = measure(sweep(layers, x, y), companion(layers), repeats=5)
    (one_by_one,) = measure(loop(layers, x, y), repeats=1)
    apart = max(float((a - b).abs().max()) for a, b in zip(batched.result, one_by_one.result, strict=True))
    target = verdict(FASTER_THAN_LOOP * batched.seconds / one_by_one.seconds, 1, f"the loop / {FASTER_THAN_LOOP}")
    return [
        timed("torch.func.vmap over the networks", batched, found=f"{apart:.0e} off the loop", target=target),
        timed("torch autograd, one network after the other (1 run)", one_by_one, ours=batched),
        timed("sgd_paths, drawing samples on its way, one learning rate", ours, ours=batched),
    ]


def loss(layers: tuple[Tensor, ...], x: Tensor, y: Tensor) -> Tensor:
    for layer in layers:
        x = layer @ x
    return (y - x).square().sum(dim=0).mean()


def sweep(layers: list[Tensor], x: Tensor, y: Tensor) -> Callable[[], list[Tensor]]:
    gradient = vmap(grad(loss))

    def run() -> list[Tensor]:
        weights = tuple(layers)
        for inputs, labels in zip(x, y, strict=True):
            slopes = gradient(weights, inputs, labels)
            weights = tuple(w - RATES[:, None, None] * g for w, g in zip(weights, slopes, strict=True))
        return list(weights)

    return run


def loop(layers: list[Tensor], x: Tensor, y: Tensor) -> Callable[[], list[Tensor]]:
    def run() -> list[Tensor]:
        trained = [train([w[i] for w in layers], x[:, i], y[:, i], RATES[i]) for i in range(NETWORKS)]
        return [torch.stack(column) for column in zip(*trained, strict=True)]

    return run


def train(layers: list[Tensor], x: Tensor, y: Tensor, rate: Tensor) -> list[Tensor]:
    weights = [layer.clone().requires_grad_() for layer in layers]
    for inputs, labels in zip(x, y, strict=True):
        slopes = torch.autograd.grad(loss(tuple(weights), inputs, labels), weights)
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight -= rate * slope
    return [weight.detach() for weight in weights]


def companion(layers: list[Tensor]) -> Callable:
    arrays = [layer.numpy() for layer in layers]
    generator = torch.Generator().manual_seed(1)
    return lambda: sgd_paths(
        MODEL, arrays, learning_rate=0.01, batch_size=BATCH, steps=STEPS, every=STEPS, generator=generator
    )
