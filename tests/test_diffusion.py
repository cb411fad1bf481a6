"""companion/diffusion.py: SGD and Langevin paths, against exact laws of the discrete processes."""

from itertools import combinations, product

import numpy as np
import pytest
from oracles import Quadratic, Quartic
from scipy.linalg import solve_discrete_lyapunov

from companion.diffusion import BLOCK, simulate_langevin, simulate_sgd
from companion.landscapes import TiltedSample

SKEWED = np.array([-1.0, -0.8, -0.5, -0.2, 2.5])
SGD = {"learning_rate": 0.1, "batch_size": 2, "steps": 3}
LANGEVIN = {"temperature": 0.1, "time_step": 0.1, "steps": 3}


def rng(seed=0):
    return np.random.default_rng(seed)


def assert_within_4_standard_errors(draws, expected):
    assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(len(draws))


def all_batches(replacement, batch_size):
    choose = product(SKEWED, repeat=batch_size) if replacement else combinations(SKEWED, batch_size)
    return np.array([np.mean(batch) for batch in choose])


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_one_step_has_the_moments_of_all_possible_batches(replacement, batch_size, order):
    h, rate, start = 0.7, 0.3, 0.4
    settings = {"learning_rate": rate, "batch_size": batch_size, "steps": 1, "replacement": replacement}
    end = simulate_sgd(TiltedSample(Quadratic(h), SKEWED), np.full(60_000, start), generator=rng(), **settings)
    exact = -rate * all_batches(replacement, batch_size)
    mean = start - rate * h * start
    assert_within_4_standard_errors((end - mean) ** order, np.mean(exact**order))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_one_step_has_the_cumulants_of_a_mean_of_independent_gradients(batch_size):
    rate = 0.5
    sample = TiltedSample(Quadratic(1.0), SKEWED)
    settings = {"learning_rate": rate, "batch_size": batch_size, "steps": 1}
    end = simulate_sgd(sample, np.zeros(100_000), generator=rng(1), **settings)
    assert_within_4_standard_errors(end**2, rate**2 * np.mean(SKEWED**2) / batch_size)
    assert_within_4_standard_errors(end**3, -(rate**3) * np.mean(SKEWED**3) / batch_size**2)


@pytest.mark.parametrize(("replacement", "factor"), [(True, 1.0), (False, (5 - 2) / (5 - 1))])
@pytest.mark.parametrize("rate", [0.05, 0.6])
def test_stationary_variance_of_sgd_in_a_quadratic_is_exact_at_any_learning_rate(replacement, factor, rate):
    h, batch_size = 1.5, 2
    steps = int(10 / (rate * h)) + 5
    settings = {"learning_rate": rate, "batch_size": batch_size, "steps": steps, "replacement": replacement}
    end = simulate_sgd(TiltedSample(Quadratic(h), SKEWED), np.zeros(20_000), generator=rng(2), **settings)
    noise = np.mean(SKEWED**2) * factor
    assert_within_4_standard_errors(end, 0)
    assert_within_4_standard_errors(end**2, rate / batch_size * noise / (2 * h) / (1 - rate * h / 2))


def test_batch_of_the_whole_sample_without_replacement_is_gradient_descent():
    sample, settings = TiltedSample(Quadratic(2.0), SKEWED), {"learning_rate": 0.1, "batch_size": 5, "steps": 4}
    end = simulate_sgd(sample, [1.0, -3.0], generator=rng(), replacement=False, **settings)
    np.testing.assert_allclose(end, np.array([1.0, -3.0]) * 0.8**4, rtol=1e-12)


def test_sgd_in_several_dimensions_follows_its_discrete_lyapunov_equation():
    hessian, rate, batch_size = np.array([[1.0, 0.4], [0.4, 0.6]]), 0.2, 3
    tilts = rng(3).normal(size=(50, 2)) @ np.array([[1.0, 0.5], [0.0, 0.3]])
    tilts -= tilts.mean(axis=0)

    class Sample:
        size = 50

        def gradient(self, theta, index):
            return (theta @ hessian)[:, None] + tilts[index]

    settings = {"learning_rate": rate, "batch_size": batch_size, "steps": 150}
    end = simulate_sgd(Sample(), np.zeros((20_000, 2)), generator=rng(4), **settings)
    exact = solve_discrete_lyapunov(np.eye(2) - rate * hessian, rate**2 / batch_size * tilts.T @ tilts / 50)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert_within_4_standard_errors(end[:, i] * end[:, j], exact[i, j])


@pytest.mark.parametrize("dt", [0.01, 0.5])
def test_langevin_variance_in_a_quadratic_with_the_time_steps_own_correction(dt):
    h, temperature, noise = 1.2, 0.3, 2.0
    steps = int(6 / (h * dt)) + 5
    settings = {"temperature": temperature, "time_step": dt, "steps": steps, "noise": noise}
    end = simulate_langevin(Quadratic(h).gradient, np.zeros(20_000), generator=rng(5), **settings)
    assert_within_4_standard_errors(end, 0)
    assert_within_4_standard_errors(end**2, temperature * noise / (2 * h) / (1 - h * dt / 2))


def test_langevin_mean_decays_from_where_it_starts():
    settings = {"temperature": 0.01, "time_step": 0.05, "steps": 20}
    end = simulate_langevin(Quadratic(1.5, 2.0).gradient, np.full(5_000, 5.0), generator=rng(6), **settings)
    assert_within_4_standard_errors(end, 2 + 3 * (1 - 1.5 * 0.05) ** 20)


@pytest.mark.parametrize("form", ["loss", "function", "pair"])
def test_langevin_noise_that_varies_is_read_in_itos_sense(form):
    h, temperature, dt = 1.0, 0.5, 0.25
    loss = Quadratic(h, level=1.0)
    noise = {"loss": loss, "function": lambda t: 1 + h * t**2 / 2, "pair": (loss, loss.gradient)}[form]
    settings = {"temperature": temperature, "time_step": dt, "steps": 50, "noise": noise}
    end = simulate_langevin(loss.gradient, np.zeros(40_000), generator=rng(7), **settings)
    assert_within_4_standard_errors(end**2, temperature / (2 * h - h**2 * dt - temperature * h / 2))


@pytest.mark.parametrize("noise", [np.array([[1.0, -0.6], [-0.6, 0.5]]), [[1.0, 1.0], [1.0, 1.0]], np.diag([1.0, 0.0])])
def test_langevin_with_a_noise_matrix_follows_its_discrete_lyapunov_equation(noise):
    hessian, temperature, dt = np.array([[1.0, 0.4], [0.4, 2.0]]), 0.2, 0.1
    settings = {"temperature": temperature, "time_step": dt, "steps": 120, "noise": noise}
    end = simulate_langevin(lambda t: t @ hessian, np.zeros((20_000, 2)), generator=rng(8), **settings)
    exact = solve_discrete_lyapunov(np.eye(2) - dt * hessian, temperature * dt * np.array(noise))
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert_within_4_standard_errors(end[:, i] * end[:, j], exact[i, j])


def test_langevin_noise_may_be_one_number_for_all_coordinates_of_a_path():
    settings = {"temperature": 0.4, "time_step": 0.25, "steps": 1, "noise": lambda t: 1 + t[:, :1] ** 2}
    end = simulate_langevin(lambda t: 0 * t, np.full((20_000, 2), 2.0), generator=rng(9), **settings)
    for coordinate in end.T:
        assert_within_4_standard_errors((coordinate - 2) ** 2, 0.4 * 0.25 * 5)


def test_langevin_paths_beyond_one_block_are_run_and_independent():
    end = simulate_langevin(Quartic().gradient, np.zeros(2 * BLOCK + 7), generator=rng(), **LANGEVIN)
    assert np.unique(end).size == end.size and np.all(end != 0)


def run_sgd(start, seed):
    return simulate_sgd(TiltedSample(Quadratic(), SKEWED), start, generator=rng(seed), **SGD)


def run_langevin(start, seed):
    return simulate_langevin(Quadratic().gradient, start, generator=rng(seed), **LANGEVIN)


@pytest.mark.parametrize("run", [run_sgd, run_langevin])
def test_seed_decides_the_paths_and_the_start_stays_as_it_was(run):
    start = np.linspace(-1, 1, 50)
    first = run(start, 1)
    np.testing.assert_array_equal(run(start, 1), first)
    assert not np.array_equal(run(start, 2), first)
    np.testing.assert_array_equal(start, np.linspace(-1, 1, 50))


@pytest.mark.parametrize("run", [run_sgd, run_langevin])
def test_whole_numbers_and_lists_may_be_starts(run):
    np.testing.assert_array_equal(run([0, 1], 1), run(np.array([0.0, 1.0]), 1))
