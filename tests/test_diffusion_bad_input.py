"""companion/diffusion.py: every bad argument is refused by name."""

import numpy as np
import pytest
from oracles import Quadratic, Quartic, ripple

from companion.diffusion import FokkerPlanck, simulate_langevin, simulate_sgd
from companion.landscapes import GaussianWells, TiltedSample

TILTS = np.array([-1.0, -0.8, -0.5, -0.2, 2.5])
SGD = {"learning_rate": 0.1, "batch_size": 2, "steps": 3}
LANGEVIN = {"temperature": 0.1, "time_step": 0.1, "steps": 3}
TILTED = GaussianWells([-1, 0.8], [0.1, 0.3], [0.2, 0.4], confinement=0.05)
GRID = np.linspace(-3, 3, 301)


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", 0, "learning_rate must be positive, got 0"),
        ("learning_rate", -0.1, "learning_rate must be positive, got -0.1"),
        ("learning_rate", np.nan, "learning_rate must be finite, got nan"),
        ("learning_rate", "0.1", "learning_rate must be a number, got '0.1'"),
        ("batch_size", 0, "batch_size must be a whole number of at least 1, got 0"),
        ("batch_size", 1.5, "batch_size must be a whole number of at least 1, got 1.5"),
        ("batch_size", True, "batch_size must be a whole number of at least 1, got True"),
        ("batch_size", "2", "batch_size must be a whole number of at least 1, got '2'"),
        ("steps", 0, "steps must be a whole number of at least 1, got 0"),
        ("steps", 2.0, "steps must be a whole number of at least 1, got 2.0"),
        ("generator", None, "generator must be a numpy.random.Generator, .* got None"),
        ("generator", 3, "generator must be a numpy.random.Generator, .* got 3"),
        ("start", 0.0, "start must hold one entry a path, got a single number"),
        ("start", [0.0, np.inf], "start must be finite, got inf"),
        ("start", "zero", "start must hold real numbers, got 'zero'"),
    ],
)
def test_bad_arguments_of_sgd_are_refused(name, value, message):
    arguments = SGD | {"start": np.zeros(3), "generator": rng()} | {name: value}
    with pytest.raises(ValueError, match=f"^{message}$"):
        simulate_sgd(TiltedSample(Quadratic(), TILTS), **arguments)


def test_batch_larger_than_the_sample_needs_replacement():
    sample, settings = TiltedSample(Quadratic(), TILTS), SGD | {"batch_size": 6}
    with pytest.raises(ValueError, match="batch_size must be at most the sample's 5 without replacement, got 6"):
        simulate_sgd(sample, np.zeros(3), generator=rng(), replacement=False, **settings)
    assert simulate_sgd(sample, np.zeros(3), generator=rng(), **settings).shape == (3,)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_paths_that_diverge_are_counted_and_the_cause_is_named():
    sample, start = TiltedSample(Quartic(), TILTS), np.array([0.0, 9.0, -9.0])
    with pytest.raises(ValueError, match=r"2 path entries diverged with learning_rate = 0.2; take it smaller"):
        simulate_sgd(sample, start, learning_rate=0.2, batch_size=5, steps=30, generator=rng(), replacement=False)
    with pytest.raises(ValueError, match=r"2 path entries diverged with time_step = 0.2; take it smaller"):
        simulate_langevin(Quartic().gradient, start, temperature=1e-6, time_step=0.2, steps=30, generator=rng())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", 0, "temperature must be positive, got 0"),
        ("temperature", -1, "temperature must be positive, got -1"),
        ("temperature", np.nan, "temperature must be finite, got nan"),
        ("temperature", "1", "temperature must be a number, got '1'"),
        ("time_step", 0, "time_step must be positive, got 0"),
        ("time_step", np.inf, "time_step must be finite, got inf"),
        ("steps", 0, "steps must be a whole number of at least 1, got 0"),
        ("steps", 1.5, "steps must be a whole number of at least 1, got 1.5"),
        ("generator", 7, "generator must be a numpy.random.Generator, .* got 7"),
        ("start", 1.0, "start must hold one entry a path, got a single number"),
        ("start", [[np.nan, 0.0]], "start must be finite, got nan"),
        ("noise", 0, "noise must be positive, got 0"),
        ("noise", -2, "noise must be positive, got -2"),
        ("noise", lambda t: t - 1, "noise must be positive everywhere, got D = -1"),
        ("noise", [1.0, 2.0], "noise must be a number, a callable D or a pair .*"),
        ("noise", np.ones((2, 3)), r"noise must be a square matrix, got shape \(2, 3\)"),
        ("noise", [[1.0, 2.0], [0.0, 1.0]], "noise must be symmetric, got .*"),
        ("noise", [[1.0, 2.0], [2.0, 1.0]], "noise must be positive semidefinite, its smallest eigenvalue is -1"),
        ("noise", np.eye(3), r"start must have shape \(paths, 3\) for this noise, got \(4, 2\)"),
    ],
)
def test_bad_arguments_of_langevin_are_refused(name, value, message):
    arguments = LANGEVIN | {"start": np.zeros((4, 2)), "generator": rng()} | {name: value}
    with pytest.raises(ValueError, match=f"^{message}$"):
        simulate_langevin(Quadratic().gradient, **arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", 0, "temperature must be positive, got 0"),
        ("temperature", -1, "temperature must be positive, got -1"),
        ("temperature", np.nan, "temperature must be finite, got nan"),
        ("temperature", "1", "temperature must be a number, got '1'"),
        ("noise", 0, "noise must be positive, got 0"),
        ("noise", -1, "noise must be positive, got -1"),
        ("noise", lambda t: t, "noise must be positive everywhere, got D = -3"),
        ("noise", lambda t: np.full_like(t, np.inf), "noise must be finite, got inf"),
        ("noise", (ripple,), r"noise must be a number, a callable D or a pair \(D, D′\), got .*"),
        ("noise", (ripple, lambda t: t * np.nan), "noise derivative must be finite, got nan"),
        ("noise", lambda t: np.ones(3), r"noise must give one number for each θ of shape \(301,\), got .*"),
        ("loss", lambda t: t * np.nan, "loss gradient must be finite, got nan"),
        ("grid", GRID[::-1], "grid must be increasing, got 3 followed by 2.98"),
        ("grid", GRID[:4], r"grid must be one-dimensional with at least 5 points, got shape \(4,\)"),
        ("grid", np.append(GRID, np.inf), "grid must be finite, got inf"),
        ("grid", np.sinh(GRID), "grid must be evenly spaced; .*"),
        ("grid", np.linspace(0, 3, 301), r"grid must contain every basin; \[0, 3\] leaves out the minimum at -0.9.*"),
        ("grid", np.linspace(-3, 0, 301), r"grid must contain every basin; \[-3, 0\] leaves out the minimum at 0.75.*"),
    ],
)
def test_bad_arguments_of_the_solver_are_refused(name, value, message):
    arguments = {"loss": TILTED, "noise": 1.0, "temperature": 0.1, "grid": GRID} | {name: value}
    with pytest.raises(ValueError, match=f"^{message}$"):
        FokkerPlanck(**arguments)


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (np.ones(300), r"density must have the grid's shape \(301,\), got \(300,\)"),
        (np.ones((301, 1)), r"density must have the grid's shape \(301,\), got \(301, 1\)"),
        (np.full(301, np.nan), "density must be finite, got nan"),
        ("density", "density must hold real numbers, got 'density'"),
    ],
)
def test_bad_density_is_refused(density, message):
    solver = FokkerPlanck(TILTED, 1.0, 0.1, GRID)
    for use in (solver.current, lambda values: solver.evolve(values, 1.0)):
        with pytest.raises(ValueError, match=f"^{message}$"):
            use(density)


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("evolve", (np.linspace(-1, 1, 301), 1.0), "density must not be negative, got -1"),
        ("evolve", (np.ones(301), 0), "time must be positive, got 0"),
        ("evolve", (np.ones(301), -1), "time must be positive, got -1"),
        ("evolve", (np.ones(301), np.nan), "time must be finite, got nan"),
        ("evolve", (np.ones(301), 1.0, 0), "steps must be a whole number of at least 1, got 0"),
        ("evolve", (np.ones(301), 1.0, 2.5), "steps must be a whole number of at least 1, got 2.5"),
        ("relaxation_times", (0,), "count must be a whole number of at least 1, got 0"),
        ("relaxation_times", (True,), "count must be a whole number of at least 1, got True"),
        ("relaxation_times", (300,), "count must be below 300, got 300"),
        ("first_passage_time", (-3.5, 1), r"origin must lie on the grid \[-3, 3\], got -3.5"),
        ("first_passage_time", (-1, 3.5), r"target must lie on the grid \[-3, 3\], got 3.5"),
        ("first_passage_time", (np.nan, 1), "origin must be finite, got nan"),
        ("first_passage_time", (0, "right"), "target must be a number, got 'right'"),
    ],
)
def test_bad_arguments_of_the_methods_are_refused(method, arguments, message):
    solver = FokkerPlanck(TILTED, 1.0, 0.1, GRID)
    with pytest.raises(ValueError, match=f"^{message}$"):
        getattr(solver, method)(*arguments)


def test_relaxation_that_rounding_hides_is_refused():
    with pytest.raises(ValueError, match=r"temperature 0.005 is too low: rounding hides"):
        FokkerPlanck(Quartic(), 1.0, 0.005, GRID).relaxation_times()
