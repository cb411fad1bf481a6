"""How sharp the logistic loss of a binary classifier is: the measures that ``prior`` compares."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from companion.hessian import top_eigenvalues
from companion.problem import Problem, flatten
from companion.sharpness import euclidean_sharpness, keskar_sharpness

# Of the ascent in the box: more changes no digit, since almost all of the rise is of first order.
ASCENT = {"steps": 10, "restarts": 1}


def two_outputs(model: nn.Sequential) -> nn.Sequential:
    """A copy with the outputs (0, z) in place of z: softmax cross-entropy is then the logistic loss of z."""
    last = nn.Linear(1, 2, dtype=next(model.parameters()).dtype).requires_grad_(False)
    last.weight[:] = torch.tensor([[0.0], [1.0]])
    last.bias.zero_()
    return nn.Sequential(*copy.deepcopy(model), last)


def sharpness(model: nn.Sequential, points: Tensor, labels: Tensor, *, box: float, eigenvalues: int) -> dict:
    """Keskar's sharpness in the box of ``prior`` eq. 8 and the Hessian's trace and largest eigenvalues.

    Parameters
    ----------
    model : nn.Sequential
        With one output, in double precision.
    points, labels : Tensor, shapes (N, d) and (N,)
    box : float
        ζ.
    eigenvalues : int
        How many of the largest enter the product of the largest ones; 0 for none of them, not even the largest.

    Returns
    -------
    dict
        ``sharpness`` in percent, ``first_order`` what of it the gradient alone gives, ``loss``, ``trace``,
        ``top_eigenvalue`` and ``log10_product``, None where an eigenvalue is not positive.
    """
    model, loss, targets = two_outputs(model), nn.CrossEntropyLoss(), labels.long()
    problem = Problem(model, loss, points, targets)
    gradient = flatten(torch.func.grad(problem.sum_of)(problem.parameters, points, targets))
    value, generator = problem.value(), torch.Generator().manual_seed(0)
    result = {
        "loss": value,
        "sharpness": keskar_sharpness(
            model, loss, points, targets, rho=box, adaptive=True, generator=generator, **ASCENT
        ),
        "first_order": 100 * box * float(gradient.abs() @ (problem.vector.abs() + 1)) / (1 + value),
        "trace": euclidean_sharpness(model, loss, points, targets),
    }
    if eigenvalues:  # six digits are enough, and single precision takes half the time
        largest = top_eigenvalues(model.float(), loss, points.float(), targets, count=eigenvalues)
        positive = bool((largest > 0).all())
        result |= {
            "top_eigenvalue": float(largest[0]),
            "log10_product": float(largest.log10().sum()) if positive and eigenvalues > 1 else None,
        }
    return result


def labels_of(model: nn.Sequential, points: Tensor) -> np.ndarray:
    """1.0 where the model's one output is positive, 0.0 elsewhere; shape (N,)."""
    with torch.no_grad():
        return (model(points.double())[:, 0] > 0).double().numpy()
