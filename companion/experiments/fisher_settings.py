"""The training runs of the ``fisher`` experiments, by profile."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace


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
CIFAR = Settings("cifar10", (16, 32), "cnn", "relu", "sgd", 128, 0.05, "constant", 30, 5, 50_000, 200, 10, 0)
DIGITS = Settings("digits", (16, 16), "mlp", "relu", "sgd", 32, 0.1, "constant", 2, 1, 1297, 200, 10, 0)
BASE = {settings.data: settings for settings in (MNIST, CIFAR, DIGITS)}
BATCH_SIZES = (32, 128, 512)


def mnist_settings(profile: str) -> list[Settings]:
    """The paper's protocol is small enough for a laptop; ours adds tanh, and all pairs of λ and B."""
    if profile == "smoke":
        return smoke_settings()
    adam, tanh = {"optimizer": "adam", "learning_rate": 1e-3}, {"activation": "tanh", "measure_size": 300}
    over_rate = [{"learning_rate": rate} for rate in (0.01, 0.05, 0.5)]
    return seeded([replace(MNIST, **kind, batch_size=b) for kind in ({}, *over_rate, adam, tanh) for b in BATCH_SIZES])


def time_settings(profile: str) -> list[Settings]:
    """Each batch size for as many epochs as give it the steps, and so the training time λn, of the smallest."""
    base, factors = (DIGITS, (1, 4)) if profile == "smoke" else (MNIST, (1, 4, 16))
    runs = [replace(base, batch_size=32 * k, epochs=base.epochs * k, log_every=base.log_every * k) for k in factors]
    return runs if profile == "smoke" else seeded(runs)


def cifar_settings(profile: str) -> list[Settings]:
    if profile == "smoke":
        return [replace(DIGITS, network="cnn", widths=(2, 3), batch_size=b, measure_size=60) for b in (32, 128)]
    size = {"laptop": 5_000, "paper": 50_000}[profile]
    base = replace(CIFAR, train_size=size)
    adam = replace(base, optimizer="adam", learning_rate=1e-3)
    over_batch = [replace(base, batch_size=b) for b in BATCH_SIZES]
    return seeded([*over_batch, *(replace(base, learning_rate=rate) for rate in (0.01, 0.2)), adam])


def smoke_settings() -> list[Settings]:
    """One of each kind, on the digits."""
    changes = ({}, {"batch_size": 128}, {"activation": "tanh"}, {"optimizer": "adam", "learning_rate": 1e-3})
    return [replace(DIGITS, **change) for change in (*changes, {"seed": 1, "schedule": "cosine"})]


def seeded(settings: Sequence[Settings]) -> list[Settings]:
    """Each of them with three seeds."""
    return [replace(one, seed=seed) for one in settings for seed in range(3)]


def shared(settings: Settings) -> tuple:
    """What runs of one batch have in common."""
    free = {"seed": 0, "learning_rate": settings.learning_rate if settings.optimizer == "adam" else 0.0}
    return astuple(replace(settings, **free))
