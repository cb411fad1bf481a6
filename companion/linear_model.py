"""The exactly solvable model: a linear network on a noisy linear teacher, and its global minima.

Data: y = V x + ε, with ε independent of x, E ε = 0, E εεᵀ = Σ_ε and E xxᵀ = Σ_x; no other moment
enters.  Network: f(x) = W_D ⋯ W₁ x, two layers unless said otherwise.  Loss of a sample:
‖y - f(x)‖², without ½.  A global minimum is W_D ⋯ W₁ = V on the range of Σ_x.

``solvable`` prints an abstract; every formula here is derived in the chapter on the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from companion import validate

RANK_TOLERANCE = 1e-12  # singular values below this part of the largest count as zero


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
        rank = compact_svd(teacher @ _root(inputs))[1].size
        if width < rank:
            raise ValueError(f"width must be at least {rank}, the rank of V Σ_x^½, got {width}")
        values = dict(
            teacher=teacher, noise_covariance=noise, input_covariance=inputs, width=width,
            input_root=_root(inputs), noise_root=_root(noise),
        )  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)


def hessian_trace(model: TwoLayerLinear, weights: Sequence) -> float | np.ndarray:
    """tr H of the mean loss: 2[d_y tr(W₁Σ_xW₁ᵀ) + ‖W₂‖² tr Σ_x] for two layers.

    For D layers it is 2 Σ_l ‖W_{>l}‖² tr(W_{<l}Σ_xW_{<l}ᵀ), with f = W_{>l} W_l W_{<l} x.  The network
    is linear in each layer, so this holds at every point, not only at minima.

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
    pairs = _surroundings(model, checked_weights(model, weights))
    return _plain(2 * sum(_square(after) * _square(before @ model.input_root) for after, before in pairs))


def gradient_fluctuation(model: TwoLayerLinear, weights: Sequence) -> float | np.ndarray:
    """E‖∇ℓ‖² of one sample at a minimum: 4[tr Σ_ε tr(W₁Σ_xW₁ᵀ) + tr Σ_x tr(W₂ᵀΣ_εW₂)] for two layers.

    For D layers it is 4 Σ_l tr(W_{>l}ᵀΣ_εW_{>l}) tr(W_{<l}Σ_xW_{<l}ᵀ).  As the mean gradient is zero there,
    it is the trace of the gradient covariance.  At other points the formula is the part that the label
    noise causes, and the residual (V - f) x adds to it.

    Arguments, errors and source as for :func:`hessian_trace`; in units of squared loss over
    squared weights.
    """
    pairs = _surroundings(model, checked_weights(model, weights))
    terms = (_square(model.noise_root @ after) * _square(before @ model.input_root) for after, before in pairs)
    return _plain(4 * sum(terms))


def residual(model: TwoLayerLinear, weights: Sequence) -> float | np.ndarray:
    """‖(W_D ⋯ W₁ - V) Σ_x^½‖², the loss above its least value tr Σ_ε.  Arguments as :func:`hessian_trace`."""
    product = _product(checked_weights(model, weights))
    return _plain(_square((product - model.teacher) @ model.input_root))


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


def compact_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P (m, r), S (r,) and Qᵀ (r, n) with PSQᵀ the (m, n) matrix and r its rank up to rounding."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    kept = values > RANK_TOLERANCE * max(values[0], np.finfo(float).tiny)
    return left[:, kept], values[kept], right[kept]


def checked_weights(model: TwoLayerLinear, weights: Sequence) -> list[np.ndarray]:
    """W₁, …, W_D as float arrays, if their shapes chain from d_x to d_y; errors as :func:`hessian_trace`."""
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
    """(W_{>l}, W_{<l}) of each layer, the products of the layers after and before it."""
    outputs, inputs = model.teacher.shape
    for i in range(len(layers)):
        yield _product([*layers[i + 1 :], np.eye(outputs)]), _product([np.eye(inputs), *layers[:i]])


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.sum(matrix**2, axis=(-2, -1))


def _plain(values) -> float | np.ndarray:
    return float(values) if np.ndim(values) == 0 else values
