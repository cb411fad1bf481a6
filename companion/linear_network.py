"""The exactly solvable model: a linear network on a noisy linear teacher, and its global minima.

Data: y = V x + ε, with ε independent of x, E ε = 0, E εεᵀ = Σ_ε and E xxᵀ = Σ_x; no other moment
enters.  Network: f(x) = W_D ⋯ W₁ x, two layers unless said otherwise.  Loss of a sample:
‖y - f(x)‖², without ½.  A global minimum is W_D ⋯ W₁ = V on the range of Σ_x.

``solvable`` prints an abstract; every formula here is derived in the chapter on the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from companion import validate

RANK_TOLERANCE = 1e-12  # singular values below this part of the largest count as zero
RESIDUAL_TOLERANCE = 1e-8  # relative misfit up to which weights count as a minimum


@dataclass(frozen=True, eq=False)
class TwoLayerLinear:
    """The data and the hidden width of a two-layer linear network y ≈ W₂W₁x.

    Parameters
    ----------
    teacher : array_like, shape (d_y, d_x)
        V.
    noise_covariance : array_like, shape (d_y, d_y)
        Σ_ε, symmetric positive semidefinite.
    input_covariance : array_like, shape (d_x, d_x), optional
        Σ_x = E xxᵀ, symmetric positive semidefinite; the identity by default.
    width : int, optional
        Number k of hidden units, at least the rank of V Σ_x^½, or no minimum fits the teacher;
        min(d_x, d_y) by default.

    Raises
    ------
    ValueError
        If a matrix is not finite, not symmetric or not semidefinite, the shapes differ, or the
        width is too small.
    """

    teacher: np.ndarray
    noise_covariance: np.ndarray
    input_covariance: np.ndarray | None = None
    width: int | None = None
    input_root: np.ndarray = field(init=False, repr=False)  # Σ_x^½
    noise_root: np.ndarray = field(init=False, repr=False)  # Σ_ε^½

    def __post_init__(self):
        teacher = validate.finite("teacher", self.teacher)
        if teacher.ndim != 2 or teacher.size == 0:
            raise ValueError(f"teacher must be a matrix of shape (d_y, d_x), got shape {teacher.shape}")
        inputs = np.eye(teacher.shape[1]) if self.input_covariance is None else self.input_covariance
        inputs = _covariance("input_covariance", inputs, teacher.shape[1])
        noise = _covariance("noise_covariance", self.noise_covariance, teacher.shape[0])
        width = min(teacher.shape) if self.width is None else validate.count("width", self.width)
        rank = _compact_svd(teacher @ _root(inputs))[1].size
        if width < rank:
            raise ValueError(f"width must be at least {rank}, the rank of V Σ_x^½, got {width}")
        values = dict(
            teacher=teacher, noise_covariance=noise, input_covariance=inputs, width=width,
            input_root=_root(inputs), noise_root=_root(noise),
        )  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)


class Minimum(NamedTuple):
    """One global minimum of a family that only a rotation of the hidden units connects."""

    weights: tuple[np.ndarray, np.ndarray]  # W₁, shape (k, d_x), and W₂, shape (d_y, k)
    sharpness: float  # tr H, the same over the whole family
    fluctuation: float  # E‖∇ℓ‖², the same over the whole family


def hessian_trace(model: TwoLayerLinear, weights: Sequence) -> float | np.ndarray:
    """tr H of the mean loss: 2[d_y tr(W₁Σ_xW₁ᵀ) + ‖W₂‖² tr Σ_x] for two layers.

    For D layers it is 2 Σ_l ‖B_l‖² tr(A_lΣ_xA_lᵀ), with f = B_l W_l A_l.  The network is linear in
    each layer, so this holds at every point, not only at minima.

    Parameters
    ----------
    model : TwoLayerLinear
    weights : sequence of array_like
        W₁, …, W_D, each of shape (..., width out, width in) with common leading axes.

    Returns
    -------
    float, or ndarray of the leading axes' shape
        In units of the loss over squared weights.

    Raises
    ------
    ValueError
        If there are fewer than two layers, or shapes do not chain from d_x to d_y.

    Notes
    -----
    ``solvable.fluctuation`` in the ledger.
    """
    pairs = _surroundings(model, _checked_weights(model, weights))
    return _plain(2 * sum(_square(after) * _square(before @ model.input_root) for after, before in pairs))


def gradient_fluctuation(model: TwoLayerLinear, weights: Sequence) -> float | np.ndarray:
    """E‖∇ℓ‖² of one sample at a minimum: 4[tr Σ_ε tr(W₁Σ_xW₁ᵀ) + tr Σ_x tr(W₂ᵀΣ_εW₂)] for two layers.

    For D layers it is 4 Σ_l tr(B_lᵀΣ_εB_l) tr(A_lΣ_xA_lᵀ).  As the mean gradient is zero there, it
    is the trace of the gradient covariance.  At other points the formula is the part that the label
    noise causes, and the residual (V - f) x adds to it.

    Arguments, errors and source as for :func:`hessian_trace`; in units of squared loss over
    squared weights.
    """
    pairs = _surroundings(model, _checked_weights(model, weights))
    terms = (_square(model.noise_root @ after) * _square(before @ model.input_root) for after, before in pairs)
    return _plain(4 * sum(terms))


def residual(model: TwoLayerLinear, weights: Sequence) -> float | np.ndarray:
    """‖(W_D ⋯ W₁ - V) Σ_x^½‖², the loss above its least value tr Σ_ε.  Arguments as :func:`hessian_trace`."""
    product = _product(_checked_weights(model, weights))
    return _plain(_square((product - model.teacher) @ model.input_root))


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

    Notes
    -----
    ``solvable`` theorem 1, reconstructed.
    """
    signal = model.teacher @ model.input_root
    if not signal.any():
        return _minimum(model, np.zeros((model.width, signal.shape[1])), np.zeros((signal.shape[0], model.width)))
    left, values, right = _compact_svd(model.noise_root @ signal)
    rank = _compact_svd(signal)[1].size
    if values.size < rank:
        raise ValueError(
            f"noise_covariance must not vanish on a part of the teacher: Σ_ε^½ V Σ_x^½ has rank {values.size}, "
            f"V Σ_x^½ has rank {rank}, and no minimum has the least fluctuation"
        )
    ratio = np.sqrt(np.trace(model.noise_covariance) / np.trace(model.input_covariance))
    hidden = (values / ratio) ** 0.5  # W₁Σ_x^½ = O · diag(hidden) · Qᵀ
    return _minimum(model, _padded(hidden[:, None] * right, model.width), _padded(
        (signal @ right.T / hidden).T, model.width).T)


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


def random_minimum(model: TwoLayerLinear, scale: float, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Weights (W₁, W₂) of a minimum with Gaussian W₁ of standard deviation ``scale``/√k and W₂ fitted to it.

    The hidden layer must be at least as wide as the input, or W₁ of rank k cannot carry any teacher.

    Raises
    ------
    ValueError
        If the scale is not positive, the hidden layer is narrower than the input, or the generator
        is not a numpy generator.
    """
    scale = validate.positive("scale", scale)
    generator = validate.generator("generator", generator)
    inputs = model.teacher.shape[1]
    if model.width < inputs:
        raise ValueError(f"width must be at least the number of inputs, {inputs}, got {model.width}")
    first = scale * generator.standard_normal((model.width, inputs)) / np.sqrt(model.width)
    return first, model.teacher @ np.linalg.pinv(first)


def _minimum(model: TwoLayerLinear, encoded: np.ndarray, second: np.ndarray) -> Minimum:
    """The minimum with W₁Σ_x^½ = ``encoded``, zero off the range of Σ_x."""
    weights = (encoded @ np.linalg.pinv(model.input_root, rcond=RANK_TOLERANCE, hermitian=True), second)
    return Minimum(weights, hessian_trace(model, weights), gradient_fluctuation(model, weights))


def _covariance(name: str, values, size: int) -> np.ndarray:
    matrix = validate.symmetric_matrix(name, values, definite=False)
    if len(matrix) != size:
        raise ValueError(f"{name} must have shape ({size}, {size}) to fit the teacher, got {matrix.shape}")
    return matrix


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root; eigenvalues that are zero up to rounding become zero."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.where(values > RANK_TOLERANCE * values[-1], values, 0)
    return (vectors * np.sqrt(values)) @ vectors.T


def _compact_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    kept = values > RANK_TOLERANCE * max(values[0], np.finfo(float).tiny)
    return left[:, kept], values[kept], right[kept]


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    """The matrix with rows of zeros below, as many as make ``length``."""
    return np.concatenate([rows, np.zeros((length - len(rows), rows.shape[1]))])


def _checked_weights(model: TwoLayerLinear, weights: Sequence) -> list[np.ndarray]:
    layers = [validate.finite(f"weights[{i}]", layer) for i, layer in enumerate(weights)]
    if len(layers) < 2:
        raise ValueError(f"weights must hold at least two layers, got {len(layers)}")
    outputs, size = model.teacher.shape
    for i, layer in enumerate(layers):
        if layer.ndim < 2 or layer.shape[-1] != size or layer.shape[:-2] != layers[0].shape[:-2]:
            raise ValueError(f"weights[{i}] must have shape {(*layers[0].shape[:-2], '…', size)}, got {layer.shape}")
        size = layer.shape[-2]
    if size != outputs:
        raise ValueError(f"the last layer must have {outputs} outputs, got {size}")
    return layers


def _product(layers: Sequence[np.ndarray]) -> np.ndarray:
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    return product


def _surroundings(model: TwoLayerLinear, layers: Sequence[np.ndarray]):
    """(B_l, A_l) of each layer, the products of the layers after and before it."""
    outputs, inputs = model.teacher.shape
    for i in range(len(layers)):
        yield _product([*layers[i + 1 :], np.eye(outputs)]), _product([np.eye(inputs), *layers[:i]])


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.sum(matrix**2, axis=(-2, -1))


def _plain(values) -> float | np.ndarray:
    return float(values) if np.ndim(values) == 0 else values
