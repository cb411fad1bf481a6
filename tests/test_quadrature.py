"""companion/quadrature.py against integrals in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.quadrature import graded_edges, integral_from_panel_start, panel_nodes


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=6, unique_by=lambda x: round(x, 3)),
    st.floats(1e-3, 1.0),
)
def test_edges_hold_every_point_are_fine_there_and_reach_far(points, scale):
    edges = graded_edges(points, scale)
    steps = np.diff(edges)
    assert np.all(steps > 0) and np.isin(points, edges).all()
    assert edges[0] < -1e7 and edges[-1] > 1e7
    for point in points:
        at = np.searchsorted(edges, point)
        assert max(steps[at - 1], steps[at]) <= scale * (1 + 1e-9)
    assert edges.size < 3000


def test_panels_grow_by_at_most_a_quarter_away_from_the_points():
    steps = np.diff(graded_edges([0.0], 0.1))
    right = steps[steps.size // 2 :]
    np.testing.assert_array_less(right[1:] / right[:-1], 1.25 + 1e-9)


def test_sixteen_nodes_integrate_degree_thirty_one_exactly():
    edges = np.array([-1.0, -0.3, 0.1, 2.0])
    nodes, weights = panel_nodes(edges)
    for degree in range(32):
        exact = np.diff(edges ** (degree + 1)) / (degree + 1)
        np.testing.assert_allclose((nodes**degree * weights).sum(axis=1), exact, rtol=1e-12, atol=1e-13)
    nodes, weights = panel_nodes(edges, order=2)
    assert abs((nodes**4 * weights).sum() - (2**5 + 1) / 5) > 1e-3


@pytest.mark.parametrize(
    ("function", "primitive"), [(np.cos, np.sin), (np.exp, np.exp), (lambda t: 5 * t**4, lambda t: t**5)]
)
def test_running_integral_matches_the_primitive_at_every_node(function, primitive):
    edges = np.array([-1.0, -0.5, 0.7, 1.5])
    nodes, _ = panel_nodes(edges)
    running = integral_from_panel_start(function(nodes), edges)
    np.testing.assert_allclose(running, primitive(nodes) - primitive(edges[:-1, None]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("density", "total"),
    [
        (lambda t: np.exp(-(t**2) / 2), np.sqrt(2 * np.pi)),
        (lambda t: 1 / (1 + t**2), np.pi),
        (lambda t: np.exp(-((t - 3) ** 2) / 2e-4) + np.exp(-np.abs(t)), np.sqrt(2e-4 * np.pi) + 2),
    ],
)
def test_whole_line_integrals_of_narrow_and_heavy_tailed_densities(density, total):
    nodes, weights = panel_nodes(graded_edges([0.0, 3.0], 0.005))
    assert (density(nodes) * weights).sum() == pytest.approx(total, rel=3e-9)
