"""From a trained network down to a train and a test minimum, and the losses on the line through them."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from companion.experiments.shift_training import CHUNK, LOSS, Split
from companion.problem import Problem

FIRST_STEP, SMALLEST_STEP = 0.01, 1e-6  # of the gradient flow, in units of its time


def gradient_flow(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, times: Sequence[float], weight_decay: float = 0.0
) -> list[tuple[float, Tensor]]:
    """Where dθ/dt = -∂(U + ½ α|θ|²) takes the model, at each of the times; the model stays as it is.

    Euler steps after which the slope along them has not changed its sign, so that none is longer than
    1/curvature: at zero temperature, and without leaps across a valley.  The model is in evaluation
    mode: running averages of a batch normalization are constants.

    Parameters
    ----------
    model, inputs, targets
        The loss U is the mean cross-entropy.
    times : sequence of float
        Increasing, above zero; λ · steps of gradient descent.
    weight_decay : float
        α.

    Returns
    -------
    list of (float, Tensor)
        Time and parameters, shape (p,), of each.  The time falls short if the slope came down to rounding.
    """
    model, point = copy.deepcopy(model).eval(), _vector(model)
    slope = _slope(model, inputs, targets, weight_decay)
    time, step, points = 0.0, FIRST_STEP, []
    for until in times:
        while time < until * (1 - 1e-9) and step > SMALLEST_STEP:
            length = min(step, until - time)
            _put(model, point - length * slope)
            ahead = _slope(model, inputs, targets, weight_decay)
            if float(ahead @ slope) >= 0:
                point, slope = point - length * slope, ahead
                time, step = time + length, max(step, 1.2 * length)
            else:
                step = length / 2
        points.append((time, point))
    return points


def lines_between(
    model: nn.Module, split: Split, times: Sequence[float], weight_decay: float, points: int
) -> list[dict]:
    """What lies on the line through the train and the test minimum, for each time that the flow to them has.

    Returns
    -------
    list of dict
        ``time``, and what of it either flow got through; ``shift``, |s|; how far each minimum is from
        the model; ``train_slope``,
        ``train_curvature`` of the training loss at the train minimum and ``test_slope``,
        ``test_curvature`` of the test loss at the test minimum, exact first and second derivatives
        in r, where θ(r) = θ_tr + r s, so that the second ones are sᵀCs; ``profile``, both losses and
        errors for each r = -1 … 2, ``points`` of them for a length |s|.
    """
    inputs, targets, test_inputs, test_targets = vars(split).values()
    at_train = gradient_flow(model, inputs, targets, times=times, weight_decay=weight_decay)
    at_test = gradient_flow(model, test_inputs, test_targets, times=times, weight_decay=weight_decay)
    start, moved, lines = _vector(model), copy.deepcopy(model), []
    for time, (train_time, train), (test_time, test) in zip(times, at_train, at_test, strict=True):
        shift, profile = test - train, []
        for step in range(-points, 2 * points + 1):
            _put(moved, train + step / points * shift)
            profile.append({"r": step / points, **split.losses(moved)})
        train_slope, train_curvature = line_derivatives(model, train, shift, inputs, targets)
        test_slope, test_curvature = line_derivatives(model, test, shift, test_inputs, test_targets)
        lines.append({
            "time": time, "train_time": train_time, "test_time": test_time, "shift": float(shift.norm()),
            "train_distance": float((train - start).norm()), "test_distance": float((test - start).norm()),
            "train_slope": train_slope, "train_curvature": train_curvature,
            "test_slope": test_slope, "test_curvature": test_curvature, "profile": profile,
        })  # fmt: skip
    return lines


def line_derivatives(
    model: nn.Module, point: Tensor, direction: Tensor, inputs: Tensor, targets: Tensor
) -> tuple[float, float]:
    """First and second derivative of r ↦ U(θ + r d) at r = 0, in float64; of a ReLU network between its kinks."""
    problem = Problem(copy.deepcopy(model).double(), LOSS, inputs.double(), targets)
    at, along = (problem.unflatten(vector.double()) for vector in (point, direction))
    slope = curvature = 0.0
    for piece in problem.chunks(CHUNK):
        r = torch.zeros((), dtype=torch.float64, device=inputs.device, requires_grad=True)
        value = problem.sum_of({name: at[name] + r * along[name] for name in at}, *piece)
        (first,) = torch.autograd.grad(value, r, create_graph=True)
        second = float(torch.autograd.grad(first, r)[0])
        slope, curvature = slope + float(first.detach()), curvature + second
    return slope, curvature


def _slope(model: nn.Module, inputs: Tensor, targets: Tensor, weight_decay: float) -> Tensor:
    """The gradient of U + ½ α|θ|², shape (p,)."""
    model.zero_grad()
    for x, y in zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True):
        (LOSS(model(x), y) * (len(x) / len(inputs))).backward()
    gradient = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
    return gradient + weight_decay * _vector(model)


def _vector(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


@torch.no_grad()
def _put(model: nn.Module, vector: Tensor) -> None:
    parameters = list(model.parameters())
    for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))
