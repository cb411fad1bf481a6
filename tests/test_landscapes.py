"""companion/landscapes.py against the formula in SymPy, dense scans and the paper's table."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Quadratic, wells_loss

from companion.landscapes import GaussianWells, TiltedSample, paper_wells

THETA = np.linspace(-3, 3, 241)


@st.composite
def random_wells(draw):
    count = draw(st.integers(1, 4))

    def numbers(low, high):
        return draw(st.lists(st.floats(low, high), min_size=count, max_size=count))

    return GaussianWells(
        numbers(-2, 2),
        numbers(0.01, 0.5),
        numbers(0.05, 0.8),
        confinement=draw(st.floats(1e-3, 1.0)),
        center=draw(st.floats(-1, 1)),
    )


@pytest.fixture(scope="module")
def symbolic():
    x = sp.symbols("x")
    loss = sp.Rational(1, 50) * (x - sp.Rational(1, 5)) ** 2
    for m, w, s in ((-1, sp.Rational(1, 10), sp.Rational(1, 4)), (sp.Rational(1, 2), sp.Rational(3, 10), 1)):
        loss -= w * sp.exp(-((x - m) ** 2) / (2 * s**2)) / (s * sp.sqrt(2 * sp.pi))
    return [sp.lambdify(x, sp.diff(loss, x, order)) for order in range(3)]


@pytest.mark.parametrize(("order", "method"), [(0, "__call__"), (1, "gradient"), (2, "curvature")])
def test_value_gradient_and_curvature_are_those_of_the_formula(symbolic, order, method):
    wells = GaussianWells([-1, 0.5], [0.1, 0.3], [0.25, 1.0], confinement=0.02, center=0.2)
    np.testing.assert_allclose(getattr(wells, method)(THETA), symbolic[order](THETA), rtol=1e-12, atol=1e-14)


@settings(max_examples=30, deadline=None)
@given(random_wells(), st.floats(-3, 3))
def test_gradient_is_the_complex_step_derivative_of_the_loss(wells, theta):
    point = theta + 1e-30j
    dips = wells.weights * np.exp(-0.5 * ((point - wells.minima) / wells.sigmas) ** 2)
    loss = wells.confinement * (point - wells.center) ** 2 - np.sum(dips / (wells.sigmas * np.sqrt(2 * np.pi)))
    assert wells.gradient(theta) == pytest.approx(loss.imag / 1e-30, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_arrays_of_any_shape_keep_their_shape(shape):
    wells = GaussianWells([0, 1], [1, 1], [0.2, 0.2])
    theta = np.zeros(shape)
    assert [np.shape(f(theta)) for f in (wells, wells.gradient, wells.curvature)] == [shape] * 3


def test_integers_and_lists_are_taken_as_points():
    wells = GaussianWells([0, 1], [1, 1], [0.2, 0.2])
    for method in (wells, wells.gradient, wells.curvature):
        np.testing.assert_array_equal(method([0, 1]), method(np.array([0.0, 1.0])))


@settings(max_examples=60, deadline=None)
@given(random_wells())
def test_minima_and_maxima_interlace_and_are_critical_points(wells):
    minima, maxima = wells.local_minima(), wells.local_maxima()
    assert minima.size == maxima.size + 1
    assert np.all(minima[:-1] < maxima) and np.all(maxima < minima[1:])
    scale = np.max(wells.weights / wells.sigmas**2)
    np.testing.assert_allclose(wells.gradient(np.append(minima, maxima)), 0, atol=1e-11 * scale)
    assert np.all(wells.curvature(minima) > -1e-6 * scale)
    assert np.all(wells.curvature(maxima) < 1e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(random_wells())
def test_every_minimum_of_a_dense_scan_is_found_and_no_other(wells):
    theta, step = np.linspace(-2.5, 2.5, 40_001, retstep=True)
    value = wells_loss(wells, theta)
    dips = theta[1:-1][(value[1:-1] < value[:-2]) & (value[1:-1] < value[2:])]
    found = wells.local_minima()
    assert all(np.abs(found - dip).min() < 2 * step for dip in dips)
    flat = np.abs(wells.curvature(found)) < 1e-3 * np.max(wells.weights / wells.sigmas**3)
    assert all(np.abs(dips - m).min() < 2 * step for m in found[~flat])


def test_narrow_well_far_out_is_found():
    wells = GaussianWells([0, 1000], [1, 0.01], [0.5, 1e-3], confinement=1e-6)
    np.testing.assert_allclose(wells.local_minima(), [0, 1000], atol=1e-3)


def test_critical_points_are_the_callers_to_change():
    wells, _ = paper_wells("4-left")
    wells.local_minima()[:] = 0
    wells.local_maxima()[:] = 7
    fresh, _ = paper_wells("4-left")
    np.testing.assert_array_equal(wells.local_minima(), fresh.local_minima())
    np.testing.assert_array_equal(wells.local_maxima(), fresh.local_maxima())


@settings(max_examples=40, deadline=None)
@given(random_wells(), st.floats(-1, 1), st.floats(-3, 3))
def test_shifted_loss_is_the_loss_at_the_shifted_point(wells, shift, theta):
    moved = wells.shifted(shift)
    for method in ("__call__", "gradient", "curvature"):
        here, there = getattr(moved, method)(theta), getattr(wells, method)(theta + shift)
        assert here == pytest.approx(there, rel=1e-9, abs=1e-10)


def test_shift_moves_every_minimum_the_other_way():
    wells, shift = paper_wells("6-right")
    np.testing.assert_allclose(wells.shifted(shift).local_minima(), wells.local_minima() - 0.1, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "minima", "weights", "sigmas", "shift"),
    [
        ("4-left", [-1, 1], [0.021, 0.1], [0.1, 0.5], 0.1),
        ("4-right", [-1, 1], [0.019, 0.1], [0.1, 0.5], 0.1),
        ("6-left", [0], [0.1], [0.1], 0.03),
        ("6-right", [-1, 0, 1], [0.1, 0.051, 0.3], [0.1, 0.05, 0.3], 0.1),
    ],
)
def test_figures_have_the_parameters_of_the_papers_table(name, minima, weights, sigmas, shift):
    wells, test_shift = paper_wells(name)
    assert (wells.minima.tolist(), wells.weights.tolist(), wells.sigmas.tolist()) == (minima, weights, sigmas)
    assert (wells.confinement, wells.center, test_shift) == (0.001, 0, shift)
    np.testing.assert_allclose(wells.local_minima(), minima, atol=0.02)


def test_figures_say_what_their_captions_say():
    left, right = paper_wells("4-left")[0], paper_wells("4-right")[0]
    for wells, deeper in ((left, 0), (right, 1)):
        assert wells(wells.local_minima()).argmin() == deeper
        assert wells.curvature(wells.local_minima()).argmin() == 1
    three = paper_wells("6-right")[0]
    depths, curvatures = three(three.local_minima()), three.curvature(three.local_minima())
    assert depths.argmin() == 1 and depths[0] == pytest.approx(depths[2], abs=2e-3)
    assert curvatures.argmax() == 1 and curvatures[2] < curvatures[0]


def test_tilted_sample_has_the_stated_mean_and_covariance():
    tilts = np.array([-1.0, -1.0, 2.0])
    sample = TiltedSample(Quadratic(2.0), tilts, slope=lambda t: 1 + t**2)
    theta = np.array([0.5, -1.0])
    gradients = sample.gradient(theta, np.tile(np.arange(3), (2, 1)))
    np.testing.assert_allclose(gradients.mean(axis=1), 2 * theta, rtol=1e-14)
    np.testing.assert_allclose(gradients.var(axis=1), sample.gradient_covariance(theta), rtol=1e-13)
    assert sample.size == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minima": []}, r"minima must hold one number a well, got shape \(0,\)"),
        ({"minima": [[0.0]]}, r"minima must hold one number a well, got shape \(1, 1\)"),
        ({"minima": [np.nan]}, "minima must be finite, got nan"),
        ({"minima": ["left"]}, r"minima must hold real numbers, got \['left'\]"),
        ({"weights": [1, 2]}, "must be equally long, got 1, 2 and 1"),
        ({"weights": [0]}, r"weights must be positive, got \[0.0\]"),
        ({"weights": [np.inf]}, "weights must be finite, got inf"),
        ({"sigmas": [0]}, r"sigmas must be positive, got \[0.0\]"),
        ({"sigmas": [-0.1]}, r"sigmas must be positive, got \[-0.1\]"),
        ({"confinement": -1e-3}, "confinement must not be negative, got -0.001"),
        ({"confinement": np.nan}, "confinement must be finite, got nan"),
        ({"confinement": "0.1"}, "confinement must be a number, got '0.1'"),
        ({"center": np.inf}, "center must be finite, got inf"),
        ({"center": [0, 1]}, r"center must be a number, got \[0, 1\]"),
    ],
)
def test_bad_wells_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GaussianWells(**({"minima": [0], "weights": [1], "sigmas": [0.1]} | changes))


@pytest.mark.parametrize("shift", [np.nan, "0.1", None, [0.1]])
def test_bad_shift_is_refused(shift):
    with pytest.raises(ValueError, match="shift must be"):
        GaussianWells([0], [1], [1]).shifted(shift)


def test_unknown_figure_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="name must be one of 4-left, 4-right, 6-left, 6-right, got '5'"):
        paper_wells("5")


@pytest.mark.parametrize(
    ("tilts", "message"),
    [
        ([1.0], r"tilts must hold at least two numbers, got shape \(1,\)"),
        ([[1.0, -1.0]], r"tilts must hold at least two numbers, got shape \(1, 2\)"),
        ([1.0, 1.0], "tilts must have mean zero, got mean 1"),
        ([1.0, np.nan], "tilts must be finite, got nan"),
    ],
)
def test_bad_tilts_are_refused(tilts, message):
    with pytest.raises(ValueError, match=message):
        TiltedSample(Quadratic(), tilts)


def test_tilted_sample_refuses_points_of_more_than_one_dimension():
    with pytest.raises(ValueError, match=r"theta must hold one number a path, got shape \(2, 2\)"):
        TiltedSample(Quadratic(), [1.0, -1.0]).gradient(np.zeros((2, 2)), np.zeros((2, 1), dtype=int))
