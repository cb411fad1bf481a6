"""What the runs of the ``msharp`` experiments are, by profile."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from companion.experiments.experiment import PROFILES


@dataclass(frozen=True)
class Settings:
    """Networks trained with one optimizer, one for each seed.

    A seed stands for the training and validation images, the wrong labels, the first weights, the shuffles
    and the random signs of RW-SAM; runs of equal seeds can be compared in pairs.

    Attributes
    ----------
    data : str
    network : {"mlp", "cnn", "resnet18"}
    widths : tuple of int
        Of the hidden layers, or of the two convolutions; unused by the residual network.
    pool : int
        Images are averaged over ``pool`` × ``pool`` pixels.
    augment : bool
        Training images are shifted by up to four pixels and mirrored, at random.
    train_images, validation_images : int
        Drawn from the training set, without overlap.
    label_noise : float
        The part of the training images whose class is replaced by another one, drawn once; those of a
        larger part include those of a smaller one.
    method : {"sgd", "sam", "usam", "n-sam", "asam", "rw-sam", "rw-asam"}
    micro_batch : int
        m; 0 for the whole batch.
    rho, eta, probes
        ρ, η and Q, as for :class:`companion.sam.RWSAM`.
    batch_size, learning_rate, momentum, weight_decay
        B and λ, which falls to 0 along half a cosine; the rest as for ``torch.optim.SGD``.
    epochs : int
    logged : tuple of int
        Epochs after which everything is measured.
    measured_images : int
        Training images on which tr H, tr D and gradient norms are taken.
    trace_probes : int
        Random vectors behind tr H; 0 for the exact trace.
    seeds : tuple of int
    """

    data: str
    network: str
    widths: tuple[int, ...]
    pool: int
    augment: bool
    train_images: int
    validation_images: int
    label_noise: float
    method: str
    micro_batch: int
    rho: float
    eta: float
    probes: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    epochs: int
    logged: tuple[int, ...]
    measured_images: int
    trace_probes: int
    seeds: tuple[int, ...]


PLAIN = dict(label_noise=0.0, method="sgd", micro_batch=0, rho=0.0, eta=0.0, probes=1)
BASE = dict(momentum=0.9, weight_decay=5e-4, **PLAIN)
SMALL = dict(augment=False, trace_probes=0, learning_rate=0.05, **BASE)
DIGITS = Settings(
    data="digits", network="mlp", widths=(16,), pool=1, train_images=256, validation_images=200, batch_size=32,
    epochs=2, logged=(1, 2), measured_images=64, seeds=(0,), **SMALL,
)  # fmt: skip
MNIST = Settings(
    data="mnist", network="mlp", widths=(64, 64), pool=2, train_images=2000, validation_images=5000, batch_size=128,
    epochs=30, logged=(15, 30), measured_images=1000, seeds=(0, 1, 2, 3, 4), **SMALL,
)  # fmt: skip
CIFAR = Settings(
    data="cifar10", network="cnn", widths=(16, 32), pool=4, train_images=2000, validation_images=5000, batch_size=128,
    epochs=60, logged=(30, 60), measured_images=500, seeds=(0, 1, 2, 3, 4), **SMALL,
)  # fmt: skip
PAPER = Settings(
    data="cifar10", network="resnet18", widths=(), pool=1, augment=True, train_images=45_000, validation_images=5000,
    batch_size=128, learning_rate=0.1, epochs=200, logged=(50, 100, 150, 200), measured_images=1000, trace_probes=50,
    seeds=(0, 1, 2), **BASE,
)  # fmt: skip

DIFFERS = {
    "smoke": "A few images of scikit-learn's digits and two epochs.",
    "laptop": "2,000 training images, of MNIST at 14 × 14 pixels with a perceptron and of CIFAR-10 at 8 × 8 with two "
    "convolutions, in place of CIFAR-10, CIFAR-100 and ImageNet with residual networks and augmentation; B = 128. "
    "The text at hand gives no protocol but a grid search over the parameter of the weights.",
    "paper": "CIFAR-10 alone, 5,000 training images set aside to choose ρ and η. The text at hand gives no protocol: "
    "network, rates and grids are those usual with SAM. Not run.",
}


def accuracy_settings(profile: str) -> list[Settings]:
    """Every method over its grid of ρ, with and without wrong labels."""
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    return {"smoke": _smoke, "laptop": _laptop, "paper": _paper}[profile]()


def _smoke() -> list[Settings]:
    weights = dict(eta=1.0, rho=0.05)
    runs = [DIGITS, *_over(DIGITS, (0.05,), method="sam"), replace(DIGITS, method="sam", rho=0.1, seeds=(0, 1))]
    runs += [replace(DIGITS, method="sam", micro_batch=8, rho=0.05), replace(DIGITS, method="rw-sam", **weights)]
    runs += [replace(DIGITS, method=method, rho=0.05) for method in ("n-sam", "usam", "asam")]
    runs += [replace(DIGITS, method="rw-asam", **weights)]
    runs += [replace(DIGITS, method="sam", network="cnn", widths=(2, 3), rho=0.05, measured_images=20)]
    noisy = replace(DIGITS, label_noise=0.25)
    return [*runs, noisy, replace(noisy, method="sam", rho=0.05), replace(noisy, method="rw-sam", **weights)]


def _laptop() -> list[Settings]:
    runs = []
    for noise in (0.0, 0.2, 0.4):
        runs += _mnist(replace(MNIST, label_noise=noise))
    for noise in (0.0, 0.4):
        base, rhos = replace(CIFAR, label_noise=noise), (0.02, 0.05, 0.1)
        runs += [base, *_over(base, rhos, method="sam"), *_over(base, rhos, method="sam", micro_batch=16)]
        runs += _over(base, rhos, method="rw-sam", eta=1.0)
    return runs


def _mnist(base: Settings) -> list[Settings]:
    """The more expensive a method, the fewer ρ; at the noise in the middle only what the claims are about."""
    rhos = (0.05, 0.1, 0.2, 0.3, 0.4)
    runs = [base, *_over(base, rhos, method="sam"), *_over(base, rhos[:3], method="sam", micro_batch=16)]
    for eta, some in ((-1.0, rhos[:4]), (0.5, rhos[1:4]), (1.0, rhos), (2.0, rhos[1:])):
        runs += _over(base, some, method="rw-sam", eta=eta)
    if base.label_noise in (0.0, 0.4):
        runs += _over(base, rhos[1:4], method="sam", micro_batch=64)
        runs += _over(base, (0.025, 0.05, 0.1), method="sam", micro_batch=4)
        runs += _over(base, rhos[1:4], method="n-sam") + _over(base, rhos[1:4], method="rw-sam", eta=1.0, probes=10)
        runs += _over(base, (0.1, 0.3, 1.0), method="usam") + _over(base, (0.1, 0.3), method="usam", micro_batch=16)
        runs += _over(base, (0.5, 1.0, 2.0, 3.0), method="asam")
        runs += _over(base, (0.5, 1.0, 2.0, 3.0), method="rw-asam", eta=1.0)
    return runs


def _paper() -> list[Settings]:
    runs, rhos = [], (0.05, 0.1, 0.2)
    for noise in (0.0, 0.2, 0.4):
        base = replace(PAPER, label_noise=noise)
        runs += [base, *_over(base, rhos, method="sam"), *_over(base, (0.5, 1.0, 2.0), method="asam")]
        for micro_batch in (64, 32, 16):
            runs += _over(base, rhos, method="sam", micro_batch=micro_batch)
        for eta in (0.1, 0.5, 1.0, 2.0):
            runs += _over(base, rhos, method="rw-sam", eta=eta)
        runs += _over(base, (0.5, 1.0, 2.0), method="rw-asam", eta=1.0)
    return runs


def _over(base: Settings, rhos: Iterable[float], **changes) -> list[Settings]:
    return [replace(base, rho=rho, **changes) for rho in rhos]
