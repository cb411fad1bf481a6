"""companion/entropic_flow.py against SymPy, exact averages over batches, a reference drift, and the closed forms."""

import numpy as np
import pytest
import sympy as sp
from linear_models import covariance, random_model
from scipy.linalg import orth, solve_sylvester

from companion.entropic_flow import balance_drift, entropic_flow, slow_drift
from companion.linear_network import (
    TwoLayerLinear,
    gradient_fluctuation,
    hessian_trace,
    least_fluctuation_minimum,
    random_minimum,
    residual,
)

TWISTED = TwoLayerLinear([[1.0, 0.3], [0.2, 1.5]], [[2.0, 0.9], [0.9, 0.5]])  # Σ_ε and VVᵀ do not commute


def aligned_model(seed, size=2):
    """Σ_ε and VΣ_xVᵀ commute, and neither does with anything else."""
    rng = np.random.default_rng(seed)
    basis, inputs = orth(rng.normal(size=(size, size))), covariance(rng, size)
    values, vectors = np.linalg.eigh(inputs)
    root = (vectors * values**-0.5) @ vectors.T
    teacher = (basis * rng.uniform(0.5, 2, size)) @ orth(rng.normal(size=(size, size))) @ root
    return TwoLayerLinear(teacher, (basis * rng.uniform(0.1, 2, size)) @ basis.T, inputs)


def both(model, weights):
    sizes = np.cumsum([np.size(layer) for layer in weights])[:-1]
    return tuple(
        [part.reshape(np.shape(layer)) for part, layer in zip(np.split(drift, sizes), weights, strict=True)]
        for drift in (slow_drift(model, weights), slow_drift(model, weights, flow="sgd"))
    )


def generator_of(weights, tangent):
    """A with tangent = (A W₁, -W₂ A), for square invertible W₁."""
    return tangent[0] @ np.linalg.inv(weights[0])


# ---- the fluctuation flow ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_fluctuation_flow_solves_the_sylvester_equation(seed):
    model = random_model(seed, 2, 2, 2)
    weights = random_minimum(model, 1.0, np.random.default_rng(seed))
    (first, second), _ = both(model, weights)
    gain = balance_drift(model, weights)
    change = solve_sylvester(weights[1].T @ weights[1], weights[0] @ weights[0].T, gain / 2)
    np.testing.assert_allclose(first, change @ weights[0], rtol=1e-7, atol=1e-8 * np.abs(first).max())
    np.testing.assert_allclose(second, -weights[1] @ change, rtol=1e-7, atol=1e-8 * np.abs(second).max())


@pytest.mark.parametrize("depth", [2, 3])
def test_fluctuation_flow_is_steepest_descent_of_the_fluctuation(depth):
    model, rng = random_model(3, 3, 2, 3), np.random.default_rng(3)
    weights = random_minimum(model, 1.0, rng, depth=depth)
    drift = slow_drift(model, weights)
    sizes = np.cumsum([layer.size for layer in weights])[:-1]
    small = 1e-6

    def value(vector):
        return gradient_fluctuation(model, moved(weights, vector, sizes))

    slope = (value(small * drift) - value(-small * drift)) / (2 * small)
    assert slope == pytest.approx(-drift @ drift, rel=1e-6)
    assert residual(model, moved(weights, small * drift, sizes)) < 1e-3 * small**2 * (drift @ drift)  # tangent


def moved(weights, vector, sizes):
    return [w + part.reshape(w.shape) for w, part in zip(weights, np.split(vector, sizes), strict=True)]


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("model", [random_model(1, 2, 2, 2), random_model(4, 3, 2, 3), TWISTED])
def test_fluctuation_flow_ends_at_the_closed_form_from_every_scale(model, scale):
    start = random_minimum(model, scale, np.random.default_rng(1))
    path = entropic_flow(model, start, np.linspace(0, 200, 5))
    least = least_fluctuation_minimum(model)
    assert path.sharpness[-1] == pytest.approx(least.sharpness, rel=1e-4)
    assert path.fluctuation[-1] == pytest.approx(least.fluctuation, rel=1e-6)
    assert np.all(np.diff(path.fluctuation) < 1e-7)
    assert np.all(residual(model, path.weights) < 1e-20)
    assert path.sharpness[0] == pytest.approx(hessian_trace(model, start), rel=1e-8)


# ---- SGD's own flow -----------------------------------------------------------------------------------


def test_one_step_changes_the_balance_by_the_drift_exactly():
    """The average over every (x, ε) of a discrete law, for a learning rate that is not small."""
    model, rate = random_model(2, 2, 2, 2), 0.3
    first, second = random_minimum(model, 1.0, np.random.default_rng(2))
    points = [np.sqrt(2) * np.concatenate([root.T, -root.T]) for root in (model.input_root, model.noise_root)]
    total = np.zeros((2, 2))
    for x in points[0]:
        for noise in points[1]:
            error = (second @ first - model.teacher) @ x - noise
            one, two = first - rate * 2 * np.outer(second.T @ error, x), second - rate * 2 * np.outer(error, first @ x)
            total += (one @ one.T - two.T @ two) / 16
    change = total - (first @ first.T - second.T @ second)
    np.testing.assert_allclose(change, rate**2 / 4 * balance_drift(model, (first, second)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("flow", ["fluctuation", "sgd"])
def test_both_flows_keep_the_exact_balance_equation(flow):
    model = random_model(6, 2, 2, 2)
    weights = random_minimum(model, 1.0, np.random.default_rng(6))
    first, second = both(model, weights)[flow == "sgd"]
    rate = first @ weights[0].T + weights[0] @ first.T - second.T @ weights[1] - weights[1].T @ second
    gain = balance_drift(model, weights)
    np.testing.assert_allclose(rate, gain, rtol=1e-6, atol=1e-8 * np.abs(gain).max())


def reference_sgd_drift(model, weights):
    """-2P ∂³U[C] by loops: C from the Lyapunov equation in the eigenbasis, ∂³U[C] by differences of the Hessian."""
    shapes = [np.shape(layer) for layer in weights]
    sizes = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    start = np.concatenate([np.ravel(layer) for layer in weights])

    def gradients(vector, x, noise):
        one, two = (part.reshape(shape) for part, shape in zip(np.split(vector, sizes), shapes, strict=True))
        error = (two @ one - model.teacher) @ x - noise
        return np.concatenate([np.outer(two.T @ error, x).ravel(), np.outer(error, one @ x).ravel()]) * 2

    xs = np.sqrt(len(model.input_root)) * np.concatenate([model.input_root, -model.input_root])
    noises = np.sqrt(len(model.noise_root)) * np.concatenate([model.noise_root, -model.noise_root])
    pairs = [(x, noise) for x in xs for noise in noises]

    def mean_gradient(vector):
        return sum(gradients(vector, *pair) for pair in pairs) / len(pairs)

    def hessian(vector, step=1e-4):
        sides = [(vector + e, vector - e) for e in step * np.eye(len(vector))]
        return np.stack([mean_gradient(more) - mean_gradient(less) for more, less in sides]) / (2 * step)

    curvature = hessian(start)
    noise = sum(np.outer(g, g) for g in (gradients(start, *pair) for pair in pairs)) / len(pairs)
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    steep = values > 1e-4 * values[-1]
    inside = vectors[:, steep]
    spread = inside @ (inside.T @ noise @ inside / np.add.outer(values[steep], values[steep])) @ inside.T
    step = 1e-3
    third = [np.sum((hessian(start + e) - hessian(start - e)) * spread) / (2 * step) for e in step * np.eye(len(start))]
    outside = vectors[:, ~steep]
    return -2 * outside @ (outside.T @ np.array(third))


@pytest.mark.parametrize("model", [random_model(8, 2, 2, 2), TWISTED])
def test_sgd_flow_is_the_third_derivative_along_the_spread(model):
    weights = random_minimum(model, 1.2, np.random.default_rng(8))
    drift = slow_drift(model, weights, flow="sgd")
    np.testing.assert_allclose(drift, reference_sgd_drift(model, weights), atol=1e-5 * np.abs(drift).max())


def test_flows_agree_for_isotropic_noise_and_for_one_hidden_unit_and_not_otherwise():
    isotropic = random_model(1, 2, 2, 2, noise_covariance=0.7 * np.eye(2))
    one_unit = random_model(1, 2, 2, 1, teacher=np.outer([1, 2.0], [0.5, 1]))
    unit = least_fluctuation_minimum(one_unit).weights
    starts = [
        (isotropic, random_minimum(isotropic, 1.0, np.random.default_rng(1))),
        (one_unit, (unit[0] * 2, unit[1] / 2)),
    ]
    for model, weights in starts:
        calm, sgd = slow_drift(model, weights), slow_drift(model, weights, flow="sgd")
        assert np.linalg.norm(calm) > 1
        np.testing.assert_allclose(calm, sgd, atol=1e-8 * np.linalg.norm(calm))
    weights = least_fluctuation_minimum(TWISTED).weights
    assert np.linalg.norm(slow_drift(TWISTED, weights)) < 1e-10
    assert np.linalg.norm(slow_drift(TWISTED, weights, flow="sgd")) > 4
    path = entropic_flow(TWISTED, weights, [0, 1], flow="sgd")
    assert path.fluctuation[1] > path.fluctuation[0] + 0.1  # SGD climbs what it is said to descend


def test_flows_have_equal_components_along_symmetric_generators():
    weights = random_minimum(TWISTED, 1.0, np.random.default_rng(1))
    calm, sgd = slow_drift(TWISTED, weights), slow_drift(TWISTED, weights, flow="sgd")
    for generator, same in [([[1, 0], [0, 0]], True), ([[0, 1], [1, 0]], True), ([[0, 1], [-1, 0]], False)]:
        along = np.concatenate([(np.array(generator) @ weights[0]).ravel(), -(weights[1] @ generator).ravel()])
        assert (abs(along @ (calm - sgd)) < 1e-7 * np.linalg.norm(calm)) == same


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_sgd_flow_ends_at_the_closed_form_if_noise_and_signal_commute(scale):
    model = aligned_model(3)
    path = entropic_flow(model, random_minimum(model, scale, np.random.default_rng(4)), [0, 100], flow="sgd")
    least = least_fluctuation_minimum(model)
    assert path.sharpness[-1] == pytest.approx(least.sharpness, rel=1e-4)
    assert path.fluctuation[-1] == pytest.approx(least.fluctuation, rel=1e-6)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_sgd_flow_ends_elsewhere_and_turning_if_they_do_not(scale):
    path = entropic_flow(TWISTED, random_minimum(TWISTED, scale, np.random.default_rng(0)), [0, 20, 22], flow="sgd")
    least = least_fluctuation_minimum(TWISTED)
    assert least.sharpness == pytest.approx(30.2854, abs=1e-3)
    assert path.sharpness[1:] == pytest.approx(28.2231, abs=1e-3)
    assert path.fluctuation[1:] == pytest.approx(43.1203, abs=1e-3)
    end = [layer[-1] for layer in path.weights]
    turn = generator_of(end, both(TWISTED, end)[1])
    assert abs(turn[0, 1]) > 0.1
    np.testing.assert_allclose(turn, -turn.T, atol=1e-3)


def test_scalar_case_by_sympy():
    """w₂w₁ = v: SGD's drift to second order is minus the gradient of the fluctuation along the hyperbola."""
    w1, w2, a, b = sp.symbols("w1 w2 a b", positive=True)
    noise = 4 * a * b * sp.Matrix([w2, w1]) * sp.Matrix([[w2, w1]])  # D = E ∇ℓ∇ℓᵀ on the minima
    hessian = 2 * b * sp.Matrix([w2, w1]) * sp.Matrix([[w2, w1]])
    spread = noise / (2 * hessian.trace())  # HC + CH = D on the one steep direction
    assert sp.simplify(hessian * spread + spread * hessian - noise) == sp.zeros(2)
    t1, t2, v = sp.symbols("t1 t2 v")
    loss = b * (t2 * t1 - v) ** 2
    third = sp.Matrix([
        sum(spread[i, j] * sp.diff(loss, p, q, r) for i, p in enumerate((t1, t2)) for j, q in enumerate((t1, t2)))
        for r in (t1, t2)
    ]).subs({v: w2 * w1, t1: w1, t2: w2})  # fmt: skip
    tangent = sp.Matrix([w1, -w2])
    fluctuation = 4 * a * b * (t1**2 + t2**2)
    slope = sp.Matrix([sp.diff(fluctuation, t) for t in (t1, t2)]).subs({t1: w1, t2: w2})
    assert sp.simplify((tangent.T * (2 * third - slope))[0]) == 0
    point = {w1: 1.3, w2: 0.4, a: 0.6, b: 1.7}
    model, weights = TwoLayerLinear([[0.52]], [[0.6]], [[1.7]]), ([[1.3]], [[0.4]])
    along = tangent * (tangent.T * slope)[0] / (tangent.T * tangent)[0]
    expected = -np.array(along.subs(point)).astype(float).ravel()
    for flow in ("fluctuation", "sgd"):
        np.testing.assert_allclose(slow_drift(model, weights, flow=flow), expected, rtol=1e-10)


def test_deep_flows_stay_minima_and_meet_from_different_scales():
    model = aligned_model(5)
    ends = []
    for scale in (0.8, 1.6):
        start = random_minimum(model, scale, np.random.default_rng(2), depth=3)
        path = entropic_flow(model, start, [0, 30])
        assert residual(model, [layer[-1] for layer in path.weights]) < 1e-20
        ends.append((path.sharpness[-1], path.fluctuation[-1]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


def test_singular_inputs():
    model = TwoLayerLinear([[1.0, 5.0], [1.0, 7.0]], np.diag([0.2, 1.8]), np.diag([4.0, 0.0]), width=2)
    weights = random_minimum(model, 1.0, np.random.default_rng(0))
    path = entropic_flow(model, weights, [0, 50])
    assert path.fluctuation[-1] == pytest.approx(least_fluctuation_minimum(model).fluctuation, rel=1e-6)
    np.testing.assert_allclose(path.weights[0][-1][:, 1], weights[0][:, 1], rtol=1e-9)  # nothing moves it
