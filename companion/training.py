"""One training loop, by steps and by epochs."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from companion import validate
from companion.problem import Problem

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def train(
    model: nn.Module,
    loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: float,
    batch_size: int,
    steps: int,
    generator: torch.Generator,
    optimizer: str = "sgd",
) -> torch.optim.Optimizer:
    """Train the model in place on mini-batches from a reshuffled training set.

    Parameters
    ----------
    model, loss, inputs, targets
        As for :func:`~companion.hessian.hessian_matrix`.
    learning_rate : float
        λ > 0.
    batch_size : int
        B, at most N; what is left of an epoch after its last full batch is skipped.
    steps : int
    generator : torch.Generator
        Source of the shuffles.
    optimizer : {"sgd", "adam"}

    Returns
    -------
    torch.optim.Optimizer
        The optimizer in its last state.

    Raises
    ------
    ValueError
        If an argument is out of its range or the loss becomes NaN; the message names the step.
    """
    validate.positive("learning_rate", learning_rate)
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    if validate.count("batch_size", batch_size) > len(inputs):
        raise ValueError(f"batch_size must be at most the {len(inputs)} samples there are, got {batch_size}")
    Problem(model, loss, inputs, targets).need_targets().checked()
    chosen = OPTIMIZERS[optimizer](model.parameters(), lr=learning_rate)
    order, position = torch.empty(0, dtype=torch.long), 0
    for step in range(validate.count("steps", steps)):
        if position + batch_size > len(order):
            order, position = torch.randperm(len(inputs), generator=generator).to(inputs.device), 0
        batch = order[position : position + batch_size]
        position += batch_size
        chosen.zero_grad()
        value = loss(model(inputs[batch]), targets[batch])
        if not torch.isfinite(value):
            raise ValueError(f"the loss became {value.item()} at step {step}; lower learning_rate = {learning_rate:g}")
        value.backward()
        chosen.step()
    chosen.zero_grad()
    return chosen


def train_epochs(
    model: nn.Module,
    loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    epochs: int,
    generator: torch.Generator,
) -> Iterator[int]:
    """Train the model in place and yield the number of epochs done, after each of them.

    Parameters
    ----------
    model, loss, inputs, targets
        As for :func:`train`.
    optimizer : torch.optim.Optimizer
        Over the model's parameters; yours, so that its state and learning rate can be looked at and
        changed between epochs.
    batch_size : int
        B, at most N; what is left of an epoch after its last full batch is skipped.
    epochs : int
    generator : torch.Generator
        Source of the shuffles, on the CPU.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the loss is not finite at the end of an epoch; the message names it.
    """
    if validate.count("batch_size", batch_size) > len(inputs):
        raise ValueError(f"batch_size must be at most the {len(inputs)} samples there are, got {batch_size}")
    Problem(model, loss, inputs, targets).need_targets()
    for epoch in range(1, validate.count("epochs", epochs) + 1):
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            batch = order[start : start + batch_size]
            optimizer.zero_grad()
            value = loss(model(inputs[batch]), targets[batch])
            value.backward()
            optimizer.step()
        if not torch.isfinite(value):
            rate = optimizer.param_groups[0]["lr"]
            raise ValueError(f"the loss became {value.item()} in epoch {epoch}; lower the learning rate {rate:g}")
        yield epoch
    optimizer.zero_grad()
