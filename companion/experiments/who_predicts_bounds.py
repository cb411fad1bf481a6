"""Two PAC-Bayes bounds of a trained network, with Gaussian posteriors that large networks allow."""

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from companion.hessian import hessian_diagonal
from companion.kl_bounds import mcallester_bound
from companion.problem import flatten

DELTA = 0.05
TOLERANCE = 0.1  # training error that the posterior's networks may have on average
DRAWS = 5  # of the posterior, so that the bounds are estimates
RATIO, WIDTHS = 1.05, 150  # the prior's scales σ = 1.05^-j, j = 1 … 150, each with its part of δ
TAUS = (0.05, 0.1, 0.2)
STEPS, STRENGTHS = 6, 60  # β = 10^(j/6), j = 0 … 60


def pac_bayes_bounds(
    model: nn.Sequential, start: nn.Sequential, x: Tensor, y: Tensor, seed: int
) -> dict[str, float | None]:
    """McAllester's bound on the mean error of the widest cloud of networks that errs on a tenth of S.

    The cloud of least bound is far wider: it errs on almost half of S, and its bound is that of guessing
    whatever the network.  So the training error of the cloud is given, as in Jiang et al. (2020).

    Parameters
    ----------
    model, start : nn.Sequential
        After and before training, float32.
    x, y : Tensor
        Samples that were drawn independently: S, without the attack set.
    seed : int

    Returns
    -------
    dict
        ``pac_bayes_isotropic``, with the posterior N(θ, σ²I) and the prior N(θ₀, σ²I), σ as large as
        it may be, and ``pac_bayes_laplace``, with N(θ, diag(1/(βHᵢᵢ + 1/τ²))), wide where the loss is
        flat, and N(θ₀, τ²I), β as small as it may be, the best of three τ.  Not cut off at 1; None if
        even the narrowest cloud errs more.
    """
    after, before = (nn.utils.parameters_to_vector(m.parameters()).detach().double() for m in (model, start))
    way = float((after - before).square().sum())
    hessian = flatten(hessian_diagonal(model, nn.CrossEntropyLoss(), x, y)).double().clamp_min(0)
    noise = torch.randn(DRAWS, len(after), generator=torch.Generator().manual_seed(seed)).to(x.device)

    return {
        "pac_bayes_isotropic": _isotropic(model, noise, way, x, y),
        "pac_bayes_laplace": _laplace(model, noise, hessian, way, x, y),
    }


def diagonal_kl(variances: Tensor, prior_variance: float, squared_distance: float) -> float:
    """KL(N(θ, diag(s))‖N(θ₀, τ²I)) = ½ [Σ (s/τ² - 1 - ln(s/τ²)) + ‖θ-θ₀‖²/τ²], in nats."""
    quotient = variances / prior_variance
    return 0.5 * (float((quotient - 1 - quotient.log()).sum()) + squared_distance / prior_variance)


def _isotropic(model: nn.Sequential, noise: Tensor, way: float, x: Tensor, y: Tensor) -> float | None:
    j = _first(lambda j: _mean_error(model, RATIO**-j * noise, x, y), range(1, WIDTHS + 1))
    if j is None:
        return None
    share = DELTA * 6 / (math.pi * j) ** 2  # sums to δ over all j
    return mcallester_bound(TOLERANCE, way / (2 * RATIO ** (-2 * j)), len(x), share)


def _laplace(model: nn.Sequential, noise: Tensor, hessian: Tensor, way: float, x: Tensor, y: Tensor) -> float | None:
    def variances(tau: float, k: int) -> Tensor:
        return 1 / (10 ** (k / STEPS) * hessian + tau**-2)

    def error(k: int, tau: float) -> float:
        return _mean_error(model, variances(tau, k).sqrt().float() * noise, x, y)

    found = {tau: _first(partial(error, tau=tau), range(STRENGTHS + 1)) for tau in TAUS}
    divergences = [diagonal_kl(variances(tau, k), tau**2, way) for tau, k in found.items() if k is not None]
    return mcallester_bound(TOLERANCE, min(divergences), len(x), DELTA / len(TAUS)) if divergences else None


def _first(error: Callable[[int], float], steps: range) -> int | None:
    """The first step at which the error, which falls, is tolerable; by bisection."""
    low, high = steps[0], steps[-1]
    if error(high) > TOLERANCE:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle) <= TOLERANCE else (middle + 1, high)
    return low


@torch.no_grad()
def _mean_error(model: nn.Sequential, shifts: Tensor, x: Tensor, y: Tensor) -> float:
    moved, center = copy.deepcopy(model), nn.utils.parameters_to_vector(model.parameters())
    errors = []
    for shift in shifts:
        nn.utils.vector_to_parameters(center + shift, moved.parameters())
        errors.append(float((moved(x).argmax(1) != y).double().mean()))
    return math.fsum(errors) / len(errors)
