"""companion/hessian.py: matrix, diagonal, trace and spectrum by double backpropagation, estimates by theory."""

import math

import numpy as np
import pytest
import torch
from curvlinops import HessianLinearOperator
from hypothesis import given, settings
from hypothesis import strategies as st
from network_oracles import (
    CROSS_ENTROPY,
    LOSSES,
    NETWORKS,
    SQUARED,
    Tied,
    Wrapped,
    cnn_of,
    data_for,
    dense_hessian,
    filled,
    generator,
    mlp_of,
    vector,
)
from torch import nn

from companion import hessian_products as module
from companion.hessian import (
    Estimate,
    hessian_diagonal,
    hessian_matrix,
    hessian_trace,
    hutchinson_diagonal,
    top_eigenvalues,
)

PATHS = [lambda model: model, Wrapped]
MODEL = mlp_of(nn.Tanh)
INPUTS, TARGETS = data_for(MODEL, CROSS_ENTROPY)
EXACT = dense_hessian(MODEL, CROSS_ENTROPY, INPUTS, TARGETS)


@pytest.mark.parametrize("wrap", PATHS, ids=["backpack", "func"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_against_double_backpropagation(network, loss, wrap):
    loss, model = LOSSES[loss], NETWORKS[network]()
    inputs, targets = data_for(model, loss)
    exact = dense_hessian(model, loss, inputs, targets)
    arguments = (wrap(model), loss, inputs, targets)
    tolerance = {"rtol": 1e-10, "atol": 1e-13 * float(exact.abs().max())}
    torch.testing.assert_close(hessian_matrix(*arguments), exact, **tolerance)
    diagonal = hessian_diagonal(*arguments)
    torch.testing.assert_close(vector(diagonal), exact.diag(), **tolerance)
    assert {n: v.shape for n, v in diagonal.items()} == {n: p.shape for n, p in wrap(model).named_parameters()}
    trace = hessian_trace(*arguments)
    assert (trace.standard_error, trace.samples) == (0.0, 0)
    assert trace.value == pytest.approx(float(exact.trace()), rel=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 5), max_size=2),
    size=st.integers(1, 5),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid]),
    squared=st.booleans(),
    seed=st.integers(0, 999),
)
def test_networks_of_any_width(hidden, size, activation, squared, seed):
    model = mlp_of(activation, widths=(3, *hidden, 3), seed=seed)
    loss = SQUARED if squared else CROSS_ENTROPY
    inputs, targets = data_for(model, loss, size=size, seed=seed)
    exact = dense_hessian(model, loss, inputs, targets)
    tolerance = {"rtol": 1e-9, "atol": 1e-12 * float(exact.abs().max())}
    torch.testing.assert_close(hessian_matrix(model, loss, inputs, targets), exact, **tolerance)
    for path in PATHS:
        found = vector(hessian_diagonal(path(model), loss, inputs, targets))
        torch.testing.assert_close(found, exact.diag(), **tolerance)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(label_smoothing=0.2), nn.SmoothL1Loss(), nn.HuberLoss()])
def test_other_losses(loss):
    inputs, targets = data_for(MODEL, CROSS_ENTROPY if isinstance(loss, nn.CrossEntropyLoss) else SQUARED)
    exact = dense_hessian(MODEL, loss, inputs, targets)
    torch.testing.assert_close(hessian_matrix(MODEL, loss, inputs, targets), exact)
    torch.testing.assert_close(vector(hessian_diagonal(MODEL, loss, inputs, targets)), exact.diag())


@pytest.mark.parametrize("columns", [1, 7, 1000])
def test_the_number_of_columns_at_once_changes_nothing(columns, monkeypatch):
    monkeypatch.setattr(module, "COLUMNS", columns)
    torch.testing.assert_close(hessian_matrix(MODEL, CROSS_ENTROPY, INPUTS, TARGETS), EXACT)
    found = vector(hessian_diagonal(Wrapped(MODEL), CROSS_ENTROPY, INPUTS, TARGETS))
    torch.testing.assert_close(found, EXACT.diag())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_against_curvlinops():
    operator = HessianLinearOperator(MODEL, CROSS_ENTROPY, list(MODEL.parameters()), [(INPUTS, TARGETS)])
    eye = torch.eye(len(EXACT), dtype=torch.float64)
    torch.testing.assert_close(hessian_matrix(MODEL, CROSS_ENTROPY, INPUTS, TARGETS), (operator @ eye).detach())


def test_frozen_parameters_leave_their_rows_and_columns_out():
    model = mlp_of(nn.Tanh)
    model[2].weight.requires_grad_(False)
    kept = torch.cat([torch.full((p.numel(),), n != "2.weight") for n, p in model.named_parameters()])
    part = EXACT[kept][:, kept]
    arguments = (CROSS_ENTROPY, INPUTS, TARGETS)
    torch.testing.assert_close(hessian_matrix(model, *arguments), part)
    for path in PATHS:
        torch.testing.assert_close(vector(hessian_diagonal(path(model), *arguments)), part.diag())
    assert float(top_eigenvalues(model, *arguments)) == pytest.approx(float(torch.linalg.eigvalsh(part)[-1]))


def test_tied_weights_are_one_parameter():
    model = filled(Tied())
    arguments = (model, CROSS_ENTROPY, INPUTS, TARGETS)
    exact = dense_hessian(*arguments)
    torch.testing.assert_close(hessian_matrix(*arguments), exact)
    torch.testing.assert_close(vector(hessian_diagonal(*arguments)), exact.diag())
    assert float(top_eigenvalues(*arguments)) == pytest.approx(float(torch.linalg.eigvalsh(exact)[-1]))


class Unused(nn.Module):
    """A parameter that the output does not depend on."""

    def __init__(self):
        super().__init__()
        self.net, self.idle = mlp_of(nn.Tanh), nn.Linear(2, 2).double()

    def forward(self, inputs):
        return self.net(inputs)


def test_a_parameter_that_is_not_used_has_no_curvature():
    exact = torch.block_diag(EXACT, torch.zeros(6, 6, dtype=torch.float64))
    arguments = (Unused(), CROSS_ENTROPY, INPUTS, TARGETS)
    torch.testing.assert_close(hessian_matrix(*arguments), exact)
    estimate = hutchinson_diagonal(*arguments, samples=5, generator=generator())
    assert not estimate.value["idle.weight"].any() and estimate.value["net.0.weight"].any()


def test_a_loss_that_is_linear_in_some_parameters_or_in_all():
    def linear(outputs, targets):
        return (outputs * targets).mean()

    inputs, targets = data_for(MODEL, SQUARED)
    exact = dense_hessian(MODEL, linear, inputs, targets)
    found = hessian_trace(MODEL, linear, inputs, targets, method="hutchinson", samples=2000, generator=generator())
    assert abs(found.value - float(exact.trace())) < 4 * found.standard_error
    flat = filled(nn.Linear(3, 3))
    estimate = hutchinson_diagonal(flat, linear, inputs, targets, samples=2, generator=generator())
    assert not vector(estimate.value).any() and not vector(estimate.standard_error).any()


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_hutchinsons_diagonal_is_unbiased_with_the_known_variance(chunk_size):
    samples = 200 if chunk_size else 3000
    variance = EXACT.square().sum(1) - EXACT.diag().square()  # Σ_{j≠i} H_ij² for one probe
    settings = {"samples": samples, "generator": generator(1), "chunk_size": chunk_size}
    estimate = hutchinson_diagonal(MODEL, CROSS_ENTROPY, INPUTS, TARGETS, **settings)
    assert estimate.samples == samples
    scores = (vector(estimate.value) - EXACT.diag()) / (variance / samples).sqrt()
    assert scores.abs().max() < 4
    assert 0.5 < float(scores.square().mean()) < 2
    ratio = vector(estimate.standard_error) / (variance / samples).sqrt()
    assert (ratio - 1).abs().max() < (0.5 if chunk_size else 0.15)
    assert abs(float(ratio.mean()) - 1) < 0.05


def test_hutchinsons_standard_error_is_that_of_the_sample():
    # Two probes: value (a + b)/2, standard error |a - b|/2.
    estimate = hutchinson_diagonal(MODEL, CROSS_ENTROPY, INPUTS, TARGETS, samples=2, generator=generator(3))
    source = generator(3)
    signs = [2.0 * torch.randint(2, (len(EXACT),), generator=source).double() - 1 for _ in range(2)]
    a, b = (z * (EXACT @ z) for z in signs)
    torch.testing.assert_close(vector(estimate.value), (a + b) / 2)
    torch.testing.assert_close(vector(estimate.standard_error), (a - b).abs() / 2)
    settings = {"method": "hutchinson", "samples": 2, "generator": generator(3)}
    trace = hessian_trace(MODEL, CROSS_ENTROPY, INPUTS, TARGETS, **settings)
    assert trace.value == pytest.approx(float((a + b).sum()) / 2)
    assert trace.standard_error == pytest.approx(abs(float((a - b).sum())) / 2)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_hutchinsons_trace_is_unbiased_with_the_known_variance(chunk_size):
    samples = 200 if chunk_size else 3000
    off = EXACT - EXACT.diag().diag()
    error = math.sqrt(2 * float(off.square().sum()) / samples)
    settings = {"method": "hutchinson", "samples": samples, "generator": generator(2), "chunk_size": chunk_size}
    estimate = hessian_trace(MODEL, CROSS_ENTROPY, INPUTS, TARGETS, **settings)
    assert abs(estimate.value - float(EXACT.trace())) < 4 * error
    assert estimate.standard_error == pytest.approx(error, rel=0.3 if chunk_size else 0.1)
    assert estimate.samples == samples


def test_hutch_plus_plus_is_unbiased_and_its_standard_error_has_the_right_size():
    source, model = generator(4), mlp_of(nn.Tanh, widths=(3, 2, 3))
    exact = float(dense_hessian(model, CROSS_ENTROPY, INPUTS, TARGETS).trace())
    settings = {"method": "hutch++", "samples": 12, "generator": source}
    runs = [hessian_trace(model, CROSS_ENTROPY, INPUTS, TARGETS, **settings) for _ in range(40)]
    values = np.array([run.value for run in runs])
    spread = values.std(ddof=1)
    assert abs(values.mean() - exact) < 4 * spread / math.sqrt(len(runs))
    assert np.sqrt(np.mean([run.standard_error**2 for run in runs])) == pytest.approx(spread, rel=0.35)
    assert {run.samples for run in runs} == {12}


def test_hutch_plus_plus_takes_a_part_of_low_rank_exactly():
    # A linear model of one input: the Hessian has the rank 2 of the softmax, and every run finds it.
    model = filled(nn.Linear(8, 3, bias=False))
    inputs = torch.randn(1, 8, generator=generator(), dtype=torch.float64).repeat(4, 1)
    targets = torch.tensor([0, 1, 2, 0])
    exact = dense_hessian(model, CROSS_ENTROPY, inputs, targets)
    settings = {"method": "hutch++", "samples": 60, "generator": generator()}
    estimate = hessian_trace(model, CROSS_ENTROPY, inputs, targets, **settings)
    assert estimate.value == pytest.approx(float(exact.trace()), rel=1e-10)
    assert estimate.standard_error < 1e-10


@pytest.mark.parametrize(("samples", "used"), [(12, 12), (23, 12), (24, 24), (100, 96)])
def test_hutch_plus_plus_tells_how_many_products_it_took(samples, used):
    model = mlp_of(nn.Tanh)
    settings = {"method": "hutch++", "samples": samples, "generator": generator()}
    assert hessian_trace(model, CROSS_ENTROPY, INPUTS, TARGETS, **settings).samples == used


@pytest.mark.parametrize("count", [1, 2, 5, 48, 49, 50, 51])
def test_top_eigenvalues_against_the_dense_spectrum(count):
    assert len(EXACT) == 51
    found = top_eigenvalues(MODEL, CROSS_ENTROPY, INPUTS, TARGETS, count=count)
    expected = torch.linalg.eigvalsh(EXACT).flip(0)[:count]
    assert found.dtype == torch.float64 and found.shape == (count,)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_top_eigenvalues_are_the_largest_and_not_the_farthest_from_zero():
    def upside_down(outputs, targets):
        return -CROSS_ENTROPY(outputs, targets)

    found = top_eigenvalues(MODEL, upside_down, INPUTS, TARGETS, count=3)
    expected = -torch.linalg.eigvalsh(EXACT)[:3]
    assert float(torch.linalg.eigvalsh(EXACT)[-1]) > 1.4 * float(expected[0])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(6), lambda: nn.GroupNorm(2, 6)], ids=["layer", "group"])
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_behind_a_norm_over_features(norm, chunk_size):
    """Forward mode over PyTorch's gradient of these layers is wrong, or is not there."""
    model = filled(nn.Sequential(nn.Linear(4, 6), norm(), nn.Tanh(), nn.Linear(6, 3)))
    inputs = torch.randn(20, 4, generator=generator(), dtype=torch.float64)
    targets = torch.randint(3, (20,), generator=generator(1))
    exact = dense_hessian(model, CROSS_ENTROPY, inputs, targets)
    found = top_eigenvalues(model, CROSS_ENTROPY, inputs, targets, count=3, chunk_size=chunk_size)
    torch.testing.assert_close(found, torch.linalg.eigvalsh(exact).flip(0)[:3], rtol=1e-8, atol=1e-10)
    trace = {"method": "hutch++", "samples": 160, "generator": generator(2), "chunk_size": chunk_size}
    estimate = hessian_trace(model, CROSS_ENTROPY, inputs, targets, **trace)
    assert estimate.value == pytest.approx(float(exact.trace()), abs=5 * estimate.standard_error)


def test_top_eigenvalues_count_a_multiple_one_as_often_as_it_stands():
    model = filled(nn.Linear(6, 4))
    inputs = torch.randn(30, 6, generator=generator(), dtype=torch.float64)
    targets = torch.randn(30, 4, generator=generator(1), dtype=torch.float64)
    expected = torch.linalg.eigvalsh(dense_hessian(model, SQUARED, inputs, targets)).flip(0)[:6]
    assert float(expected[:4].std()) < 1e-12
    torch.testing.assert_close(top_eigenvalues(model, SQUARED, inputs, targets, count=6), expected)


def test_top_eigenvalues_leave_numpys_global_numbers_alone():
    before = np.random.get_state()[1].copy()
    top_eigenvalues(MODEL, CROSS_ENTROPY, INPUTS, TARGETS)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_estimates_are_named():
    estimate = hessian_trace(cnn_of(), CROSS_ENTROPY, *data_for(cnn_of(), CROSS_ENTROPY))
    assert isinstance(estimate, Estimate)
    assert estimate == (estimate.value, estimate.standard_error, estimate.samples)
