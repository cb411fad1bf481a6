"""Riemannian sharpness over batch size, learning rate and optimizer, on MNIST and CIFAR-10 (``fisher`` secs. 5 and 6).

What the paper's estimator was cannot be told from its text, whose formulas were lost, so every
reading is measured on the same networks: which Fisher matrix, what damping, which activation.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from companion.data import Dataset, load_dataset
from companion.experiments.batched import Batch, train_together
from companion.experiments.experiment import Experiment, Together, Workplace
from companion.experiments.fisher_analysis import report, time_report
from companion.experiments.fisher_measures import (
    CROSS_ENTROPY,
    Images,
    adam_adjusted,
    alignment,
    measure,
    measuring_generator,
    rescaled,
    second_moments,
)
from companion.experiments.fisher_settings import Settings, cifar_settings, mnist_settings, shared, time_settings
from companion.models import mlp, small_cnn
from companion.training import OPTIMIZERS, train_epochs

ALPHAS = (2.0, 10.0)
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


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


def perform(settings: Settings, workplace: Workplace) -> dict:
    """Train, and measure at the logged epochs.

    Returns
    -------
    dict
        ``epochs``: one dict a logged epoch; ``alignment``: half-way, ``fisher`` sec. 5; ``rescaled``: at
        the end, by α (ReLU only); ``diverged``: the message, where training did.
    """
    images, observer = _prepared(settings, workplace)
    optimizer = OPTIMIZERS[settings.optimizer](observer.model.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _decay(settings))
    shuffles = torch.Generator().manual_seed(settings.seed)
    options = {"batch_size": settings.batch_size, "epochs": settings.epochs, "generator": shuffles}
    try:
        for epoch in train_epochs(observer.model, CROSS_ENTROPY, *images.train, optimizer=optimizer, **options):
            schedule.step()
            observer.after(epoch, lambda: second_moments(observer.model, optimizer))
            workplace.tick(epoch, settings.epochs)
    except ValueError as error:  # a learning rate too large is a finding
        return {**observer.result, "diverged": str(error)}
    return observer.finish()


def perform_together(group: Sequence[Settings], workplace: Workplace) -> list[dict]:
    """:func:`perform` for settings that differ in nothing but seed and learning rate (Adam: the seed)."""
    prepared = [_prepared(settings, workplace) for settings in group]
    images, observers = prepared[0][0], [observer for _, observer in prepared]
    first = group[0]
    batch = Batch([o.model for o in observers], first.optimizer, [settings.learning_rate for settings in group])
    generators = [torch.Generator().manual_seed(settings.seed) for settings in group]
    options = {"batch_size": first.batch_size, "epochs": first.epochs, "decay": _decay(first)}
    for epoch, losses in train_together(batch, CROSS_ENTROPY, *images.train, generators=generators, **options):
        for k, observer in enumerate(observers):
            if not torch.isfinite(losses[k]):
                observer.result.setdefault("diverged", f"the loss became {losses[k].item()} in epoch {epoch}")
            if "diverged" not in observer.result:
                observer.after(epoch, lambda k=k: batch.second_moments(k))
        workplace.tick(epoch, first.epochs)
    return [observer.finish() for observer in observers]


def _prepared(settings: Settings, workplace: Workplace) -> tuple[Images, "Observer"]:
    """The data on the device, and a network of these settings with what will be measured on it."""
    data = load_dataset(settings.data, workplace.data).standardized()
    model = build(settings, data).to(workplace.device)
    flat = (lambda inputs: inputs) if settings.network == "cnn" else (lambda inputs: inputs.flatten(1))
    train, test = (data.train_inputs, data.train_targets), (data.test_inputs, data.test_targets)
    train = tuple(part[: settings.train_size].to(workplace.device) for part in (flat(train[0]), train[1]))
    test = tuple(part.to(workplace.device) for part in (flat(test[0]), test[1]))
    images = Images(train, test)
    return images, Observer(settings, model, images)


class Observer:
    """What one run measures while it trains; ``result`` is what it has so far."""

    def __init__(self, settings: Settings, model: nn.Sequential, images: Images):
        self.settings, self.model, self.images = settings, model, images
        self.untrained, self.result = copy.deepcopy(model), {"epochs": []}
        x, y = images.train
        chosen = torch.randperm(len(x), generator=measuring_generator(settings, 0))[: settings.measure_size].to(
            x.device
        )
        self.sample = (x[chosen], y[chosen])

    def after(self, epoch: int, moments: Callable[[], Mapping[str, Tensor]]) -> None:
        """Measure, if this epoch is one to measure at."""
        settings, model = self.settings, self.model
        if epoch % settings.log_every == 0:
            found = measure(settings, model, self.sample, self.images)
            if settings.optimizer == "adam":
                found["adam_adjusted"] = adam_adjusted(model, self.sample, moments())
            self.result["epochs"].append({"epoch": epoch, **found})
        if epoch == settings.epochs // 2:
            self.result["alignment"] = alignment(settings, model, self.untrained, self.sample, self.images.train)

    def finish(self) -> dict:
        """The result, with what is measured at the end."""
        if self.settings.activation == "relu" and "diverged" not in self.result:
            pool = self.images.train[0]
            self.result["rescaled"] = [rescaled(self.settings, self.model, a, self.sample, pool) for a in ALPHAS]
        return self.result


def _decay(settings: Settings) -> Callable[[int], float]:
    if settings.schedule == "constant":
        return lambda epoch: 1.0
    return lambda epoch: 0.5 * (1 + torch.cos(torch.tensor(torch.pi * epoch / settings.epochs)).item())


_FORMULAS = "the paper's learning rates, damping and schedule were lost with its formulas: ours stand in the settings"
EXPERIMENTS = (
    Experiment(
        "fisher-mnist",
        "Does S_R fall with temperature and follow test accuracy, MLP on MNIST, under every reading?",
        mnist_settings,
        perform,
        report,
        {"laptop": _FORMULAS, "paper": _FORMULAS, "smoke": "the digits, two epochs"},
        Together(shared, perform_together),
    ),
    Experiment(
        "fisher-time",
        "Does S_R fall with temperature at equal training time λn too, MLP on MNIST?",
        time_settings,
        perform,
        time_report,
        {
            **dict.fromkeys(("laptop", "paper"), "Not in the paper, which gives every batch size as many epochs."),
            "smoke": "the digits, two epochs of the smaller batch and eight of the larger",
        },
        Together(shared, perform_together),
    ),
    Experiment(
        "fisher-cifar",
        "The same for a small convolutional network on CIFAR-10.",
        cifar_settings,
        perform,
        report,
        {
            "laptop": f"5,000 of the 50,000 training images; {_FORMULAS}; the layers of TinyCNN are not given",
            "paper": f"{_FORMULAS}; the layers of TinyCNN are not given",
            "smoke": "the digits, two epochs",
        },
        Together(shared, perform_together),
    ),
)
