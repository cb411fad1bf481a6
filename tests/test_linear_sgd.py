"""companion/linear_sgd.py against autograd, the exact gradient, and the flow that it follows."""

import numpy as np
import pytest
import torch
from linear_models import random_model
from scipy.linalg import solve_discrete_lyapunov

from companion.entropic_flow import entropic_flow
from companion.linear_network import (
    TwoLayerLinear,
    gradient_fluctuation,
    hessian_trace,
    least_fluctuation_minimum,
    random_minimum,
    residual,
)
from companion.linear_sgd import resting_minimum, sgd_paths


def copies(weights, runs):
    return [np.repeat(np.asarray(layer)[None], runs, axis=0) for layer in weights]


def run(model, weights, **change):
    given = dict(learning_rate=0.01, batch_size=4, steps=20, every=10) | change
    return sgd_paths(model, weights, generator=torch.Generator().manual_seed(0), **given)


@pytest.mark.parametrize("depth", [2, 3])
def test_full_batch_follows_the_gradient_of_the_mean_loss(depth):
    model, rng = random_model(1), np.random.default_rng(1)
    sizes = [2] + [3] * depth
    weights = [rng.normal(size=(after, before)) for before, after in zip(sizes[:-1], sizes[1:], strict=True)]  # noqa: RUF007
    path = run(model, weights, batch_size=None, steps=1, every=1)
    layers = [torch.tensor(layer, requires_grad=True) for layer in weights]
    product = torch.linalg.multi_dot(layers[::-1])
    loss = (product - torch.tensor(model.teacher)) @ torch.tensor(model.input_root)
    gradients = torch.autograd.grad(loss.square().sum(), layers)
    for layer, gradient, after in zip(layers, gradients, path.weights, strict=True):
        np.testing.assert_allclose(after, (layer - 0.01 * gradient).detach().numpy(), rtol=1e-10, atol=1e-12)
    assert list(path.steps) == [0, 1]
    assert path.residual[1] < path.residual[0]
    ends = [hessian_trace(model, layers) for layers in (weights, path.weights)]
    assert path.sharpness == pytest.approx(ends, rel=1e-12)


def test_one_step_has_the_mean_and_the_spread_of_the_gradients():
    model = random_model(2, 2, 2, 2)
    weights, runs, rate, batch = random_minimum(model, 1.0, np.random.default_rng(2)), 40_000, 0.01, 4
    path = run(model, copies(weights, runs), learning_rate=rate, batch_size=batch, steps=1, every=1)
    moves = [(after - layer).reshape(runs, -1) for after, layer in zip(path.weights, weights, strict=True)]
    change = np.concatenate(moves, axis=1)
    error = change.std(axis=0) / np.sqrt(runs)
    assert np.all(np.abs(change.mean(axis=0)) < 4.5 * error)
    squares = np.sum((change / rate) ** 2, axis=1) * batch
    assert abs(squares.mean() - gradient_fluctuation(model, weights)) < 4 * squares.std() / np.sqrt(runs)


def test_same_seed_same_path_and_shapes():
    model = random_model(0)
    weights = copies(random_minimum(model, 1.0, np.random.default_rng(0), depth=3), 5)
    before = [layer.copy() for layer in weights]
    one, two = (run(model, weights, learning_rate=0.001) for _ in range(2))
    np.testing.assert_array_equal(one.sharpness, two.sharpness)
    assert one.sharpness.shape == one.residual.shape == (3, 5)
    assert [layer.shape for layer in one.weights] == [(5, 3, 2), (5, 3, 3), (5, 3, 3)]
    for layer, old in zip(weights, before, strict=True):
        np.testing.assert_array_equal(layer, old)
    assert np.ptp(one.sharpness[-1]) > 0  # each network has samples of its own


def test_full_batch_stays_where_sgd_moves():
    model = random_model(0)
    start = random_minimum(model, 1.0, np.random.default_rng(0))
    path = run(model, start, batch_size=None)
    np.testing.assert_allclose(path.sharpness, path.sharpness[0], rtol=1e-12)
    assert residual(model, path.weights) < 1e-20


def test_sgd_follows_its_flow_in_its_time():
    """From a minimum of one hidden unit, where both flows are one.  Halving λ takes out the excess of order λ."""
    model, runs = TwoLayerLinear([[1.0], [0.5]], np.diag([0.05, 0.4])), 400
    least = least_fluctuation_minimum(model)
    start = (3 * least.weights[0], least.weights[1] / 3)
    flow = entropic_flow(model, start, [0, 0.05])
    assert flow.sharpness[0] - flow.sharpness[-1] > 3
    means, errors = [], []
    for rate, steps in ((0.01, 2000), (0.005, 8000)):  # τ = steps · λ²/4 = 0.05
        sharpness = run(
            model, copies(start, runs), learning_rate=rate, batch_size=1, steps=steps, every=steps
        ).sharpness[-1]
        means.append(sharpness.mean())
        errors.append(sharpness.std() / np.sqrt(runs))
    limit, error = 2 * means[1] - means[0], np.hypot(2 * errors[1], errors[0])
    assert error < 0.05
    assert abs(limit - flow.sharpness[-1]) < 4 * error


# ---- where it rests ---------------------------------------------------------------------------------


DIAGONAL = TwoLayerLinear(np.diag([1.3, 0.6]), np.diag([0.3, 1.8]), np.diag([0.7, 1.5]))


def around(layers):
    """The products of the layers before and after each layer."""
    before, after = [np.eye(layers[0].shape[1])], [np.eye(len(layers[-1]))]
    for layer, last in zip(layers[:-1], layers[:0:-1], strict=True):
        before.append(layer @ before[-1])
        after.append(after[-1] @ last)
    return before, after[::-1]


def imbalance_drifts(model, layers, rate):
    """Mean changes of W_lW_lᵀ - W_{l+1}ᵀW_{l+1} in units of 4λT as T → 0: the misfit's law by a dense Lyapunov solver.

    To first order a step takes the misfit δ (rows first, in units of Σ_x^½) to (I - 2λK)δ + 2λKn.
    """
    (before, after), root = around(layers), model.input_root
    gain = sum(np.kron(w @ w.T, root @ v.T @ v @ root) for v, w in zip(before, after, strict=True))
    noise, eye = np.kron(model.noise_covariance, np.eye(len(root))), np.eye(len(gain))
    misfit = solve_discrete_lyapunov(eye - 2 * rate * gain, 4 * rate**2 * gain @ noise @ gain)
    size = (*model.teacher.shape, *model.teacher.shape)
    moments = np.einsum("iajb,ac,bd->icjd", (noise + misfit).reshape(size), root, root)
    pairs = zip(after[:-1], before[:-1], after[1:], before[1:], strict=True)
    return [
        np.einsum("ik,iajb,ab,jm->km", w, moments, v.T @ v, w)
        - np.einsum("ka,iajb,ij,mb->km", v1, moments, w1 @ w1.T, v1)
        for w, v, w1, v1 in pairs
    ]


@pytest.mark.parametrize("rate", [0.005, 0.02, 0.08])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_imbalances_rest_at_the_resting_minimum(depth, rate):
    layers = resting_minimum(DIAGONAL, rate, depth=depth)
    assert len(layers) == depth and residual(DIAGONAL, layers) < 1e-24
    for drift in imbalance_drifts(DIAGONAL, layers, rate):
        np.testing.assert_allclose(drift, 0, atol=1e-9)
    elsewhere = (1.1 * layers[0], layers[1] / 1.1, *layers[2:])
    assert np.abs(imbalance_drifts(DIAGONAL, elsewhere, rate)).max() > 0.1


def test_resting_minimum_tends_to_the_least_fluctuating_one():
    least = least_fluctuation_minimum(DIAGONAL).sharpness
    gaps = [hessian_trace(DIAGONAL, resting_minimum(DIAGONAL, rate)) - least for rate in (0, 0.005, 0.01)]
    assert abs(gaps[0]) < 1e-9 * least
    assert gaps[2] < -0.02 and gaps[2] / gaps[1] == pytest.approx(2, rel=0.02)


def test_isotropic_noise_on_equal_signals_rests_at_the_flattest_minimum_for_every_rate():
    model = TwoLayerLinear(np.eye(2), np.eye(2))
    for rate in (0, 0.1, 0.3):
        np.testing.assert_allclose(resting_minimum(model, rate, depth=3), np.broadcast_to(np.eye(2), (3, 2, 2)))
