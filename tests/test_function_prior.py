"""Bounds built on the prior over functions: their values, their coverage, bad input."""

import itertools
import math

import numpy as np
import pytest

from companion.function_prior import marginal_likelihood_bound, prior_bound, transductive_prior_bound


def test_values_by_hand():
    assert prior_bound(math.log(0.5), 10, 0.1, form="linear") == pytest.approx(math.log(20) / 10)
    assert prior_bound(math.log(0.5), 10, 0.1) == pytest.approx(1 - 0.05**0.1)
    assert marginal_likelihood_bound(math.log(0.5), 10, 0.1) == pytest.approx(1 - 0.05**0.1)
    assert prior_bound([-1.0, -2.0], 5, 0.5).shape == (2,)


def test_exact_form_is_where_a_function_stops_fitting():
    # 1 - ε fits m samples with probability (1-ε)^m: at the bound this is δP(f).
    bound = prior_bound(-3.0, 17, 0.2)
    assert (1 - bound) ** 17 == pytest.approx(0.2 * math.exp(-3.0))
    assert bound < prior_bound(-3.0, 17, 0.2, form="linear")
    assert prior_bound(-np.inf, 5, 0.1) == 1


def exact_violation(prior, errors, samples, bound):
    """P that some function fits although its error exceeds its bound, over independent errors of disjoint samples."""
    # Functions err on disjoint sets of inputs, so the fit of all is a multinomial question: enumerate.
    inputs = [*errors, 1 - sum(errors)]
    violated = 0.0
    for draw in itertools.product(range(len(inputs)), repeat=samples):
        weight = math.prod(inputs[i] for i in draw)
        violated += weight * any(f not in draw and errors[f] > bound(prior[f]) for f in range(len(errors)))
    return violated


def test_violated_with_probability_at_most_delta_and_nearly_delta():
    samples, delta, prior = 4, 0.3, [0.6, 0.4]
    at_bound = [prior_bound(math.log(p), samples, delta) * 1.000001 for p in prior]
    single = exact_violation(prior[:1], at_bound[:1], samples, lambda p: prior_bound(math.log(p), samples, delta))
    assert single == pytest.approx(delta * 0.6, rel=1e-4)  # the union bound is attained by each function
    assert single <= delta
    errors = [0.45, 0.5]
    both = exact_violation(prior, errors, samples, lambda p: prior_bound(math.log(p), samples, delta))
    assert both <= delta


def test_marginal_likelihood_bound_covers_the_posterior_mean():
    # Three functions that err on disjoint sets of inputs; every training set enumerated.
    samples, delta, prior, errors = 5, 0.2, [0.5, 0.3, 0.2], [0.1, 0.35, 0.5]
    inputs, violated = [*errors, 1 - sum(errors)], 0.0
    for draw in itertools.product(range(4), repeat=samples):
        fit = [f for f in range(3) if f not in draw]
        if not fit:
            continue
        marginal = sum(prior[f] for f in fit)
        mean = sum(prior[f] * errors[f] for f in fit) / marginal
        weight = math.prod(inputs[i] for i in draw)
        violated += weight * (mean > marginal_likelihood_bound(math.log(marginal), samples, delta))
    assert violated <= delta


def test_transductive_bound_is_the_hypergeometric_quantile():
    samples, test, delta, prior = 6, 8, 0.25, 0.3
    fits = [math.comb(14 - k, 6) / math.comb(14, 6) for k in range(9)]
    expected = max(k for k in range(9) if fits[k] >= delta * prior) / test
    assert transductive_prior_bound(math.log(prior), samples, test, delta) == expected
    assert transductive_prior_bound(-1e9, samples, test, delta) == 1
    # Never worse than the linear form for the error on all samples, scaled to the test set.
    assert expected <= prior_bound(math.log(prior), samples, delta, form="linear") * 14 / 8


@pytest.mark.parametrize("bound", [prior_bound, marginal_likelihood_bound])
def test_bad_arguments_are_named(bound):
    with pytest.raises(ValueError, match=r"log_\w+ must be the logarithm of a probability, at most 0, got 0.1"):
        bound(0.1, 5, 0.1)
    with pytest.raises(ValueError, match=r"log_\w+ must be"):
        bound(float("nan"), 5, 0.1)
    with pytest.raises(ValueError, match="samples must be a whole number of at least 1, got 0"):
        bound(-1.0, 0, 0.1)
    for delta in (0, 1, -0.5, 2):
        with pytest.raises(ValueError, match="delta must be between 0 and 1"):
            bound(-1.0, 5, delta)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="form must be 'exact' or 'linear', got 'tight'"):
        prior_bound(-1.0, 5, 0.1, form="tight")
    with pytest.raises(ValueError, match="test_samples must be"):
        transductive_prior_bound(-1.0, 5, 0, 0.1)
