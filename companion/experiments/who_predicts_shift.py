"""The shift from a trained network to a minimum of the loss on images that it has not seen, and what it costs."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from companion.problem import Problem
from companion.shift import symmetrized_quadratic_fit
from companion.training import train_epochs

RATE, BATCH, EPOCHS = 0.05, 125, 60  # a low temperature, T = 4e-4
POINTS = 20
LOSS = nn.CrossEntropyLoss()
NAMES = ("shift_curvature", "shift_curvature_fit", "shift_minimum", "shift_length")


def shift_measures(model: nn.Sequential, x: Tensor, y: Tensor, seed: int) -> dict[str, float | None]:
    """½ sᵀCs for the held-out loss, with C along s at its minimum, exactly and by the paper's fit.

    The minimum is approximated as in ``shift`` fig. 1: SGD at a low temperature, on the held-out set,
    from the trained network; 60 epochs.  ``shift_curvature`` takes the second derivative along s there,
    ``shift_curvature_fit`` a parabola through the whole way, which has seen the loss at its end.

    Returns
    -------
    dict
        Also ``shift_minimum``, the held-out loss that was reached, and ``shift_length``, |s|.  All None
        if SGD diverges or does not move.
    """
    moved = copy.deepcopy(model)
    if not _descend(moved, x, y, seed):
        return dict.fromkeys(NAMES)
    problem = Problem(moved.double(), LOSS, x.double(), y)
    minimum = problem.vector
    shift = minimum - nn.utils.parameters_to_vector(model.parameters()).detach().double()
    length, lowest = float(shift.norm()), problem.value()
    if not (np.isfinite(lowest) and 0 < length < float("inf")):
        return dict.fromkeys(NAMES)
    gradient = torch.func.grad(lambda at: problem.sum_of(problem.unflatten(at), problem.inputs, y))
    _, pullback = torch.func.vjp(gradient, minimum)

    def held_out_loss(at: np.ndarray) -> float:
        return problem.value(problem.unflatten(torch.from_numpy(at).to(x.device)))

    fit = symmetrized_quadratic_fit(
        held_out_loss, minimum.cpu().numpy(), -shift.cpu().numpy(), length, points=POINTS
    )  # fmt: skip
    return {
        "shift_curvature": 0.5 * float(shift @ pullback(shift)[0]),
        "shift_curvature_fit": 0.5 * fit.curvature * length**2,
        "shift_minimum": lowest,
        "shift_length": length,
    }


def _descend(model: nn.Sequential, x: Tensor, y: Tensor, seed: int) -> bool:
    """Train in place at a low temperature; False if the loss does not stay finite."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    settings = {"optimizer": optimizer, "batch_size": min(BATCH, len(x)), "epochs": EPOCHS}
    try:
        for _ in train_epochs(model, LOSS, x, y, **settings, generator=torch.Generator().manual_seed(seed)):
            pass
    except ValueError:
        return False
    return True
