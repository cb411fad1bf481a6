"""companion/steady_state.py in d dimensions: the covariance and the current of the linear diffusion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from companion.steady_state import probability_current, stationary_covariance

TEMPERATURE = 0.3
H = np.array([[2.0, 0.5], [0.5, 0.8]])
D = np.array([[1.0, -0.3], [-0.3, 2.0]])


def random_matrices(seed, size):
    draws = np.random.default_rng(seed).normal(size=(2, size, size))
    return [draw @ draw.T + 0.1 * np.eye(size) for draw in draws]


def ansatz(hessian, noise, temperature):
    return temperature / 2 * np.linalg.solve(hessian, noise)


@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(1e-3, 10))
def test_covariance_solves_the_vectorized_linear_equation(seed, size, temperature):
    hessian, noise = random_matrices(seed, size)
    operator = np.kron(hessian, np.eye(size)) + np.kron(np.eye(size), hessian)
    exact = np.linalg.solve(operator, temperature * noise.ravel()).reshape(size, size)
    found = stationary_covariance(hessian, noise, temperature)
    np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-10 * np.abs(exact).max())
    np.testing.assert_array_equal(found, found.T)


def test_covariance_in_the_eigenbasis_of_the_hessian():
    values, vectors = np.linalg.eigh(H)
    rotated = vectors.T @ D @ vectors
    exact = vectors @ (TEMPERATURE * rotated / np.add.outer(values, values)) @ vectors.T
    np.testing.assert_allclose(stationary_covariance(H, D, TEMPERATURE), exact, rtol=1e-12)


def test_covariance_in_two_dimensions_by_hand():
    found = stationary_covariance(np.diag([3.0, 1.0]), D, TEMPERATURE)
    np.testing.assert_allclose(found, TEMPERATURE * D / [[6, 4], [4, 2]], rtol=1e-13)


def test_covariance_is_the_papers_ansatz_if_and_only_if_the_matrices_commute():
    vectors = np.linalg.eigh(H).eigenvectors
    commuting = vectors @ np.diag([0.4, 3.0]) @ vectors.T
    found = stationary_covariance(H, commuting, TEMPERATURE)
    np.testing.assert_allclose(found, ansatz(H, commuting, TEMPERATURE), rtol=1e-12)
    assert np.abs(stationary_covariance(H, D, TEMPERATURE) - ansatz(H, D, TEMPERATURE)).max() > 0.01


def test_noise_equal_to_the_hessian_gives_a_round_covariance():
    np.testing.assert_allclose(stationary_covariance(H, H, TEMPERATURE), TEMPERATURE / 2 * np.eye(2), atol=1e-15)


def test_noise_in_one_direction_only_gives_a_covariance_all_the_same():
    found = stationary_covariance(np.diag([1.0, 2.0]), np.diag([1.0, 0.0]), 1.0)
    np.testing.assert_allclose(found, np.diag([0.5, 0.0]), atol=1e-15)


def current(points, hessian=H, noise=D):
    return probability_current(hessian, noise, TEMPERATURE, points)


def divergence(field, points, step=1e-4):
    offsets = step * np.eye(points.shape[-1])
    return sum((field(points + e)[..., i] - field(points - e)[..., i]) / (2 * step) for i, e in enumerate(offsets))


def test_current_is_drift_minus_diffusion_of_the_gaussian_density():
    density = multivariate_normal(cov=stationary_covariance(H, D, TEMPERATURE)).pdf
    points, step = np.random.default_rng(0).normal(scale=0.4, size=(20, 2)), 1e-5
    slope = np.stack([(density(points + e) - density(points - e)) / (2 * step) for e in step * np.eye(2)], axis=-1)
    exact = -points @ H * density(points)[:, None] - TEMPERATURE / 2 * slope @ D
    np.testing.assert_allclose(current(points), exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_current_has_no_divergence_and_does_not_vanish(size):
    hessian, noise = random_matrices(size, size)
    points = np.random.default_rng(1).normal(scale=0.2, size=(10, size))

    def field(where):
        return probability_current(hessian, noise, 1.0, where)

    scale = np.abs(field(points)).max()
    assert scale > 1e-3
    np.testing.assert_allclose(divergence(field, points), 0, atol=1e-5 * scale)


def test_current_vanishes_where_the_matrices_commute():
    points = np.random.default_rng(2).normal(scale=0.5, size=(50, 2))
    for noise in (np.eye(2), H, H @ H):
        np.testing.assert_allclose(current(points, noise=noise), 0, atol=1e-12)


def test_circulation_of_the_current_is_that_of_the_covariance():
    h, axis = 3.0, np.linspace(-5, 5, 401)
    hessian = np.diag([1.0, h])
    x, y = np.meshgrid(axis, axis, indexing="ij")
    j = current(np.stack([x, y], axis=-1), hessian=hessian)
    circulation = (x * j[..., 1] - y * j[..., 0]).sum() * (axis[1] - axis[0]) ** 2
    assert circulation == pytest.approx(TEMPERATURE * D[0, 1] / (1 + h) * (1 - h), rel=1e-8)


def test_current_does_not_cross_the_densitys_level_lines_on_balance():
    precision = np.linalg.inv(stationary_covariance(H, D, TEMPERATURE))
    points = np.random.default_rng(3).normal(size=(20, 2))
    across = np.einsum("pi,ij,pj->p", points, precision, current(points))
    np.testing.assert_allclose(across, 0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2,), (7, 2), (3, 4, 2), (0, 2)])
def test_current_keeps_the_shape_of_the_points(shape):
    assert current(np.zeros(shape)).shape == shape


def test_callers_matrices_and_points_stay_as_they_were():
    hessian, noise, points = H.copy(), D.copy(), np.ones((3, 2))
    stationary_covariance(hessian, noise, 1.0)
    probability_current(hessian, noise, 1.0, points)
    assert (hessian == H).all() and (noise == D).all() and (points == 1).all()


BAD_MATRICES = [
    ([1.0, 2.0], r"must be a square matrix, got shape \(2,\)"),
    (np.ones((2, 3)), r"must be a square matrix, got shape \(2, 3\)"),
    ([[1.0, 2.0], [0.0, 1.0]], "must be symmetric, got"),
    ([[np.nan, 0.0], [0.0, 1.0]], "must be finite, got nan"),
    (-np.eye(2), "must be positive (semi)?definite, its smallest eigenvalue is -1"),
]


@pytest.mark.parametrize(("matrix", "message"), BAD_MATRICES)
def test_bad_hessian_and_bad_noise_are_refused_by_name(matrix, message):
    for arguments, name in (((matrix, D), "hessian"), ((H, matrix), "noise_covariance")):
        with pytest.raises(ValueError, match=f"^{name} {message}"):
            stationary_covariance(*arguments, TEMPERATURE)
        with pytest.raises(ValueError, match=f"^{name} {message}"):
            probability_current(*arguments, TEMPERATURE, np.zeros(2))


def test_singular_hessian_is_refused_and_for_the_current_singular_noise_too():
    singular = np.diag([1.0, 0.0])
    with pytest.raises(ValueError, match="hessian must be positive definite, its smallest eigenvalue is 0"):
        stationary_covariance(singular, D, TEMPERATURE)
    with pytest.raises(ValueError, match="noise_covariance must be positive definite, its smallest eigenvalue is 0"):
        probability_current(H, singular, TEMPERATURE, np.zeros(2))


def test_matrices_of_different_size_are_refused():
    with pytest.raises(ValueError, match=r"must have one shape, got \(2, 2\) and \(3, 3\)"):
        stationary_covariance(H, np.eye(3), TEMPERATURE)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf, "1", None])
def test_bad_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=r"^temperature must be"):
        stationary_covariance(H, D, temperature)
    with pytest.raises(ValueError, match=r"^temperature must be"):
        probability_current(H, D, temperature, np.zeros(2))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros(3), r"points must have last axis 2, got shape \(3,\)"),
        (0.0, r"points must have last axis 2, got shape \(\)"),
        (np.zeros((2, 1)), r"points must have last axis 2, got shape \(2, 1\)"),
        ([0.0, np.nan], "points must be finite, got nan"),
        ("origin", "points must hold real numbers, got 'origin'"),
    ],
)
def test_bad_points_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        current(points)
