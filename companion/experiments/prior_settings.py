"""What the ``prior`` experiments run, by profile."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

# For SGD and Adam TensorFlow's defaults, which the paper says it has; for the others rates that fit within as
# many epochs, of full batches with a bound 2/λ on the curvature that none of SGD's networks reaches.
RATES = {
    "sgd": 0.01,
    "adam": 0.001,
    "momentum": 0.01,
    "rmsprop": 0.001,
    "adagrad": 0.01,
    "entropy-sgd": 1.0,
    "full-batch": 0.02,
}
MAIN = ("sgd", "adam")
OTHERS = tuple(name for name in RATES if name not in MAIN)
CONTROLS = {"sgd": 0.1, "adam": 0.0001}  # the main ones at the other's pace: is it the optimizer or the rate?
HIDDEN = 2  # layers


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The task and the prior.

    Attributes
    ----------
    data : str
    train, test : int
        Sizes of the training set S and of the test set E.
    task_seed, seed : int
        Of the choice of S and E; of all else.
    weight_scale, bias_scale : float
        Of random weights of two hidden layers, and of their Gaussian process.
    """

    data: str
    train: int = 500
    test: int = 1000
    weight_scale: float = 1.0
    bias_scale: float = 0.1
    task_seed: int = 0
    seed: int = 0

    @property
    def task(self) -> dict:
        """Keywords of :func:`~companion.experiments.prior_tasks.binary_task`."""
        return {"train": self.train, "test": self.test, "seed": self.task_seed}

    @property
    def scales(self) -> dict:
        """Keywords of :func:`~companion.boolean_functions.random_networks`."""
        return {"weight_scale": self.weight_scale, "bias_scale": self.bias_scale}

    @property
    def kernel(self) -> dict:
        """Keywords of :func:`~companion.nngp.nngp_kernel`."""
        return {"depth": HIDDEN, **self.scales}


@dataclass(frozen=True, kw_only=True)
class TrainingSetup(Setup):
    """The network, its training, and the box in which sharpness is taken.

    ``width`` is that of the hidden layers, ``box`` is ζ of ``prior`` eq. 8.
    """

    optimizer: str = "sgd"
    learning_rate: float = RATES["sgd"]
    batch_size: int = 32
    max_epochs: int = 3000
    width: int = 40
    box: float = 1e-4

    @property
    def training(self) -> dict:
        """Keywords of :func:`~companion.experiments.prior_training.train_stack`."""
        return {
            "optimizer": self.optimizer, "learning_rate": self.learning_rate, "batch_size": self.batch_size,
        }  # fmt: skip

    def sizes(self, inputs: int) -> tuple[int, ...]:
        """Of the network's layers."""
        return (inputs, *[self.width] * HIDDEN, 1)


@dataclass(frozen=True, kw_only=True)
class AttackSettings(TrainingSetup):
    """Some networks trained on S and on attack sets of one size.

    Attributes
    ----------
    attack : int
        Size of the attack sets.
    networks : int
        Each has an attack set, weights and shuffles of its own.
    overtraining : int
        Epochs after the first one without error after which networks are measured again, and within which
        they are once more where their loss first is at most ``level``; 0 for neither.
    eigenvalues : int
        How many of the Hessian's are in the product that is measured at the first epoch without error; 0 for
        none of them at any moment, not even the largest.
    """

    attack: int
    networks: int = 6
    overtraining: int = 0
    level: float = 0.01
    eigenvalues: int = 1


@dataclass(frozen=True, kw_only=True)
class LabelSettings(Setup):
    """Labels of S and E that no network found: the true ones with some of E's flipped, and two simple learners'.

    ``flips`` are numbers of wrong labels on E, ``attacks`` sizes of attack sets, each drawn ``draws`` times.
    """

    flips: tuple[int, ...]
    attacks: tuple[int, ...]
    draws: int = 2


@dataclass(frozen=True, kw_only=True)
class AlphaSettings(TrainingSetup):
    """One network whose first layer is multiplied by α and second divided by it, for each of ``alphas``.

    ``wait`` epochs pass between the first epoch without error and the rescaling, ``after`` follow it, and
    about ``points`` epochs of either part are measured.  The sharpness at the rescaling is also measured for
    each α of ``scan``, of the first and of the second hidden layer.
    """

    test: int = 100
    alphas: tuple[float, ...] = (1.0, 5.9, 0.2, 1 / 5.9, 0.1)
    scan: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    wait: int = 500
    after: int = 1000
    points: int = 18


def attack_settings(profile: str) -> list[AttackSettings]:
    """The two optimizers of figs. 3 and 4 in full; the others, CIFAR-10 and other training sizes with less."""
    if profile == "smoke":
        tiny = AttackSettings(
            data="digits", attack=0, train=40, test=60, networks=1, eigenvalues=0, width=20, max_epochs=100
        )
        full = [replace(s, learning_rate=0.01) for s in _attacks(tiny, ("adam",), 1)]
        full = [replace(s, overtraining=10, level=0.05, eigenvalues=3) for s in full]
        return [*full, *_attacks(tiny, ("entropy-sgd",), 1)]
    if profile == "laptop":
        full = AttackSettings(data="mnist", attack=0, networks=5, overtraining=500, eigenvalues=50)
        some = AttackSettings(data="mnist", attack=0, networks=4)
        small, large = (_attacks(replace(some, train=train), ("sgd",), 5) for train in (125, 1500))
        # Larger attack sets Adam does not fit here: a network that loses its last live unit stays there.
        cifar = _attacks(replace(some, data="cifar10", networks=3, max_epochs=1000), MAIN, 5, largest=250)
        return [*_attacks(full, MAIN, 5), *_controls(some, 5), *_others(some, 5), *cifar, *small, *large]
    full = AttackSettings(data="mnist", attack=0, networks=5, overtraining=500, eigenvalues=50)
    cifar = replace(full, data="cifar10", train=5000, test=2000, batch_size=128, box=1e-5)
    large = [s for s in _attacks(replace(full, train=10_000), MAIN, 10) if 0 < s.attack < 10_000]
    return [*_attacks(full, (*MAIN, *OTHERS), 10), *_controls(full, 10), *_attacks(cifar, MAIN, 10), *large]


def _attacks(
    base: AttackSettings, optimizers: tuple[str, ...], parts: int, largest: int | None = None
) -> Iterator[AttackSettings]:
    """For each optimizer attack sets of 0 to ``largest`` samples, by default |S|, in so many equal steps."""
    largest = base.train if largest is None else largest
    for name in optimizers:
        for part in range(parts + 1):
            one = replace(base, optimizer=name, learning_rate=RATES[name], attack=largest * part // parts)
            if name == "full-batch":
                one = replace(one, batch_size=one.train + one.attack, max_epochs=10 * one.max_epochs)
            yield one


def _others(base: AttackSettings, parts: int) -> list[AttackSettings]:
    """Full batches take ten times as long: fewer networks."""
    each = {"full-batch": base.networks - 1}
    return [replace(one, networks=each.get(one.optimizer, one.networks)) for one in _attacks(base, OTHERS, parts)]


def _controls(base: AttackSettings, parts: int) -> list[AttackSettings]:
    return [replace(one, learning_rate=CONTROLS[one.optimizer]) for one in _attacks(base, tuple(CONTROLS), parts)]


def label_settings(profile: str) -> list[LabelSettings]:
    """One list of labels a data set."""
    if profile == "smoke":
        return [LabelSettings(data="digits", flips=(0, 20), attacks=(0, 60), draws=1, train=60, test=60)]
    flips, attacks = tuple(range(0, 501, 50)), tuple(range(0, 501, 100))
    names = ("mnist",) if profile == "laptop" else ("mnist", "cifar10")
    return [LabelSettings(data=name, flips=flips, attacks=attacks) for name in names]


def alpha_settings(profile: str) -> list[AlphaSettings]:
    """The network of figs. 5 and S11, from three seeds."""
    if profile == "smoke":
        return [
            AlphaSettings(
                data="digits", train=60, test=40, alphas=(1.0, 0.1), scan=(0.1,), wait=5, after=5, points=2, width=20,
                max_epochs=100, learning_rate=0.1,
            )
        ]  # fmt: skip
    base = AlphaSettings(data="mnist")
    if profile == "paper":
        base = replace(base, alphas=(1.0, 5.0, 5.9, 6.0, 0.2, 1 / 5.9, 1 / 6), after=5000, points=200)
    return [replace(base, seed=seed) for seed in range(3)]
