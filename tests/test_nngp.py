"""The kernel of infinitely wide ReLU networks: against integrals, wide networks and its own laws."""

import numpy as np
import pytest
from scipy.integrate import dblquad

from companion.nngp import nngp_kernel


def gaussian_mean_of_relus(covariance) -> float:
    """E[max(u, 0) max(v, 0)] by quadrature."""
    inverse, scale = np.linalg.inv(covariance), 2 * np.pi * np.sqrt(np.linalg.det(covariance))

    def integrand(v, u):
        z = np.array([u, v])
        return u * v * np.exp(-z @ inverse @ z / 2) / scale

    return dblquad(integrand, 0, 12, 0, 12, epsabs=1e-10)[0]


def test_each_layer_is_the_gaussian_integral():
    inputs = np.array([[1.0, 0.5, -0.3], [0.2, -0.7, 1.1]])
    first = 0.04 + 1.44 * inputs @ inputs.T / 3
    for depth in (1, 2):
        second = np.empty((2, 2))
        for i in range(2):
            second[i, i] = 0.04 + 1.44 * first[i, i] / 2
        second[0, 1] = second[1, 0] = 0.04 + 1.44 * gaussian_mean_of_relus(first)
        measured = nngp_kernel(inputs, depth=depth, weight_scale=1.2, bias_scale=0.2)
        np.testing.assert_allclose(measured, second, rtol=1e-8)
        first = second


def test_wide_random_networks_have_this_covariance():
    rng = np.random.default_rng(0)
    inputs, width, count = rng.standard_normal((3, 5)), 300, 4000
    outputs = np.empty((count, 3))
    for k in range(count):
        hidden = inputs @ (rng.standard_normal((5, width)) / 5**0.5) + 0.3 * rng.standard_normal(width)
        outputs[k] = np.maximum(hidden, 0) @ (rng.standard_normal(width) / width**0.5) + 0.3 * rng.standard_normal()
    products = outputs[:, :, None] * outputs[:, None, :]
    kernel = nngp_kernel(inputs, depth=1, weight_scale=1.0, bias_scale=0.3)
    error = products.std(axis=0) / count**0.5
    assert np.all(np.abs(products.mean(axis=0) - kernel) < 4 * error)


def test_scales_signs_and_cross_kernel():
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((6, 4))
    kernel = nngp_kernel(inputs, depth=3, weight_scale=1.5, bias_scale=0.0)
    np.testing.assert_allclose(nngp_kernel(3 * inputs, depth=3, weight_scale=1.5, bias_scale=0.0), 9 * kernel)
    cross = nngp_kernel(inputs[:2], inputs, depth=3, weight_scale=1.5, bias_scale=0.0)
    # An arc cosine near 0 keeps half the digits: the diagonal of the cross kernel shows it.
    np.testing.assert_allclose(cross, kernel[:2], rtol=1e-7)
    assert np.array_equal(kernel, kernel.T) and np.linalg.eigvalsh(kernel)[0] > -1e-12


def test_input_zero_without_bias_has_output_zero():
    kernel = nngp_kernel([[0.0, 0.0], [1.0, 2.0]], depth=2, weight_scale=1.0, bias_scale=0.0)
    assert kernel[0].tolist() == [0.0, 0.0] and kernel[1, 1] == pytest.approx(5 / 2 / 4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inputs": [1.0, 2.0]}, r"inputs must have shape \(n, d\)"),
        ({"inputs": np.zeros((0, 3))}, "inputs must have shape"),
        ({"inputs": [[np.nan]]}, "inputs must be finite"),
        ({"other": [[1.0, 2.0, 3.0]]}, "other must have 2 columns as inputs has, got 3"),
        ({"depth": 0}, "depth must be a whole number"),
        ({"weight_scale": 0.0}, "weight_scale must be positive"),
        ({"bias_scale": -0.1}, "bias_scale must not be negative"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"inputs": [[1.0, 2.0]], "depth": 1, "weight_scale": 1.0, "bias_scale": 0.1} | change
    with pytest.raises(ValueError, match=message):
        nngp_kernel(**arguments)
