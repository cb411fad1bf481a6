"""What the ``fisher`` experiments measure on a network: S_R under every reading, alignment, rescaling."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from companion.experiments.fisher_settings import Settings
from companion.fisher import fisher_diagonal, minibatch_squared_diagonal
from companion.hessian import hessian_diagonal
from companion.noise import (
    cosine_alignment,
    gradient_covariance_diagonal,
    minibatch_covariance_diagonal,
    relative_frobenius,
)
from companion.problem import flatten
from companion.reparametrization import rescale_layers
from companion.sharpness import adam_adjusted_sharpness

DAMPINGS = (0.0, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
POOL = 10_000  # training images, the first ones, that mini-batches for an estimate are drawn from
MEASURE_SEED = 1_000_000
CROSS_ENTROPY = nn.CrossEntropyLoss()


@dataclass(frozen=True)
class Images:
    """Inputs as the network takes them, with their classes."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def measure(settings: Settings, model: nn.Module, sample, images: Images) -> dict:
    """Accuracy and loss, traces, and S_R under every reading."""
    found = {}
    for name, (x, y) in (("train", images.train), ("test", images.test)):
        with torch.no_grad():
            outputs = model(x)
        found[f"{name}_accuracy"] = (outputs.argmax(1) == y).double().mean().item()
        found[f"{name}_loss"] = CROSS_ENTROPY(outputs, y).item()
    double = copy.deepcopy(model).double()
    return found | readings(settings, double, sample[0].double(), sample[1], images.train[0])


def adam_adjusted(model: nn.Module, sample, moments: Mapping[str, Tensor]) -> float:
    """Eq. 45 with a damping of 1e-8, Adam's own."""
    double = copy.deepcopy(model).double()
    moments = {name: value.double() for name, value in moments.items()}
    return adam_adjusted_sharpness(double, CROSS_ENTROPY, sample[0].double(), sample[1], moments, damping=1e-8)


def second_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's average of squared gradients with its bias correction, by parameter name."""
    decay = optimizer.param_groups[0]["betas"][1]
    states = {name: optimizer.state[parameter] for name, parameter in model.named_parameters()}
    return {name: s["exp_avg_sq"] / (1 - decay ** float(s["step"])) for name, s in states.items()}


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
                generator=measuring_generator(settings, 1),
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
    source = measuring_generator(settings, 2)
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


def measuring_generator(settings: Settings, which: int) -> torch.Generator:
    """Source number ``which`` of what a run is measured on, apart from those of its training."""
    return torch.Generator().manual_seed(MEASURE_SEED + 10 * settings.seed + which)
