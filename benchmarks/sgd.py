"""Mini-batch SGD on the same wells: 20,000 paths × 1,000 steps, λ = 0.1, 1,000 tilted samples, from θ = 1."""

import numpy as np
import torch

from benchmarks.landscape import WELLS, torch_gradient
from benchmarks.moments import compared, moments
from benchmarks.table import Row, timed
from benchmarks.timing import measure
from companion.diffusion import simulate_sgd
from companion.landscapes import TiltedSample

PATHS, STEPS, LEARNING_RATE, SAMPLES = 20_000, 1_000, 0.1, 1_000
BATCH_SIZES = (1, 16)


def rows() -> list[Row]:
    tilts = np.random.default_rng(0).standard_normal(SAMPLES)
    tilts -= tilts.mean()
    return [row for batch_size in BATCH_SIZES for row in pair(tilts, batch_size)]


def pair(tilts: np.ndarray, batch_size: int) -> list[Row]:
    ours, loop = measure(companion(tilts, batch_size), torch_loop(tilts, batch_size), repeats=3)
    return [
        timed(f"simulate_sgd, B = {batch_size}", ours, found=moments(ours.result)),
        timed(f"plain torch loop, B = {batch_size}", loop, ours=ours, **compared(loop, ours)),
    ]


def companion(tilts: np.ndarray, batch_size: int):
    sample, generator = TiltedSample(WELLS, tilts), np.random.default_rng(1)
    return lambda: simulate_sgd(
        sample, np.ones(PATHS), learning_rate=LEARNING_RATE, batch_size=batch_size, steps=STEPS, generator=generator
    )


def torch_loop(tilts: np.ndarray, batch_size: int):
    gradient, generator, tilts = torch_gradient(), torch.Generator().manual_seed(2), torch.from_numpy(tilts)

    @torch.no_grad()
    def run() -> np.ndarray:
        theta = torch.ones(PATHS, dtype=torch.float64)
        for _ in range(STEPS):
            batch = torch.randint(SAMPLES, (PATHS, batch_size), generator=generator)
            theta -= LEARNING_RATE * (gradient(theta)[:, None] + tilts[batch]).mean(dim=1)
        return theta.numpy()

    return run
