"""Integrals over the whole line by Gauss-Legendre panels graded around given points."""

from itertools import pairwise

import numpy as np
from numpy.polynomial import legendre

ORDER = 16
GROWTH = 1.25
REACH = 1e8


def graded_edges(points, scale: float) -> np.ndarray:
    """Panel edges of the whole line: ``scale`` wide at each point, growing geometrically away.

    Parameters
    ----------
    points : array_like, shape (k,)
        Where the integrand may be narrow: minima and maxima.
    scale : float
        The width of the panels next to each point.

    Returns
    -------
    ndarray
        Increasing edges that hold every point and reach ``REACH`` times the points' extent, so
        that even a density with a power-law tail is integrated, not cut.
    """
    points = np.sort(np.asarray(points, dtype=float))
    extent = max(points[-1] - points[0], scale, 1.0)
    tail = _offsets(scale, REACH * extent)
    edges = [points[0] - tail[::-1], points, points[-1] + tail]
    for left, right in pairwise(points):
        half = _offsets(min(scale, (right - left) / 8), (right - left) / 2)
        edges += [left + half, right - half]
    return np.unique(np.concatenate(edges))


def panel_nodes(edges: np.ndarray, order: int = ORDER) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights of each panel, each of shape (panels, order)."""
    nodes, weights = legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    return edges[:-1, None] + half * (1 + nodes), half * weights


def integral_from_panel_start(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """∫ from each panel's left edge to each of its nodes, for ``values`` at :func:`panel_nodes`."""
    order = values.shape[1]
    nodes, weights = legendre.leggauss(order)
    # Expand in Legendre polynomials (exactly, by the rule itself), then integrate the series.
    degrees = np.arange(order)
    basis = legendre.legvander(nodes, order - 1)
    coefficients = (values * weights) @ basis * (degrees + 0.5)
    primitive = np.stack([legendre.legval(nodes, legendre.legint(row, lbnd=-1)) for row in np.eye(order)])
    return coefficients @ primitive * np.diff(edges)[:, None] / 2


def _offsets(first: float, last: float) -> np.ndarray:
    """``first``, growing by ``GROWTH`` up to and including ``last``: distances from a point."""
    count = max(int(np.ceil(np.log1p(last / first * (GROWTH - 1)) / np.log(GROWTH))), 1)
    steps = GROWTH ** np.arange(count)
    return last * np.cumsum(steps) / steps.sum()
