"""The landscape that every benchmark runs on, and its gradient in torch."""

import math
from collections.abc import Callable

import torch

from companion.landscapes import paper_wells

WELLS, _ = paper_wells("4-left")
TEMPERATURE = 0.05


def torch_gradient() -> Callable[[torch.Tensor], torch.Tensor]:
    """U′ of ``WELLS`` for tensors, as one would write it down."""
    wells = list(zip(WELLS.minima.tolist(), WELLS.weights.tolist(), WELLS.sigmas.tolist(), strict=True))

    def gradient(theta: torch.Tensor) -> torch.Tensor:
        value = 2 * WELLS.confinement * (theta - WELLS.center)
        for minimum, weight, sigma in wells:
            height = weight / (sigma**3 * math.sqrt(2 * math.pi))
            value = value + height * (theta - minimum) * torch.exp(-0.5 * ((theta - minimum) / sigma) ** 2)
        return value

    return gradient
