"""What the tests compare with: losses and noises in closed form, and integrals by other means."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.integrate import cumulative_simpson, quad, simpson
from scipy.stats import norm


@dataclass(frozen=True)
class Quadratic:
    """U(θ) = h (θ - m)² / 2 + level, with every method that the companion may ask for."""

    h: float = 1.0
    minimum: float = 0.0
    level: float = 0.0

    def __call__(self, theta):
        return self.h * (np.asarray(theta) - self.minimum) ** 2 / 2 + self.level

    def gradient(self, theta):
        return self.h * (np.asarray(theta) - self.minimum)

    def curvature(self, theta):
        return np.full(np.shape(theta), self.h)

    def local_minima(self):
        return np.array([self.minimum])

    def local_maxima(self):
        return np.array([])


class Quartic:
    """U(θ) = (θ² - 1)² / 4: minima ±1 of curvature 2, a barrier of 1/4 of curvature -1 at 0."""

    def __call__(self, theta):
        return (np.asarray(theta) ** 2 - 1) ** 2 / 4

    def gradient(self, theta):
        return np.asarray(theta) ** 3 - theta

    def curvature(self, theta):
        return 3 * np.asarray(theta) ** 2 - 1

    def local_minima(self):
        return np.array([-1.0, 1.0])

    def local_maxima(self):
        return np.array([0.0])


def ripple(theta):
    """A noise D(θ) that stays between 0.6 and 1.4 and is no function of the loss."""
    return 1 + 0.4 * np.sin(3 * np.asarray(theta) + 0.5)


def ripple_slope(theta):
    return 1.2 * np.cos(3 * np.asarray(theta) + 0.5)


def ripple_bend(theta):
    return -3.6 * np.sin(3 * np.asarray(theta) + 0.5)


def wells_loss(wells, theta):
    """The loss of some wells from their parameters alone."""
    theta = np.asarray(theta, dtype=float)[..., None]
    dips = wells.weights * norm.pdf(theta, wells.minima, wells.sigmas)
    return wells.confinement * (theta[..., 0] - wells.center) ** 2 - dips.sum(axis=-1)


def integral(function, points):
    """∫ between each two neighbouring points, by adaptive quadrature."""
    pieces = [quad(function, a, b, epsabs=0, epsrel=1e-11, limit=500) for a, b in pairwise(points)]
    return np.array([value for value, _ in pieces])


def dense_line(loss, noise, temperature, *, half_width=150.0, points=600_001):
    """A fine grid and exp(-2v/T) on it, with v by Simpson's rule from U′ by differences."""
    theta = np.linspace(-half_width, half_width, points)
    half = (theta[1] - theta[0]) / 100
    slope = (loss(theta + half) - loss(theta - half)) / (2 * half)
    potential = cumulative_simpson(slope / noise(theta), x=theta, initial=0) + temperature / 2 * np.log(noise(theta))
    return theta, np.exp(-2 * (potential - potential.min()) / temperature)


def average(function, theta, mass):
    return simpson(function(theta) * mass, x=theta) / simpson(mass, x=theta)
