"""The Bayesian prior over functions: P(f) of a network with random weights, and the bounds built on it.

P(f) is sampled for Boolean functions (:mod:`companion.boolean_functions`) and approximated by a
Gaussian process for any labels (:mod:`companion.nngp`, :mod:`companion.expectation_propagation`).
"""

import numpy as np
from scipy.special import gammaln

from companion import validate
from companion.boolean_functions import FunctionCounts, boolean_inputs, sample_boolean_functions
from companion.expectation_propagation import LogProbability, log_prior_probability
from companion.nngp import nngp_kernel

__all__ = [
    "FunctionCounts",
    "LogProbability",
    "boolean_inputs",
    "log_prior_probability",
    "marginal_likelihood_bound",
    "nngp_kernel",
    "prior_bound",
    "sample_boolean_functions",
    "transductive_prior_bound",
]

FORMS = ("exact", "linear")


def prior_bound(log_prior, samples: int, delta: float, *, form: str = "exact"):
    """The largest error of a function without training error: 1 - (δP(f))^(1/m), or its linear form.

    With probability at least 1 - δ over m independent samples the bound holds for every function
    that fits them, at once.

    Parameters
    ----------
    log_prior : float or array_like
        ln P(f) ≤ 0, of a prior over countably many functions that does not depend on the samples:
        not on their labels and not on which inputs were drawn.
    samples : int
        m ≥ 1.
    delta : float
        δ, in (0, 1).
    form : {"exact", "linear"}
        ``"linear"`` is (ln 1/P(f) + ln 1/δ)/m, never smaller, and vacuous where it exceeds 1.

    Returns
    -------
    float or ndarray
        In the shape of ``log_prior``.

    Raises
    ------
    ValueError
        If a log prior is positive or NaN, m below 1, δ outside (0, 1), or the form another.

    Notes
    -----
    ``prior`` eq. 4 is the linear form.  A function with error ε fits with probability (1-ε)^m, so
    the mean over training sets of Σ_f P(f) 1[f fits] (1-ε_f)^(-m) is at most 1; by Markov it
    exceeds 1/δ with probability at most δ.
    """
    if form not in FORMS:
        raise ValueError(f"form must be 'exact' or 'linear', got {form!r}")
    rate = _rate("log_prior", log_prior, samples, delta)
    return _plain(-rate if form == "linear" else -np.expm1(rate))


def marginal_likelihood_bound(log_marginal, samples: int, delta: float):
    """The largest mean error of the posterior Q = P given that f fits: 1 - (δP(S))^(1/m).

    Parameters
    ----------
    log_marginal : float or array_like
        ln P(S), the total prior of all functions that fit the m samples.
    samples, delta
        As in :func:`prior_bound`.

    Returns
    -------
    float or ndarray
        A bound on E_Q[ε], not on the error of one function.

    Raises
    ------
    ValueError
        As :func:`prior_bound`.

    Notes
    -----
    ``prior`` sec. 3 and app. A.4, after Valle-Pérez et al. (2019), who have ln(2m/δ)/(m-1) where
    ln(1/δ)/m is enough: the sum of :func:`prior_bound` is P(S) E_Q[(1-ε)^(-m)], and (1-ε)^(-m) is
    convex in ε.
    """
    return _plain(-np.expm1(_rate("log_marginal", log_marginal, samples, delta)))


def transductive_prior_bound(log_prior: float, samples: int, test_samples: int, delta: float) -> float:
    """The largest error on a test set, where training and test set are a random split of fixed samples.

    A function with k errors among the N = m + |E| samples has none among the m that are drawn with
    probability C(N-k, m)/C(N, m).  With probability at least 1 - δ over the split, every function
    without training error has at most the largest k for which this is at least δP(f).

    Parameters
    ----------
    log_prior : float
        ln P(f) ≤ 0; P may depend on all N samples, though not on how they are split.
    samples, test_samples : int
        m and |E|.
    delta : float
        δ, in (0, 1).

    Returns
    -------
    float
        The bound on k/|E|, at most 1.

    Raises
    ------
    ValueError
        As :func:`prior_bound`.

    Notes
    -----
    Ours, for the setting of ``prior`` sec. 3, where functions are restricted to both sets together.
    """
    threshold = float(_log_probability("log_prior", log_prior)) + np.log(_delta(delta))
    samples, test_samples = validate.count("samples", samples), validate.count("test_samples", test_samples)
    total, errors = samples + test_samples, np.arange(test_samples + 1)
    left = total - errors
    log_fit = gammaln(left + 1) - gammaln(left - samples + 1) - gammaln(total + 1) + gammaln(test_samples + 1)
    return float(errors[log_fit >= threshold - 1e-12].max() / test_samples)


def _rate(name: str, log_probability, samples: int, delta: float) -> np.ndarray:
    """ln(δP)/m."""
    return (_log_probability(name, log_probability) + np.log(_delta(delta))) / validate.count("samples", samples)


def _log_probability(name: str, values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if np.isnan(values).any() or (values > 0).any():
        odd = values[np.isnan(values) | (values > 0)].flat[0]
        raise ValueError(f"{name} must be the logarithm of a probability, at most 0, got {odd:g}")
    return values


def _delta(delta: float) -> float:
    delta = validate.number("delta", delta)
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, got {delta:g}")
    return delta


def _plain(values):
    return float(values) if np.ndim(values) == 0 else values
