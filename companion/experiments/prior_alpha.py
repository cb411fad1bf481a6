"""One network through a rescaling of its layers by α during training (``prior`` sec. 5.4, figs. 5, S11, S14)."""

from collections.abc import Iterator

import numpy as np
import torch

from companion.boolean_functions import network_outputs, random_networks
from companion.ensembles import Layers, as_module
from companion.experiments.experiment import Workplace
from companion.experiments.prior_measures import labels_of, sharpness
from companion.experiments.prior_settings import HIDDEN, AlphaSettings
from companion.experiments.prior_tasks import Task, binary_task, log10_prior
from companion.experiments.prior_training import rescaled, train_stack
from companion.nngp import nngp_kernel


def perform_alpha(settings: AlphaSettings, workplace: Workplace) -> dict:
    """Train, wait, rescale, train on, and measure on the way.

    Returns
    -------
    dict
        ``fit``, the first epoch without error, or None: then nothing is rescaled.  ``before`` holds rows, and
        ``after`` for each ``alpha`` its ``rows`` with the epochs since the rescaling, at which ``epoch`` is 0.
        A row has ``errors`` on S, ``accuracy`` on E, ``log10_prior`` of the labels of both and what
        :func:`~companion.experiments.prior_measures.sharpness` measures on S; after the rescaling also how
        many labels of S and E are ``changed`` since, and ``most_changed``, at any epoch since.  Where the
        loss is no longer finite a row has its epoch only.  ``scan`` has sharpness and largest eigenvalue for
        each ``layer`` and ``alpha`` at the rescaling.
    """
    where, total = workplace.device, settings.max_epochs + settings.wait + settings.after
    task, draw = binary_task(settings.data, workplace.data, **settings.task), np.random.default_rng(settings.seed)
    layers = random_networks(1, settings.sizes(task.inputs.shape[1]), **settings.scales, generator=draw)
    layers = [(weight.to(where), bias.to(where)) for weight, bias in layers]
    training = {**settings.training, "generator": torch.Generator().manual_seed(settings.seed)}
    training |= {"points": task.inputs[None].to(where), "labels": task.labels[None].to(where)}
    follower = Follower(task, nngp_kernel(task.points, **settings.kernel), settings.box)
    fit, before = None, [follower.row(layers, 0, 0)]
    marks = spaced(settings.max_epochs, settings.points)
    for epoch, outputs in train_stack(layers, **training, epochs=settings.max_epochs + settings.wait):
        workplace.tick(epoch, total)
        if new := fit is None and bool(((outputs > 0) == training["labels"].bool()).all()):
            fit = epoch
        last = fit is not None and epoch == fit + settings.wait
        if new or last or epoch in marks:
            before.append(follower.row(layers, 0, epoch))
        if last or (fit is None and epoch >= settings.max_epochs):
            break
    if fit is None:
        return {"fit": None, "before": before, "after": [], "scan": []}
    scan, after = _scan(settings, layers, task), [{"alpha": alpha, "rows": []} for alpha in settings.alphas]
    for epoch, rows in _after(settings, layers, training, follower):
        workplace.tick(settings.max_epochs + settings.wait + epoch, total)
        for one, row in zip(after, rows, strict=True):
            one["rows"].append(row)
    return {"fit": fit, "before": before, "after": after, "scan": scan}


def _scan(settings: AlphaSettings, layers: Layers, task: Task) -> list[dict]:
    """Sharpness of the rescaled network over α, for either hidden layer."""
    rows = []
    for layer in range(HIDDEN):
        stack = rescaled(layers, settings.scan, layer)
        for k, alpha in enumerate(settings.scan):
            found = sharpness(as_module(stack, k), task.inputs.double(), task.labels, box=settings.box, eigenvalues=1)
            measured = {name: found[name] for name in ("sharpness", "first_order", "trace", "top_eigenvalue")}
            rows.append({"layer": layer, "alpha": alpha, **measured})
    return rows


def _after(
    settings: AlphaSettings, layers: Layers, training: dict, follower: "Follower"
) -> Iterator[tuple[int, list[dict]]]:
    """A row for each α at the rescaling and at some of the epochs after it; all copies see the same batches."""
    count, marks = len(settings.alphas), spaced(settings.after, settings.points)
    follower.start(layers)
    stack = rescaled(layers, settings.alphas)
    yield 0, [follower.row(stack, k, 0) for k in range(count)]
    several = {name: training[name].expand(count, *training[name].shape[1:]) for name in ("points", "labels")}
    for epoch, _ in train_stack(stack, **{**training, **several}, epochs=settings.after, one_order=True):
        follower.watch(stack)
        if epoch in marks:
            yield epoch, [follower.row(stack, k, epoch) for k in range(count)]


class Follower:
    """Measures a network, and compares its labels with those it had when it was last told to ``start``."""

    def __init__(self, task: Task, kernel: np.ndarray, box: float):
        self.task, self.kernel, self.box = task, kernel, box
        self.reference: np.ndarray | None = None
        self.most: np.ndarray | None = None

    def start(self, layers: Layers) -> None:
        """Compare from now on with this network's labels."""
        self.reference, self.most = self._labels(layers), None

    def watch(self, stack: Layers) -> None:
        """Note how many labels differ now."""
        changed = (self._labels(stack) != self.reference).sum(axis=1)
        self.most = changed if self.most is None else np.maximum(self.most, changed)

    def row(self, layers: Layers, index: int, epoch: int) -> dict:
        """What there is to say of one network."""
        task, network = self.task, as_module(layers, index)
        with torch.no_grad():
            if not torch.isfinite(network(torch.from_numpy(task.points))).all():
                return {"epoch": epoch}
        train, test = labels_of(network, task.inputs), labels_of(network, task.test_inputs)
        row = {
            "epoch": epoch,
            **sharpness(network, task.inputs.double(), task.labels, box=self.box, eigenvalues=1),
            "errors": int((train != task.labels.numpy()).sum()),
            "accuracy": float((test == task.test_labels.numpy()).mean()),
            "log10_prior": log10_prior(self.kernel, np.concatenate([train, test])),
        }
        if self.reference is not None:
            changed = int((np.concatenate([train, test]) != self.reference[0]).sum())
            row |= {"changed": changed, "most_changed": changed if self.most is None else int(self.most[index])}
        return row

    @torch.no_grad()
    def _labels(self, layers: Layers) -> np.ndarray:
        points = torch.cat([self.task.inputs, self.task.test_inputs]).to(layers[0][0].device)
        return (network_outputs(layers, points) > 0).double().cpu().numpy()


def spaced(epochs: int, points: int) -> set[int]:
    """About ``points`` epochs from 1 to ``epochs``, evenly spaced in the logarithm, the last one among them."""
    return {int(epoch) for epoch in np.unique(np.geomspace(1, epochs, points).round())}
