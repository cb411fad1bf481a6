"""companion/experiments/batched.py: many networks at once are the same networks one by one."""

import copy

import pytest
import torch
from torch import nn

from companion.experiments.batched import Batch, train_together
from companion.models import mlp, small_cnn
from companion.training import OPTIMIZERS, train_epochs

LOSS = nn.CrossEntropyLoss()
IMAGES = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.randint(10, (20,), generator=torch.Generator().manual_seed(1))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def networks(kind, seeds):
    options = {"dtype": torch.float64}
    if kind == "cnn":
        return [small_cnn((2, 3), generator=seeded(seed), **options) for seed in seeds], IMAGES.double()
    inputs = IMAGES.double().flatten(1)
    return [mlp(64, 8, 10, activation=nn.Tanh, generator=seeded(seed), **options) for seed in seeds], inputs


@pytest.mark.parametrize(
    ("kind", "optimizer", "rates"),
    [("mlp", "sgd", (0.1, 0.5, 0.1)), ("cnn", "sgd", (0.1, 0.2, 0.3)), ("mlp", "adam", (0.01, 0.01, 0.01))],
)
def test_together_as_one_by_one(kind, optimizer, rates):
    models, inputs = networks(kind, (3, 4, 5))
    alone = copy.deepcopy(models)
    batch = Batch(models, optimizer, rates)
    options = {"batch_size": 6, "epochs": 4}
    generators = [seeded(seed) for seed in (30, 40, 50)]
    epochs = [epoch for epoch, _ in train_together(batch, LOSS, inputs, CLASSES, generators=generators, **options)]
    assert epochs == [1, 2, 3, 4]
    for k, (model, expected) in enumerate(zip(models, alone, strict=True)):
        chosen = OPTIMIZERS[optimizer](expected.parameters(), lr=rates[k])
        shuffles = seeded((30, 40, 50)[k])
        list(train_epochs(expected, LOSS, inputs, CLASSES, optimizer=chosen, generator=shuffles, **options))
        for (name, found), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
            if optimizer == "adam":
                moment = chosen.state[wanted]["exp_avg_sq"] / (1 - 0.999 ** float(chosen.state[wanted]["step"]))
                torch.testing.assert_close(batch.second_moments(k)[name], moment, rtol=1e-9, atol=1e-15)


def test_the_learning_rate_can_fall():
    for optimizer in ("sgd", "adam"):
        models, inputs = networks("mlp", (3,))
        before = [parameter.clone() for parameter in models[0].parameters()]
        batch = Batch(models, optimizer, (0.1,))
        options = {"batch_size": 5, "epochs": 3, "generators": [seeded(1)], "decay": lambda epoch: 0.0}
        list(train_together(batch, LOSS, inputs, CLASSES, **options))
        for parameter, old in zip(models[0].parameters(), before, strict=True):
            torch.testing.assert_close(parameter.detach(), old.detach(), rtol=0, atol=0)


def test_one_that_diverges_leaves_the_others_alone():
    models, inputs = networks("mlp", (3, 4))
    models[1][0].weight.data.fill_(float("inf"))
    lone, _ = networks("mlp", (3,))
    options = {"batch_size": 5, "epochs": 2}
    both = train_together(
        Batch(models, "sgd", (0.1, 0.1)), LOSS, inputs, CLASSES, generators=[seeded(1), seeded(2)], **options
    )
    for _, losses in both:
        assert torch.isfinite(losses[0]) and not torch.isfinite(losses[1])
    list(train_together(Batch(lone, "sgd", (0.1,)), LOSS, inputs, CLASSES, generators=[seeded(1)], **options))
    torch.testing.assert_close(models[0][0].weight, lone[0][0].weight, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_batched_is_refused():
    models, _ = networks("mlp", (3, 4))
    with pytest.raises(ValueError, match=r"^learning_rates must be equal for adam, got \[0.1, 0.2\]$"):
        Batch(models, "adam", (0.1, 0.2))
    with pytest.raises(ValueError, match=r"^models must have no buffers, got 1\.running_mean"):
        Batch([nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2)], "sgd", (0.1, 0.1))
