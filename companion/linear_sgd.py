"""SGD on linear networks with fresh Gaussian samples at every step, many networks at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from companion import validate
from companion.linear_model import TwoLayerLinear, checked_weights, hessian_trace, residual


class SGDPaths(NamedTuple):
    """What was recorded of the networks, at n steps."""

    steps: np.ndarray  # shape (n,)
    sharpness: np.ndarray  # tr H of the mean loss, shape (n, ...) with the networks' leading axes
    residual: np.ndarray  # ‖(W_D ⋯ W₁ - V) Σ_x^½‖², shape (n, ...)
    weights: tuple[np.ndarray, ...]  # W₁, …, W_D after the last step, shapes (..., width out, width in)


def sgd_paths(
    model: TwoLayerLinear,
    weights: Sequence,
    *,
    learning_rate: float,
    batch_size: int | None,
    steps: int,
    every: int,
    generator: torch.Generator,
) -> SGDPaths:
    """Train linear networks by SGD on ‖y - W_D ⋯ W₁x‖², each with samples of its own.

    Parameters
    ----------
    model : TwoLayerLinear
        Its x and ε are drawn Gaussian.
    weights : sequence of array_like
        W₁, …, W_D, each of shape (..., width out, width in); the leading axes count the networks.
    learning_rate : float
        λ > 0.
    batch_size : int or None
        B fresh samples a network and step; None follows the gradient of the mean loss.
    steps, every : int
        Number of steps; record the start and every so many steps.
    generator : torch.Generator
        Not used without a batch size.

    Returns
    -------
    SGDPaths

    Raises
    ------
    ValueError
        If a number is not positive, the weights do not fit the model, the generator is not torch's,
        or a network diverges.
    """
    learning_rate = validate.positive("learning_rate", learning_rate)
    batch_size = None if batch_size is None else validate.count("batch_size", batch_size)
    steps, every = validate.count("steps", steps), validate.count("every", every)
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator, got {generator!r}")
    layers = [torch.from_numpy(layer) for layer in checked_weights(model, weights)]
    moments = _moments(model, batch_size, layers[0].shape[:-2], generator)
    recorded = [_measures(model, layers, 0)]
    for step in range(1, steps + 1):
        gradients = _gradients(layers, *moments())
        layers = [layer - learning_rate * gradient for layer, gradient in zip(layers, gradients, strict=True)]
        if step % every == 0:
            recorded.append(_measures(model, layers, step))
    columns = (np.stack(column) for column in zip(*recorded, strict=True))
    return SGDPaths(*columns, tuple(layer.numpy() for layer in layers))


def _moments(model: TwoLayerLinear, batch_size: int | None, runs: Sequence[int], generator: torch.Generator):
    """A function that draws a batch and returns the means of xxᵀ and yxᵀ over it."""
    teacher, inputs, noise = (
        torch.from_numpy(matrix) for matrix in (model.teacher, model.input_root, model.noise_root)
    )
    if batch_size is None:
        second = inputs @ inputs
        return lambda: (second, teacher @ second)

    def draw() -> tuple[Tensor, Tensor]:
        white = torch.randn(*runs, len(inputs) + len(noise), batch_size, generator=generator, dtype=torch.float64)
        x = inputs @ white[..., : len(inputs), :]
        y = teacher @ x + noise @ white[..., len(inputs) :, :]
        return x @ x.mT / batch_size, y @ x.mT / batch_size

    return draw


def _gradients(layers: Sequence[Tensor], xx: Tensor, yx: Tensor) -> list[Tensor]:
    """2 B_lᵀ (f xxᵀ - yxᵀ) A_lᵀ for each layer, where the network is f = B_l W_l A_l."""
    befores = [layers[0]]
    for layer in layers[1:]:
        befores.append(layer @ befores[-1])
    error, gradients = 2 * (befores[-1] @ xx - yx), []
    for layer, before in zip(reversed(layers[1:]), reversed(befores[:-1]), strict=True):
        gradients.append(error @ before.mT)
        error = layer.mT @ error
    return [error, *reversed(gradients)]


def _measures(model: TwoLayerLinear, layers: Sequence[Tensor], step: int) -> tuple[int, np.ndarray, np.ndarray]:
    arrays = [layer.numpy() for layer in layers]
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"learning_rate must be smaller: a network has diverged by step {step}")
    return step, hessian_trace(model, arrays), residual(model, arrays)
