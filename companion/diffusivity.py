"""The drift's and the noise's ingredients: U′ by any means, and D(θ) in any of its spellings."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from companion import validate

STENCIL = np.array([1.0, -8.0, 8.0, -1.0]) / 12.0
OFFSETS = np.array([-2.0, -1.0, 1.0, 2.0])
STEP = 2.5e-4


def derivative(function: Callable, theta) -> np.ndarray:
    """f′ at ``theta``: the function's own ``gradient`` or ``derivative`` where it has one.

    Otherwise a five-point difference, whose relative error is near 1e-11 for a function that
    varies on the scale of max(1, abs(θ)).
    """
    for name in ("gradient", "derivative"):
        if hasattr(function, name):
            return np.asarray(getattr(function, name)(theta), dtype=float)
    theta = np.asarray(theta, dtype=float)
    step = STEP * np.maximum(1.0, np.abs(theta))
    around = [np.asarray(function(theta + offset * step), dtype=float) for offset in OFFSETS]
    return sum(weight * value for weight, value in zip(STENCIL, around, strict=True)) / step


def second_derivative(function: Callable, theta) -> np.ndarray:
    """f″ at ``theta``: the function's own ``curvature`` where it has one, else a difference of f′."""
    if hasattr(function, "curvature"):
        return np.asarray(function.curvature(theta), dtype=float)
    return derivative(lambda point: derivative(function, point), theta)


@dataclass(frozen=True)
class Noise:
    """The gradient variance D(θ) > 0 and its derivative; built from what a caller passes.

    ``noise`` is a number, a callable D, or a pair (D, D′).  A callable's own ``derivative`` or
    ``gradient`` is used where it has one, and a finite difference where it has not.
    """

    noise: float | Callable | tuple[Callable, Callable]

    def __post_init__(self):
        if self.constant:
            validate.positive("noise", self.noise)
        elif not all(callable(part) for part in self._pair()):
            raise ValueError(f"noise must be a number, a callable D or a pair (D, D′), got {self.noise!r}")

    @property
    def constant(self) -> bool:
        """Whether D is a number."""
        return not callable(self.noise) and not isinstance(self.noise, tuple | list)

    def __call__(self, theta) -> np.ndarray:
        """D at ``theta``; a ``ValueError`` where it is not a positive number."""
        theta = np.asarray(theta, dtype=float)
        if self.constant:
            return np.full(theta.shape, float(self.noise))
        value = _like(theta, self._pair()[0](theta))
        if not np.all(value > 0):
            raise ValueError(f"noise must be positive everywhere, got D = {value[~(value > 0)].flat[0]:g}")
        return value

    def derivative(self, theta) -> np.ndarray:
        """D′ at ``theta``."""
        theta = np.asarray(theta, dtype=float)
        if self.constant:
            return np.zeros(theta.shape)
        value, slope = self._pair()
        return _like(theta, derivative(value, theta) if slope is value else slope(theta))

    def _pair(self) -> tuple:
        if not isinstance(self.noise, tuple | list):
            return self.noise, self.noise
        if len(self.noise) != 2:
            raise ValueError(f"noise must be a number, a callable D or a pair (D, D′), got {self.noise!r}")
        return tuple(self.noise)


def _like(theta: np.ndarray, value) -> np.ndarray:
    try:
        return np.broadcast_to(np.asarray(value, dtype=float), theta.shape)
    except (TypeError, ValueError):
        raise ValueError(f"noise must give one number for each θ of shape {theta.shape}, got {value!r}") from None
