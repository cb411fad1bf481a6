"""Expectation propagation: the probability that a Gaussian vector has given signs.

The Gaussian is N(0, K), turned so that all signs are to be +1.  Each constraint zᵢ > 0 is replaced
by a Gaussian site with precision τᵢ and precision times mean νᵢ, so that the product with N(0, K)
has the mean and variance that the exact constraint would give it beside the other sites.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
from scipy.linalg import blas, lapack, solve_triangular
from scipy.special import erfcx, log_ndtr

from companion import validate

BLOCK = 32  # sites visited before their effect on the other ones is applied in one matrix product
NEAR_SINGULAR = "kernel must be further from singular with labels that contradict it as these do"
FAR = -40.0  # below this the variance of a truncated Gaussian is taken from its series


class LogProbability(NamedTuple):
    """The logarithm of an orthant's probability as EP has it; see :func:`log_prior_probability`."""

    value: float  # natural logarithm
    converged: bool
    sweeps: int
    change: float  # of the value in the last sweep


def log_prior_probability(kernel, labels, *, tolerance: float = 1e-8, max_sweeps: int = 100) -> LogProbability:
    """log P(sign z = labels) for z ~ N(0, K), by expectation propagation.

    Parameters
    ----------
    kernel : array_like, shape (n, n)
        K, symmetric and positive semidefinite with positive diagonal, for instance
        :func:`~companion.nngp.nngp_kernel`.  Multiplying it by a positive number changes nothing.
    labels : array_like, shape (n,)
        The signs, +1 or -1.
    tolerance : float
        Sweeps end when one changes the value by less than this times 1 + |value|.
    max_sweeps : int

    Returns
    -------
    LogProbability
        In nats.  ``converged`` is False, and a warning is issued, if ``max_sweeps`` were not enough.

    Raises
    ------
    ValueError
        If the kernel is not what is said above or a label not ±1.
    FloatingPointError
        If rounding leaves no digit of a variance, as where K is singular and the labels contradict it.

    Notes
    -----
    ``prior`` app. D; Minka (2001), Rasmussen & Williams (2006), algorithm 3.5, with the step
    likelihood in place of the probit.  Exact for a diagonal K.  It is worst where one constraint
    says all: n copies of one z have probability ½, and EP's log P is 0.12 too low for n = 2, 0.5
    for n = 50.  No jitter is added to K.

    The sites are visited one after the other: visited all at once they overshoot where the z are
    strongly correlated and the labels agree.  The work is O(n³) a sweep, in matrix products.

    Examples
    --------
    >>> round(log_prior_probability([[1, 0.5], [0.5, 1]], [1, 1]).value, 3)  # exactly ln(1/3)
    -1.1
    """
    covariance = _turned(kernel, labels)
    tolerance, max_sweeps = validate.positive("tolerance", tolerance), validate.count("max_sweeps", max_sweeps)
    size = len(covariance)
    sites = np.zeros((2, size))  # τ and ν
    posterior, mean, log_det, value = covariance.copy(order="F"), np.zeros(size), 0.0, -size * math.log(2)
    sweeps, converged = 0, False
    while sweeps < max_sweeps and not converged:
        for first in range(0, size, BLOCK):
            log_det += _visit(posterior, mean, sites, slice(first, first + BLOCK))
        before, value = value, _log_probability(posterior.diagonal(), mean, sites, log_det)
        change = abs(value - before)
        sweeps, converged = sweeps + 1, change <= tolerance * (1 + abs(value))
    value = _log_probability(*_refreshed(covariance, sites))  # free of the updates' rounding
    if not converged:
        warnings.warn(
            f"expectation propagation did not converge in max_sweeps = {max_sweeps} sweeps: "
            f"the last one changed log P = {value:.6g} by {change:.2g}",
            RuntimeWarning,
            stacklevel=2,
        )
    return LogProbability(value, converged, sweeps, change)


def _turned(kernel, labels) -> np.ndarray:
    """The correlation matrix of yᵢzᵢ: all signs are to be +1, all variances are 1."""
    kernel = validate.finite("kernel", kernel)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.size == 0:
        raise ValueError(f"kernel must be a square matrix of at least one row, got shape {kernel.shape}")
    labels = validate.finite("labels", labels)
    if labels.shape != (len(kernel),):
        raise ValueError(f"labels must have shape ({len(kernel)},) as the kernel has rows, got {labels.shape}")
    if not np.all(np.abs(labels) == 1):
        raise ValueError(f"labels must be +1 or -1, got {labels[np.abs(labels) != 1][0]:g}")
    variances = kernel.diagonal()
    if variances.min() <= 0:
        raise ValueError(f"kernel must have a positive diagonal, got {variances.min():.3g}")
    scale = labels / np.sqrt(variances)
    turned = kernel * np.outer(scale, scale)
    if np.abs(turned - turned.T).max() > 1e-10:
        row, column = np.unravel_index(np.abs(turned - turned.T).argmax(), turned.shape)
        raise ValueError(
            f"kernel must be symmetric, got {kernel[row, column]:g} at ({row}, {column}) "
            f"and {kernel[column, row]:g} at ({column}, {row})"
        )
    # K + 1e-10 has a Cholesky factor exactly if no eigenvalue lies below about -1e-10.
    if lapack.dpotrf(turned + 1e-10 * np.eye(len(turned)), lower=1)[1]:
        least = np.linalg.eigvalsh(turned)[0]
        raise ValueError(f"kernel must be positive semidefinite; scaled to unit diagonal it has eigenvalue {least:.3g}")
    return (turned + turned.T) / 2


def _visit(posterior: np.ndarray, mean: np.ndarray, sites: np.ndarray, block: slice) -> float:
    """Update the block's sites one by one, then the posterior in place; the change of log det(I + Kτ)."""
    local, center = posterior[block, block].copy(), mean[block].copy()
    precision, shift = sites[:, block]  # views: writing to them changes the sites
    old_precision, old_shift, log_det = precision.copy(), shift.copy(), 0.0
    for i in range(len(center)):
        tau, nu = _moments_to_site(local[i, i], center[i], precision[i], shift[i])
        more, extra = tau - precision[i], nu - shift[i]
        column, pivot = local[:, i].copy(), 1 + more * local[i, i]
        center += (extra - more * center[i]) / pivot * column
        local -= np.outer(more / pivot * column, column)
        precision[i], shift[i] = tau, nu
        log_det += math.log(pivot)
    more, extra = precision - old_precision, shift - old_shift
    columns = posterior[:, block].copy(order="F")
    inverse = np.linalg.inv(np.eye(len(more)) + more[:, None] * columns[block])
    mean += columns @ (inverse @ (extra - more * mean[block]))
    blas.dgemm(-1, columns @ (inverse * more), columns, beta=1, c=posterior, trans_b=True, overwrite_c=True)
    return log_det


def _moments_to_site(variance: float, mean: float, tau: float, nu: float) -> tuple[float, float]:
    """The site that gives its marginal the moments of the marginal without it, cut off at 0."""
    precision, shift = 1 / variance - tau, mean / variance - nu
    if not (variance > 0 and precision > 0):
        raise FloatingPointError(f"{NEAR_SINGULAR}, a variance became {variance:.3g} by rounding")
    ratio = shift / math.sqrt(precision)
    hazard = math.sqrt(2 / math.pi) / erfcx(-ratio / math.sqrt(2))  # φ/Φ
    left = _variance_left(ratio, hazard)
    tau = precision * (1 - left) / left
    return tau, (shift + math.sqrt(precision) * hazard) / left - shift


def _variance_left(ratio: float, hazard: float) -> float:
    """The variance of N(ratio, 1) given that it is positive, 1 - h(a + h)."""
    if ratio > FAR:
        return 1 - hazard * (ratio + hazard)
    inverse = 1 / ratio**2
    return inverse * (1 - inverse * (6 - inverse * (50 - inverse * 518)))


def _log_probability(variance, mean, sites, log_det: float) -> float:
    """EP's log Z, in terms of the marginals without their site (Rasmussen & Williams, eqs. 3.65 to 3.74)."""
    tau, nu = sites
    precision, shift = 1 / variance - tau, mean / variance - nu
    quadratic = (
        nu @ mean - nu @ (nu / (tau + precision)) + (shift / (tau + precision)) @ (tau * shift / precision - 2 * nu)
    )
    return float(
        0.5 * (np.log1p(tau / precision).sum() - log_det + quadratic) + log_ndtr(shift / np.sqrt(precision)).sum()
    )


def _refreshed(covariance: np.ndarray, sites: np.ndarray):
    """The posterior's variances and mean computed afresh from the sites, and log det(I + Kτ)."""
    tau, nu = sites
    root = np.sqrt(tau)
    scaled = root[:, None] * covariance
    try:
        factor = np.linalg.cholesky(np.eye(len(tau)) + scaled * root)
    except np.linalg.LinAlgError:
        raise FloatingPointError(f"{NEAR_SINGULAR}, its factor was lost to rounding") from None
    half = solve_triangular(factor, scaled, lower=True, check_finite=False)
    variance = 1 - np.einsum("ij,ij->j", half, half)
    mean = covariance @ nu - half.T @ (half @ nu)
    return variance, mean, sites, 2 * float(np.log(np.diag(factor)).sum())
