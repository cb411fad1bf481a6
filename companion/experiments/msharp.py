"""SAM, m-SAM and RW-SAM on real images: accuracy, sharpness, gradient noise, wrong labels, time (``msharp`` sec. 5)."""

from companion.data import load_dataset
from companion.experiments.experiment import Experiment, Workplace
from companion.experiments.msharp_cost import COST
from companion.experiments.msharp_report import report
from companion.experiments.msharp_settings import DIFFERS, Settings, accuracy_settings
from companion.experiments.msharp_training import draw_images, train


def perform(settings: Settings, workplace: Workplace) -> dict:
    """Train one network for each seed.

    Returns
    -------
    dict
        ``runs``: what :func:`~companion.experiments.msharp_training.train` returns, for each seed.
    """
    data, runs = load_dataset(settings.data, workplace.data), []
    total = len(settings.seeds) * settings.epochs
    for number, seed in enumerate(settings.seeds):
        images = draw_images(settings, data, seed).to(workplace.device)
        before = number * settings.epochs
        runs.append(train(settings, images, seed, lambda epoch, b=before: workplace.tick(b + epoch, total)))
    return {"runs": runs}


EXPERIMENTS = (
    Experiment(
        "msharp-accuracy",
        "Do smaller micro-batches, or weights by gradient norms, make SAM more accurate and its minima flatter?",
        accuracy_settings,
        perform,
        report,
        DIFFERS,
    ),
    COST,
)
