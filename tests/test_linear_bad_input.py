"""companion/linear_network.py, entropic_flow.py and linear_sgd.py: every bad argument is refused by name."""

import numpy as np
import pytest
import torch
from linear_models import random_model

from companion.entropic_flow import balance_drift, entropic_flow, slow_drift
from companion.linear_network import TwoLayerLinear, gradient_fluctuation, hessian_trace, random_minimum, residual
from companion.linear_sgd import resting_minimum, sgd_paths


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(teacher=[1.0, 2.0]), r"teacher must be a matrix of shape \(d_y, d_x\), got shape \(2,\)"),
        (dict(teacher=[[np.nan]]), "teacher must be finite, got nan"),
        (dict(noise_covariance=np.eye(2)), r"noise_covariance must have shape \(3, 3\) to fit .*, got \(2, 2\)"),
        (dict(noise_covariance=np.diag([1, 1, -1.0])), "noise_covariance must be positive semidefinite"),
        (dict(noise_covariance=np.triu(np.ones((3, 3)))), "noise_covariance must be symmetric"),
        (dict(input_covariance=np.eye(3)), r"input_covariance must have shape \(2, 2\)"),
        (dict(width=1), r"width must be at least 2, the rank of V Σ_x\^½, got 1"),
        (dict(width=0), "width must be a whole number of at least 1, got 0"),
        (dict(width=2.0), "width must be a whole number of at least 1, got 2.0"),
    ],
)
def test_bad_models_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        random_model(0, **change)


@pytest.mark.parametrize("measure", [hessian_trace, gradient_fluctuation, residual])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([np.ones((3, 2))], "weights must hold at least two layers, got 1"),
        ([np.ones((3, 3)), np.ones((3, 3))], r"weights\[0\] must have shape"),
        ([np.ones((3, 2)), np.ones((3, 2))], r"weights\[1\] must have shape"),
        ([np.ones((4, 3, 2)), np.ones((3, 3))], r"weights\[1\] must have shape"),
        ([np.ones((3, 2)), np.ones((2, 3))], "the last layer must have 3 outputs, got 2"),
        ([np.ones(2), np.ones((3, 3))], r"weights\[0\] must have shape"),
        ([np.full((3, 2), np.inf), np.ones((3, 3))], r"weights\[0\] must be finite, got inf"),
    ],
)
def test_bad_weights_are_refused(measure, weights, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        measure(random_model(0), weights)


def test_bad_random_minima_are_refused():
    model, rng = random_model(0), np.random.default_rng(0)
    for scale in (0, -1, np.nan):
        with pytest.raises(ValueError, match=r"^scale must be"):
            random_minimum(model, scale, rng)
    with pytest.raises(ValueError, match=r"^generator must be a numpy.random.Generator"):
        random_minimum(model, 1.0, 0)
    with pytest.raises(ValueError, match=r"^depth must be at least 2, got 1"):
        random_minimum(model, 1.0, rng, depth=1)
    with pytest.raises(ValueError, match=r"^width must be at least the number of inputs, 3, got 2"):
        random_minimum(random_model(0, 2, 3, 2), 1.0, rng)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(weights=[np.ones((3, 2)), np.ones((3, 3))]), "weights must be a global minimum, got one with residual"),
        (dict(weights=[np.ones((1, 3, 2)), np.ones((1, 3, 3))]), r"weights must be matrices, got shapes \[\(1, 3, 2\)"),
        (dict(times=[0.0]), "times must be one-dimensional with at least 2 points"),
        (dict(times=[0.0, 0.0]), "times must be increasing, got 0 followed by 0"),
        (dict(times=[0.0, np.nan]), "times must be finite, got nan"),
        (dict(flow="label noise"), r"flow must be one of \('fluctuation', 'sgd'\), got 'label noise'"),
    ],
)
def test_bad_flows_are_refused(change, message):
    model = random_model(0)
    start = random_minimum(model, 1.0, np.random.default_rng(0))
    given = dict(weights=start, times=[0.0, 1.0], flow="sgd") | change
    with pytest.raises(ValueError, match=f"^{message}"):
        entropic_flow(model, given["weights"], given["times"], flow=given["flow"])


def test_bad_drifts_are_refused():
    model = random_model(0)
    weights = random_minimum(model, 1.0, np.random.default_rng(0), depth=3)
    with pytest.raises(ValueError, match=r"^weights must hold two layers, got 3"):
        balance_drift(model, weights)
    with pytest.raises(ValueError, match=r"^weights must be matrices"):
        slow_drift(model, [layer[None] for layer in weights])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(learning_rate=0), "learning_rate must be positive, got 0"),
        (dict(batch_size=0), "batch_size must be a whole number of at least 1, got 0"),
        (dict(steps=1.5), "steps must be a whole number of at least 1, got 1.5"),
        (dict(every=0), "every must be a whole number of at least 1, got 0"),
        (dict(generator=np.random.default_rng(0)), "generator must be a torch.Generator, got Generator"),
        (dict(learning_rate=5.0, steps=200), "learning_rate must be smaller: a network has diverged by step 200"),
        (dict(weights=[np.ones((3, 2))]), "weights must hold at least two layers, got 1"),
    ],
)
def test_bad_runs_are_refused(change, message):
    model = random_model(0)
    given = dict(learning_rate=0.01, batch_size=2, steps=4, every=4, generator=torch.Generator()) | change
    weights = given.pop("weights", random_minimum(model, 1.0, np.random.default_rng(0)))
    if given["steps"] == 200:
        given["every"] = 200
    with pytest.raises(ValueError, match=f"^{message}"):
        sgd_paths(model, weights, **given)


EYE = np.eye(2)


@pytest.mark.parametrize(
    ("model", "rate", "depth", "message"),
    [
        (TwoLayerLinear(EYE, EYE), -0.1, 2, "learning_rate must not be negative, got -0.1"),
        (TwoLayerLinear(EYE, EYE), 0.1, 1, "depth must be at least 2, got 1"),
        (TwoLayerLinear(EYE, EYE), 0.6, 2, "learning_rate must be smaller: no stable minimum at rest found at 0.6"),
        (TwoLayerLinear(EYE, EYE, width=3), 0.1, 2, r"teacher must be diagonal of shape \(3, 3\)"),
        (TwoLayerLinear([[1, 0.1], [0, 1]], EYE), 0.1, 2, r"teacher must be diagonal of shape \(2, 2\)"),
        (TwoLayerLinear(EYE, [[1, 0.1], [0.1, 1]]), 0.1, 2, r"noise_covariance must be diagonal of shape \(2, 2\)"),
        (TwoLayerLinear(EYE, EYE, [[1, 0.1], [0.1, 1]]), 0.1, 2, r"input_covariance must be diagonal of shape"),
        (TwoLayerLinear(np.diag([1, -1.0]), EYE), 0.1, 2, r"teacher must have a positive diagonal, got \[1.0, -1.0\]"),
    ],
)
def test_bad_resting_minima_are_refused(model, rate, depth, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        resting_minimum(model, rate, depth=depth)
