"""What the experiments on ``shift`` run, profile by profile."""

from dataclasses import dataclass

from companion.experiments.experiment import PROFILES
from companion.experiments.shift_training import POOLING, Falling, Images


@dataclass(frozen=True)
class Line(Images):
    """Plain SGD at ``temperature`` T and λ = T B for ``time`` = λ · steps; gradient flow for ``flow_times``."""

    temperature: float
    batch_size: int
    time: float
    weight_decay: float  # in both
    flow_times: tuple[float, ...]
    points: int  # on the line, for each length |s|


@dataclass(frozen=True)
class Temperature(Falling):
    """Then plain SGD at ``temperature`` T and constant λ = T B, from the same network for every B."""

    temperature: float
    batch_sizes: tuple[int, ...]
    epochs: int
    logged: int  # epochs at which both losses are measured, evenly spaced


@dataclass(frozen=True)
class Sample(Falling):
    """Then the line between the train and the test minimum that gradient flow reaches in ``flow_times``."""

    flow_times: tuple[float, ...]
    points: int


SMALL = (16, POOLING, 32, POOLING)
VGG16 = (64, 64, POOLING, 128, 128, POOLING, *(256,) * 3, POOLING, *(512,) * 3, POOLING, *(512,) * 3, POOLING)
VGG9 = (64, POOLING, 128, POOLING, 256, 256, POOLING, 512, 512, POOLING)

# What the profiles have in common for all three experiments.
IMAGES = {
    "smoke": {"data": "digits", "pool": 1, "convolutions": (4, POOLING, 8, POOLING), "hidden": ()},
    "laptop": {"data": "cifar10", "pool": 2, "convolutions": SMALL, "hidden": ()},
    "paper": {"data": "cifar10", "pool": 1, "hidden": (512,)},
}

LINE = {
    "smoke": {
        "train": 120, "test": 60, "batch_size": 8, "flow_times": (1.0, 4.0), "points": 5,
    },
    "laptop": {
        "train": 2000, "test": 1000, "batch_size": 32, "flow_times": (1.0, 4.0, 16.0), "points": 10,
    },
    "paper": {
        "train": 50_000, "test": 10_000, "batch_size": 100, "flow_times": (1.0, 2.0, 5.0, 10.0), "points": 50,
        "convolutions": VGG16, "hidden": (512, 512),
    },
}  # fmt: skip
# Temperature and time of SGD, for seeds 0 … n-1.
LINE_RUNS = {
    "smoke": (2, ((4e-3, 10.0), (1.6e-2, 10.0))),
    "laptop": (4, ((1e-3, 300.0), (2e-3, 300.0), (4e-3, 300.0), (8e-3, 300.0), (8e-3, 1200.0))),
    "paper": (5, tuple((2.5e-5 * 2**k, 1000.0) for k in range(6))),
}

FIRST = {
    "smoke": {"first_epochs": 8, "first_batch_size": 10, "first_learning_rate": 0.02, "first_momentum": 0.9},
    "laptop": {"first_epochs": 60, "first_batch_size": 100, "first_learning_rate": 0.02, "first_momentum": 0.9},
    "paper": {"first_epochs": 300, "first_batch_size": 4096, "first_learning_rate": 0.1, "first_momentum": 0.9},
}

TEMPERATURE = {
    "smoke": {"train": 120, "test": 60, "batch_sizes": (4, 16), "epochs": 6, "logged": 6},
    "laptop": {"train": 2000, "test": 1000, "batch_sizes": (8, 32, 128), "epochs": 60, "logged": 20},
    "paper": {
        "train": 50_000, "test": 10_000, "batch_sizes": (50, 100, 500, 1000, 4096), "epochs": 1000, "logged": 100,
        "convolutions": VGG9,
    },
}  # fmt: skip
TEMPERATURES = {
    "smoke": (2, (1e-3, 8e-3)),
    "laptop": (3, (1.25e-4, 5e-4, 2e-3, 8e-3)),
    "paper": (10, (2.44e-8, 2.44e-7, 2.44e-6, 2.44e-5)),
}

SAMPLE = {
    "smoke": {"flow_times": (4.0,), "points": 5},
    "laptop": {"flow_times": (4.0,), "points": 10},
    "paper": {
        "flow_times": (1.0,), "points": 50, "convolutions": VGG9,
        "first_batch_size": 3000, "first_momentum": 0.0,
    },
}  # fmt: skip
# Images for training and for testing, epochs, how they are split, and how many seeds.
SAMPLES = {
    "smoke": (
        (60, 30, 16, "reshuffled", 2), (120, 60, 8, "reshuffled", 2), (120, 60, 8, "default", 2),
    ),
    "laptop": (  # 1,800 steps of a hundred images each
        (375, 75, 600, "reshuffled", 4), (750, 150, 257, "reshuffled", 4), (1500, 300, 120, "reshuffled", 4),
        (3000, 600, 60, "reshuffled", 5), (3000, 600, 60, "default", 5),
    ),
    "paper": (
        (6250, 1250, 2000, "reshuffled", 25), (12_500, 2500, 2000, "reshuffled", 25),
        (25_000, 5000, 2000, "reshuffled", 25), (50_000, 10_000, 2000, "reshuffled", 25),
        (50_000, 10_000, 2000, "default", 25),
    ),
}  # fmt: skip

LINE_DIFFERS = {
    "smoke": "Digits instead of CIFAR-10, a network of 0.7 thousand parameters; it tests the code only.",
    "laptop": "2,000 training and 1,000 test images of CIFAR-10, averaged to 16 × 16 pixels, and a network of two "
    "convolutions instead of VGG16 and ResNet10 on all of them. The minima are approached by gradient flow for "
    "times 1, 4 and 16 in units of λ · steps; the paper's gradient descent takes 5 to 10 on the training and 1 to 2 "
    "on the test set. SGD runs for the same time at all temperatures, as in the paper, but for a shorter one, at the "
    "highest temperature also for one four times as long.",
    "paper": "VGG16 only; the temperatures, which the paper does not print, are ours, and no dropout is assumed.",
}
TEMPERATURE_DIFFERS = {
    "smoke": LINE_DIFFERS["smoke"],
    "laptop": "2,000 images averaged to 16 × 16 pixels and two convolutions instead of VGG9, both with batch "
    "normalization; 60 epochs in each stage instead of 300 and 1,000; temperatures times samples are 0.25 to 16 "
    "instead of 0.001 to 1.2, because of so few epochs; 3 networks instead of 10.",
    "paper": "The widths of VGG9 and the batch sizes are a reconstruction; medians are over logged epochs.",
}
SAMPLE_DIFFERS = {
    "smoke": LINE_DIFFERS["smoke"],
    "laptop": "At most 3,000 training and 600 test images, averaged to 16 × 16 pixels, two convolutions instead of "
    "VGG9, and SGD with momentum 0.9 instead of none, for as many steps (60 epochs of the largest sample) at "
    "all sizes instead of 2,000 epochs. We also measure the shift itself.",
    "paper": "The widths of VGG9 are a reconstruction, the sample sizes, which the paper does not print, ours.",
}


def line_settings(profile: str) -> list[Line]:
    """One run for every temperature, time and seed."""
    seeds, runs = LINE_RUNS[_known(profile)]
    rest = {"split": "default", "batch_norm": False, "weight_decay": 1e-5, **IMAGES[profile], **LINE[profile]}
    return [
        Line(seed=seed, temperature=temperature, time=time, **rest)
        for seed in range(seeds)
        for temperature, time in runs
    ]


def temperature_settings(profile: str) -> list[Temperature]:
    """One run for every temperature and seed, with all batch sizes."""
    seeds, temperatures = TEMPERATURES[_known(profile)]
    rest = {"split": "default", "batch_norm": True, "weight_decay": 5e-4}
    rest |= {**IMAGES[profile], **FIRST[profile], **TEMPERATURE[profile]}
    return [Temperature(seed=seed, temperature=t, **rest) for seed in range(seeds) for t in temperatures]


def sample_settings(profile: str) -> list[Sample]:
    """One run for every sample size, kind of split and seed."""
    rest = {"batch_norm": True, "weight_decay": 5e-4, **IMAGES[_known(profile)], **FIRST[profile], **SAMPLE[profile]}
    runs = [
        Sample(train=train, test=test, split=split, seed=seed, **{**rest, "first_epochs": epochs})
        for train, test, epochs, split, seeds in SAMPLES[profile]
        for seed in range(seeds)
    ]
    return sorted(runs, key=lambda settings: settings.seed)


def _known(profile: str) -> str:
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    return profile
