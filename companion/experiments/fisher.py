"""Riemannian sharpness over batch size, learning rate and optimizer, on MNIST and CIFAR-10 (``fisher`` secs. 5 and 6).

What the paper's estimator was cannot be told from its text, whose formulas were lost, so every
reading is measured on the same networks: which Fisher matrix, what damping, which activation.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from companion.data import Dataset, load_dataset
from companion.experiments.experiment import Experiment, Workplace
from companion.experiments.fisher_analysis import report
from companion.fisher import fisher_diagonal, minibatch_squared_diagonal
from companion.hessian import hessian_diagonal
from companion.models import mlp, small_cnn
from companion.noise import (
    cosine_alignment,
    gradient_covariance_diagonal,
    minibatch_covariance_diagonal,
    relative_frobenius,
)
from companion.problem import flatten
from companion.reparametrization import rescale_layers
from companion.sharpness import adam_adjusted_sharpness
from companion.training import OPTIMIZERS, train_epochs

DAMPINGS = (0.0, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
ALPHAS = (2.0, 10.0)
POOL = 10_000  # training images, the first ones, that mini-batches for an estimate are drawn from
MEASURE_SEED = 1_000_000  # of the samples and mini-batches that are measured on, apart from those of training
CROSS_ENTROPY = nn.CrossEntropyLoss()
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class Settings:
    """One training run.

    Attributes
    ----------
    data : str
    widths : tuple of int
        Of the hidden layers of the MLP, or of the two convolutions.
    network : {"mlp", "cnn"}
    activation : {"relu", "tanh"}
    optimizer : {"sgd", "adam"}
    batch_size, learning_rate, schedule
        B, λ, and whether λ stays ("constant") or falls to 0 along half a cosine ("cosine").
    epochs, log_every : int
    train_size : int
        The first so many training images.
    measure_size : int
        Training images, drawn once, on which Hessian and Fisher matrix are taken.
    batches : int
        Mini-batches behind an estimate from mini-batches, ``fisher`` sec. 5.1.
    seed : int
    """

    data: str
    widths: tuple[int, ...]
    network: str
    activation: str
    optimizer: str
    batch_size: int
    learning_rate: float
    schedule: str
    epochs: int
    log_every: int
    train_size: int
    measure_size: int
    batches: int
    seed: int


MNIST = Settings("mnist", (256, 256), "mlp", "relu", "sgd", 128, 0.1, "constant", 20, 5, 60_000, 1000, 50, 0)
CIFAR = Settings("cifar10", (16, 32), "cnn", "relu", "sgd", 128, 0.05, "constant", 30, 5, 50_000, 300, 20, 0)
DIGITS = Settings("digits", (16, 16), "mlp", "relu", "sgd", 32, 0.1, "constant", 2, 1, 1297, 200, 10, 0)
BATCH_SIZES = (32, 128, 512)


def mnist_settings(profile: str) -> list[Settings]:
    """The paper's protocol is small enough for a laptop."""
    if profile == "smoke":
        return smoke_settings()
    adam, tanh = {"optimizer": "adam", "learning_rate": 1e-3}, {"activation": "tanh", "measure_size": 300}
    return _variants(MNIST, (0.01, 0.05, 0.5), {}, adam, tanh)


def cifar_settings(profile: str) -> list[Settings]:
    if profile == "smoke":
        return [replace(DIGITS, network="cnn", widths=(2, 3), batch_size=b, measure_size=60) for b in (32, 128)]
    size = {"laptop": 8_000, "paper": 50_000}[profile]
    base = replace(CIFAR, train_size=size)
    runs = _variants(base, (0.01, 0.1, 0.2), {})
    return runs + [replace(base, optimizer="adam", learning_rate=1e-3, seed=seed) for seed in range(3)]


def smoke_settings() -> list[Settings]:
    """One of each kind, on the digits."""
    changes = ({}, {"batch_size": 128}, {"activation": "tanh"}, {"optimizer": "adam", "learning_rate": 1e-3})
    return [replace(DIGITS, **change) for change in (*changes, {"seed": 1, "schedule": "cosine"})]


def _variants(base: Settings, rates: tuple[float, ...], *kinds: Mapping) -> list[Settings]:
    """Every kind over the batch sizes, and the base over learning rates at its own batch size; three seeds."""
    over_batch = [replace(base, **kind, batch_size=b) for kind in kinds for b in BATCH_SIZES]
    over_rate = [replace(base, learning_rate=rate) for rate in rates]
    return [replace(one, seed=seed) for one in over_batch + over_rate for seed in range(3)]


def build(settings: Settings, data: Dataset) -> nn.Sequential:
    """The network before training, in float32."""
    options = {
        "activation": ACTIVATIONS[settings.activation],
        "generator": torch.Generator().manual_seed(settings.seed),
        "dtype": torch.float32,
    }
    if settings.network == "cnn":
        return small_cnn(settings.widths, image=tuple(data.train_inputs.shape[1:]), **options)
    return mlp(data.train_inputs[0].numel(), *settings.widths, 10, **options)


def images(settings: Settings, inputs: Tensor) -> Tensor:
    """The images as the network takes them."""
    return inputs if settings.network == "cnn" else inputs.flatten(1)


def perform(settings: Settings, workplace: Workplace) -> dict:
    """Train, and measure at the logged epochs.

    Returns
    -------
    dict
        ``epochs``: one dict a logged epoch; ``alignment``: half-way, ``fisher`` sec. 5; ``rescaled``: at
        the end, by α (ReLU only); ``diverged``: the message, where training did.
    """
    data = load_dataset(settings.data, workplace.data).standardized()
    x, y = (part.to(workplace.device) for part in (images(settings, data.train_inputs), data.train_targets))
    x, y = x[: settings.train_size], y[: settings.train_size]
    test = tuple(p.to(workplace.device) for p in (images(settings, data.test_inputs), data.test_targets))
    model = build(settings, data).to(workplace.device)
    untrained = copy.deepcopy(model)
    optimizer = OPTIMIZERS[settings.optimizer](model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _decay(settings))
    result: dict = {"epochs": []}
    chosen = torch.randperm(len(x), generator=_generator(settings, 0))[: settings.measure_size].to(x.device)
    sample = (x[chosen], y[chosen])
    training = {"batch_size": settings.batch_size, "epochs": settings.epochs}
    shuffles = torch.Generator().manual_seed(settings.seed)
    try:
        for epoch in train_epochs(model, CROSS_ENTROPY, x, y, optimizer=optimizer, generator=shuffles, **training):
            schedule.step()
            if epoch % settings.log_every == 0:
                found = measure(settings, model, optimizer, sample, (x, y), test)
                result["epochs"].append({"epoch": epoch, **found})
            if epoch == settings.epochs // 2:
                result["alignment"] = alignment(settings, model, untrained, sample, (x, y))
            workplace.tick(epoch, settings.epochs)
    except ValueError as error:  # a learning rate too large is a finding
        return {**result, "diverged": str(error)}
    if settings.activation == "relu":
        result["rescaled"] = [rescaled(settings, model, alpha, sample, x) for alpha in ALPHAS]
    return result


def measure(settings: Settings, model: nn.Module, optimizer, sample, train, test) -> dict:
    """Accuracy and loss, traces, and S_R under every reading."""
    with torch.no_grad():
        outputs = {name: (model(x), y) for name, (x, y) in (("train", train), ("test", test))}
    found = {}
    for name, (output, y) in outputs.items():
        found[f"{name}_accuracy"] = (output.argmax(1) == y).double().mean().item()
        found[f"{name}_loss"] = CROSS_ENTROPY(output, y).item()
    double = copy.deepcopy(model).double()
    inputs, targets = sample[0].double(), sample[1]
    found |= readings(settings, double, inputs, targets, train[0])
    if settings.optimizer == "adam":
        moments = {
            name: optimizer.state[p]["exp_avg_sq"].double() / (1 - 0.999 ** float(optimizer.state[p]["step"]))
            for name, p in model.named_parameters()
        }
        adjusted = adam_adjusted_sharpness(double, CROSS_ENTROPY, inputs, targets, moments, damping=1e-8)
        found["adam_adjusted"] = adjusted
    return found


def readings(settings: Settings, model: nn.Module, inputs: Tensor, targets: Tensor, train_inputs: Tensor) -> dict:
    """tr H, tr F, the number of active parameters, and Σ Hᵢᵢ/(F̂ᵢᵢ + ε) by estimator F̂ and damping ε."""
    hessian = flatten(hessian_diagonal(model, CROSS_ENTROPY, inputs, targets))
    estimates = fisher_estimates(settings, model, inputs, targets, train_inputs)
    exact = estimates["exact"]
    return {
        "trace": float(hessian.sum()),
        "fisher_trace": float(exact.sum()),
        "active": int((exact > 0).sum()),
        "parameters": len(exact),
        "riemannian": {
            name: {f"{damping:g}": ratio(hessian, metric, damping) for damping in DAMPINGS}
            for name, metric in estimates.items()
        },
    }


def fisher_estimates(
    settings: Settings, model: nn.Module, inputs: Tensor, targets: Tensor, train_inputs: Tensor
) -> dict[str, Tensor]:
    """The diagonal of the Fisher matrix under three readings of eq. 33, each of shape (p,)."""
    return {
        "exact": flatten(fisher_diagonal(model, CROSS_ENTROPY, inputs)),
        "empirical": flatten(fisher_diagonal(model, CROSS_ENTROPY, inputs, targets, fisher="empirical")),
        "mini-batch": flatten(
            minibatch_squared_diagonal(
                copy.deepcopy(model).float(),
                CROSS_ENTROPY,
                train_inputs[:POOL],
                batch_size=settings.batch_size,
                batches=settings.batches,
                generator=_generator(settings, 1),
            )
        ).double(),
    }


def ratio(hessian: Tensor, metric: Tensor, damping: float) -> float:
    """Σ Hᵢᵢ/(Fᵢᵢ + ε) over the parameters whose denominator is not zero."""
    denominator = metric + damping
    return float((hessian / denominator)[denominator > 0].sum())


def alignment(settings: Settings, model: nn.Module, untrained: nn.Module, sample, train) -> dict:
    """Cosines and Frobenius distances of ``fisher`` sec. 5, beside nulls that no theory stands behind."""
    inputs, targets = sample[0].double(), sample[1]
    source = _generator(settings, 2)
    batches = {"batch_size": settings.batch_size, "batches": settings.batches, "generator": source}

    def diagonals(net: nn.Module, labels: Tensor) -> tuple[Tensor, Tensor]:
        noise = gradient_covariance_diagonal(net, CROSS_ENTROPY, inputs, labels)
        return flatten(noise), flatten(fisher_diagonal(net, CROSS_ENTROPY, inputs))

    trained, raw = (copy.deepcopy(net).double() for net in (model, untrained))
    noise, fisher = diagonals(trained, targets)
    x, y = train[0][:POOL], train[1][:POOL]
    estimated = flatten(minibatch_covariance_diagonal(model, CROSS_ENTROPY, x, y, **batches)).double()
    squared = flatten(minibatch_squared_diagonal(model, CROSS_ENTROPY, x, **batches)).double()
    wrong = targets[torch.randperm(len(targets), generator=source).to(targets.device)]
    shuffle = layerwise(model, lambda part: part[torch.randperm(len(part), generator=source).to(part.device)])
    level = layerwise(model, lambda part: part.mean().expand(len(part)))
    factor = settings.learning_rate / settings.batch_size
    return {
        "cosine": {
            "mini-batch noise, mini-batch Fisher": cosine_alignment(estimated, squared),
            "mini-batch noise, exact Fisher": cosine_alignment(estimated, fisher),
            "exact noise, exact Fisher": cosine_alignment(noise, fisher),
            "null: untrained network": cosine_alignment(*diagonals(raw, targets)),
            "null: wrong labels": cosine_alignment(diagonals(trained, wrong)[0], fisher),
            "null: untrained Fisher": cosine_alignment(noise, diagonals(raw, targets)[1]),
            "null: layer means": cosine_alignment(noise, level(fisher)),
            "null: shuffled in layers": cosine_alignment(noise, shuffle(fisher)),
        },
        "frobenius": {
            "(λ/B) F": relative_frobenius(estimated, factor * fisher),
            "(λ/B) F, mini-batch": relative_frobenius(estimated, factor * squared),
            "F/B": relative_frobenius(estimated, fisher / settings.batch_size),
            "mini-batch F": relative_frobenius(estimated, squared),
        },
        "noise_over_fisher": float(estimated.sum() / fisher.sum()),
    }


def layerwise(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``change`` on every layer's part of a vector of all parameters."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    return lambda vector: torch.cat([change(part) for part in vector.split(sizes)])


def rescaled(settings: Settings, model: nn.Module, alpha: float, sample, train_inputs: Tensor) -> dict:
    """What every reading becomes when the first layer is multiplied by α and the second divided by it."""
    double = rescale_layers(copy.deepcopy(model).double(), alpha)
    found = readings(settings, double, sample[0].double(), sample[1], train_inputs)
    return {"alpha": alpha, **found}


def _decay(settings: Settings) -> Callable[[int], float]:
    if settings.schedule == "constant":
        return lambda epoch: 1.0
    return lambda epoch: 0.5 * (1 + torch.cos(torch.tensor(torch.pi * epoch / settings.epochs)).item())


def _generator(settings: Settings, which: int) -> torch.Generator:
    return torch.Generator().manual_seed(MEASURE_SEED + 10 * settings.seed + which)


_FORMULAS = "the paper's learning rates, damping and schedule were lost with its formulas: ours stand in the settings"
EXPERIMENTS = (
    Experiment(
        "fisher-mnist",
        "Does S_R fall with temperature and follow test accuracy, MLP on MNIST, under every reading?",
        mnist_settings,
        perform,
        report,
        {"laptop": _FORMULAS, "paper": _FORMULAS, "smoke": "the digits, two epochs"},
    ),
    Experiment(
        "fisher-cifar",
        "The same for a small convolutional network on CIFAR-10.",
        cifar_settings,
        perform,
        report,
        {
            "laptop": f"8,000 of the 50,000 training images; {_FORMULAS}; the layers of TinyCNN are not given",
            "paper": f"{_FORMULAS}; the layers of TinyCNN are not given",
            "smoke": "the digits, two epochs",
        },
    ),
)
