"""What is run, by profile: architectures, losses, kinds of noise, and how long."""

from dataclasses import dataclass

from companion.experiments.experiment import PROFILES


@dataclass(frozen=True)
class Settings:
    """One architecture, loss and kind of noise.

    Attributes
    ----------
    model : {"linear", "relu", "mlp", "rnn", "transformer"}
        Two linear layers, two layers with ReLU, three with ReLU, or a network for sequences.
    loss : {"squared", "cross-entropy"}
    noise : {"additive", "flips"}
    kappas, seeds : tuple
    width, teacher_width : int
        Hidden units of the network and of the teacher, of the same architecture, whose outputs are
        whitened: the labels without noise have mean 0 and covariance 1.
    inputs, outputs, length : int
        Numbers in an input, classes or outputs, length of the sequences (1 without).
    samples, measured : int
        Training inputs, and how many of them everything is measured on.
    total_noise : float
        tr Σ_ε of noise that is added, or the mean probability of a flip.
    gain : float
        The linear layers start with this times the Gaussian weights of :mod:`companion.models`.
    learning_rate, batch_size, steps
        Of SGD, samples drawn with replacement.
    switch, descent : int
        The step at which copies turn to full-batch gradient descent, and its number of steps.
    logged, logged_descent : tuple of int
        Steps after which everything is measured, of SGD and of the descent.
    data : str, optional
        A data set in the teacher's place, its images averaged over ``pool`` × ``pool`` pixels, its
        classes one-hot and standardized.
    pool : int
    """

    model: str
    loss: str
    noise: str
    kappas: tuple[float, ...]
    seeds: tuple[int, ...]
    width: int
    teacher_width: int
    inputs: int
    outputs: int
    length: int
    samples: int
    measured: int
    total_noise: float
    gain: float
    learning_rate: float
    batch_size: int
    steps: int
    switch: int
    descent: int
    logged: tuple[int, ...]
    logged_descent: tuple[int, ...]
    data: str | None = None
    pool: int = 1


# Loss, kind of noise, its total and the factor on the learning rate: the Hessian of the cross-entropy is that
# much smaller.
KINDS = (
    ("squared", "additive", 4.0, 1),
    ("cross-entropy", "additive", 0.5, 10),
    ("cross-entropy", "flips", 0.2, 10),
)
FEED_FORWARD = dict(inputs=4, length=1, samples=64, measured=64)
ARCHITECTURES = {
    "linear": dict(width=8, teacher_width=4, learning_rate=0.05, **FEED_FORWARD),
    "relu": dict(width=16, teacher_width=8, learning_rate=0.05, **FEED_FORWARD),
    "mlp": dict(width=12, teacher_width=6, learning_rate=0.05, **FEED_FORWARD),
    "rnn": dict(width=10, teacher_width=4, learning_rate=0.05, inputs=4, length=4, samples=48, measured=48),
    "transformer": dict(width=6, teacher_width=6, learning_rate=0.015, inputs=3, length=4, samples=32, measured=32),
}
SMALL = dict(width=4, teacher_width=6, samples=10, measured=10)
LARGE = dict(inputs=16, samples=1000, measured=200)
IMAGES = dict(model="relu", loss="squared", noise="additive", teacher_width=1, outputs=10, length=1, total_noise=10.0)
LAPTOP = dict(kappas=(1.0, 3.0, 10.0, 30.0, 100.0), seeds=(0, 1, 2, 3, 4), gain=0.5, batch_size=32)
SMOKE = dict(kappas=(1.0, 100.0), seeds=(0,), gain=0.5, batch_size=8)
PAPER = dict(kappas=(1.0, 3.0, 10.0, 30.0, 100.0, 300.0), seeds=(0, 1, 2, 3, 4), gain=0.5, batch_size=32)
STEPS = {"linear": 32_000, "relu": 32_000, "mlp": 20_000, "rnn": 12_000, "transformer": 10_000}
# Parts of SGD after which everything is measured, and of the descent, in the same unit.
LOGGED, LOGGED_DESCENT = (0, 0.02, 0.05, 0.1, 0.25, 0.4, 0.6, 0.8, 0.9, 1), (0, 0.05, 0.15, 0.35)
LOGGED_IMAGES, LOGGED_IMAGES_DESCENT = (0, 0.05, 0.1, 0.25, 0.5, 0.8, 0.9, 1), (0, 0.05, 0.15)

DIFFERS = {
    "smoke": "A few steps of tiny networks, and scikit-learn's digits in MNIST's place.",
    "laptop": "The text we have gives no protocol: sizes, noise and rates are ours. Networks have 64 to 406 "
    "parameters, so that the whole Hessian can be computed; of MNIST 1,000 images of 14 × 14 pixels.",
    "paper": "The text we have gives no protocol: sizes, noise and rates are ours, and larger. Not run.",
}


def teacher_settings(profile: str) -> list[Settings]:
    """Every architecture with every loss and kind of noise, on the labels of a teacher."""
    _check(profile)
    result = []
    for loss, noise, total, factor in KINDS:
        for model, options in ARCHITECTURES.items():
            steps = {"smoke": 20, "laptop": STEPS[model], "paper": 20 * STEPS[model]}[profile]
            values = dict(model=model, loss=loss, noise=noise, total_noise=total, outputs=4) | options
            values |= {"smoke": SMOKE | SMALL, "laptop": LAPTOP, "paper": PAPER | LARGE | _wide(options)}[profile]
            values["learning_rate"] *= factor / 4 if profile == "paper" else factor
            result.append(Settings(**values, **_schedule(steps, LOGGED, LOGGED_DESCENT)))
    return result


def image_settings(profile: str) -> list[Settings]:
    """Two layers with ReLU on images."""
    _check(profile)
    values = {
        "smoke": dict(data="digits", pool=2, inputs=16, width=4, samples=40, measured=20, learning_rate=0.01) | SMOKE,
        "laptop": dict(data="mnist", pool=2, inputs=196, width=32, samples=1000, measured=200, learning_rate=0.02)
        | LAPTOP,
        "paper": dict(data="mnist", pool=1, inputs=784, width=128, samples=60_000, measured=1000, learning_rate=0.01)
        | PAPER,
    }[profile]
    steps = {"smoke": 20, "laptop": 12_000, "paper": 200_000}[profile]
    return [Settings(**IMAGES, **values, **_schedule(steps, LOGGED_IMAGES, LOGGED_IMAGES_DESCENT))]


def _wide(options: dict) -> dict:
    return {name: 8 * options[name] for name in ("width", "teacher_width")}


def _schedule(steps: int, parts: tuple, parts_descent: tuple) -> dict:
    """When SGD is measured, when copies turn to descent, and when those are measured."""
    if steps < 100:
        parts, parts_descent = (0, 1), (0, 0.5)
    logged, descent = (tuple(round(part * steps) for part in some) for some in (parts, parts_descent))
    return dict(steps=steps, switch=steps // 4, descent=descent[-1], logged=logged, logged_descent=descent)


def _check(profile: str) -> None:
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
