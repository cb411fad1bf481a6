"""companion/linear_model.py and companion/linear_network.py against SymPy, autograd and constrained minimization."""

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_models import covariance, random_model
from scipy.linalg import block_diag, orth, sqrtm
from scipy.optimize import minimize

from companion.linear_network import (
    TwoLayerLinear,
    flattest_minimum,
    gradient_fluctuation,
    hessian_trace,
    least_fluctuation_minimum,
    random_minimum,
    residual,
)

seeds = st.integers(0, 2**32 - 1)


def flat_loss(model, shapes, x, noise):
    """The mean over given samples of ‖y - f(x)‖² as a function of the flattened weights."""
    x, noise, teacher = (torch.from_numpy(np.asarray(a)) for a in (x, noise, model.teacher))
    sizes = [a * b for a, b in shapes]

    def loss(vector):
        out = x
        for part, shape in zip(vector.split(sizes), shapes, strict=True):
            out = out @ part.reshape(shape).T
        return (x @ teacher.T + noise - out).square().sum(-1).mean()

    return loss


def samples_of(model):
    """Few equally likely (x, ε) with the model's exact moments, x and ε independent."""

    def points(covariance):
        root = np.real(sqrtm(covariance)) * np.sqrt(len(covariance))
        return np.concatenate([root, -root])

    x, noise = points(model.input_covariance), points(model.noise_covariance)
    return np.repeat(x, len(noise), axis=0), np.tile(noise, (len(x), 1))


def flat(weights):
    return torch.cat([torch.from_numpy(np.asarray(layer)).reshape(-1) for layer in weights])


# ---- the two measures --------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_autograd_over_samples_with_the_models_moments(seed, depth):
    model = random_model(seed)
    weights = random_minimum(model, 1.3, np.random.default_rng(seed), depth=depth)
    shapes, (x, noise) = [layer.shape for layer in weights], samples_of(model)
    loss, point = flat_loss(model, shapes, x, noise), flat(weights)
    hessian = torch.autograd.functional.hessian(loss, point)
    assert hessian_trace(model, weights) == pytest.approx(float(hessian.trace()), rel=1e-10)
    one_by_one = [flat_loss(model, shapes, x[i : i + 1], noise[i : i + 1]) for i in range(len(x))]
    gradients = torch.stack([torch.autograd.functional.jacobian(one, point) for one in one_by_one])
    assert gradients.mean(dim=0).abs().max() < 1e-10
    assert gradient_fluctuation(model, weights) == pytest.approx(float(gradients.square().sum(1).mean()), rel=1e-10)


def test_sharpness_holds_away_from_the_minima_and_over_leading_axes():
    model, rng = random_model(5), np.random.default_rng(5)
    weights = [rng.normal(size=(4, 2, 3, 2)), rng.normal(size=(4, 2, 3, 3))]
    values = hessian_trace(model, weights)
    assert values.shape == gradient_fluctuation(model, weights).shape == residual(model, weights).shape == (4, 2)
    one = [layer[1, 1] for layer in weights]
    loss = flat_loss(model, [layer.shape for layer in one], *samples_of(model))
    hessian = torch.autograd.functional.hessian(loss, flat(one))
    assert values[1, 1] == pytest.approx(float(hessian.trace()), rel=1e-10)
    least = np.trace(model.noise_covariance)
    assert residual(model, one) == pytest.approx(float(loss(flat(one))) - least, rel=1e-10)


def test_measures_of_two_layers_by_sympy():
    w, u1, u2, x, e1, e2 = sp.symbols("w u1 u2 x e1 e2", real=True)
    s1, s2, b = sp.symbols("s1 s2 b", positive=True)
    v = sp.symbols("v1 v2", real=True)
    loss = (v[0] * x + e1 - u1 * w * x) ** 2 + (v[1] * x + e2 - u2 * w * x) ** 2
    variables = (w, u1, u2)

    def mean(expression):  # of independent x, ε₁, ε₂ with means zero
        expression = sp.expand(expression.subs({v[0]: u1 * w, v[1]: u2 * w}))
        moments = {x: b, e1: s1, e2: s2}
        total = sp.Integer(0)
        for powers, factor in sp.Poly(expression, x, e1, e2).terms():
            assert all(power in (0, 1, 2) for power in powers)
            if 1 not in powers:
                total += factor * sp.prod([m for m, power in zip(moments.values(), powers, strict=True) if power])
        return sp.expand(total)

    fluctuation = mean(sum(sp.diff(loss, t) ** 2 for t in variables))
    trace = mean(sum(sp.diff(loss, t, 2) for t in variables))
    point = {w: 0.7, u1: -1.1, u2: 0.4, s1: 0.3, s2: 2.0, b: 1.9}
    model = TwoLayerLinear([[-0.77], [0.28]], np.diag([0.3, 2.0]), [[1.9]])
    weights = ([[0.7]], [[-1.1], [0.4]])
    assert gradient_fluctuation(model, weights) == pytest.approx(float(fluctuation.subs(point)), rel=1e-12)
    assert hessian_trace(model, weights) == pytest.approx(float(trace.subs(point)), rel=1e-12)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_rotations_change_nothing_and_scalings_are_unbounded(seed):
    rng = np.random.default_rng(seed)
    model = random_model(seed)
    first, second = random_minimum(model, 1.0, rng)
    rotation = orth(rng.normal(size=(3, 3)))
    for measure in (hessian_trace, gradient_fluctuation):
        value = measure(model, (first, second))
        assert measure(model, (rotation @ first, second @ rotation.T)) == pytest.approx(value, rel=1e-10)
        far, farther = (measure(model, (scale * first, second / scale)) for scale in (1e4, 1e8))
        assert farther == pytest.approx(1e8 * far, rel=1e-6)


# ---- the two special minima ------------------------------------------------------------------------


def closed_form(model):
    """Theorem 1 as it is printed in the ledger."""
    a, b = np.trace(model.noise_covariance), np.trace(model.input_covariance)
    noise_root, input_root = np.real(sqrtm(model.noise_covariance)), np.real(sqrtm(model.input_covariance))
    left, values, _ = np.linalg.svd(noise_root @ model.teacher @ input_root)
    left = left[:, : values.size]
    inverse = np.linalg.inv(model.noise_covariance)
    bend = np.trace(inverse @ left @ np.diag(values) @ left.T)
    sharpness = 2 * np.sqrt(b) * (len(model.teacher) * values.sum() / np.sqrt(a) + np.sqrt(a) * bend)
    return sharpness, 8 * np.sqrt(a * b) * values.sum()


def minimized(measure, model, start):
    """The least value of a measure over (A W₁, W₂ A⁻¹), by BFGS over A, and the weights there."""
    first, second = start

    def weights(vector):
        change = np.eye(len(first)) + vector.reshape(len(first), -1)
        return change @ first, second @ np.linalg.inv(change)

    stay = np.zeros(len(first) ** 2)
    found = minimize(lambda v: measure(model, weights(v)), stay, method="BFGS", options=dict(gtol=1e-9))
    return weights(found.x)


@pytest.mark.parametrize(
    ("outputs", "inputs", "width"), [(1, 1, 1), (2, 1, 1), (2, 2, 2), (3, 2, 2), (2, 3, 3), (3, 3, 4)]
)
def test_least_fluctuation_is_theorem_1(outputs, inputs, width):
    model = random_model(outputs + 10 * inputs, outputs, inputs, width)
    minimum = least_fluctuation_minimum(model)
    sharpness, fluctuation = closed_form(model)
    assert residual(model, minimum.weights) < 1e-20
    assert minimum.weights[0].shape == (width, inputs) and minimum.weights[1].shape == (outputs, width)
    assert minimum.sharpness == pytest.approx(sharpness, rel=1e-9)
    assert minimum.fluctuation == pytest.approx(fluctuation, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("outputs", "inputs", "width"), [(2, 2, 2), (3, 2, 2)])
def test_both_minima_by_constrained_minimization(seed, outputs, inputs, width):
    model = random_model(seed, outputs, inputs, width)
    start = random_minimum(model, 1.0, np.random.default_rng(seed))
    least, flat_ = least_fluctuation_minimum(model), flattest_minimum(model)
    calm = minimized(gradient_fluctuation, model, start)
    assert gradient_fluctuation(model, calm) == pytest.approx(least.fluctuation, rel=1e-7)
    assert hessian_trace(model, calm) == pytest.approx(least.sharpness, rel=1e-3)  # one value, wherever it started
    flattest = minimized(hessian_trace, model, start)
    assert hessian_trace(model, flattest) == pytest.approx(flat_.sharpness, rel=1e-7)
    assert gradient_fluctuation(model, flattest) == pytest.approx(flat_.fluctuation, rel=1e-3)
    b, signal = np.trace(model.input_covariance), model.teacher @ model.input_root
    assert flat_.sharpness == pytest.approx(4 * np.sqrt(outputs * b) * np.linalg.norm(signal, "nuc"), rel=1e-10)


def coincide(model):
    return least_fluctuation_minimum(model).sharpness <= flattest_minimum(model).sharpness * (1 + 1e-9)


def test_coincide_without_isotropic_noise_where_the_teacher_sees_the_average():
    assert coincide(TwoLayerLinear([[1.0], [1.0]], np.diag([0.2, 1.8])))  # the smallest counterexample
    assert not coincide(TwoLayerLinear([[1.0], [0.9]], np.diag([0.2, 1.8])))


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_coincide_exactly_if_the_noise_in_the_teachers_range_is_the_average(seed):
    rng = np.random.default_rng(seed)
    basis, part = orth(rng.normal(size=(4, 4))), rng.uniform(0.5, 2)
    inside, outside = part * np.eye(2), part * np.eye(2) + 0.4 * part * np.diag([1, -1])
    noise = block_diag(inside, outside)
    noise[:2, 2:] = 0.2 * part * rng.uniform(-1, 1, size=(2, 2))  # correlations across do not matter
    noise[2:, :2] = noise[:2, 2:].T
    teacher = basis[:, :2] @ rng.normal(size=(2, 3))
    build = lambda block: TwoLayerLinear(teacher, basis @ block @ basis.T, covariance(rng, 3))  # noqa: E731
    assert coincide(build(noise))
    assert not coincide(build(noise + 0.3 * part * np.diag([1, 0, 0, 0])))  # not isotropic in the range
    assert not coincide(build(noise + 0.3 * part * np.diag([0, 0, 1, 1])))  # isotropic, but below the average


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_sharpness_is_a_geometric_mean_and_grows_at_most_as_the_root_of_the_condition_number(seed):
    model = random_model(seed, 3, 3, 3)
    noise, signal = model.noise_covariance, model.teacher @ model.input_covariance @ model.teacher.T
    root = np.real(sqrtm(noise))
    mean = np.linalg.inv(root) @ np.real(sqrtm(root @ signal @ root)) @ np.linalg.inv(root)  # Σ_ε⁻¹ # VΣ_xVᵀ
    a, b = np.trace(noise), np.trace(model.input_covariance)
    minimum = least_fluctuation_minimum(model)
    second = minimum.weights[1]
    np.testing.assert_allclose(second @ second.T, np.sqrt(a / b) * mean, rtol=1e-6, atol=1e-8)
    bound = 6 * np.sqrt(b * np.trace(signal)) * (1 + np.sqrt(np.linalg.cond(noise)))
    assert minimum.sharpness <= bound


def test_sharpness_grows_as_the_root_of_the_condition_number():
    kappas = np.array([1e4, 1e6, 1e8])
    values = [least_fluctuation_minimum(TwoLayerLinear(np.eye(2), np.diag([1, 1 / k]))).sharpness for k in kappas]
    np.testing.assert_allclose(np.diff(np.log(values)) / np.diff(np.log(kappas)), 0.5, atol=0.01)


# ---- degenerate cases ---------------------------------------------------------------------------


def test_equal_singular_values_and_spare_hidden_units():
    for width in (2, 5):
        minimum = least_fluctuation_minimum(TwoLayerLinear(np.eye(2), np.eye(2), width=width))
        assert minimum.sharpness == pytest.approx(16, rel=1e-12)
        assert minimum.fluctuation == pytest.approx(32, rel=1e-12)


def test_singular_inputs_count_only_where_they_are():
    model = TwoLayerLinear([[1.0, 5.0], [1.0, 7.0]], np.diag([0.2, 1.8]), np.diag([4.0, 0.0]), width=1)
    minimum = least_fluctuation_minimum(model)
    small = least_fluctuation_minimum(TwoLayerLinear([[1.0], [1.0]], np.diag([0.2, 1.8]), [[4.0]]))
    assert minimum[1:] == pytest.approx(small[1:], rel=1e-12)
    assert residual(model, minimum.weights) < 1e-25
    assert not minimum.weights[0][:, 1].any()


def test_singular_noise():
    with pytest.raises(ValueError, match=r"noise_covariance must not vanish on a part of the teacher.*rank 1.*rank 2"):
        least_fluctuation_minimum(TwoLayerLinear(np.eye(2), np.diag([1.0, 0.0])))
    singular = TwoLayerLinear([[1.0], [1.0]], np.diag([1.0, 0.0]), width=2)
    minimum = least_fluctuation_minimum(singular)
    assert minimum.fluctuation == pytest.approx(8, rel=1e-12)
    first, second = minimum.weights
    second = second + np.array([[0, 0], [0, 3.0]])  # a spare unit that writes where no noise is
    assert residual(singular, (first, second)) < 1e-25
    assert gradient_fluctuation(singular, (first, second)) == pytest.approx(8, rel=1e-12)
    assert hessian_trace(singular, (first, second)) == pytest.approx(minimum.sharpness + 18, rel=1e-12)


def test_noise_too_small_for_its_root_is_refused_and_rounding_is_not():
    least = lambda part: least_fluctuation_minimum(TwoLayerLinear(np.eye(2), np.diag([part, 1.0]))).sharpness  # noqa: E731
    assert least(1e-11) / least(1e-9) == pytest.approx(10, rel=1e-3)  # so it must not be taken for zero
    for part in (1e-14, 1e-12):
        with pytest.raises(ValueError, match=r"^noise_covariance must have eigenvalues of zero or above 1e-12 of the"):
            least(part)
    spare = lambda part: TwoLayerLinear([[1.0, 0.0], [0.3, 1.0], [0.0, 1.0]], np.diag([part, 1.0, 1.0]))  # noqa: E731
    assert least_fluctuation_minimum(spare(1e-16))[1:] == least_fluctuation_minimum(spare(0))[1:]


def test_no_teacher_no_weights():
    minimum = least_fluctuation_minimum(TwoLayerLinear(np.zeros((2, 3)), np.eye(2)))
    assert minimum[1:] == (0, 0)
