"""companion/training.py: the loop against a loop by hand, and against the solution of a linear problem."""

import copy

import pytest
import torch
from network_oracles import CROSS_ENTROPY, SQUARED, data_for, filled, generator, mlp_of
from torch import nn

from companion.training import train, train_epochs

INPUTS, TARGETS = data_for(mlp_of(), CROSS_ENTROPY)


class Recorder(nn.Module):
    """Keeps the inputs of every call in training mode."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, inputs):
        if self.training:
            self.seen.append(inputs.clone())
        return self.net(inputs)


def settings(**change):
    return {"learning_rate": 0.1, "batch_size": 3, "steps": 5, "generator": generator()} | change


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_sgd_by_hand(batch_size):
    model = mlp_of(nn.Tanh)
    by_hand, source, steps = copy.deepcopy(model), generator(4), 9
    optimizer = train(
        model, CROSS_ENTROPY, INPUTS, TARGETS, **settings(batch_size=batch_size, steps=steps, generator=generator(4))
    )
    batches = []
    while len(batches) < steps:
        order = torch.randperm(7, generator=source)
        batches += [order[i * batch_size : (i + 1) * batch_size] for i in range(7 // batch_size)]
    for batch in batches[:steps]:
        gradients = torch.autograd.grad(
            CROSS_ENTROPY(by_hand(INPUTS[batch]), TARGETS[batch]), list(by_hand.parameters())
        )
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    for trained, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-12, atol=1e-14)
        assert trained.grad is None
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["momentum"] == 0


def test_every_sample_is_seen_once_an_epoch_and_what_is_left_of_it_is_skipped():
    model = Recorder(mlp_of())
    train(model, CROSS_ENTROPY, INPUTS, TARGETS, **settings(batch_size=3, steps=5))
    assert [len(x) for x in model.seen] == [3] * 5
    for epoch in (model.seen[:2], model.seen[2:4]):
        assert len(torch.cat(epoch).unique(dim=0)) == 6
    model = Recorder(mlp_of())
    train(model, CROSS_ENTROPY, INPUTS, TARGETS, **settings(batch_size=7, steps=2))
    for batch in model.seen:
        assert len(batch.unique(dim=0)) == 7
    assert not torch.equal(*model.seen)


def test_a_linear_model_reaches_the_least_squares_solution():
    x = torch.randn(20, 3, generator=generator(), dtype=torch.float64)
    y = x @ torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64).T + 1
    for optimizer, rate in (("sgd", 0.1), ("adam", 0.05)):
        model = filled(nn.Linear(3, 1))
        train(model, SQUARED, x, y, **settings(learning_rate=rate, batch_size=10, steps=600, optimizer=optimizer))
        torch.testing.assert_close(model.weight.detach(), torch.tensor([[1.0, -2.0, 0.5]]).double(), rtol=0, atol=1e-3)
        assert model.bias.item() == pytest.approx(1, abs=1e-3)


def test_adam_is_torchs_and_comes_back_in_its_last_state():
    model = mlp_of(nn.Tanh)
    by_hand = copy.deepcopy(model)
    optimizer = train(model, CROSS_ENTROPY, INPUTS, TARGETS, **settings(optimizer="adam", batch_size=7, steps=4))
    expected = torch.optim.Adam(by_hand.parameters(), lr=0.1)
    for _ in range(4):
        expected.zero_grad()
        CROSS_ENTROPY(by_hand(INPUTS), TARGETS).backward()
        expected.step()
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
        assert optimizer.state[a]["step"] == 4
        assert (optimizer.state[a]["exp_avg_sq"] > 0).any()


def test_the_generator_decides_the_batches_and_torchs_own_numbers_stay():
    results, models = [], [mlp_of() for _ in range(3)]
    before = torch.random.get_rng_state()
    for seed, model in zip((1, 1, 2), models, strict=True):
        train(model, CROSS_ENTROPY, INPUTS, TARGETS, **settings(generator=generator(seed)))
        results.append(model[0].weight.detach().clone())
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_frozen_weights_stay_and_the_mode_too():
    model = nn.Sequential(mlp_of(), nn.Dropout(0.0)).train()
    model[0][0].requires_grad_(False)
    before = copy.deepcopy(model)
    model[1].eval()
    train(model, CROSS_ENTROPY, INPUTS, TARGETS, **settings())
    assert torch.equal(model[0][0].weight, before[0][0].weight)
    assert not torch.equal(model[0][2].weight, before[0][2].weight)
    assert model.training and not model[1].training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0}, r"^learning_rate must be positive, got 0$"),
        ({"learning_rate": -0.1}, r"^learning_rate must be positive, got -0.1$"),
        ({"batch_size": 0}, r"^batch_size must be a whole number of at least 1, got 0$"),
        ({"batch_size": 2.0}, r"^batch_size must be a whole number of at least 1, got 2.0$"),
        ({"batch_size": 8}, r"^batch_size must be at most the 7 samples there are, got 8$"),
        ({"steps": 0}, r"^steps must be a whole number of at least 1, got 0$"),
        ({"steps": 1.5}, r"^steps must be a whole number of at least 1, got 1.5$"),
        ({"optimizer": "SGD"}, r"^optimizer must be one of sgd, adam, got 'SGD'$"),
    ],
)
def test_bad_settings_are_refused(change, message):
    model = mlp_of()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        train(model, CROSS_ENTROPY, INPUTS, TARGETS, **settings(**change))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (INPUTS, TARGETS[:5], r"^targets must be a tensor with one entry a sample, 7 in all, got \(5,\)$"),
        (INPUTS, TARGETS + 1, r"^targets must lie in 0 … 2, got 3$"),
        (INPUTS, None, r"^targets must be given"),
        (INPUTS.float(), TARGETS, r"^inputs must have the model's dtype torch.float64, got torch.float32$"),
        (INPUTS / 0, TARGETS, r"^the model's outputs must be finite"),
    ],
)
def test_bad_data_are_refused(inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        train(mlp_of(), CROSS_ENTROPY, inputs, targets, **settings())


def test_a_loss_that_becomes_no_number_names_the_step():
    x, y = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    # w ← w - 2 · 1e200 · w: |w| is 2e200 after one step and its square is too large for a float.
    with pytest.raises(ValueError, match=r"^the loss became inf at step 1; lower learning_rate = 1e\+200$"):
        train(model, SQUARED, x, y, **settings(learning_rate=1e200, batch_size=4))


@pytest.mark.parametrize("batch_size", [2, 7])
def test_epochs_are_the_steps_of_a_reshuffled_training_set(batch_size):
    model, by_hand = mlp_of(nn.Tanh), mlp_of(nn.Tanh)
    by_hand.load_state_dict(model.state_dict())
    optimizer, done = torch.optim.SGD(model.parameters(), lr=0.1), []
    options = {"optimizer": optimizer, "batch_size": batch_size, "epochs": 3, "generator": generator(4)}
    for epoch in train_epochs(model, CROSS_ENTROPY, INPUTS, TARGETS, **options):
        done.append((epoch, copy.deepcopy(model.state_dict())))
    assert [epoch for epoch, _ in done] == [1, 2, 3]
    assert all(parameter.grad is None for parameter in model.parameters())
    steps = 7 // batch_size
    train(
        by_hand,
        CROSS_ENTROPY,
        INPUTS,
        TARGETS,
        **settings(batch_size=batch_size, steps=3 * steps, generator=generator(4)),
    )
    for found, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert not torch.equal(done[0][1]["0.weight"], done[1][1]["0.weight"])


def test_epochs_that_diverge_say_which_and_what_to_change():
    model = mlp_of(nn.Tanh)
    model[0].weight.data.fill_(float("inf"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e300)
    options = {"optimizer": optimizer, "batch_size": 3, "epochs": 9, "generator": generator()}
    with pytest.raises(ValueError, match=r"^the loss became (nan|inf) in epoch \d; lower the learning rate 1e\+300$"):
        list(train_epochs(model, CROSS_ENTROPY, INPUTS, TARGETS, **options))
    for name, value in (("batch_size", 8), ("batch_size", 0), ("epochs", 0)):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            list(train_epochs(model, CROSS_ENTROPY, INPUTS, TARGETS, **options | {name: value}))
