"""The mean update of SAM's variants, exactly: every micro-batch of a small data set counts with its probability.

Nothing is sampled, so that a comparison in ρ shows the remainder and no noise.
"""

from collections import Counter
from collections.abc import Callable
from itertools import combinations, combinations_with_replacement
from math import comb, factorial, prod

import numpy as np
import torch

from companion import validate
from companion.gibbs import gibbs_weights

VARIANTS = ("m-sam", "n-sam", "rw-sam")
MOST_BATCHES = 200_000


def drift(
    variant: str,
    gradient: Callable[[np.ndarray], np.ndarray],
    theta,
    *,
    rho: float,
    micro_batch_size: int,
    normalize: bool = True,
    replacement: bool = False,
    eta: float = 0.0,
    relative: bool = True,
) -> np.ndarray:
    r"""The mean of -g_γ(θ + ρ d_γ) over all micro-batches γ of m samples: the mean step for λ = 1.

    g_γ is the mean gradient of the micro-batch.  d_γ is g_γ(θ) for "m-sam", ∂U(θ) for "n-sam", and
    Σ_{i∈γ} p_i ∂U_i(θ), with p_i ∝ exp(η r_i), for "rw-sam", where r_i is the exact gradient norm over
    its mean in γ (or, if not ``relative``, the norm itself); each divided by its norm if ``normalize``.

    Parameters
    ----------
    variant : {"m-sam", "n-sam", "rw-sam"}
    gradient : callable
        ∂U_i at points of shape (..., p), shape (..., N, p).
    theta : array_like, shape (p,)
    rho : float
        ρ ≥ 0.
    micro_batch_size : int
        m; for "rw-sam" the samples that the weights compare.
    normalize : bool
        True for SAM, False for USAM.  A zero vector stays zero.
    replacement : bool
        Whether a micro-batch can hold a sample twice.
    eta : float
        η, for "rw-sam" alone.
    relative : bool

    Returns
    -------
    ndarray, shape (p,)

    Raises
    ------
    ValueError
        If an argument is out of its range, there are more than 200,000 micro-batches, or a gradient is
        not finite.

    Notes
    -----
    ``msharp`` mechanism 1 (reconstructed).  To first order in ρ the mean is -∂U - ρ E[H_γ d_γ].  With
    d_γ = g_γ or g_γ/‖g_γ‖, H_γ d_γ is the gradient of ½‖g_γ‖² or of ‖g_γ‖: see :func:`penalty`.  With
    d = ∂U, E[H_γ]∂U = ∂(½‖∂U‖²).  For "rw-sam" E[H_γ d_γ] is no gradient in general if p ≥ 2: on one
    batch its field H w, w = Σ p_i ∂U_i, has the curl H M - MᵀH, M = ∂w/∂θ, and the weights change w.
    """
    _checked_variant(variant)
    theta = validate.finite("theta", theta)
    if theta.ndim != 1 or not theta.size:
        raise ValueError(f"theta must be of shape (p,), got shape {theta.shape}")
    rho, eta = validate.non_negative("rho", rho), validate.number("eta", eta)
    if eta and variant != "rw-sam":
        raise ValueError(f"eta must be 0 for {variant}, which has no weights, got {eta:g}")
    rows = _checked_gradients(gradient(theta), theta.shape)
    members, probability = micro_batches(len(rows), micro_batch_size, replacement=replacement)
    chosen = rows[members]  # (batches, m, p)
    if variant == "m-sam":
        directions = chosen.mean(1)
    elif variant == "n-sam":
        directions = np.broadcast_to(rows.mean(0), (len(members), theta.size))
    else:
        norms = np.linalg.norm(chosen, axis=2)
        weights = gibbs_weights(torch.from_numpy(norms), eta, relative=relative).numpy()
        directions = np.einsum("bm,bmp->bp", weights, chosen)
    if normalize:
        directions = _unit(directions)
    moved = _checked_gradients(gradient(theta + rho * directions), (len(members), theta.size))
    own = np.take_along_axis(moved, members[:, :, None], axis=1).mean(1)
    return -probability @ own


def penalty(
    variant: str,
    gradients,
    *,
    rho: float,
    micro_batch_size: int,
    normalize: bool = True,
    replacement: bool = False,
) -> np.ndarray:
    r"""The function P(θ) with drift = -∂(U + P) + O(ρ²), from the per-sample gradients at θ.

    m-SAM: ρ E‖g_γ‖, or for USAM ρ/2 E‖g_γ‖² = (ρ/2)(‖∂U‖² + c tr D) with c = 1/m for sampling with
    replacement and c = (N - m)/(m(N - 1)) without, D = (1/N)Σ(∂U_i - ∂U)(∂U_i - ∂U)ᵀ.  n-SAM:
    ρ‖∂U‖ or (ρ/2)‖∂U‖².  RW-SAM has none in general.

    Parameters
    ----------
    variant : {"m-sam", "n-sam"}
    gradients : array_like, shape (..., N, p)
    rho, micro_batch_size, normalize, replacement
        As for :func:`drift`.

    Returns
    -------
    ndarray, shape (...)
        In units of the loss.

    Notes
    -----
    ``msharp`` mechanism 1 (reconstructed).  SAM's P is differentiable where no g_γ vanishes.
    """
    if _checked_variant(variant) == "rw-sam":
        raise ValueError("variant must be m-sam or n-sam: the mean update of rw-sam is not a gradient in general")
    gradients, rho = validate.finite("gradients", gradients), validate.non_negative("rho", rho)
    if gradients.ndim < 2:
        raise ValueError(f"gradients must be of shape (..., N, p), got shape {gradients.shape}")
    size, m = gradients.shape[-2], validate.count("micro_batch_size", micro_batch_size)
    mean = gradients.mean(-2)
    squared = (mean**2).sum(-1)
    if variant == "n-sam":
        return rho * (np.sqrt(squared) if normalize else squared / 2)
    if not normalize:
        spread = ((gradients - mean[..., None, :]) ** 2).sum(-1).mean(-1)
        return rho / 2 * (squared + variance_factor(size, m, replacement=replacement) * spread)
    members, probability = micro_batches(size, m, replacement=replacement)
    return rho * np.linalg.norm(gradients[..., members, :].mean(-2), axis=-1) @ probability


def variance_factor(size: int, micro_batch_size: int, *, replacement: bool = False) -> float:
    """c in cov(g_γ) = c D: 1/m with replacement, (N - m)/(m(N - 1)) without."""
    size, m = validate.count("size", size), _checked_size(size, micro_batch_size, replacement)
    return 1 / m if replacement else (size - m) / (m * max(size - 1, 1))


def micro_batches(size: int, micro_batch_size: int, *, replacement: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All unordered micro-batches, indices of shape (batches, m), and their probabilities."""
    size, m = validate.count("size", size), _checked_size(size, micro_batch_size, replacement)
    number = comb(size + m - 1, m) if replacement else comb(size, m)
    if number > MOST_BATCHES:
        raise ValueError(
            f"micro_batch_size must leave at most {MOST_BATCHES} micro-batches of {size} samples, {m} makes {number}"
        )
    every = combinations_with_replacement if replacement else combinations
    members = np.array(list(every(range(size), m)))
    if not replacement:
        return members, np.full(number, 1 / number)
    orders = [factorial(m) / prod(factorial(k) for k in Counter(row).values()) for row in members.tolist()]
    return members, np.array(orders) / float(size) ** m


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def _checked_variant(variant: str) -> str:
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    return variant


def _checked_size(size: int, micro_batch_size: int, replacement: bool) -> int:
    m = validate.count("micro_batch_size", micro_batch_size)
    if m > size and not replacement:
        raise ValueError(f"micro_batch_size must be at most the {size} samples there are, got {m}")
    return m


def _checked_gradients(values, points: tuple[int, ...]) -> np.ndarray:
    rows = validate.finite("gradient", values)
    fits = rows.ndim == len(points) + 1 and rows.shape[:-2] + rows.shape[-1:] == points
    if not fits or not rows.shape[-2]:
        raise ValueError(f"gradient must return shape (..., N, p) for points of shape {points}, got {rows.shape}")
    return rows
