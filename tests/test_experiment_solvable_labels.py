"""Noisy labels against their moments, networks trained together against networks alone, measures against autograd."""

import copy

import numpy as np
import pytest
import torch
from network_oracles import generator
from torch import nn

from companion.experiments import solvable_training
from companion.experiments.solvable_labels import (
    LOSSES,
    NoisyLabels,
    additive_root,
    cross_entropy,
    flipped,
    misfit,
    output_hessian,
    squared_error,
    two_levels,
)
from companion.experiments.solvable_training import Networks, measured
from companion.models import mlp, transformer

ORDER = torch.tensor([2, 0, 3, 1])


# ---- labels


@pytest.mark.parametrize("kappa", [1.0, 10.0, 100.0])
def test_added_noise_has_its_trace_and_its_condition_number(kappa):
    covariance = (root := additive_root(4, kappa, 3.0, ORDER, simplex=False)) @ root.T
    values = torch.linalg.eigvalsh(covariance)
    assert float(values.sum()) == pytest.approx(3.0)
    assert float(values[-1] / values[0]) == pytest.approx(kappa)
    assert (covariance.diagonal()[[3, 1]] == covariance.max()).all()  # the second half of the order
    simplex = (root := additive_root(4, kappa, 3.0, ORDER, simplex=True)) @ root.T
    projection = torch.eye(4, dtype=torch.float64) - 0.25
    torch.testing.assert_close(simplex, projection @ covariance @ projection)
    assert float(simplex.trace()) == pytest.approx(0.75 * 3.0)


def test_flips_have_their_rate_and_their_imbalance():
    classes = torch.tensor([0, 0, 0, 1, 1, 2, 3, 0])  # fewer of the noisy classes, 3 and 1
    q = flipped(classes, 4, 9.0, 0.2, ORDER)
    torch.testing.assert_close(q.sum(1), torch.ones(8, dtype=torch.float64))
    r = 1 - q[torch.arange(8), classes]
    assert float(r.mean()) == pytest.approx(0.2)
    torch.testing.assert_close(r / r.min(), two_levels(4, 9.0, ORDER)[classes])
    assert q[3, 0] == q[3, 2] == q[3, 3] == r[3] / 3
    with pytest.raises(
        ValueError, match=r"^rate must be smaller: at κ = 100 classes are flipped with probability 1\.57, "
    ):
        flipped(classes, 4, 100.0, 0.6, ORDER)
    with pytest.raises(ValueError, match=r"^kappa must be at least 1, got 0.5$"):
        two_levels(4, 0.5, ORDER)


@pytest.mark.parametrize("noise", ["additive", "simplex", "flips"])
def test_drawn_labels_have_the_mean_and_the_covariance_they_should(noise):
    kappas, draws = (1.0, 30.0), 200_000
    mean = torch.rand(2, 2, 3, 4, generator=generator(), dtype=torch.float64).softmax(-1)
    roots = [additive_root(4, kappa, 2.0, ORDER, simplex=noise == "simplex") for kappa in kappas]
    labels = NoisyLabels(mean, None if noise == "flips" else torch.stack([torch.stack(roots)] * 2))
    index = torch.full((2, draws), 1)
    drawn = labels.draw(index, generator(3)).reshape(2, 2, draws, 4)
    if noise == "flips":
        assert ((drawn == 0) | (drawn == 1)).all() and (drawn.sum(-1) == 1).all()
    if noise == "simplex":
        torch.testing.assert_close(drawn.sum(-1), torch.ones(2, 2, draws, dtype=torch.float64))
    for seed in range(2):
        for kind in range(2):
            sample, expected = drawn[seed, kind], labels.covariances(seed, kind)[1]
            error = expected.diagonal().sqrt() / draws**0.5
            assert ((sample.mean(0) - mean[seed, kind, 1]).abs() <= 4.5 * error).all()
            torch.testing.assert_close(sample.T.cov(), expected, rtol=0.02, atol=0.02 * float(expected.max()))
    if noise == "additive":  # one and the same Gaussian z for every κ
        z = [(drawn[0, k] - mean[0, k, 1]) / roots[k].diagonal() for k in range(2)]
        torch.testing.assert_close(z[0], z[1])


def test_losses_are_torchs():
    outputs, labels = (torch.randn(3, 5, 4, generator=generator(i), dtype=torch.float64) for i in (1, 2))
    p, flat = labels.softmax(-1), outputs.reshape(15, 4)
    torch.testing.assert_close(cross_entropy(outputs, p), nn.CrossEntropyLoss()(flat, p.reshape(15, 4)))
    torch.testing.assert_close(squared_error(outputs, labels), 4 * nn.MSELoss()(outputs, labels))
    for name, target in (("squared", labels[0]), ("cross-entropy", p[0])):
        one = torch.func.hessian(lambda f, y=target[2], n=name: LOSSES[n][0](f[None], y[None]))(outputs[0, 2])
        torch.testing.assert_close(output_hessian(name, outputs[0])[2], one)
    assert misfit("cross-entropy", p[0].log() + 3, p[0]) == pytest.approx(0, abs=1e-14)
    certain = torch.eye(4, dtype=torch.float64)
    assert misfit("cross-entropy", 0 * certain, certain) == pytest.approx(np.log(4))
    assert misfit("squared", labels[0], labels[0]) == 0


# ---- training and measuring


def sequence_network(seed):
    return transformer(3, 3, 2, length=2, generator=generator(seed))


@pytest.mark.parametrize(
    ("make", "shape"), [(lambda s: mlp(3, 4, 2, generator=generator(s)), (3,)), (sequence_network, (2, 3))]
)
def test_networks_trained_together_are_networks_trained_alone(make, shape):
    models = [make(seed) for seed in range(2)]
    together, alone = Networks(models, 2), [copy.deepcopy(models[i]) for i in (0, 0, 1, 1)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in alone]
    data = generator(9)
    for step in range(3):
        x, y = (torch.randn(4, 5, *size, generator=data, dtype=torch.float64) for size in (shape, (2,)))
        if step == 1:
            x[3] = torch.inf  # that one diverges, and no other
            branch = together.copied()
        together.step(squared_error, x, y, 0.1)
        for i, (model, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            optimizer.zero_grad()
            squared_error(model(x[i]), y[i]).backward()
            optimizer.step()
    for i in range(3):
        torch.testing.assert_close(dict(together.model(i).named_parameters()), dict(alone[i].named_parameters()))
    assert measured(together.model(3), "squared", x[3], y[3], torch.eye(2).double().expand(5, -1, -1)) is None
    assert all(torch.isfinite(value).all() for value in branch.parameters.values())
    for one, fresh in zip(models, (make(0), make(1)), strict=True):  # the caller's models are as they were
        torch.testing.assert_close(dict(one.named_parameters()), dict(fresh.named_parameters()))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda g: mlp(3, 5, 3, generator=g), (6, 3)), (lambda g: transformer(2, 3, 3, length=2, generator=g), (6, 2, 2))],
)
def test_measures_are_those_of_plain_autograd(make, shape, loss, dense, monkeypatch):
    monkeypatch.setattr(solvable_training, "DENSE", 1000 if dense else 0)
    monkeypatch.setattr(solvable_training, "CHUNK", 4)
    model, x = make(generator(1)), torch.randn(*shape, generator=generator(2), dtype=torch.float64)
    mean = torch.randn(6, 3, generator=generator(3), dtype=torch.float64).softmax(-1)
    root = additive_root(3, 7.0, 2.0, torch.arange(3), simplex=loss == "cross-entropy")
    labels = NoisyLabels(mean[None, None], root[None, None] if loss == "squared" else None)
    covariances = labels.covariances(0, 0)
    found = measured(model, loss, x, mean, covariances)
    names, function = [name for name, _ in model.named_parameters()], LOSSES[loss][0]
    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    def value(vector, inputs, targets):
        parts = vector.split([p.numel() for p in model.parameters()])
        values = {n: part.view_as(p) for n, part, p in zip(names, parts, model.parameters(), strict=True)}
        return function(torch.func.functional_call(model, values, (inputs,)), targets)

    eigenvalues = torch.linalg.eigvalsh(torch.autograd.functional.hessian(lambda v: value(v, x, mean), flat))
    assert found["trace"] == pytest.approx(float(eigenvalues.sum()), rel=1e-9)
    assert found["top"] == pytest.approx(float(eigenvalues[-1]), rel=1e-9)
    # The variance of one sample's gradient over its label: all classes, or three points either side of the mean.
    fluctuation = 0.0
    for i in range(6):
        if loss == "squared":
            points = torch.cat([mean[i] + 3**0.5 * root.T, mean[i] - 3**0.5 * root.T])
            weights = torch.full((6,), 1 / 6, dtype=torch.float64)
        else:
            points, weights = torch.eye(3, dtype=torch.float64), mean[i]
        slope = torch.func.grad(value)
        slopes = torch.stack([slope(flat, x[i : i + 1], point[None]) for point in points])
        fluctuation += float(weights @ slopes.square().sum(1) - (weights @ slopes).square().sum()) / 6
    assert found["fluctuation"] == pytest.approx(fluctuation, rel=1e-9)


def test_flipped_labels_fluctuate_as_the_loss_curves_where_they_are_fitted():
    # One-hot inputs: the network's outputs can be any, here the logarithm of the labels' distribution.
    q = flipped(torch.tensor([0, 1, 2, 0, 1]), 3, 20.0, 0.2, torch.arange(3))
    model = mlp(5, 3, bias=False, generator=generator())
    with torch.no_grad():
        model[0].weight.copy_(q.log().T)
    labels = NoisyLabels(q[None, None], None)
    found = measured(model, "cross-entropy", torch.eye(5, dtype=torch.float64), q, labels.covariances(0, 0))
    assert found["misfit"] == pytest.approx(0, abs=1e-14)
    assert found["fluctuation"] == pytest.approx(found["trace"], rel=1e-12)
    assert found["gauss_newton"] == pytest.approx(found["trace"], rel=1e-12)
