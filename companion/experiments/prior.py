"""The prior of a function, flatness and test accuracy on binarized images (``prior`` secs. 5.2 to 5.4, apps. E to J).

``prior-attack`` makes networks generalize more or less well by wrongly labelled extra samples,
``prior-labels`` asks what log P says of labels that no network found, ``prior-alpha`` follows one
network through a rescaling of its layers.  ``prior-boolean``, of sec. 5.1, has a module of its own.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from companion.boolean_functions import random_networks
from companion.ensembles import as_module
from companion.experiments.experiment import Experiment, Workplace
from companion.experiments.prior_alpha import perform_alpha
from companion.experiments.prior_alpha_analysis import alpha_report
from companion.experiments.prior_analysis import attack_report, label_report
from companion.experiments.prior_boolean import BOOLEAN
from companion.experiments.prior_measures import labels_of, sharpness
from companion.experiments.prior_settings import (
    AttackSettings,
    LabelSettings,
    alpha_settings,
    attack_settings,
    label_settings,
)
from companion.experiments.prior_tasks import Task, attacked, binary_task, interpolation, log10_prior
from companion.experiments.prior_training import train_stack
from companion.nngp import nngp_kernel

Reached = dict[str, tuple[int, nn.Sequential]]


def perform_attack(settings: AttackSettings, workplace: Workplace) -> dict:
    """Train the networks and measure each at its moments.

    Returns
    -------
    dict
        ``networks``: for each the moments that it reached, of "fit" (the first epoch without error),
        "level" and "late", with ``epoch``, what
        :func:`~companion.experiments.prior_measures.sharpness` measures on S and the attack set together,
        ``errors`` among these, ``clean_sharpness`` and ``clean_loss`` on S alone, ``accuracy`` on E,
        ``log10_prior`` of the labels of S and E, and the share ``unlike_kernel`` of E that kernel
        regression through S labels otherwise.  ``kernel_accuracy`` is that regression's.
    """
    task = binary_task(settings.data, workplace.data, **settings.task)
    kernel = nngp_kernel(task.points, **settings.kernel)
    draw = np.random.default_rng([settings.seed, settings.train, settings.attack])
    points, labels = attacked(task, settings.attack, settings.networks, draw)
    expected, truth = interpolation(kernel, task.labels.numpy()), task.test_labels.numpy()
    rows = []
    for k, reached in enumerate(train_to_moments(settings, points, labels, draw, workplace)):
        measured = {}
        for name, (epoch, network) in reached.items():
            test = labels_of(network, task.test_inputs)
            measured[name] = {
                "epoch": epoch,
                **_sharpness(network, task, points[k], labels[k], settings, name),
                "accuracy": float((test == truth).mean()),
                "log10_prior": log10_prior(kernel, np.concatenate([labels_of(network, task.inputs), test])),
                "unlike_kernel": float((test != expected).mean()),
            }
        rows.append(measured)
    return {"networks": rows, "kernel_accuracy": float((expected == truth).mean())}


def train_to_moments(
    settings: AttackSettings, points: Tensor, labels: Tensor, draw: np.random.Generator, workplace: Workplace
) -> list[Reached]:
    """Each network, with the epoch, when it first fits, when its loss is first so low, and late.

    ``points`` and ``labels`` have shapes (networks, N, d) and (networks, N).  A network that does not fit
    within ``max_epochs`` has no moment.
    """
    layers = random_networks(settings.networks, settings.sizes(points.shape[-1]), **settings.scales, generator=draw)
    layers = [(weight.to(workplace.device), bias.to(workplace.device)) for weight, bias in layers]
    points, labels = points.to(workplace.device), labels.to(workplace.device)
    training = {**settings.training, "generator": torch.Generator().manual_seed(settings.seed)}
    reached: list[Reached] = [{} for _ in range(settings.networks)]
    for epoch, outputs in train_stack(layers, points, labels, **training, epochs=settings.max_epochs):
        workplace.tick(epoch, settings.max_epochs)
        fits = ((outputs > 0) == labels.bool()).all(1).tolist()
        losses = binary_cross_entropy_with_logits(outputs, labels, reduction="none").mean(1).tolist()
        for k, network in enumerate(reached):
            for name in _new_moments(settings, network, epoch, fits[k], losses[k]):
                network[name] = epoch, as_module(layers, k)
        if all("fit" in network and epoch >= network["fit"][0] + settings.overtraining for network in reached):
            break
    return reached


def _new_moments(settings: AttackSettings, reached: Reached, epoch: int, fits: bool, loss: float) -> list[str]:
    new = ["fit"] if fits and "fit" not in reached else []
    if not settings.overtraining or not (new or "fit" in reached):
        return new
    end = (epoch if new else reached["fit"][0]) + settings.overtraining
    if fits and loss <= settings.level and "level" not in reached and epoch <= end:
        new.append("level")
    return [*new, "late"] if epoch == end else new


def _sharpness(
    network: nn.Sequential, task: Task, points: Tensor, labels: Tensor, settings: AttackSettings, moment: str
) -> dict:
    """On S and the attack set, and on S alone."""
    eigenvalues = settings.eigenvalues if moment == "fit" else min(settings.eigenvalues, 1)
    clean = sharpness(network, task.inputs.double(), task.labels, box=settings.box, eigenvalues=0)
    return {
        **sharpness(network, points.double(), labels, box=settings.box, eigenvalues=eigenvalues),
        "errors": int((labels_of(network, points) != labels.numpy()).sum()),
        "clean_sharpness": clean["sharpness"],
        "clean_loss": clean["loss"],
    }


def perform_labels(settings: LabelSettings, workplace: Workplace) -> dict:
    """log₁₀ P and accuracy of labels of E that no network found, those of S being right.

    Returns
    -------
    dict
        ``rows`` with ``source`` ("flips", "kernel" regression, "neighbour"), ``wrong`` (the number of flips, or
        the size of the attack set that the two learners had beside S), ``accuracy`` and ``log10_prior``.
    """
    task = binary_task(settings.data, workplace.data, **settings.task)
    kernel = nngp_kernel(task.points, **settings.kernel)
    truth, draw, rows = task.test_labels.numpy(), np.random.default_rng(settings.seed), []
    total = len(settings.flips) + len(settings.attacks)

    def add(source: str, wrong: int, labels: np.ndarray) -> None:
        value = log10_prior(kernel, np.concatenate([task.labels.numpy(), labels]))
        accuracy = float((labels == truth).mean())
        rows.append({"source": source, "wrong": wrong, "accuracy": accuracy, "log10_prior": value})

    for done, flips in enumerate(settings.flips, start=1):
        labels = truth.copy()
        chosen = draw.choice(len(truth), flips, replace=False)
        labels[chosen] = 1 - labels[chosen]
        add("flips", flips, labels)
        workplace.tick(done, total)
    for done, size in enumerate(settings.attacks, start=len(settings.flips) + 1):
        for points, labels in zip(*attacked(task, size, settings.draws, draw), strict=True):
            everything = torch.cat([points, task.test_inputs]).double().numpy()
            add("kernel", size, interpolation(nngp_kernel(everything, **settings.kernel), labels.numpy()))
            add("neighbour", size, labels[torch.cdist(task.test_inputs, points).argmin(1)].numpy())
        workplace.tick(done, total)
    return {"rows": rows}


EXPERIMENTS = (
    Experiment(
        name="prior-attack",
        asks="Does log P(f) follow the test accuracy, and does flatness, whatever the optimizer?",
        settings=attack_settings,
        perform=perform_attack,
        report=attack_report,
        differs={
            "smoke": "Scikit-learn's digits, 60 of them for training and 60 for testing: a test of the code.",
            "laptop": "Six sizes of attack sets in place of eleven. CIFAR-10 with the fully connected network, 500 "
            "training and 1,000 test images, and at most 250 wrongly labelled ones. Up to 1,500 training images of "
            "MNIST in place of 10,000. No ResNet-50.",
            "paper": "No ResNet-50, whose kernel has no closed form. Batch size, initial weights, most learning "
            "rates and the data on which sharpness is taken are not in the paper; these fit its epoch of zero error.",
        },
    ),
    Experiment(
        name="prior-labels",
        asks="What does log P say of labels that no network found?",
        settings=label_settings,
        perform=perform_labels,
        report=label_report,
        differs=dict.fromkeys(("smoke", "laptop", "paper"), "Not in the paper."),
    ),
    Experiment(
        name="prior-alpha",
        asks="What do sharpness and log P(f) do when layers are rescaled during training?",
        settings=alpha_settings,
        perform=perform_alpha,
        report=alpha_report,
        differs={
            "smoke": "Scikit-learn's digits, 60 of them for training and 40 for testing: a test of the code.",
            "laptop": "Learning rate, batch size and initial weights are ours, chosen so that zero error is "
            "reached where the paper reaches it; measured at some epochs, with more values of α and a control.",
            "paper": "Learning rate, batch size and initial weights are ours; measured at some epochs.",
        },
    ),
    BOOLEAN,
)
