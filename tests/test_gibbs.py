"""companion/gibbs.py: the estimates against exact norms and against their mean over all sign vectors; the weights."""

import itertools

import pytest
import torch
from test_sam import LOSS, Noisy, batch, seeded, small
from torch import nn

from companion.gibbs import gibbs_weights, gradient_norm_estimates, norms_from_losses, random_signs


def exact(model, inputs, targets):
    """(n, p) gradients, one backward pass a sample."""
    rows = []
    for i in range(len(inputs)):
        gradient = torch.autograd.grad(LOSS(model(inputs[i : i + 1]), targets[i : i + 1])[0], list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradient]))
    return torch.stack(rows)


def test_the_squares_estimate_the_squared_norms_within_their_standard_error():
    model, data, probes = small(), batch(), 4000
    gradients = exact(model, *data)
    squares = gradients.square().sum(1)
    variance = 2 * (squares**2 - gradients.pow(4).sum(1)) / probes
    estimates = gradient_norm_estimates(model, LOSS, *data, delta=1e-5, probes=probes, generator=seeded(2))
    scores = (estimates.square() - squares) / variance.sqrt()
    assert scores.abs().max() < 4
    assert 0.3 < scores.square().mean() < 3  # the variance is not too large either


def test_one_probe_is_biased_low_within_khinchines_bounds():
    model, data = small(), batch()
    norms, generator = exact(model, *data).norm(dim=1), seeded(3)
    draws = [gradient_norm_estimates(model, LOSS, *data, delta=1e-5, generator=generator) for _ in range(2000)]
    ratio = torch.stack(draws).mean(0) / norms
    assert (ratio > 2**-0.5 - 0.03).all() and (ratio < 0.9).all()


def test_the_mean_square_over_all_signs_has_a_bias_of_second_order_and_one_estimate_an_error_of_first():
    # U(θ) = exp(aᵀθ) at θ = 0 has the gradient a; every sign vector counts once.
    a = torch.tensor([0.7, -0.4, 1.1, 0.2], dtype=torch.float64)
    along = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64) @ a

    def bias_and_error(delta):
        estimates = norms_from_losses(torch.ones(1).double(), torch.exp(delta * along)[:, None], delta)
        quotients = (torch.exp(delta * along) - 1) / delta
        assert estimates.square().item() == pytest.approx(quotients.square().mean().item(), rel=1e-12)
        return (estimates.square() - a @ a).item(), (quotients.abs() - along.abs()).abs().max().item()

    coarse, fine = bias_and_error(0.02), bias_and_error(0.01)
    assert coarse[0] / fine[0] == pytest.approx(4, rel=1e-2)
    assert coarse[1] / fine[1] == pytest.approx(2, rel=3e-2)
    expected = (along**4).mean() * (1 / 4 + 1 / 3)  # b = (ςᵀa)², c = (ςᵀa)³
    assert fine[0] / 0.01**2 == pytest.approx(expected.item(), rel=1e-3)


def test_a_model_of_one_parameter_is_estimated_exactly():
    model = nn.Linear(1, 1, bias=False).double()
    inputs = torch.tensor([[2.0], [-3.0]]).double()
    estimates = gradient_norm_estimates(model, lambda o, t: o[:, 0], inputs, inputs, delta=1e-3, generator=seeded())
    torch.testing.assert_close(estimates, torch.tensor([2.0, 3.0]).double(), rtol=1e-9, atol=0)


def test_the_model_and_the_randomness_are_left_as_they_were():
    model, data = Noisy(), batch()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    gradient_norm_estimates(model, LOSS, *data, probes=3, generator=seeded())
    assert all(torch.equal(mask, model.masks[0]) for mask in model.masks) and len(model.masks) == 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(p.grad is None for p in model.parameters())


def test_signs_are_fair_independent_and_repeatable():
    like = [torch.zeros(301, 7), torch.zeros(0), torch.zeros(3).double()]
    draws = [torch.cat([s.flatten().double() for s in random_signs(like, g)]) for g in [seeded(4)] * 400]
    signs = torch.stack(draws)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean(0).abs().max() < 5 / 400**0.5
    products = signs[:, :64].T @ signs[:, :64] / 400 - torch.eye(64).double()
    assert products.abs().max() < 5 / 400**0.5
    again = random_signs(like, seeded(4))
    assert torch.equal(again[0].flatten().double(), signs[0, :2107]) and again[2].dtype == torch.float64


def test_every_two_signs_are_independent_and_no_bit_is_left_out():
    generator = seeded(6)
    draws = torch.stack([random_signs([torch.zeros(150)], generator)[0] for _ in range(4000)]).double()
    assert draws.mean(0).abs().max() < 5 / 4000**0.5
    products = draws.T @ draws / 4000 - torch.eye(150).double()
    assert products.abs().max() < 5 / 4000**0.5  # the largest of 11 175, each with a standard error of 1/√4000


def test_an_estimate_leaves_parameters_in_their_memory_even_after_an_error():
    model, data = small(), batch()
    before = [(p.data_ptr(), p.detach().clone()) for p in model.parameters()]
    gradient_norm_estimates(model, LOSS, *data, probes=2, generator=seeded())
    with pytest.raises(ValueError, match=r"^loss must return a value a sample"):
        gradient_norm_estimates(model, nn.CrossEntropyLoss(), *data, generator=seeded())
    for p, (memory, value) in zip(model.parameters(), before, strict=True):
        assert p.data_ptr() == memory and torch.equal(p.detach(), value)


def test_weights_are_the_gibbs_law():
    norms = torch.tensor([1.0, 3.0, 2.0]).double()
    for relative, scale in ((True, 2.0), (False, 1.0)):
        expected = torch.exp(0.7 * norms / scale)
        torch.testing.assert_close(gibbs_weights(norms, 0.7, relative=relative), expected / expected.sum())
    torch.testing.assert_close(gibbs_weights(norms, 0.7), gibbs_weights(50 * norms, 0.7))
    assert torch.equal(gibbs_weights(norms, 0.0), torch.full((3,), 1 / 3, dtype=torch.float64))
    both = gibbs_weights(torch.stack([norms, norms.flip(0)]), 1.3)
    torch.testing.assert_close(both[1], gibbs_weights(norms.flip(0), 1.3))


def test_weights_collapse_onto_the_largest_norm_and_are_equal_where_all_vanish():
    assert gibbs_weights(torch.tensor([1.0, 3.0, 2.0]), 1e4).tolist() == [0, 1, 0]
    assert gibbs_weights(torch.tensor([1e30, 3e30]), 1e300).tolist() == [0, 1]
    assert gibbs_weights(torch.tensor([1e30, 3e30]), -1e300, relative=False).tolist() == [1, 0]
    assert gibbs_weights(torch.zeros(4), 5.0).tolist() == [0.25] * 4
