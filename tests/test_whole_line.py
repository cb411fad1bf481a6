"""companion/whole_line.py: the steady state as a measure, against densities in closed form."""

import numpy as np
import pytest
from oracles import Quadratic, Quartic, ripple
from scipy.special import gammaln, logsumexp

from companion.diffusivity import Noise
from companion.quadrature import panel_nodes
from companion.whole_line import critical_points, line_edges, line_measure


@pytest.mark.parametrize("temperature", [1e-8, 0.01, 1.0, 1e4])
def test_gaussian_mass_and_variance(temperature):
    measure = line_measure(Quadratic(2.0), Noise(3.0), temperature)
    variance = temperature * 3 / (2 * 2)
    assert logsumexp(measure.log_mass) == pytest.approx(np.log(2 * np.pi * variance) / 2, abs=1e-10)
    mass = np.exp(measure.log_mass - logsumexp(measure.log_mass))
    assert (mass * measure.nodes**2).sum() == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.02, 0.3, 1.5])
def test_student_mass_with_power_law_tails(temperature):
    loss, h = Quadratic(2.0, level=1.0), 2.0
    measure = line_measure(loss, Noise(loss), temperature)
    power = 1 + 2 / temperature
    exact = 0.5 * np.log(2 * np.pi / h) + gammaln(power - 0.5) - gammaln(power)
    assert logsumexp(measure.log_mass) == pytest.approx(exact, abs=1e-8)


def test_edges_resolve_the_narrowest_peak_at_any_temperature():
    for temperature in (1e-6, 1e-2):
        edges = line_edges(Quartic(), Noise(1.0), temperature)
        at = np.searchsorted(edges, -1.0)
        assert edges[at] == -1.0
        assert edges[at + 1] - edges[at] <= np.sqrt(temperature / 4) / 3 * (1 + 1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.8])
def test_density_is_a_power_of_a_noise_that_is_linear_in_the_loss(temperature):
    measure = line_measure(Quartic(), Noise(lambda t: 0.5 + 2 * Quartic()(t)), temperature)
    _, weights = panel_nodes(measure.edges)
    log_density = measure.log_mass - np.log(weights)
    constant = log_density + (1 + 1 / temperature) * np.log(0.5 + 2 * Quartic()(measure.nodes))
    assert np.ptp(constant[log_density > -60]) < 1e-8


def test_loss_without_critical_points_is_refused():
    with pytest.raises(ValueError, match=r"loss must have local_minima\(\) and local_maxima\(\)"):
        critical_points(lambda t: t**2)
    nameless = type("Flat", (), {"local_minima": lambda self: [], "local_maxima": lambda self: []})()
    with pytest.raises(ValueError, match="loss must have at least one local minimum, it names none"):
        critical_points(nameless)


@pytest.mark.parametrize("noise", [1.0, ripple])
def test_nan_in_the_loss_is_refused_with_its_place(noise):
    class Holed(Quadratic):
        def __call__(self, theta):
            return np.where(np.asarray(theta) > 1.5, np.nan, super().__call__(theta))

        def gradient(self, theta):
            return np.where(np.asarray(theta) > 1.5, np.nan, super().gradient(theta))

    with pytest.raises(ValueError, match=r"loss must not be NaN, it is near θ = 1\."):
        line_measure(Holed(), Noise(noise), 0.1)


def test_infinite_noise_at_a_minimum_is_refused():
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="noise must be finite, got inf"):
        line_measure(Quadratic(), Noise(lambda t: 1 / np.abs(t)), 0.1)


def test_density_that_does_not_decay_is_refused():
    bounded = type("Dip", (Quadratic,), {"__call__": lambda self, t: -np.exp(-(np.asarray(t) ** 2))})()
    with pytest.raises(ValueError, match="the density does not decay at infinity"):
        line_measure(bounded, Noise(1.0), 0.1)
