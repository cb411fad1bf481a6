"""The steady state as a measure on the whole line: nodes and log masses that integrate it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from companion import validate
from companion.diffusivity import Noise, derivative, second_derivative
from companion.quadrature import graded_edges, integral_from_panel_start, panel_nodes

NEGLIGIBLE = 1e-6  # of the total mass, in the outermost panels


@dataclass(frozen=True)
class LineMeasure:
    """exp(-2v/T) on Gauss-Legendre panels: ``edges`` (p + 1,), ``nodes`` and ``log_mass`` (p, n)."""

    edges: np.ndarray
    nodes: np.ndarray
    log_mass: np.ndarray


def critical_points(loss) -> tuple[np.ndarray, np.ndarray]:
    """The loss's local minima and maxima; a ``ValueError`` if it cannot name them."""
    if not (hasattr(loss, "local_minima") and hasattr(loss, "local_maxima")):
        raise ValueError(f"loss must have local_minima() and local_maxima(), as GaussianWells has; got {loss!r}")
    minima, maxima = np.asarray(loss.local_minima(), dtype=float), np.asarray(loss.local_maxima(), dtype=float)
    if minima.size == 0:
        raise ValueError("loss must have at least one local minimum, it names none")
    return minima, maxima


def line_edges(loss, noise: Noise, temperature: float) -> np.ndarray:
    """Panel edges fine enough for the steady state: a third of its narrowest peak at each minimum."""
    minima, maxima = critical_points(loss)
    curvature = np.maximum(second_derivative(loss, minima), np.finfo(float).tiny)
    width = np.sqrt(temperature * validate.finite("noise", noise(minima)) / (2 * curvature)).min()
    return graded_edges(np.concatenate([minima, maxima]), float(min(width / 3, 0.05)))


def line_measure(loss: Callable, noise: Noise, temperature: float) -> LineMeasure:
    """The unnormalized steady state; a ``ValueError`` if the loss is NaN or the mass has no end."""
    edges = line_edges(loss, noise, temperature)
    nodes, weights = panel_nodes(edges)
    if noise.constant:
        potential = loss(nodes) / noise(nodes)
    else:
        origin = int(np.searchsorted(edges, critical_points(loss)[0][0]))
        potential = _line_integral(derivative(loss, nodes) / noise(nodes), weights, edges, origin)
        potential += temperature / 2 * np.log(noise(nodes))
    log_mass = np.log(weights) - 2 * potential / temperature
    if np.isnan(log_mass).any():
        raise ValueError(f"loss must not be NaN, it is near θ = {nodes[np.isnan(log_mass)][0]:g}")
    if logsumexp(log_mass[[0, -1]]) - logsumexp(log_mass) > np.log(NEGLIGIBLE):
        raise ValueError("loss has no steady state at this temperature: the density does not decay at infinity")
    return LineMeasure(edges, nodes, log_mass)


def _line_integral(force: np.ndarray, weights: np.ndarray, edges: np.ndarray, origin: int) -> np.ndarray:
    """∫ force from ``edges[origin]`` to each node."""
    panel = (force * weights).sum(axis=1)
    # Far out the integral is huge: sum outwards from the origin, so that nothing cancels near it.
    left, right = -np.cumsum(panel[:origin][::-1])[::-1], np.cumsum(panel[origin:])
    at_edges = np.concatenate([left, [0.0], right])
    return at_edges[:-1, None] + integral_from_panel_start(force, edges)
