"""SGD on linear networks with fresh Gaussian samples at every step, many networks at once; and where it rests."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import root
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


def resting_minimum(model: TwoLayerLinear, learning_rate: float, *, depth: int = 2) -> tuple[np.ndarray, ...]:
    """The minimum at which SGD with a finite learning rate λ rests on average, as T = λ/B → 0.

    The misfit that SGD's own noise causes adds to that noise.  For diagonal V, Σ_x and Σ_ε and
    diagonal weights, entry (i, j) of the batch mean of (y - f)xᵀ has the second moment

        Σ_ε,ii Σ_x,jj / (B (1 - λ h_ij/2)),   h_ij = 2 Σ_l W_{>l,ii}² W_{<l,jj}² Σ_x,jj,

    up to a factor 1 + O(T); the h_ij are eigenvalues of H.  At the minimum that is returned the mean
    changes of all W_lW_lᵀ - W_{l+1}ᵀW_{l+1} vanish.  For λ = 0 E‖∇ℓ‖² is stationary there; with two
    layers it is the least-fluctuating minimum.

    Parameters
    ----------
    model : TwoLayerLinear
        With d inputs, outputs and hidden units, diagonal V with positive entries, diagonal Σ_x and Σ_ε.
    learning_rate : float
        λ ≥ 0.
    depth : int
        Number of layers D.

    Returns
    -------
    tuple of ndarray
        Diagonal W₁, …, W_D with positive entries, each of shape (d, d).

    Raises
    ------
    ValueError
        If the model is not of this kind, the learning rate is negative or too large for such a
        minimum to be stable (λ h_ij < 2), or the depth is below 2.

    Notes
    -----
    Ours; it corrects ``solvable`` theorem 1 for finite steps, and is derived in the chapter on the model.
    """
    learning_rate = validate.non_negative("learning_rate", learning_rate)
    if validate.count("depth", depth) < 2:
        raise ValueError(f"depth must be at least 2, got {depth}")
    teacher, inputs, noise = _diagonals(model)

    def unrest(free: np.ndarray) -> np.ndarray:
        return _unrest(_squared_layers(free, teacher, depth), inputs, noise, learning_rate).ravel()

    solved = root(unrest, np.tile(np.log(teacher) / depth, depth - 1), tol=1e-12)
    squares = _squared_layers(solved.x, teacher, depth)
    if not solved.success or learning_rate * _eigenvalues(squares, inputs).max() >= 2:
        raise ValueError(f"learning_rate must be smaller: no stable minimum at rest found at {learning_rate:g}")
    return tuple(np.diag(np.sqrt(layer)) for layer in squares)


def _diagonals(model: TwoLayerLinear) -> list[np.ndarray]:
    """The diagonals of V, Σ_x and Σ_ε; a ValueError unless they are all there is, and V's is positive."""
    matrices = (model.teacher, model.input_covariance, model.noise_covariance)
    names = ("teacher", "input_covariance", "noise_covariance")
    for name, matrix in zip(names, matrices, strict=True):
        if matrix.shape != (model.width, model.width) or np.any(matrix != np.diag(np.diag(matrix))):
            raise ValueError(f"{name} must be diagonal of shape {(model.width, model.width)}, got {matrix.tolist()}")
    if np.any(np.diag(model.teacher) <= 0):
        raise ValueError(f"teacher must have a positive diagonal, got {np.diag(model.teacher).tolist()}")
    return [np.diag(matrix) for matrix in matrices]


def _squared_layers(free: np.ndarray, teacher: np.ndarray, depth: int) -> np.ndarray:
    """Squared diagonals of W₁, …, W_D, shape (D, d), from the logarithms of all but the last."""
    logs = free.reshape(depth - 1, -1)
    return np.exp(2 * np.vstack([logs, np.log(teacher) - logs.sum(axis=0)]))


def _around(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared diagonals of W_{<l} and of W_{>l}, each of shape (D, d)."""
    upto, down = np.cumprod(squares, axis=0), np.cumprod(squares[::-1], axis=0)[::-1]
    return upto / squares, down / squares


def _eigenvalues(squares: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """h_ij, shape (d, d): a step multiplies entry (i, j) of the misfit by 1 - λ h_ij."""
    before, after = _around(squares)
    return 2 * after.T @ (before * inputs)


def _unrest(squares: np.ndarray, inputs: np.ndarray, noise: np.ndarray, learning_rate: float) -> np.ndarray:
    """The mean changes of the D - 1 imbalances' diagonals in units of 4λT, shape (D - 1, d)."""
    before, after = _around(squares)
    moments = np.outer(noise, inputs) / (1 - learning_rate / 2 * _eigenvalues(squares, inputs))
    return after[:-1] * (before[:-1] @ moments.T) - before[1:] * (after[1:] @ moments)


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
    """2 W_{>l}ᵀ (f xxᵀ - yxᵀ) W_{<l}ᵀ for each layer, where the network is f = W_{>l} W_l W_{<l}."""
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
