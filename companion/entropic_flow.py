"""The slow motion of SGD along the manifold of minima of a linear network.

To second order in the learning rate λ, noise moves SGD along the minima W_D ⋯ W₁ = V.  Two
candidates for that motion, both in the time τ = n λ²/(4B) after n steps of batch size B:

- "fluctuation": dθ/dτ = -P ∂_θ E‖∇ℓ‖², gradient descent on the fluctuation, with P the projection
  onto the tangent space.  It is what the entropic loss U + (λ/4) E‖∇ℓ_B‖² does.
- "sgd": dθ/dτ = -2 P ∂³U[C], where HC + CH = D is the covariance C of SGD around the minimum in
  units of λ/B: SGD itself in the limit λ → 0.

Every sample's loss is unchanged by W_l → Γ W_l, W_{l+1} → W_{l+1} Γ⁻¹.  The two therefore have equal
components along the orbits of symmetric Γ.  They are one flow where H and D commute (isotropic label
noise, for one) and VΣ_x^½ ≠ 0, and for a single hidden unit; in general not otherwise.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from companion import validate
from companion.linear_model import TwoLayerLinear, checked_weights, gradient_fluctuation, hessian_trace, residual

FLOWS = ("fluctuation", "sgd")
RESIDUAL_TOLERANCE = 1e-10  # loss of the starting weights above the least, in units of tr(VΣ_xVᵀ)
RANK_TOLERANCE = 1e-9


class FlowPath(NamedTuple):
    """A path along the minima, one entry for each of n times."""

    times: np.ndarray  # τ, shape (n,)
    weights: tuple[np.ndarray, ...]  # W₁, …, W_D, each of shape (n, width out, width in)
    sharpness: np.ndarray  # tr H, shape (n,)
    fluctuation: np.ndarray  # E‖∇ℓ‖², shape (n,)


def entropic_flow(model: TwoLayerLinear, weights: Sequence, times, *, flow: str = "fluctuation") -> FlowPath:
    """The path from a minimum along the manifold of minima.

    Parameters
    ----------
    model : TwoLayerLinear
    weights : sequence of array_like
        The starting minimum W₁, …, W_D.
    times : array_like, shape (n,)
        Increasing τ = (number of steps) · λ²/(4B), from the start at ``times[0]``.
    flow : {"fluctuation", "sgd"}
        Which of the module's two flows.

    Returns
    -------
    FlowPath
        Every point is brought back onto the manifold, to rounding.

    Raises
    ------
    ValueError
        If the weights are no global minimum or do not fit the model, the times do not increase,
        the flow is unknown, or the integration fails.

    Notes
    -----
    ``solvable`` lemma 2, which is printed informally; the two readings are ours.
    """
    layers = _matrices(model, weights)
    scale = np.sum((model.teacher @ model.input_root) ** 2)
    if residual(model, layers) > RESIDUAL_TOLERANCE * max(scale, np.finfo(float).tiny):
        raise ValueError(f"weights must be a global minimum, got one with residual {residual(model, layers):.3g}")
    times = validate.increasing_grid("times", times, least=2)
    shapes = [layer.shape for layer in layers]
    start = np.concatenate([layer.ravel() for layer in layers])
    solution = solve_ivp(
        lambda _, vector: slow_drift(model, _split(vector, shapes), flow=flow),
        (times[0], times[-1]), start, t_eval=times, method="LSODA", rtol=1e-8, atol=1e-10,
    )  # fmt: skip
    if not solution.success:
        raise ValueError(f"times up to {times[-1]:g} could not be reached: {solution.message}")
    points = [_retracted(model, vector, shapes) for vector in solution.y.T]
    path = tuple(np.stack(layer) for layer in zip(*points, strict=True))
    return FlowPath(times, path, hessian_trace(model, path), gradient_fluctuation(model, path))


def slow_drift(model: TwoLayerLinear, weights: Sequence, *, flow: str = "fluctuation") -> np.ndarray:
    """dθ/dτ at a minimum, with θ the layers W₁, …, W_D flattened one after the other, shape (p,).

    Arguments and errors as for :func:`entropic_flow`; the weights are taken to be a minimum.
    """
    if flow not in FLOWS:
        raise ValueError(f"flow must be one of {FLOWS}, got {flow!r}")
    layers = [torch.from_numpy(layer).requires_grad_() for layer in _matrices(model, weights)]
    noise = torch.kron(torch.from_numpy(model.noise_covariance), torch.eye(model.teacher.shape[1], dtype=torch.float64))
    jacobian = _jacobian(layers, torch.from_numpy(model.input_root))
    fixed = jacobian.detach()
    if flow == "fluctuation":
        functional = 4 * torch.sum((noise @ jacobian) * jacobian)
    else:
        functional = 4 * torch.sum((jacobian @ _spread(fixed, noise)) * jacobian)  # 2 tr(HC), C held fixed
    slope = torch.cat([part.reshape(-1) for part in torch.autograd.grad(functional, layers)])
    normal = torch.linalg.pinv(fixed, rtol=RANK_TOLERANCE) @ (fixed @ slope)
    return (normal - slope).numpy()


def balance_drift(model: TwoLayerLinear, weights: Sequence) -> np.ndarray:
    """d(W₁W₁ᵀ - W₂ᵀW₂)/dτ = 16 [tr Σ_x W₂ᵀΣ_εW₂ - tr Σ_ε W₁Σ_xW₁ᵀ] at minima of two layers, shape (..., k, k).

    One step of SGD from such a minimum changes W₁W₁ᵀ - W₂ᵀW₂ by λ²/(4B) of it on average, exactly
    and for every λ: to first order in λ a step does not change it.  It vanishes at a minimum
    exactly if the fluctuation is least, provided Σ_ε is positive definite.

    Arguments and errors as for :func:`~companion.linear_model.hessian_trace`, with two layers.
    """
    layers = checked_weights(model, weights)
    if len(layers) != 2:
        raise ValueError(f"weights must hold two layers, got {len(layers)}")
    first, second = layers[0] @ model.input_root, model.noise_root @ layers[1]
    gain = np.trace(model.input_covariance) * np.swapaxes(second, -1, -2) @ second
    return 16 * (gain - np.trace(model.noise_covariance) * first @ np.swapaxes(first, -1, -2))


def _matrices(model: TwoLayerLinear, weights: Sequence) -> list[np.ndarray]:
    layers = checked_weights(model, weights)
    if any(layer.ndim != 2 for layer in layers):
        raise ValueError(f"weights must be matrices, got shapes {[layer.shape for layer in layers]}")
    return layers


def _jacobian(layers: Sequence[Tensor], input_root: Tensor) -> Tensor:
    """The derivative of vec(W_D ⋯ W₁Σ_x^½), rows first, by the weights: shape (d_y d_x, p).

    With it H = 2JᵀJ and D = 4Jᵀ(Σ_ε⊗I)J at a minimum.
    """
    afters = [torch.eye(len(layers[-1]), dtype=torch.float64)]
    for layer in reversed(layers[1:]):
        afters.append(afters[-1] @ layer)
    before, blocks = input_root, []
    for layer, after in zip(layers, reversed(afters), strict=True):
        rows = torch.einsum("oh,kx->oxhk", after, before)  # torch.kron fails on some strides of narrow layers
        blocks.append(rows.reshape(len(after) * len(input_root), -1))
        before = layer @ before
    return torch.cat(blocks, dim=1)


def _spread(jacobian: Tensor, noise: Tensor) -> Tensor:
    """C with HC + CH = D on the span of the gradients, outside of which D is zero too; shape (p, p)."""
    values, vectors = torch.linalg.eigh(2 * jacobian.T @ jacobian)
    steep = values > RANK_TOLERANCE * values[-1]
    values, vectors = values[steep], vectors[:, steep]
    image = jacobian @ vectors
    return vectors @ (4 * image.T @ noise @ image / (values[:, None] + values)) @ vectors.T


def _split(vector: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True)]


def _retracted(model: TwoLayerLinear, vector: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The layers moved by Gauss-Newton steps, normal to the manifold, until they are a minimum to rounding."""
    root = torch.from_numpy(model.input_root)
    for _ in range(3):
        layers = _split(vector, shapes)
        product = np.linalg.multi_dot([*reversed(layers)])
        misfit = ((product - model.teacher) @ model.input_root).ravel()
        inverse = torch.linalg.pinv(_jacobian([torch.from_numpy(layer) for layer in layers], root), rtol=RANK_TOLERANCE)
        vector = vector - inverse.numpy() @ misfit
    return _split(vector, shapes)
