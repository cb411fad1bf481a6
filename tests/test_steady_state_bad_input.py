"""companion/steady_state.py in one dimension: every bad argument is refused by name."""

import numpy as np
import pytest
from oracles import Quadratic, ripple

from companion.landscapes import GaussianWells, paper_wells
from companion.steady_state import (
    basin_probabilities,
    effective_minima,
    effective_potential,
    expected_loss,
    laplace_weights,
    stationary_density,
)

WELLS, _ = paper_wells("4-left")
GRID = np.linspace(-3, 3, 2001)


def call(function, *, loss=WELLS, noise=1.0, temperature=0.1, grid=GRID):
    if function in (effective_potential, stationary_density):
        return function(loss, noise, temperature, grid)
    if function is expected_loss:
        return function(np.square, loss, temperature, noise)
    return function(loss, temperature, noise)


ON_A_GRID = [effective_potential, stationary_density]
ON_THE_LINE = [basin_probabilities, expected_loss, laplace_weights, effective_minima]


@pytest.mark.parametrize("function", ON_A_GRID + ON_THE_LINE)
@pytest.mark.parametrize(
    ("temperature", "message"),
    [
        (0, "must be positive, got 0"),
        (-0.1, "must be positive, got -0.1"),
        (np.nan, "must be finite, got nan"),
        (np.inf, "must be finite, got inf"),
        ("0.1", "must be a number, got '0.1'"),
        (None, "must be a number, got None"),
        ([0.1, 0.2], r"must be a number, got \[0.1, 0.2\]"),
    ],
)
def test_bad_temperature_is_refused(function, temperature, message):
    with pytest.raises(ValueError, match=f"^temperature {message}$"):
        call(function, temperature=temperature)


@pytest.mark.parametrize("function", ON_A_GRID + ON_THE_LINE)
@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (0, "must be positive, got 0"),
        (-1, "must be positive, got -1"),
        (np.nan, "must be finite, got nan"),
        ("D", "must be a number, got 'D'"),
        ((ripple,), r"must be a number, a callable D or a pair \(D, D′\), got"),
        ((ripple, 1.0), r"must be a number, a callable D or a pair \(D, D′\), got"),
        (lambda t: t + 0.5, "must be positive everywhere, got D = "),
        (lambda t: np.full_like(t, np.nan), "must be positive everywhere, got D = nan"),
        (lambda t: np.full_like(t, np.inf), "must be finite, got inf"),
        (lambda t: np.ones(3), "must give one number for each θ of shape"),
    ],
)
def test_bad_noise_is_refused(function, noise, message):
    with pytest.raises(ValueError, match=f"^noise {message}"):
        call(function, noise=noise)


@pytest.mark.parametrize("function", ON_A_GRID)
@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (GRID[:3], r"must be one-dimensional with at least 5 points, got shape \(3,\)"),
        (0.5, r"must be one-dimensional with at least 5 points, got shape \(\)"),
        (GRID.reshape(3, 667), r"must be one-dimensional with at least 5 points, got shape \(3, 667\)"),
        (GRID[::-1], "must be increasing, got 3 followed by 2.997"),
        (np.append(GRID, 3.0), "must be increasing, got 3 followed by 3"),
        (np.append(GRID, np.nan), "must be finite, got nan"),
        ("grid", "must hold real numbers, got 'grid'"),
    ],
)
def test_bad_grid_is_refused(function, grid, message):
    with pytest.raises(ValueError, match=f"^grid {message}$"):
        call(function, grid=grid)


@pytest.mark.parametrize(
    ("grid", "minimum"), [(np.linspace(-0.5, 3, 500), "-0.999736"), (np.linspace(-3, 0.5, 500), "0.993772")]
)
def test_grid_that_leaves_out_a_basin_is_refused(grid, minimum):
    with pytest.raises(ValueError, match=f"grid must contain every basin; .* leaves out the minimum at {minimum}"):
        call(stationary_density, grid=grid)


@pytest.mark.parametrize("grid", [np.linspace(1, 3, 500), np.linspace(-3, -1, 500)])
def test_grid_on_which_the_density_is_largest_at_an_end_is_refused(grid):
    with pytest.raises(ValueError, match=r"grid must contain the basins; on \[.*\] the density is largest at an end"):
        call(stationary_density, loss=lambda t: t**2, grid=grid)


def test_grid_too_coarse_for_the_temperature_is_refused():
    with pytest.raises(ValueError, match=r"grid is too coarse for temperature 1e-05: .*fewer than 4 points"):
        call(stationary_density, temperature=1e-5)


@pytest.mark.parametrize("function", ON_A_GRID)
@pytest.mark.parametrize("noise", [1.0, ripple])
@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_loss_that_is_not_finite_is_refused(function, noise, hole):
    with pytest.raises(ValueError, match=f"^loss must be finite, got {hole}"):
        call(function, loss=lambda t: np.where(t > 1, hole, t**2), noise=noise)


def test_gradient_that_is_not_finite_is_refused():
    broken = type("Broken", (Quadratic,), {"gradient": lambda self, t: t * np.nan})()
    with pytest.raises(ValueError, match=r"^loss gradient must be finite, got nan"):
        call(effective_potential, loss=broken, noise=ripple)


@pytest.mark.parametrize("function", [basin_probabilities, expected_loss])
def test_loss_that_is_nan_somewhere_on_the_line_is_refused(function):
    holed = type("Holed", (Quadratic,), {"__call__": lambda self, t: np.where(t > 2, np.nan, t**2)})()
    with pytest.raises(ValueError, match="loss must not be NaN, it is near θ = 2"):
        call(function, loss=holed)


@pytest.mark.parametrize("function", ON_THE_LINE)
def test_loss_that_cannot_name_its_minima_is_refused(function):
    with pytest.raises(ValueError, match=r"loss must have local_minima\(\) and local_maxima\(\)"):
        call(function, loss=lambda t: t**2)


@pytest.mark.parametrize("function", [basin_probabilities, expected_loss])
def test_loss_without_confinement_has_no_steady_state(function):
    with pytest.raises(ValueError, match="loss has no steady state at this temperature"):
        call(function, loss=GaussianWells([0], [1], [1], confinement=0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t: t * np.nan, "^function must be finite, got nan"),
        (lambda t: t[:1], r"^function must keep the shape of its argument, got \(1,\) for"),
        (lambda t: "loss", "^function must hold real numbers, got 'loss'"),
    ],
)
def test_bad_function_to_average_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        expected_loss(function, WELLS, 0.1)


def test_laplace_weights_refuse_a_minimum_without_curvature():
    flat = type("Flat", (Quadratic,), {"curvature": lambda self, t: 12 * t**2})()
    with pytest.raises(ValueError, match=r"loss must be curved .* at θ = 0 it is not"):
        laplace_weights(flat, 0.1)


def test_basin_that_the_noise_has_swallowed_is_refused_by_its_minimum():
    def swallowing(theta):
        return np.exp(3 * np.tanh(theta))

    for function in (laplace_weights, effective_minima):
        with pytest.raises(ValueError, match=r"at temperature 0.5 .* no minimum in the basin of θ = 0.99"):
            function(WELLS, 0.5, swallowing)
