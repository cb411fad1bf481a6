"""Binary image tasks with wrongly labelled extra samples, and the prior of labels on their inputs."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from companion.data import load_dataset
from companion.expectation_propagation import log_prior_probability

ROUNDING = 1e-8  # added to the diagonal of a kernel that is inverted, in units of its mean
CARS, CATS = 1, 3


@dataclass(frozen=True)
class Task:
    """Training set S, test set E, and training images outside S that attack sets are drawn from.

    Inputs have shape (n, d), labels (n,) are 0.0 or 1.0, all in single precision.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    spare_inputs: Tensor
    spare_labels: Tensor

    @property
    def points(self) -> np.ndarray:
        """The inputs of S and then of E, on which functions are told apart; shape (|S| + |E|, d), float64."""
        return torch.cat([self.inputs, self.test_inputs]).double().cpu().numpy()


def binary_task(data: str, folder: str | None, *, train: int, test: int, seed: int) -> Task:
    """Two classes: of the digits 0-4 against 5-9, of CIFAR-10 automobiles against cats.

    Source: ``prior`` sec. 5.2.  S is drawn from the training images, E from the test images.

    Raises
    ------
    ValueError
        If there are not so many images.
    """
    images = load_dataset(data, folder)
    draw, parts = np.random.default_rng(seed), []
    for what, size, inputs, targets in (
        ("train", train, images.train_inputs, images.train_targets),
        ("test", test, images.test_inputs, images.test_targets),
    ):
        rows = torch.nonzero((targets == CATS) | (targets == CARS)).flatten() if data == "cifar10" else None
        rows = torch.arange(len(targets)) if rows is None else rows
        if size > len(rows):
            raise ValueError(f"{what} must be at most the {len(rows)} images there are, got {size}")
        rows = rows[draw.permutation(len(rows))]
        labels = targets == CATS if data == "cifar10" else targets >= 5
        parts.append((inputs.flatten(1)[rows], labels[rows].float()))
    (inputs, labels), (test_inputs, test_labels) = parts
    return Task(inputs[:train], labels[:train], test_inputs[:test], test_labels[:test], inputs[train:], labels[train:])


def attacked(task: Task, attack: int, networks: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """S with an attack set of its own for each network: inputs (networks, |S|+|A|, d) and labels (networks, |S|+|A|).

    The labels of the attack set are the wrong ones.
    """
    if attack > len(task.spare_labels):
        raise ValueError(f"attack must be at most the {len(task.spare_labels)} images left, got {attack}")
    inputs, labels = [], []
    for _ in range(networks):
        rows = torch.from_numpy(draw.choice(len(task.spare_labels), attack, replace=False))
        inputs.append(torch.cat([task.inputs, task.spare_inputs[rows]]))
        labels.append(torch.cat([task.labels, 1 - task.spare_labels[rows]]))
    return torch.stack(inputs), torch.stack(labels)


def log10_prior(kernel: np.ndarray, labels: np.ndarray) -> float | None:
    """log₁₀ P of labels 0 or 1 by expectation propagation; None if rounding leaves it without a digit."""
    try:
        return log_prior_probability(kernel, 2.0 * labels - 1, tolerance=1e-6).value / math.log(10)
    except FloatingPointError:
        return None


def interpolation(kernel: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels 0 or 1 of the last inputs by kernel regression through the labels of the first ones."""
    known = len(labels)
    within = kernel[:known, :known] + ROUNDING * kernel.diagonal().mean() * np.eye(known)
    return (kernel[known:, :known] @ np.linalg.solve(within, 2.0 * labels - 1) > 0).astype(float)
