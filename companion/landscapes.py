"""One-dimensional training losses: Gaussian wells, and a finite sample whose mean loss is given."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import brentq

from companion import validate


@dataclass(frozen=True)
class GaussianWells:
    """U(θ) = c (θ - θ₀)² - Σᵢ wᵢ N(θ; mᵢ, σᵢ²), a few Gaussian wells in a wide parabola.

    ``N`` is the normalized Gaussian density, so well i has depth wᵢ / (σᵢ √(2π)) and curvature
    wᵢ / (σᵢ³ √(2π)) where the wells do not overlap.

    Parameters
    ----------
    minima, weights, sigmas : array_like, shape (k,)
        Centres mᵢ, weights wᵢ > 0 and widths σᵢ > 0 of the wells, in units of θ (weights: loss
        times θ).
    confinement : float, default 0.001
        c ≥ 0.  Without confinement (c = 0) the wells have no steady state.
    center : float, default 0
        θ₀, the bottom of the parabola.

    Raises
    ------
    ValueError
        If the arrays differ in length or are empty, or a number is out of its range.

    Notes
    -----
    Source: ``shift``, section 3.1 and the table of parameters of figures 4 and 6; the formula
    is our reading of that table and reproduces the depths of the figures.
    """

    minima: np.ndarray
    weights: np.ndarray
    sigmas: np.ndarray
    confinement: float = 0.001
    center: float = 0.0
    _critical: tuple = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for name in ("minima", "weights", "sigmas"):
            values = np.atleast_1d(validate.finite(name, getattr(self, name)))
            if values.ndim != 1 or values.size == 0:
                raise ValueError(f"{name} must hold one number a well, got shape {values.shape}")
            object.__setattr__(self, name, values)
        if not self.minima.size == self.weights.size == self.sigmas.size:
            raise ValueError(
                "minima, weights and sigmas must be equally long, "
                f"got {self.minima.size}, {self.weights.size} and {self.sigmas.size}"
            )
        for name in ("weights", "sigmas"):
            if not np.all(getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name).tolist()}")
        validate.non_negative("confinement", self.confinement)
        validate.number("center", self.center)
        object.__setattr__(self, "_critical", self._critical_points())

    def __call__(self, theta) -> np.ndarray:
        """The loss at ``theta``, any shape."""
        theta = np.asarray(theta, dtype=float)
        value = self.confinement * (theta - self.center) ** 2
        for _, well in self._wells(theta):
            value = value - well
        return value

    def gradient(self, theta) -> np.ndarray:
        """U′ at ``theta``, any shape."""
        theta = np.asarray(theta, dtype=float)
        value = 2 * self.confinement * (theta - self.center)
        for (minimum, sigma), well in self._wells(theta):
            value = value + well * (theta - minimum) / sigma**2
        return value

    def curvature(self, theta) -> np.ndarray:
        """U″ at ``theta``, any shape."""
        theta = np.asarray(theta, dtype=float)
        value = np.full_like(theta, 2 * self.confinement)
        for (minimum, sigma), well in self._wells(theta):
            value = value + well * (1 - ((theta - minimum) / sigma) ** 2) / sigma**2
        return value

    def local_minima(self) -> np.ndarray:
        """The local minima of U, left to right; near the wells' centres, not on them."""
        return self._critical[0].copy()

    def local_maxima(self) -> np.ndarray:
        """The local maxima of U, left to right: one between each two neighbouring minima."""
        return self._critical[1].copy()

    def shifted(self, shift: float) -> "GaussianWells":
        """The loss θ → U(θ + shift): every minimum moves by -shift (``shift``, section 3.1)."""
        shift = validate.number("shift", shift)
        return GaussianWells(self.minima - shift, self.weights, self.sigmas, self.confinement, self.center - shift)

    def _wells(self, theta: np.ndarray):
        for minimum, weight, sigma in zip(self.minima, self.weights, self.sigmas, strict=True):
            height = weight / (sigma * np.sqrt(2 * np.pi))
            yield (minimum, sigma), height * np.exp(-0.5 * ((theta - minimum) / sigma) ** 2)

    def _critical_points(self) -> tuple[np.ndarray, np.ndarray]:
        # Outside the hull of the centres every term of U′ has the sign of the outward direction,
        # so all critical points lie inside it.  Beyond 40 σ a well underflows to zero.
        ends = np.append(self.minima, self.center) if self.confinement > 0 else self.minima
        low, high = ends.min(), ends.max()
        near = (self.minima[:, None] + self.sigmas[:, None] * np.linspace(-40, 40, 8001)).ravel()
        margin = 1e-3 * self.sigmas.min()
        points = np.concatenate([near, np.linspace(low, high, 2001), [low - margin, high + margin, self.center]])
        points = np.unique(points[(points >= low - margin) & (points <= high + margin)])
        slope = self.gradient(points)
        points, slope = points[slope != 0], slope[slope != 0]
        rising, falling = (slope[:-1] < 0) & (slope[1:] > 0), (slope[:-1] > 0) & (slope[1:] < 0)
        roots = [
            np.array([brentq(self.gradient, points[i], points[i + 1], xtol=1e-14) for i in np.flatnonzero(change)])
            for change in (rising, falling)
        ]
        return roots[0], roots[1]


def paper_wells(name: str) -> tuple[GaussianWells, float]:
    """The landscape of a figure of ``shift`` and the shift between its train and test loss.

    Parameters
    ----------
    name : {"4-left", "4-right", "6-left", "6-right"}
        The figure.  The training loss is the returned landscape, the test loss
        ``wells.shifted(shift)``.

    Raises
    ------
    ValueError
        If there is no such figure.
    """
    table = {
        "4-left": ([-1, 1], [0.021, 0.1], [0.1, 0.5], 0.1),
        "4-right": ([-1, 1], [0.019, 0.1], [0.1, 0.5], 0.1),
        "6-left": ([0], [0.1], [0.1], 0.03),
        "6-right": ([-1, 0, 1], [0.1, 0.051, 0.3], [0.1, 0.05, 0.3], 0.1),
    }
    if name not in table:
        raise ValueError(f"name must be one of {', '.join(table)}, got {name!r}")
    minima, weights, sigmas, shift = table[name]
    return GaussianWells(minima, weights, sigmas, confinement=0.001), shift


@dataclass(frozen=True)
class TiltedSample:
    """A finite training set in one dimension: sample i has the loss Uᵢ(θ) = U(θ) + xᵢ A(θ).

    The tilts xᵢ have mean zero, so the mean loss is exactly U; the gradient covariance is
    D(θ) = A′(θ)² · mean(xᵢ²), and the third cumulant A′(θ)³ · mean(xᵢ³).

    Parameters
    ----------
    loss : callable with a ``gradient``
        U, for example :class:`GaussianWells`.
    tilts : array_like, shape (n,)
        The xᵢ, n ≥ 2, with mean zero.
    slope : callable, optional
        A′(θ), any shape to the same shape.  Default: 1, which makes the noise constant.

    Raises
    ------
    ValueError
        If there are fewer than two tilts or their mean is not zero.
    """

    loss: Callable
    tilts: np.ndarray
    slope: Callable = np.ones_like

    def __post_init__(self):
        tilts = validate.finite("tilts", self.tilts)
        if tilts.ndim != 1 or tilts.size < 2:
            raise ValueError(f"tilts must hold at least two numbers, got shape {tilts.shape}")
        if abs(tilts.mean()) > 1e-10 * np.abs(tilts).max():
            raise ValueError(f"tilts must have mean zero, got mean {tilts.mean():g}")
        object.__setattr__(self, "tilts", tilts)

    @property
    def size(self) -> int:
        """The number of training samples."""
        return self.tilts.size

    def gradient(self, theta: np.ndarray, index: np.ndarray) -> np.ndarray:
        """U′ᵢ(θ) for each path and each drawn sample: ``theta`` (p,), ``index`` (p, b) to (p, b)."""
        if theta.ndim != 1:
            raise ValueError(f"theta must hold one number a path, got shape {theta.shape}")
        gradient = self.tilts[index]  # in place from here: at large batches the memory traffic is the time
        gradient *= self.slope(theta)[:, None]
        gradient += self.loss.gradient(theta)[:, None]
        return gradient

    def gradient_covariance(self, theta) -> np.ndarray:
        """D(θ), the variance of the per-sample gradients at ``theta``."""
        return self.slope(np.asarray(theta, dtype=float)) ** 2 * np.mean(self.tilts**2)
