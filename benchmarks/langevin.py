"""Langevin paths on the same wells: 20,000 paths × 1,000 steps of 0.1, float64, from θ = 1.

One Euler-Maruyama step is the same on every side.  torchsde runs twice: as its documentation calls
it, and with its Brownian motion told the step in advance.
"""

import math

import numpy as np
import torch
import torchsde

from benchmarks.landscape import TEMPERATURE, WELLS, torch_gradient
from benchmarks.moments import compared, moments
from benchmarks.table import Row, duration, timed, verdict
from benchmarks.timing import measure
from companion.diffusion import simulate_langevin

PATHS, STEPS, STEP = 20_000, 1_000, 0.1
TARGET_SECONDS = 0.5


def rows() -> list[Row]:
    # A generator each that runs on, so that every run is a new sample.
    ours, loop, tuned = measure(companion(), numpy_loop(), with_torchsde(tuned=True))
    (plain,) = measure(with_torchsde(tuned=False), repeats=1)
    target = verdict(ours.seconds, TARGET_SECONDS, duration(TARGET_SECONDS))
    sides = {
        "plain NumPy loop": loop,
        f"torchsde.sdeint, euler, BrownianInterval(dt={STEP})": tuned,
        "torchsde.sdeint, euler, as documented (1 run)": plain,
    }
    return [
        timed("simulate_langevin", ours, found=moments(ours.result), target=target),
        *(timed(what, side, ours=ours, **compared(side, ours)) for what, side in sides.items()),
    ]


def companion():
    generator = np.random.default_rng(1)
    return lambda: simulate_langevin(
        WELLS.gradient, np.ones(PATHS), temperature=TEMPERATURE, time_step=STEP, steps=STEPS, generator=generator
    )


def numpy_loop():
    generator = np.random.default_rng(2)
    amplitude = math.sqrt(TEMPERATURE * STEP)

    def run() -> np.ndarray:
        theta = np.ones(PATHS)
        for _ in range(STEPS):
            theta = theta - STEP * WELLS.gradient(theta) + amplitude * generator.standard_normal(PATHS)
        return theta

    return run


class Diffusion(torch.nn.Module):
    """dθ = -U′(θ) dt + √T dW in the form that torchsde asks for."""

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self):
        super().__init__()
        self.gradient = torch_gradient()

    def f(self, t, y):
        return -self.gradient(y)

    def g(self, t, y):
        return torch.full_like(y, math.sqrt(TEMPERATURE))


def with_torchsde(*, tuned: bool):
    diffusion, seeds = Diffusion(), iter(range(10, 1000))
    times = torch.tensor([0.0, STEPS * STEP], dtype=torch.float64)
    start = torch.ones(PATHS, 1, dtype=torch.float64)

    def noise() -> torchsde.BrownianInterval:
        known = {"dt": STEP} if tuned else {}
        return torchsde.BrownianInterval(
            0.0, STEPS * STEP, size=start.shape, dtype=torch.float64, entropy=next(seeds), **known
        )

    @torch.no_grad()
    def run() -> np.ndarray:
        return torchsde.sdeint(diffusion, start, times, bm=noise(), dt=STEP, method="euler")[-1, :, 0].numpy()

    return run
