"""companion/steady_state.py in one dimension, against closed forms and other quadratures."""

import numpy as np
import pytest
from oracles import (
    Quadratic,
    Quartic,
    average,
    dense_line,
    integral,
    ripple,
    ripple_bend,
    ripple_slope,
    wells_loss,
)
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import lambertw

from companion.landscapes import GaussianWells, paper_wells
from companion.steady_state import (
    basin_probabilities,
    effective_minima,
    effective_potential,
    expected_loss,
    laplace_weights,
    stationary_density,
)

GRID = np.linspace(-4, 4, 801)
FIGURES = ["4-left", "4-right", "6-left", "6-right"]
TILTED = GaussianWells([-1, 0.8], [0.1, 0.3], [0.2, 0.4], confinement=0.05)


class Linear:
    """D = a + b U, for which v = (1/b + T/2) log D."""

    def __init__(self, loss, a, b):
        self.loss, self.a, self.b = loss, a, b

    def __call__(self, theta):
        return self.a + self.b * self.loss(theta)

    def derivative(self, theta):
        return self.b * self.loss.gradient(theta)


def test_constant_noise_divides_the_loss():
    potential = effective_potential(TILTED, 2.5, 0.3, GRID)
    np.testing.assert_allclose(potential, wells_loss(TILTED, GRID) / 2.5, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.02, 0.5, 3.0])
def test_noise_equal_to_the_loss_gives_its_logarithm(temperature):
    loss = Quadratic(3.0, 0.4, level=0.7)
    potential = effective_potential(loss, loss, temperature, GRID)
    assert np.ptp(potential - (1 + temperature / 2) * np.log(loss(GRID))) < 1e-11


@pytest.mark.parametrize("temperature", [0.02, 0.5, 3.0])
def test_noise_linear_in_the_loss_gives_the_logarithm_of_the_noise(temperature):
    noise = Linear(TILTED, 0.9, 2.0)
    potential = effective_potential(TILTED, noise, temperature, GRID)
    assert np.ptp(potential - (0.5 + temperature / 2) * np.log(noise(GRID))) < 1e-11


def test_general_noise_against_adaptive_quadrature_of_the_definition():
    temperature, points = 0.4, np.array([-1.5, -1.0, 0.0, 0.3, 1.1, 2.0])
    step = integral(lambda t: (TILTED.gradient(t) + temperature / 2 * ripple_slope(t)) / ripple(t), points)
    potential = effective_potential(TILTED, ripple, temperature, points)
    np.testing.assert_allclose(np.diff(potential), step, rtol=1e-9)


def test_potential_starts_at_loss_over_noise():
    potential = effective_potential(TILTED, ripple, 0.4, GRID)
    assert potential[0] == pytest.approx(TILTED(GRID[0]) / ripple(GRID[0]), rel=1e-12)


def test_every_spelling_of_the_noise_gives_one_potential():
    class Own:
        __call__ = staticmethod(ripple)
        gradient = staticmethod(ripple_slope)

    reference = effective_potential(TILTED, ripple, 0.4, GRID)
    for spelling in ((ripple, ripple_slope), Own()):
        np.testing.assert_allclose(effective_potential(TILTED, spelling, 0.4, GRID), reference, atol=1e-12)
    plain = effective_potential(lambda t: wells_loss(TILTED, t), ripple, 0.4, GRID)
    np.testing.assert_allclose(plain, reference, atol=1e-9)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_density_of_the_figures_against_adaptive_quadrature(name, temperature):
    wells, _ = paper_wells(name)
    grid = np.linspace(-3, 3, 4001)
    density = stationary_density(wells, 1.0, temperature, grid)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-12)
    floor = wells_loss(wells, wells.local_minima()).min()

    def boltzmann(t):
        return np.exp(-2 * (wells_loss(wells, t) - floor) / temperature)

    points = np.concatenate([[-3], np.sort(np.append(wells.local_minima(), wells.local_maxima())), [3]])
    exact = boltzmann(grid) / integral(boltzmann, points).sum()
    np.testing.assert_allclose(density, exact, rtol=2e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_density_with_noise_that_varies_against_simpson(temperature):
    grid = np.linspace(-10, 10, 8001)
    density = stationary_density(TILTED, ripple, temperature, grid)
    theta, mass = dense_line(lambda t: wells_loss(TILTED, t), ripple, temperature, half_width=10, points=160_001)
    np.testing.assert_allclose(density, (mass / np.trapezoid(mass, theta))[::20], rtol=1e-5, atol=1e-12)


def test_density_peaks_where_the_noise_is_small():
    flat = Quadratic(1e-3)
    density = stationary_density(flat, ripple, 1.0, np.linspace(-2, 2, 401))
    assert density[np.abs(np.linspace(-2, 2, 401) - (-np.pi / 6 - 1 / 6)).argmin()] == density.max()


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("h", [0.5, 4.0])
def test_student_steady_state_and_its_second_moment(temperature, h):
    loss = Quadratic(h, level=1.0)
    power = 1 + 2 / temperature

    def student(t):
        return (1 + h * t**2 / 2) ** -power

    total, _ = quad(student, -np.inf, np.inf, epsabs=0)
    grid = np.linspace(-40, 40, 20_001)
    density = stationary_density(loss, loss, temperature, grid)
    exact = student(grid) / quad(student, -40, 40, points=[0], epsabs=0, limit=200)[0]
    np.testing.assert_allclose(density, exact, rtol=1e-5)
    np.testing.assert_allclose(basin_probabilities(loss, temperature, loss), [1], rtol=1e-12)
    second = quad(lambda t: t**2 * student(t), -np.inf, np.inf, epsabs=0)[0] / total
    assert expected_loss(np.square, loss, temperature, loss) == pytest.approx(second, rel=1e-7)
    assert second == pytest.approx(temperature / (2 * h) / (1 - temperature / 4), rel=1e-7)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("temperature", [0.002, 0.02, 0.2, 1.0])
def test_basin_probabilities_against_adaptive_quadrature(name, temperature):
    wells, _ = paper_wells(name)
    minima, maxima = wells.local_minima(), wells.local_maxima()
    floor = wells_loss(wells, minima).min()

    def boltzmann(t):
        return np.exp(-2 * (wells_loss(wells, t) - floor) / (0.7 * temperature))

    far = 8 * np.sqrt(0.7 * temperature / (4 * wells.confinement)) + 3
    walls = np.concatenate([[-far], maxima, [far]])
    masses = []
    for minimum, left, right in zip(minima, walls, walls[1:], strict=False):
        near = minimum + np.array([-2, -0.5, -0.05, 0, 0.05, 0.5, 2])
        points = np.concatenate([[left], near[(near > left) & (near < right)], [right]])
        masses.append(integral(boltzmann, points).sum())
    found = basin_probabilities(wells, temperature, 0.7)
    assert found.shape == minima.shape
    np.testing.assert_allclose(found, np.array(masses) / sum(masses), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.3, 1.0])
def test_basin_probabilities_with_noise_that_varies(temperature):
    theta, mass = dense_line(lambda t: wells_loss(TILTED, t), ripple, temperature, half_width=25)
    left = average(lambda t: t < TILTED.local_maxima()[0], theta, mass)
    found = basin_probabilities(TILTED, temperature, ripple)
    np.testing.assert_allclose(found, [left, 1 - left], atol=3e-5)
    for spelling in ((ripple, ripple_slope), lambda t: ripple(t)):
        np.testing.assert_allclose(basin_probabilities(TILTED, temperature, spelling), found, rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.003, 0.1, 2.0])
def test_reflection_reverses_the_basins(temperature):
    mirrored = GaussianWells(-TILTED.minima[::-1], TILTED.weights[::-1], TILTED.sigmas[::-1], 0.05)
    for noise, other in ((1.3, 1.3), (ripple, lambda t: ripple(-t))):
        here = basin_probabilities(TILTED, temperature, noise)
        np.testing.assert_allclose(basin_probabilities(mirrored, temperature, other)[::-1], here, rtol=1e-8)


def test_probabilities_sum_to_one_down_to_the_coldest_temperature():
    for temperature in (1e-9, 1e-4, 1.0, 100.0):
        for name in FIGURES:
            assert basin_probabilities(paper_wells(name)[0], temperature).sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(basin_probabilities(paper_wells("4-left")[0], 1e-9), [1, 0])


@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_expected_losses_against_simpson(temperature):
    wells, shift = paper_wells("4-left")
    for noise, spread in ((0.5, lambda t: np.full_like(t, 0.5)), (ripple, ripple)):
        theta, mass = dense_line(lambda t: wells_loss(wells, t), spread, temperature, half_width=60)
        for function in (wells, wells.shifted(shift)):
            exact = average(lambda t, f=function: wells_loss(f, t), theta, mass)
            assert expected_loss(function, wells, temperature, noise) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("temperature", [1e-6, 0.1, 50.0])
def test_moments_of_a_gaussian_steady_state(temperature):
    loss = Quadratic(2.0, minimum=0.5)
    variance = temperature * 1.5 / (2 * 2)
    moments = [expected_loss(lambda t, k=k: (t - 0.5) ** k, loss, temperature, 1.5) for k in range(5)]
    exact = [1, 0, variance, 0, 3 * variance**2]
    np.testing.assert_allclose(moments, exact, rtol=1e-9, atol=1e-9 * variance)
    assert expected_loss(loss, loss, temperature, 1.5) == pytest.approx(temperature * 1.5 / 4, rel=1e-9)


def test_average_of_a_constant_is_that_constant():
    assert expected_loss(lambda t: 3.0, TILTED, 0.1) == pytest.approx(3, rel=1e-12)


def test_laplace_weights_for_constant_noise_are_those_of_the_formula():
    temperature, noise, minima = 0.05, 0.7, TILTED.local_minima()
    by_hand = np.exp(-2 * wells_loss(TILTED, minima) / (temperature * noise)) / np.sqrt(TILTED.curvature(minima))
    found = laplace_weights(TILTED, temperature, noise)
    np.testing.assert_allclose(found, by_hand / by_hand.sum(), rtol=1e-10)


def test_laplace_weights_for_noise_that_varies_are_those_of_the_formula():
    temperature = 0.1

    def force(t):
        return TILTED.gradient(t) + temperature / 2 * ripple_slope(t)

    modes = np.array([brentq(force, m - 0.15, m + 0.15, xtol=1e-13) for m in TILTED.local_minima()])
    bend = (TILTED.curvature(modes) + temperature / 2 * ripple_bend(modes)) / ripple(modes)
    climb = quad(lambda t: force(t) / ripple(t), *modes, epsabs=1e-13, limit=200)[0]
    ratio = np.exp(-2 * climb / temperature) * np.sqrt(bend[0] / bend[1])
    found = laplace_weights(TILTED, temperature, (ripple, ripple_slope))
    assert found[1] / found[0] == pytest.approx(ratio, rel=1e-7)
    assert laplace_weights(TILTED, temperature, ripple)[1] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("noise", [1.0, ripple])
def test_error_of_the_laplace_weights_is_proportional_to_the_temperature(noise):
    errors = []
    for temperature in (0.004, 0.002, 0.001):
        exact, rough = (f(TILTED, temperature, noise) for f in (basin_probabilities, laplace_weights))
        errors.append(np.log(rough[0] / rough[1]) - np.log(exact[0] / exact[1]))
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2, rtol=0.1)


def test_effective_minima_for_constant_noise_are_the_losses_own():
    np.testing.assert_array_equal(effective_minima(TILTED, 0.5, 2.0), TILTED.local_minima())


@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_effective_minimum_for_exponential_noise_is_a_lambert_function(temperature):
    h, k = 2.0, 1.5

    def noise(t):
        return np.exp(k * np.clip(t, -3, 3))

    exact = -lambertw(temperature * k**2 / (2 * h)).real / k
    found = effective_minima(Quadratic(h), temperature, noise)
    np.testing.assert_allclose(found, [exact], rtol=1e-8)


def test_effective_minimum_is_the_one_nearest_to_the_losss_own():
    temperature, noise = 1.0, lambda t: 1 + 0.9 * np.cos(4 * t + 0.6)

    def force(t):
        return t - temperature / 2 * 3.6 * np.sin(4 * t + 0.6)

    scan = np.linspace(-3, 3, 6001)
    rises = np.flatnonzero((force(scan[:-1]) < 0) & (force(scan[1:]) > 0))
    roots = np.array([brentq(force, scan[i], scan[i + 1]) for i in rises])
    assert roots.size == 3
    for side in (1, -1):
        found = effective_minima(Quadratic(), temperature, lambda t, s=side: noise(s * t))
        np.testing.assert_allclose(found, side * roots[[np.abs(roots).argmin()]], rtol=1e-8)


def test_effective_minima_of_a_quartic_loss():
    found = effective_minima(Quartic(), 0.2, (lambda t: 1 + t**2, lambda t: 2 * t))
    np.testing.assert_allclose(found, [-np.sqrt(0.8), np.sqrt(0.8)], rtol=1e-10)
