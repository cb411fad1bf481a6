"""Checks of a caller's arguments: each error names the argument, its value and what is allowed."""

import numpy as np


def number(name: str, value: float) -> float:
    """``value`` as a float if it is one finite number."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        real = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not np.isfinite(real):
        raise ValueError(f"{name} must be finite, got {real}")
    return real


def positive(name: str, value: float) -> float:
    """``value`` as a float if it is finite and above zero."""
    value = number(name, value)
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value:g}")
    return value


def non_negative(name: str, value: float) -> float:
    """``value`` as a float if it is finite and not below zero."""
    value = number(name, value)
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value:g}")
    return value


def count(name: str, value: int) -> int:
    """``value`` as an int if it is a whole number of at least one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def finite(name: str, values) -> np.ndarray:
    """``values`` as a float array if none is NaN or infinite."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold real numbers, got {values!r}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")
    return array


def increasing_grid(name: str, values, *, least: int = 5) -> np.ndarray:
    """``values`` as a strictly increasing, finite, one-dimensional array."""
    grid = finite(name, values)
    if grid.ndim != 1 or grid.size < least:
        raise ValueError(f"{name} must be one-dimensional with at least {least} points, got shape {grid.shape}")
    falls = np.flatnonzero(np.diff(grid) <= 0)
    if falls.size:
        before, after = grid[falls[0]], grid[falls[0] + 1]
        raise ValueError(f"{name} must be increasing, got {before:g} followed by {after:g}")
    return grid


def contains_basins(name: str, grid: np.ndarray, loss) -> None:
    """Every local minimum that ``loss`` can name must lie inside the grid."""
    for minimum in getattr(loss, "local_minima", list)():
        if not grid[0] < minimum < grid[-1]:
            ends = f"[{grid[0]:g}, {grid[-1]:g}]"
            raise ValueError(f"{name} must contain every basin; {ends} leaves out the minimum at {minimum:g}")


def symmetric_matrix(name: str, values, *, definite: bool) -> np.ndarray:
    """``values`` as a symmetric (d, d) array, positive definite or at least semidefinite."""
    matrix = finite(name, values)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"{name} must be a square matrix, got shape {matrix.shape}")
    scale = max(np.abs(matrix).max(), np.finfo(float).tiny)
    if np.abs(matrix - matrix.T).max() > 1e-10 * scale:
        raise ValueError(f"{name} must be symmetric, got {matrix.tolist()}")
    smallest = np.linalg.eigvalsh(matrix)[0]
    if definite and smallest <= 1e-12 * scale:
        raise ValueError(f"{name} must be positive definite, its smallest eigenvalue is {smallest:.3g}")
    if smallest < -1e-10 * scale:
        raise ValueError(f"{name} must be positive semidefinite, its smallest eigenvalue is {smallest:.3g}")
    return matrix


def generator(name: str, value: np.random.Generator) -> np.random.Generator:
    """``value`` if it is a numpy random generator."""
    if not isinstance(value, np.random.Generator):
        raise ValueError(f"{name} must be a numpy.random.Generator, as np.random.default_rng(seed) is, got {value!r}")
    return value
