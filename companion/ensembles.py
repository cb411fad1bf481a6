"""Many small networks, each with weights, labels and shuffles of its own, trained as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from companion import validate
from companion.boolean_functions import network_outputs
from companion.training import OPTIMIZERS

Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Ensemble:
    """Networks at the end of their training."""

    layers: Layers  # weights (count, in, out) and biases (count, 1, out)
    epochs: Tensor  # (count,) that were run
    fits: Tensor  # (count,) bool: no training error at the end


def train_ensemble(
    layers: Layers,
    points: Tensor,
    labels: Tensor,
    *,
    learning_rate: float,
    batch_size: int,
    max_epochs: int,
    generator: torch.Generator,
    optimizer: str = "sgd",
    stop_when_fit: bool = True,
) -> Ensemble:
    """Train ReLU networks on the mean logistic loss, each until it fits its labels.

    Parameters
    ----------
    layers : list of (weight, bias)
        As :func:`~companion.boolean_functions.random_networks` makes them; not changed.
    points : Tensor, shape (m, n)
        The training inputs, the same for all networks.
    labels : Tensor, shape (count, m)
        0 or 1; the label of network k on input i.
    learning_rate : float
        λ > 0.
    batch_size : int
        B, at most m; what is left of an epoch after its last full batch is skipped.
    max_epochs : int
    generator : torch.Generator
        Source of the shuffles, one a network and epoch.
    optimizer : {"sgd", "adam"}
    stop_when_fit : bool, default True
        Stop a network at the end of its first epoch without training error.  Otherwise all of
        them run for ``max_epochs``.

    Returns
    -------
    Ensemble
        In the order of ``layers``.  An output above 0 stands for the label 1.

    Raises
    ------
    ValueError
        If an argument is not what is said above.
    """
    rate, max_epochs = validate.positive("learning_rate", learning_rate), validate.count("max_epochs", max_epochs)
    count, samples = _check(layers, points, labels, batch_size, optimizer)
    result = [(weight.clone(), bias.clone()) for weight, bias in layers]
    epochs, fits = torch.full((count,), max_epochs), torch.zeros(count, dtype=torch.bool)
    active = torch.arange(count)
    parameters = [nn.Parameter(value.clone()) for layer in layers for value in layer]
    chosen = OPTIMIZERS[optimizer](parameters, lr=rate)
    for epoch in range(1, max_epochs + 1):
        order = torch.rand(len(active), samples, generator=generator).argsort(dim=1)
        for first in range(0, samples - batch_size + 1, batch_size):
            _step(chosen, points, labels[active], order[:, first : first + batch_size])
        parameters = chosen.param_groups[0]["params"]
        last = epoch == max_epochs
        with torch.no_grad():
            right = ((network_outputs(_pairs(parameters), points) > 0) == labels[active].bool()).all(dim=1)
        done = right & stop_when_fit | last
        if done.any():
            for target, value in zip(_flat(result), parameters, strict=True):
                target[active[done]] = value.detach()[done]
            epochs[active[done]], fits[active[done]] = epoch, right[done]
            active = active[~done]
            if not len(active):
                break
            _keep(chosen, ~done)
    return Ensemble(result, epochs, fits)


def as_module(layers: Layers, index: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """One network of an ensemble as an ``nn.Sequential``, with a last dimension of one output."""
    modules: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(*weight.shape[1:], dtype=dtype)
        with torch.no_grad():
            linear.weight.copy_(weight[index].T)
            linear.bias.copy_(bias[index, 0])
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def _step(chosen: torch.optim.Optimizer, points: Tensor, labels: Tensor, batch: Tensor) -> None:
    outputs = network_outputs(_pairs(chosen.param_groups[0]["params"]), points[batch])
    # The sum over networks of each one's mean: no network's gradient feels another network.
    loss = binary_cross_entropy_with_logits(outputs, labels.gather(1, batch).to(outputs), reduction="sum")
    chosen.zero_grad()
    (loss / batch.shape[1]).backward()
    chosen.step()


def _keep(chosen: torch.optim.Optimizer, mask: Tensor) -> None:
    """Drop the networks that are done from the parameters and from what the optimizer remembers of them."""
    group, remembered = chosen.param_groups[0], chosen.state
    fresh = [nn.Parameter(value.detach()[mask]) for value in group["params"]]
    for old, new in zip(group["params"], fresh, strict=True):
        state = remembered.pop(old, {})
        remembered[new] = {k: v[mask] if torch.is_tensor(v) and v.dim() else v for k, v in state.items()}
    group["params"] = fresh


def _pairs(parameters: Sequence[Tensor]) -> Layers:
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _flat(layers: Layers) -> list[Tensor]:
    return [value for layer in layers for value in layer]


def _check(layers: Layers, points: Tensor, labels: Tensor, batch_size: int, optimizer: str) -> tuple[int, int]:
    count, samples = len(layers[0][0]), len(points)
    if labels.shape != (count, samples):
        raise ValueError(f"labels must have shape ({count}, {samples}), got {tuple(labels.shape)}")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1")
    if validate.count("batch_size", batch_size) > samples:
        raise ValueError(f"batch_size must be at most the {samples} training inputs, got {batch_size}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    return count, samples
