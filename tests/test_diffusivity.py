"""companion/diffusivity.py: derivatives by any means, and D(θ) in each of its spellings."""

import numpy as np
import pytest
from oracles import Quadratic, Quartic, ripple, ripple_bend, ripple_slope

from companion.diffusivity import Noise, derivative, second_derivative

THETA = np.linspace(-2, 2, 41)


class Ripple:
    __call__ = staticmethod(ripple)


class WithDerivative(Ripple):
    derivative = staticmethod(ripple_slope)


class WithGradient(Ripple):
    gradient = staticmethod(ripple_slope)


SPELLINGS = [ripple, (ripple, ripple_slope), [ripple, ripple_slope], WithDerivative(), WithGradient()]


@pytest.mark.parametrize("theta", [0.3, THETA, THETA.reshape(1, 41)])
def test_difference_is_accurate_to_ten_digits(theta):
    np.testing.assert_allclose(derivative(np.sin, theta), np.cos(theta), rtol=2e-10, atol=2e-10)


def test_difference_is_as_accurate_far_out_for_a_function_that_varies_on_that_scale():
    far = 1e3 * (3 + THETA)
    np.testing.assert_allclose(derivative(np.log, far), 1 / far, rtol=2e-10)


def test_difference_is_exact_for_polynomials_of_degree_four():
    np.testing.assert_allclose(derivative(lambda t: t**4 - t, THETA), 4 * THETA**3 - 1, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["gradient", "derivative"])
def test_own_derivative_is_preferred_to_a_difference(name):
    function = type("Own", (), {"__call__": lambda self, t: t, name: lambda self, t: 7 * t})()
    np.testing.assert_array_equal(derivative(function, THETA), 7 * THETA)


def test_second_derivative_by_curvature_by_gradient_and_by_differences_agree():
    exact = 3 * THETA**2 - 1
    np.testing.assert_array_equal(second_derivative(Quartic(), THETA), exact)
    gradient_only = type("G", (), {"gradient": lambda self, t: t**3 - t})()
    np.testing.assert_allclose(second_derivative(gradient_only, THETA), exact, atol=1e-9)
    np.testing.assert_allclose(second_derivative(lambda t: (t**2 - 1) ** 2 / 4, THETA), exact, atol=1e-6)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=["callable", "pair", "list", "derivative", "gradient"])
def test_every_spelling_gives_the_same_noise(spelling):
    noise = Noise(spelling)
    assert not noise.constant
    np.testing.assert_array_equal(noise(THETA), ripple(THETA))
    np.testing.assert_allclose(noise.derivative(THETA), ripple_slope(THETA), atol=1e-9)
    np.testing.assert_allclose(derivative(noise.derivative, THETA), ripple_bend(THETA), atol=1e-5)


@pytest.mark.parametrize("number", [2, 2.0, np.float64(2), np.array(2.0)])
def test_number_is_the_same_noise_everywhere(number):
    noise = Noise(number)
    assert noise.constant
    np.testing.assert_array_equal(noise(THETA), np.full(41, 2.0))
    np.testing.assert_array_equal(noise.derivative(THETA), np.zeros(41))


def test_callable_that_returns_one_number_is_spread_over_the_points():
    noise = Noise(lambda theta: 2.0)
    np.testing.assert_array_equal(noise(THETA), np.full(41, 2.0))
    np.testing.assert_allclose(noise.derivative(THETA), 0, atol=1e-12)


def test_loss_serves_as_its_own_noise():
    np.testing.assert_array_equal(Noise(Quadratic(2.0, level=1.0)).derivative(THETA), 2 * THETA)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (0, "noise must be positive, got 0"),
        (-1.5, "noise must be positive, got -1.5"),
        (np.nan, "noise must be finite, got nan"),
        (np.inf, "noise must be finite, got inf"),
        ("1", "noise must be a number, got '1'"),
        (None, "noise must be a number, got None"),
        (np.ones(3), "noise must be a number, got array"),
        ((ripple,), r"noise must be a number, a callable D or a pair \(D, D′\), got"),
        ((ripple, ripple_slope, ripple_bend), r"noise must be .* a pair \(D, D′\), got"),
        ((ripple, 2.0), r"noise must be .* a pair \(D, D′\), got"),
        ((1, 2), r"noise must be .* a pair \(D, D′\), got \(1, 2\)"),
    ],
)
def test_what_is_no_noise_is_refused_at_once(noise, message):
    with pytest.raises(ValueError, match=message):
        Noise(noise)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (lambda t: t, "noise must be positive everywhere, got D = -2"),
        (lambda t: np.where(t > 1, 0.0, 1.0), "noise must be positive everywhere, got D = 0"),
        (lambda t: t * np.nan, "noise must be positive everywhere, got D = nan"),
        (lambda t: np.ones(3), r"noise must give one number for each θ of shape \(41,\), got array"),
        (lambda t: "one", r"noise must give one number for each θ of shape \(41,\), got 'one'"),
    ],
)
def test_bad_values_of_a_callable_are_refused_where_they_occur(noise, message):
    with pytest.raises(ValueError, match=message):
        Noise(noise)(THETA)


def test_derivative_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="noise must give one number for each θ"):
        Noise((ripple, lambda t: np.ones(3))).derivative(THETA)
