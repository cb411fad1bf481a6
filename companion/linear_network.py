"""The exactly solvable model's two special global minima in closed form: the least fluctuating, the flattest.

The model itself and its two measures are :mod:`companion.linear_model`'s, the flow along the minima
is :mod:`companion.entropic_flow`'s; all are offered here under one roof.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from companion import validate
from companion.entropic_flow import entropic_flow
from companion.linear_model import (
    RANK_TOLERANCE,
    TwoLayerLinear,
    compact_svd,
    gradient_fluctuation,
    hessian_trace,
    residual,
)

__all__ = [
    "Minimum",
    "TwoLayerLinear",
    "entropic_flow",
    "flattest_minimum",
    "gradient_fluctuation",
    "hessian_trace",
    "least_fluctuation_minimum",
    "random_minimum",
    "residual",
]


class Minimum(NamedTuple):
    """One global minimum of a family that only a rotation of the hidden units connects."""

    weights: tuple[np.ndarray, np.ndarray]  # W₁, shape (k, d_x), and W₂, shape (d_y, k)
    sharpness: float  # tr H, the same over the whole family
    fluctuation: float  # E‖∇ℓ‖², the same over the whole family


def least_fluctuation_minimum(model: TwoLayerLinear) -> Minimum:
    """The global minimum of two layers with the least E‖∇ℓ‖².

    With a = tr Σ_ε, b = tr Σ_x and M = Σ_ε^½VΣ_x^½ = PSQᵀ, it has W₁Σ_x^½ = (b/a)^¼ O S^½Qᵀ and
    Σ_ε^½W₂ = (a/b)^¼ PS^½Oᵀ for any O with orthonormal columns, E‖∇ℓ‖² = 8√(ab) tr S and
    tr H = 2√b [d_y tr S/√a + √a tr(Σ_ε⁻¹PSPᵀ)].  O = (I, 0)ᵀ is returned.

    Parameters
    ----------
    model : TwoLayerLinear

    Returns
    -------
    Minimum
        If Σ_ε is singular and hidden units are left over, columns of W₂ in its kernel cost no
        fluctuation: the flattest of the least-fluctuating minima is returned.

    Raises
    ------
    ValueError
        If M has a lower rank than VΣ_x^½: then some part of the teacher has no label noise, the
        least fluctuation is approached only as W₂ grows without bound, and the sharpness with it.
        Also if an eigenvalue of Σ_ε is below 1e-12 of the largest and yet above rounding: Σ_ε^½ would
        lose it, though the sharpness depends on it.  One that rounding could have made counts as zero.

    Notes
    -----
    ``solvable`` theorem 1, reconstructed.
    """
    _refuse_lost_noise(model.noise_covariance)
    signal = model.teacher @ model.input_root
    if not signal.any():
        return _minimum(model, np.zeros((model.width, signal.shape[1])), np.zeros((signal.shape[0], model.width)))
    _, values, right = compact_svd(model.noise_root @ signal)
    rank = compact_svd(signal)[1].size
    if values.size < rank:
        raise ValueError(
            f"noise_covariance must not vanish on a part of the teacher: Σ_ε^½ V Σ_x^½ has rank {values.size}, "
            f"V Σ_x^½ has rank {rank}, and no minimum has the least fluctuation"
        )
    ratio = np.sqrt(np.trace(model.noise_covariance) / np.trace(model.input_covariance))
    hidden = np.sqrt(values / ratio)  # W₁Σ_x^½ = O · diag(hidden) · Qᵀ, and W₂ follows from the teacher
    first = _padded(hidden[:, None] * right, model.width)
    return _minimum(model, first, _padded((signal @ right.T / hidden).T, model.width).T)


def flattest_minimum(model: TwoLayerLinear) -> Minimum:
    """The global minimum of two layers with the least tr H, which is 4√(d_y tr Σ_x) ‖VΣ_x^½‖_*.

    It is the least-fluctuating one for isotropic label noise.  The two coincide for other noise
    too, exactly if Π Σ_ε Π = (tr Σ_ε/d_y) Π, with Π the projection onto the range of VΣ_x^½.

    Arguments, return value and source as for :func:`least_fluctuation_minimum`; its fluctuation is
    that under the model's own label noise.
    """
    isotropic = TwoLayerLinear(model.teacher, np.eye(len(model.teacher)), model.input_covariance, model.width)
    weights = least_fluctuation_minimum(isotropic).weights
    return Minimum(weights, hessian_trace(model, weights), gradient_fluctuation(model, weights))


def random_minimum(
    model: TwoLayerLinear, scale: float, generator: np.random.Generator, *, depth: int = 2
) -> tuple[np.ndarray, ...]:
    """A random global minimum: all layers but the last Gaussian, the last one fitted to the teacher.

    Parameters
    ----------
    model : TwoLayerLinear
        Its hidden layers must be at least as wide as the input: only then do random layers let
        every teacher through.
    scale : float
        The Gaussian entries of a layer have standard deviation ``scale``/√(width out).
    generator : numpy.random.Generator
    depth : int
        Number of layers D.

    Returns
    -------
    tuple of ndarray
        W₁, …, W_D with W_D ⋯ W₁ = V.

    Raises
    ------
    ValueError
        If the scale is not positive, the depth is below 2, a hidden layer is narrower than the
        input, or the generator is not numpy's.
    """
    scale = validate.positive("scale", scale)
    generator = validate.generator("generator", generator)
    if validate.count("depth", depth) < 2:
        raise ValueError(f"depth must be at least 2, got {depth}")
    inputs = model.teacher.shape[1]
    if model.width < inputs:
        raise ValueError(f"width must be at least the number of inputs, {inputs}, got {model.width}")
    sizes, layers, product = [inputs] + [model.width] * (depth - 1), [], np.eye(inputs)
    for before, after in pairwise(sizes):
        layers.append(scale * generator.standard_normal((after, before)) / np.sqrt(after))
        product = layers[-1] @ product
    return (*layers, model.teacher @ np.linalg.pinv(product))


def _refuse_lost_noise(noise: np.ndarray) -> None:
    """A ValueError if Σ_ε has eigenvalues that its root drops and that rounding cannot have made."""
    values = np.linalg.eigvalsh(noise)
    parts = values / max(values[-1], np.finfo(float).tiny)
    lost = (parts > 8 * len(parts) * np.finfo(float).eps) & (parts <= RANK_TOLERANCE)
    if lost.any():
        raise ValueError(
            f"noise_covariance must have eigenvalues of zero or above {RANK_TOLERANCE:g} of the largest, "
            f"got one of {parts[lost][0]:.3g} of it"
        )


def _minimum(model: TwoLayerLinear, encoded: np.ndarray, second: np.ndarray) -> Minimum:
    """The minimum with W₁Σ_x^½ = ``encoded``, zero off the range of Σ_x."""
    weights = (encoded @ np.linalg.pinv(model.input_root, rcond=RANK_TOLERANCE, hermitian=True), second)
    return Minimum(weights, hessian_trace(model, weights), gradient_fluctuation(model, weights))


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    """The matrix with rows of zeros below, as many as make ``length``."""
    return np.concatenate([rows, np.zeros((length - len(rows), rows.shape[1]))])
