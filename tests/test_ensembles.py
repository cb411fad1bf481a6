"""Networks trained as one batch: against one at a time, their order, their stops, bad input."""

import numpy as np
import pytest
import torch
from torch import nn

from companion.boolean_functions import boolean_inputs, network_outputs, random_networks
from companion.ensembles import as_module, train_ensemble
from companion.training import train

POINTS = torch.from_numpy(boolean_inputs(3))


def networks(count, seed=0):
    layers = random_networks(count, (3, 10, 1), 1.0, 0.1, np.random.default_rng(seed))
    return [(weight.double(), bias.double()) for weight, bias in layers]


def trained(layers, labels, **changes):
    arguments = {"learning_rate": 0.3, "batch_size": 4, "max_epochs": 3000, "optimizer": "sgd"} | changes
    return train_ensemble(layers, POINTS, labels, generator=torch.Generator().manual_seed(1), **arguments)


def logistic(outputs, targets):
    return nn.functional.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets)


@pytest.mark.parametrize("optimizer, rate", [("sgd", 0.5), ("adam", 0.02)])
def test_full_batches_take_the_steps_of_single_training(optimizer, rate):
    # Network 0 fits before the others and leaves the batch; the optimizers of the others must not notice.
    layers, labels = networks(3), torch.tensor([[1.0] * 8, [0, 1] * 4, [0, 1, 1, 0, 1, 0, 0, 1]])
    together = trained(layers, labels, batch_size=8, max_epochs=40, learning_rate=rate, optimizer=optimizer)
    assert together.epochs[0] < 40
    for k in range(3):
        model = as_module(layers, k)
        train(
            model, logistic, POINTS, labels[k].double(), learning_rate=rate, batch_size=8,
            steps=int(together.epochs[k]), generator=torch.Generator(), optimizer=optimizer,
        )  # fmt: skip
        for ours, theirs in zip(as_module(together.layers, k).parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_networks_end_where_they_first_fit():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (20, 8)))
    layers = networks(20)
    before = [weight.clone() for weight, _ in layers]
    result = trained(layers, labels)
    outputs = network_outputs(result.layers, POINTS) > 0
    fits = (outputs == labels.bool()).all(dim=1)
    assert torch.equal(fits, result.fits) and fits.sum() >= 15
    assert (result.epochs[~fits] == 3000).all() and (result.epochs[fits] < 3000).all()
    assert all(torch.equal(weight, old) for (weight, _), old in zip(layers, before, strict=True))


def test_without_a_stop_all_run_to_the_end():
    layers, labels = networks(2), torch.tensor([[1.0] * 8, [0, 1] * 4])
    stopped, run = trained(layers, labels, max_epochs=50), trained(layers, labels, max_epochs=50, stop_when_fit=False)
    assert stopped.epochs[0] < 50 and run.epochs.tolist() == [50, 50] and run.fits[0]
    losses = [logistic(network_outputs(result.layers, POINTS)[0], labels[0].double()) for result in (run, stopped)]
    assert losses[0] < losses[1]


def test_module_computes_the_same_function():
    layers = networks(2)
    torch.testing.assert_close(as_module(layers, 1)(POINTS).squeeze(-1), network_outputs(layers, POINTS)[1])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"batch_size": 9}, "batch_size must be at most the 8 training inputs, got 9"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"max_epochs": 0}, "max_epochs must be"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, got 'lion'"),
        ({"labels": torch.zeros(2, 7)}, r"labels must have shape \(2, 8\), got \(2, 7\)"),
        ({"labels": torch.full((2, 8), 2)}, "labels must be 0 or 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    labels = change.pop("labels", torch.zeros(2, 8))
    with pytest.raises(ValueError, match=message):
        trained(networks(2), labels, **change)
