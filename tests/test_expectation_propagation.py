"""EP of orthant probabilities: against exact values, against the textbook's algorithm, its laws, bad input."""

import json
import math
import warnings
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from companion.data import digits
from companion.expectation_propagation import log_prior_probability
from companion.nngp import nngp_kernel

REFERENCE = Path(__file__).with_name("gpy_reference.json")


def random_kernel(size, generator):
    factor = generator.standard_normal((size, size + 2))
    return factor @ factor.T


def digits_kernel(size):
    inputs, targets = digits()
    labels = np.where(targets[:size].numpy() < 5, 1.0, -1.0)
    return nngp_kernel(inputs[:size].numpy(), depth=2, weight_scale=1.0, bias_scale=0.1), labels


def sequential_ep(kernel, labels, sweeps=200):
    """Rasmussen & Williams (2006), algorithm 3.5, one rank-one update a site, with the step likelihood."""
    size = len(labels)
    tau, nu = np.zeros(size), np.zeros(size)
    covariance, mean = kernel.copy(), np.zeros(size)
    for _ in range(sweeps):
        for i in range(size):
            cavity = 1 / covariance[i, i] - tau[i]
            cavity_nu = mean[i] / covariance[i, i] - nu[i]
            z = labels[i] * cavity_nu / math.sqrt(cavity)
            ratio = norm.pdf(z) / norm.cdf(z)
            variance = (1 - ratio * (z + ratio)) / cavity
            center = cavity_nu / cavity + labels[i] * ratio / math.sqrt(cavity)
            more = 1 / variance - cavity - tau[i]
            tau[i], nu[i] = tau[i] + more, center / variance - cavity_nu
            covariance -= more / (1 + more * covariance[i, i]) * np.outer(covariance[i], covariance[i])
            mean = covariance @ nu
    cavity, cavity_nu = 1 / covariance.diagonal() - tau, mean / covariance.diagonal() - nu
    cavity_mean = cavity_nu / cavity
    # The normalizer as an integral over Gaussians: N(0, K) times sites of height 1/N(cavity mean; site mean, ...).
    scale = norm.logcdf(labels * cavity_mean * np.sqrt(cavity))
    site_mean, spread = nu / tau, np.sqrt(1 / cavity + 1 / tau)
    heights = scale - norm.logpdf(cavity_mean, site_mean, spread)
    return heights.sum() + multivariate_normal(np.zeros(size), kernel + np.diag(1 / tau)).logpdf(site_mean)


def test_a_diagonal_kernel_is_exact():
    for size in (1, 5, 70):
        result = log_prior_probability(np.diag(np.arange(1.0, size + 1)), (-1.0) ** np.arange(size))
        assert result.value == pytest.approx(-size * math.log(2), abs=1e-12) and result.converged


@pytest.mark.parametrize("correlation", [-0.9, -0.3, 0.2, 0.7])
def test_two_signs_against_the_arc_sine(correlation):
    exact = math.log(0.25 + math.asin(correlation) / (2 * math.pi))
    measured = log_prior_probability([[1, correlation], [correlation, 1]], [1, 1]).value
    assert abs(measured - exact) < 0.01  # EP's own error, not rounding: -0.0074 at 0.7
    textbook = sequential_ep(np.array([[1, correlation], [correlation, 1]]), np.ones(2))
    assert measured == pytest.approx(textbook, abs=1e-7)


def test_equal_correlation_of_one_half():
    # The exact probability is 1/(n+1).
    errors = []
    for size in range(2, 11):
        measured = log_prior_probability((np.ones((size, size)) + np.eye(size)) / 2, np.ones(size)).value
        errors.append(measured + math.log(size + 1))
    assert np.all(np.abs(errors) < 0.015)


def test_random_kernels_against_the_exact_integral():
    generator, errors = np.random.default_rng(0), []
    for size in (3, 5, 8, 10):
        for _ in range(5):
            kernel, labels = random_kernel(size, generator), generator.choice([-1.0, 1.0], size)
            turned = kernel * np.outer(labels, labels)
            exact = multivariate_normal(np.zeros(size), turned, maxpts=200_000 * size, abseps=1e-9, releps=1e-6).cdf(
                np.zeros(size)
            )
            errors.append(log_prior_probability(kernel, labels).value - math.log(exact))
    errors = np.abs(errors)
    assert np.median(errors) < 0.02 and errors.max() < 0.1


def test_fixed_point_is_that_of_the_textbook_algorithm():
    generator = np.random.default_rng(1)
    for size in (4, 33, 70):  # below, just above and above twice the block
        kernel, labels = random_kernel(size, generator), generator.choice([-1.0, 1.0], size)
        result = log_prior_probability(kernel, labels, tolerance=1e-12)
        assert result.value == pytest.approx(sequential_ep(kernel, labels), abs=1e-8 * size)


def test_gpy_agrees_to_six_digits():
    reference = json.loads(REFERENCE.read_text())
    assert len(reference["cases"]) >= 4
    for case in reference["cases"]:
        generator = np.random.default_rng(case["seed"])
        kernel = random_kernel(case["size"], generator)
        labels = generator.choice([-1.0, 1.0], case["size"])
        # GPy's probit likelihood is the step likelihood of z plus noise of variance 1: see gpy_reference.py.
        value = log_prior_probability(kernel + np.eye(case["size"]), labels).value
        assert value == pytest.approx(case["log_z"], rel=1e-6)


def test_scale_order_and_flip_change_nothing():
    kernel, labels = digits_kernel(150)
    value = log_prior_probability(kernel, labels).value
    order = np.random.default_rng(0).permutation(150)
    for changed in (
        log_prior_probability(1e6 * kernel, labels),
        log_prior_probability(1e-6 * kernel, labels),
        log_prior_probability(kernel, -labels),
        log_prior_probability(kernel[np.ix_(order, order)], labels[order]),
        log_prior_probability(kernel * np.outer(order + 1, order + 1), labels),
    ):
        assert changed.value == pytest.approx(value, rel=1e-7)


def test_two_thousand_inputs_are_stable():
    inputs = np.random.default_rng(0).standard_normal((2000, 20))
    kernel = nngp_kernel(inputs, depth=2, weight_scale=1.0, bias_scale=0.1)
    result = log_prior_probability(kernel, np.sign(inputs[:, 0]))
    assert result.converged and -2000 * math.log(2) < result.value < 0


def test_copies_of_one_input_count_as_docstring_says():
    exact = -math.log(2)
    assert log_prior_probability(np.ones((2, 2)), [1, 1]).value - exact == pytest.approx(-0.122, abs=1e-3)
    assert log_prior_probability(np.ones((50, 50)), np.ones(50)).value - exact == pytest.approx(-0.526, abs=1e-3)


def test_labels_that_a_singular_kernel_rules_out_are_an_error():
    with pytest.raises(FloatingPointError, match="kernel must be further from singular"):
        log_prior_probability(np.ones((2, 2)), [1, -1])


@pytest.mark.parametrize("ratio", [-300.0, -41.0, -39.0, -8.0, 0.0, 3.0, 9.0])
def test_variance_of_the_truncated_gaussian(ratio):
    from companion import expectation_propagation as ep

    with mpmath.workdps(60):
        a = mpmath.mpf(ratio)
        hazard = mpmath.npdf(a) / mpmath.ncdf(a)
        exact = 1 - hazard * (a + hazard)
    assert ep._variance_left(ratio, float(hazard)) == pytest.approx(float(exact), rel=1e-7)


def test_too_few_sweeps_are_told():
    kernel, labels = digits_kernel(60)
    with pytest.warns(RuntimeWarning, match="did not converge in max_sweeps = 2 sweeps"):
        result = log_prior_probability(kernel, labels, max_sweeps=2)
    assert not result.converged and result.sweeps == 2 and result.change > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert log_prior_probability(kernel, labels).converged


@pytest.mark.parametrize(
    "kernel, labels, message",
    [
        (np.zeros((0, 0)), [], "kernel must be a square matrix of at least one row"),
        (np.ones((2, 3)), [1, 1], "kernel must be a square matrix"),
        ([[1, np.nan], [np.nan, 1]], [1, 1], "kernel must be finite"),
        ([[1, 0.5], [0.4, 1]], [1, 1], r"kernel must be symmetric, got 0.5 at \(0, 1\) and 0.4 at \(1, 0\)"),
        ([[1, 2], [2, 1]], [1, 1], "kernel must be positive semidefinite; .* eigenvalue -1"),
        ([[1, 0], [0, 0]], [1, 1], "kernel must have a positive diagonal, got 0"),
        (np.eye(2), [1, 1, 1], r"labels must have shape \(2,\)"),
        (np.eye(2), [0, 1], r"labels must be \+1 or -1, got 0"),
    ],
)
def test_bad_arguments_are_named(kernel, labels, message):
    with pytest.raises(ValueError, match=message):
        log_prior_probability(kernel, labels)


def test_bad_limits_are_named():
    with pytest.raises(ValueError, match="tolerance must be positive"):
        log_prior_probability(np.eye(2), [1, 1], tolerance=0.0)
    with pytest.raises(ValueError, match="max_sweeps must be"):
        log_prior_probability(np.eye(2), [1, 1], max_sweeps=0)
