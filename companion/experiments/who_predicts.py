"""Which measure ranks the test error of trained networks best: one network a run, every measure on it.

Networks differ in optimizer, learning rate, batch size, width, activation, and in how many wrongly
labelled samples (an attack set, as in ``prior``) were added to the same training set.
"""

import copy
import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from companion.data import load_dataset
from companion.experiments.experiment import Experiment, Workplace
from companion.experiments.who_predicts_measures import (
    LOSS,
    AttackSplit,
    adam_state_sharpness,
    all_measures,
    log_prior,
)
from companion.experiments.who_predicts_report import report
from companion.models import mlp
from companion.reparametrization import rescale_layers
from companion.training import OPTIMIZERS, train_epochs

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
FIRST_CLASS = 5  # digits from here on are class 1


@dataclass(frozen=True)
class Settings:
    """One network.

    Attributes
    ----------
    data : str
    train_size, attack, held_out, test_size : int
        |S|, |A|, and how many images are held out and tested on.
    split_seed : int
        Of the choice of the images; the same for all networks of a profile.
    optimizer, learning_rate, batch_size, width, activation
    max_epochs : int
        Training ends there at the latest.
    loss_target : float
        Training loss at which networks are compared a second time.
    log_alpha : float
        Each layer's rescaling is log-uniform between exp(-log_alpha) and exp(log_alpha); ReLU only.
    seed : int
        Of weights, shuffles, rescaling and of all that is random in the measures.
    """

    data: str
    train_size: int
    attack: int
    held_out: int
    test_size: int
    split_seed: int
    optimizer: str
    learning_rate: float
    batch_size: int
    width: int
    activation: str
    max_epochs: int
    loss_target: float
    log_alpha: float
    seed: int


def settings(profile: str) -> list[Settings]:
    """Every combination of the hyperparameters of a profile; each network has a seed of its own."""
    common = {"split_seed": 0, "loss_target": 0.01, "log_alpha": float(np.log(6))}
    if profile == "smoke":
        sizes = {"data": "digits", "train_size": 60, "held_out": 40, "test_size": 500, "max_epochs": 400}
        grid = _grid((10,), {"sgd": (0.3,), "adam": (0.005,)}, (16,), (8,), "relu")
        grid += _grid((10,), {"sgd": (0.3,)}, (16,), (8,), "tanh")
    elif profile == "laptop":
        sizes = {"data": "mnist", "train_size": 500, "held_out": 500, "test_size": 10_000, "max_epochs": 1000}
        attacks, rates, batches = (0, 50, 100, 200), {"sgd": (0.05, 0.3), "adam": (5e-4, 5e-3)}, (16, 48, 144)
        grid = _grid(attacks, rates, batches, (32, 64, 128), "relu") + _grid(attacks, rates, batches, (64,), "tanh")
    else:
        sizes = {"data": "mnist", "train_size": 2000, "held_out": 1000, "test_size": 10_000, "max_epochs": 2000}
        attacks, rates = (0, 200, 400, 800, 1600), {"sgd": (0.02, 0.1, 0.5), "adam": (1e-4, 1e-3, 1e-2)}
        grid = _grid(attacks, rates, (32, 128, 512), (128, 512, 1024), "relu")
        grid += _grid(attacks, rates, (32, 128, 512), (128,), "tanh")
    return [Settings(**sizes, **common, **choice, seed=seed) for seed, choice in enumerate(grid)]


def _grid(attacks, rates, batch_sizes, widths, activation: str) -> list[dict]:
    names = ("attack", "optimizer", "learning_rate", "batch_size", "width", "activation")
    pairs = [(optimizer, rate) for optimizer in rates for rate in rates[optimizer]]
    choices = itertools.product(attacks, pairs, batch_sizes, widths)
    return [dict(zip(names, (a, *pair, b, w, activation), strict=True)) for a, pair, b, w in choices]


def attack_split(settings: Settings, workplace: Workplace) -> AttackSplit:
    """The images of a run, as vectors: classes 0 to 4 against 5 to 9, the attack set's labels turned round."""
    data = load_dataset(settings.data, workplace.data)
    order = np.random.default_rng(settings.split_seed).permutation(len(data.train_targets))
    sizes = (settings.train_size, settings.held_out, settings.attack)
    if sum(sizes) > len(order) or settings.test_size > len(data.test_targets):
        there = f"{len(order)} and {len(data.test_targets)} images of {settings.data}"
        raise ValueError(f"train_size, held_out, attack and test_size must fit in {there}, got {settings}")
    chosen, held, attack = (torch.from_numpy(part) for part in np.split(order[: sum(sizes)], np.cumsum(sizes)[:2]))
    x, y = data.train_inputs.flatten(1), (data.train_targets >= FIRST_CLASS).long()
    test = slice(settings.test_size)
    parts = (
        torch.cat([x[chosen], x[attack]]),
        torch.cat([y[chosen], 1 - y[attack]]),
        settings.train_size,
        x[held],
        y[held],
        data.test_inputs[test].flatten(1),
        (data.test_targets[test] >= FIRST_CLASS).long(),
    )
    return AttackSplit(*(part if isinstance(part, int) else part.to(workplace.device) for part in parts))


def perform(settings: Settings, workplace: Workplace) -> dict:
    """Train one network and measure it twice: when it first fits its training set, and at the target loss.

    Returns
    -------
    dict
        ``epochs`` run, whether training ``diverged``, number of ``parameters``, ``alphas`` of the
        rescaling, the last ``train_error`` and ``train_loss``, and ``moments`` with ``first_fit`` and
        ``equal_loss``: the ``epoch``, ``measures`` and, after the rescaling, ``rescaled``; None for a
        moment that did not come.  At both the training error is 0, wrong labels included.
    """
    split = attack_split(settings, workplace)
    generator = torch.Generator().manual_seed(settings.seed)
    model = _network(settings, split.inputs.shape[1], generator).to(workplace.device)
    start, alphas = copy.deepcopy(model), _alphas(settings)
    optimizer = OPTIMIZERS[settings.optimizer](model.parameters(), lr=settings.learning_rate)
    moments: dict = {"first_fit": None, "equal_loss": None}
    result = {"epochs": 0, "diverged": False, "parameters": sum(p.numel() for p in model.parameters())}
    result |= {"alphas": alphas, "train_error": None, "train_loss": None, "moments": moments}
    how = {"optimizer": optimizer, "batch_size": settings.batch_size, "epochs": settings.max_epochs}
    try:
        for epoch in train_epochs(model, LOSS, split.inputs, split.targets, **how, generator=generator):
            error, loss = _fit(model, split)
            result |= {"epochs": epoch, "train_error": error, "train_loss": loss}
            workplace.tick(epoch, settings.max_epochs)
            level = loss <= settings.loss_target
            if error or (moments["first_fit"] and not level):
                continue
            moment = {"epoch": epoch, **_measured(model, start, split, settings, optimizer, alphas)}
            moments["first_fit"] = moments["first_fit"] or moment
            if level:
                moments["equal_loss"] = moment
                break
    except ValueError:
        if all(torch.isfinite(p).all() for p in model.parameters()):
            raise
        result["diverged"] = True
    return result


def _network(settings: Settings, pixels: int, generator: torch.Generator) -> nn.Sequential:
    kind = {"activation": ACTIVATIONS[settings.activation], "dtype": torch.float32}
    return mlp(pixels, settings.width, settings.width, 2, generator=generator, **kind)


def _measured(model, start, split: AttackSplit, settings: Settings, optimizer, alphas) -> dict:
    """One moment: every measure of the network, and again of the rescaled one, whose function is the same."""
    options = {"batch_size": settings.batch_size, "seed": settings.seed}
    outside = {"log_prior": log_prior(model, split), "adam_state": adam_state_sharpness(model, split, optimizer)}
    measures = {**all_measures(model, start, split, **options), **outside}
    if alphas is None:
        return {"measures": measures, "rescaled": None}
    rescaled = model
    for layer, alpha in enumerate(alphas):
        rescaled = rescale_layers(rescaled, alpha, layer=layer)
    unchanged = {"log_prior": outside["log_prior"], "adam_state": None}  # Adam has not been there
    return {"measures": measures, "rescaled": {**all_measures(rescaled, start, split, **options), **unchanged}}


def _alphas(settings: Settings) -> list[float] | None:
    if settings.activation != "relu":
        return None
    draws = np.random.default_rng([settings.seed, 1]).uniform(-settings.log_alpha, settings.log_alpha, size=2)
    return np.exp(draws).tolist()


@torch.no_grad()
def _fit(model: nn.Module, split: AttackSplit) -> tuple[float, float]:
    outputs = model(split.inputs)
    wrong = (outputs.argmax(1) != split.targets).double().mean()
    return float(wrong), float(LOSS(outputs, split.targets))


EXPERIMENTS = (
    Experiment(
        "who-predicts-error",
        "Which measure of a trained network ranks test error best, and does a rescaling or the optimizer change that?",
        settings,
        perform,
        report,
        {
            "smoke": "The digits that come with scikit-learn, 60 of them, and three networks.",
            "laptop": "Ours, no paper's: MNIST in two classes as in prior, 500 training images, 192 networks of two "
            "hidden layers; the dense matrices are those of 50 training samples.",
            "paper": "Ours, no paper's: 2,000 training images, 360 networks up to prior's width 1,024; not run.",
        },
    ),
)
