"""companion/diffusion.py: the Fokker-Planck solver, against closed forms, quadrature and paths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Quadratic, Quartic, dense_line, integral, ripple, ripple_slope, wells_loss
from scipy.integrate import quad
from scipy.stats import norm

from companion.diffusion import FokkerPlanck, simulate_langevin
from companion.landscapes import GaussianWells, paper_wells

TILTED = GaussianWells([-1, 0.8], [0.1, 0.3], [0.2, 0.4], confinement=0.05)
FIGURES = ["4-left", "4-right", "6-left", "6-right"]


class Slope:
    """U(θ) = a θ, of constant drift."""

    def __init__(self, a):
        self.a = a

    def __call__(self, theta):
        return self.a * np.asarray(theta)

    def gradient(self, theta):
        return np.full(np.shape(theta), self.a)


def ornstein_uhlenbeck(h=2.0, noise=1.5, temperature=0.4, cells=801, half_width=4.0):
    return FokkerPlanck(Quadratic(h), noise, temperature, np.linspace(-half_width, half_width, cells))


@pytest.mark.parametrize("cells", [6, 51])
@pytest.mark.parametrize("a", [-3.0, 0.0, 0.7, 40.0])
def test_rates_are_exact_for_constant_drift_on_any_grid(a, cells):
    grid, temperature, noise = np.linspace(0, 2, cells), 0.5, 1.3
    solver = FokkerPlanck(Slope(a), noise, temperature, grid)
    boltzmann = np.exp(-2 * a * (grid - 1) / (temperature * noise))
    np.testing.assert_allclose(solver.current(boltzmann) / boltzmann.max(), 0, atol=1e-11)
    np.testing.assert_allclose(solver.current(np.ones(cells)), -a, rtol=1e-11, atol=1e-12)
    exact = boltzmann / (boltzmann.sum() * solver.cell)
    np.testing.assert_allclose(solver.steady_state(), exact, rtol=1e-9)


def test_rates_without_drift_are_those_of_plain_diffusion():
    grid = np.linspace(0, 1, 11)
    solver = FokkerPlanck(Slope(0.0), 3.0, 0.5, grid)
    density = np.sin(grid) + 2
    np.testing.assert_allclose(solver.current(density), -0.5 * 3.0 / 2 * np.diff(density) / 0.1, rtol=1e-10)


def test_current_converges_to_drift_minus_gradient_of_noise_times_density():
    errors = []
    for cells in (101, 201, 401):
        grid = np.linspace(-1, 2, cells)
        solver = FokkerPlanck(TILTED, (ripple, ripple_slope), 0.6, grid)
        faces = (grid[:-1] + grid[1:]) / 2
        density, slope = np.cos(faces) + 2, -np.sin(faces)
        flux = -TILTED.gradient(faces) * density - 0.3 * (ripple_slope(faces) * density + ripple(faces) * slope)
        errors.append(np.abs(solver.current(np.cos(grid) + 2) - flux).max())
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 4, rtol=0.1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(1e-3, 1e20),
    st.integers(1, 4),
    st.sampled_from([1.0, 1e-3, ripple]),
    st.floats(1e-3, 10),
)
def test_probability_is_conserved_and_stays_positive_however_long_the_step(seed, time, steps, noise, temperature):
    solver = FokkerPlanck(TILTED, noise, temperature, np.linspace(-2, 2, 101))
    density = np.random.default_rng(seed).exponential(size=101) ** 8
    density /= density.sum() * solver.cell
    end = solver.evolve(density, time, steps)
    assert end.min() >= 0
    assert end.sum() * solver.cell == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("noise", [1.0, ripple])
def test_steady_state_has_no_current_and_stays(noise):
    solver = FokkerPlanck(TILTED, noise, 0.3, np.linspace(-4, 4, 401))
    steady = solver.steady_state()
    assert steady.sum() * solver.cell == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(solver.current(steady), 0, atol=1e-10)
    np.testing.assert_allclose(solver.evolve(steady, 50.0, 5), steady, atol=1e-9)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_steady_state_of_the_figures_against_quadrature(name, temperature):
    wells, _ = paper_wells(name)
    grid = np.linspace(-3, 3, 2001)
    solver = FokkerPlanck(wells, 1.0, temperature, grid)
    floor = wells_loss(wells, wells.local_minima()).min()

    def boltzmann(theta):
        return np.exp(-2 * (wells_loss(wells, theta) - floor) / temperature)

    end = 3 + solver.cell / 2
    walls = np.sort(np.concatenate([[-end, end], wells.local_minima(), wells.local_maxima()]))
    exact = boltzmann(grid) / integral(boltzmann, walls).sum()
    assert np.abs(solver.steady_state() - exact).sum() * solver.cell < 1e-4
    start = np.full(2001, 1 / (2001 * solver.cell))
    assert np.abs(solver.evolve(start, 1e45, 3) - exact).sum() * solver.cell < 1e-4


@pytest.mark.parametrize("noise", [(ripple, ripple_slope), ripple])
def test_steady_state_with_noise_that_varies_against_simpson(noise):
    solver = FokkerPlanck(TILTED, noise, 0.2, np.linspace(-6, 6, 2001))
    theta, mass = dense_line(lambda t: wells_loss(TILTED, t), ripple, 0.2, half_width=6, points=160_001)
    exact = (mass / np.trapezoid(mass, theta))[::80]
    assert np.abs(solver.steady_state() - exact).sum() * solver.cell < 1e-4


def test_mean_and_variance_of_the_ornstein_uhlenbeck_process_in_time():
    h, noise, temperature, time, start, width = 2.0, 1.5, 0.4, 0.3, 1.5, 0.05
    solver = ornstein_uhlenbeck(h, noise, temperature, cells=1601)
    begin = norm.pdf(solver.grid, start, np.sqrt(width))
    begin /= begin.sum() * solver.cell
    moments = []
    for steps in (400, 800, 1600):
        mass = solver.evolve(begin, time, steps) * solver.cell
        mean = (mass * solver.grid).sum()
        moments.append([mean, (mass * (solver.grid - mean) ** 2).sum()])
    coarse, middle, fine = np.array(moments)
    long_run = temperature * noise / (2 * h)
    exact = [start * np.exp(-h * time), long_run + (width - long_run) * np.exp(-2 * h * time)]
    np.testing.assert_allclose(2 * fine - middle, exact, rtol=1e-4)
    np.testing.assert_allclose((coarse - exact) / (middle - exact), 2, rtol=0.1)


@pytest.mark.parametrize("time", [1e-4, 0.3, 20.0])
def test_each_step_moves_the_density_by_the_current_it_arrives_at(time):
    solver = FokkerPlanck(TILTED, ripple, 0.3, np.linspace(-3, 3, 61))
    start = 1 + np.sin(solver.grid)
    end = solver.evolve(start, time, 1)
    outflow = np.diff(np.concatenate([[0.0], solver.current(end), [0.0]])) / solver.cell
    np.testing.assert_allclose(end, start - time * outflow, atol=1e-9)
    twice = solver.evolve(end, time, 1)
    np.testing.assert_allclose(solver.evolve(start, 2 * time, 2), twice, rtol=1e-12)


def test_callers_density_stays_as_it_was():
    solver, density = ornstein_uhlenbeck(cells=51), np.ones(51)
    solver.evolve(density, 1.0)
    np.testing.assert_array_equal(density, np.ones(51))


@pytest.mark.parametrize(("noise", "temperature"), [(1.5, 0.4), (1.0, 0.02)])
def test_relaxation_times_of_the_ornstein_uhlenbeck_process_are_its_spectrum(noise, temperature):
    h = 2.0
    half_width = 12 * np.sqrt(temperature * noise / (2 * h))
    solver = ornstein_uhlenbeck(h, noise, temperature, cells=1601, half_width=half_width)
    np.testing.assert_allclose(solver.relaxation_times(4), 1 / (h * np.arange(1, 5)), rtol=1e-3)


def test_relaxation_time_converges_with_the_square_of_the_cell():
    errors = [abs(ornstein_uhlenbeck(cells=n).relaxation_times()[0] - 0.5) for n in (51, 101, 201)]
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 4, rtol=0.05)


def test_relaxation_time_is_that_of_the_evolution():
    solver = FokkerPlanck(TILTED, ripple, 0.2, np.linspace(-5, 5, 401))
    slowest, steady = solver.relaxation_times()[0], solver.steady_state()
    start = np.where(solver.grid < -0.5, steady, 0)
    start /= start.sum() * solver.cell
    left = [(solver.evolve(start, t, 2000) - steady)[solver.grid < -0.5].sum() for t in (slowest, 2 * slowest)]
    assert left[1] / left[0] == pytest.approx(np.exp(-1), rel=2e-3)


def test_kramers_law_of_the_quartic_is_the_limit_of_low_temperature():
    temperatures = np.array([0.04, 0.032, 0.025])
    errors = []
    for temperature in temperatures:
        solver = FokkerPlanck(Quartic(), 1.0, temperature, np.linspace(-1.8, 1.8, 601))
        kramers = 2 * np.pi / np.sqrt(2 * 1) * np.exp(2 * 0.25 / temperature)
        errors.append(2 * solver.relaxation_times()[0] / kramers - 1)
        assert solver.first_passage_time(-1, 1) / kramers - 1 == pytest.approx(errors[-1], abs=1e-3)
    np.testing.assert_allclose(np.array(errors) / temperatures, errors[-1] / temperatures[-1], rtol=0.1)
    assert errors[0] < 0.06


@pytest.mark.parametrize(("origin", "target"), [(-1.0, 0.5), (1.5, -0.5), (0.0, 0.0)])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_first_passage_time_against_the_double_integral(origin, target, temperature):
    low, high, cells = -3.0, 3.0, 1201
    solver = FokkerPlanck(TILTED, (ripple, ripple_slope), temperature, np.linspace(low, high, cells))
    theta = np.linspace(low, high, 60_001)
    _, density = dense_line(lambda t: wells_loss(TILTED, t), ripple, temperature, half_width=3, points=60_001)
    step = theta[1] - theta[0]
    behind = np.cumsum(density) * step if target >= origin else np.cumsum(density[::-1])[::-1] * step
    inside = (theta >= min(origin, target)) & (theta <= max(origin, target))
    exact = np.trapezoid((2 * behind / (temperature * ripple(theta) * density))[inside], theta[inside])
    assert solver.first_passage_time(origin, target) == pytest.approx(exact, rel=4e-3, abs=1e-12)


def test_first_passage_time_with_noise_linear_in_the_loss_by_adaptive_quadrature():
    loss, temperature = Quadratic(1.0, level=1.0), 0.5
    solver = FokkerPlanck(loss, loss, temperature, np.linspace(-6, 6, 2401))

    def outer(y):
        inner = quad(lambda z: 2 / (temperature * loss(z)) * loss(z) ** (-2 / temperature), -6, y)[0]
        return loss(y) ** (2 / temperature) * inner

    assert solver.first_passage_time(0, 1.5) == pytest.approx(quad(outer, 0, 1.5)[0], rel=3e-3)


def test_first_passage_time_against_paths():
    dt, temperature, target, generator = 0.004, 0.6, 0.5, np.random.default_rng(0)
    shifted = target - 0.5826 * np.sqrt(temperature * dt)
    alive, times = np.full(1500, -1.0), []
    settings = {"temperature": temperature, "time_step": dt, "steps": 1, "generator": generator}
    for step in range(1, 20_000):
        alive = simulate_langevin(Quartic().gradient, alive, **settings)
        arrived = alive >= shifted
        times += [step * dt] * np.count_nonzero(arrived)
        alive = alive[~arrived]
        if alive.size == 0:
            break
    assert len(times) == 1500
    exact = FokkerPlanck(Quartic(), 1.0, temperature, np.linspace(-3, 3, 1201)).first_passage_time(-1, target)
    assert abs(np.mean(times) - exact) < 4 * np.std(times) / np.sqrt(1500)
