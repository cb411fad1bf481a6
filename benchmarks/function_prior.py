"""The prior over functions: EP of log P(signs) for an NNGP kernel, and networks sampled a second."""

import math

import numpy as np
import torch
from scipy.special import log_ndtr
from scipy.stats import multivariate_normal
from torch import nn

from benchmarks.table import Row, timed, verdict
from benchmarks.timing import measure
from companion.data import digits
from companion.function_prior import boolean_inputs, log_prior_probability, nngp_kernel, sample_boolean_functions

SIZE, FEW, NETWORKS, SWEEPS = 1000, 8, 2000, 6
LIMIT = 1.0  # seconds


def rows() -> list[Row]:
    return [*propagation(), *integral(), *sampling()]


def propagation() -> list[Row]:
    kernel, labels = problem(SIZE)
    ours, textbook = measure(
        lambda: log_prior_probability(kernel, labels).value, lambda: textbook_ep(kernel, labels, SWEEPS), repeats=3
    )
    name = f"log_prior_probability, n = {SIZE}"
    target = verdict(ours.seconds, LIMIT, f"{LIMIT:g} s")
    return [
        timed(name, ours, found=f"log P = {ours.result:.6f}", target=target),
        timed(
            f"EP, one rank-one update a site, {SWEEPS} sweeps",
            textbook,
            ours=ours,
            found=f"log P = {textbook.result:.6f}",
        ),
    ]


def integral() -> list[Row]:
    kernel, labels = problem(FEW)
    turned = kernel * np.outer(labels, labels)
    law = multivariate_normal(np.zeros(FEW), turned, maxpts=2_000_000, abseps=1e-7, releps=1e-5)
    ours, exact = measure(
        lambda: log_prior_probability(kernel, labels).value, lambda: math.log(law.cdf(np.zeros(FEW))), repeats=3
    )
    return [
        timed(f"log_prior_probability, n = {FEW}", ours, found=f"log P = {ours.result:.4f}"),
        timed(
            "scipy's multivariate_normal.cdf, not approximate", exact, ours=ours, found=f"log P = {exact.result:.4f}"
        ),
    ]


def sampling() -> list[Row]:
    ours, loop = measure(
        lambda: sample_boolean_functions(NETWORKS, seed=0).samples, lambda: module_loop(NETWORKS), repeats=3
    )
    return [
        timed(f"sample_boolean_functions, {NETWORKS} networks", ours, found=f"{NETWORKS / ours.seconds:,.0f} a second"),
        timed("one nn.Sequential after the other", loop, ours=ours, found=f"{NETWORKS / loop.seconds:,.0f} a second"),
    ]


def problem(size: int) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = digits()
    labels = np.where(targets[:size].numpy() < 5, 1.0, -1.0)
    return nngp_kernel(inputs[:size].numpy(), depth=2, weight_scale=1.0, bias_scale=0.1), labels


def textbook_ep(kernel: np.ndarray, labels: np.ndarray, sweeps: int) -> float:
    """Rasmussen & Williams (2006), algorithm 3.5, for the step likelihood; log P by eqs. 3.65 and 3.73."""
    kernel = kernel * np.outer(labels, labels)
    size = len(labels)
    tau, nu = np.zeros(size), np.zeros(size)
    covariance, mean = kernel.copy(), np.zeros(size)
    for _ in range(sweeps):
        for i in range(size):
            cavity, shift = 1 / covariance[i, i] - tau[i], mean[i] / covariance[i, i] - nu[i]
            z = shift / math.sqrt(cavity)
            hazard = math.exp(-z * z / 2 - log_ndtr(z)) / math.sqrt(2 * math.pi)
            left = 1 - hazard * (z + hazard)
            more = cavity / left - cavity - tau[i]
            tau[i] += more
            nu[i] = (shift + math.sqrt(cavity) * hazard) / left - shift
            column = covariance[:, i].copy()
            covariance -= np.outer(more / (1 + more * column[i]) * column, column)
            mean = covariance @ nu
        root = np.sqrt(tau)
        factor = np.linalg.cholesky(np.eye(size) + root[:, None] * kernel * root)
        half = np.linalg.solve(factor, root[:, None] * kernel)
        covariance = kernel - half.T @ half
        mean = covariance @ nu
    cavity, shift = 1 / covariance.diagonal() - tau, mean / covariance.diagonal() - nu
    inner = nu @ mean - nu @ (nu / (tau + cavity)) + (shift / (tau + cavity)) @ (tau * shift / cavity - 2 * nu)
    log_det = np.log(np.diag(factor)).sum()
    return float(np.log1p(tau / cavity).sum() / 2 - log_det + inner / 2 + log_ndtr(shift / np.sqrt(cavity)).sum())


@torch.no_grad()
def module_loop(networks: int) -> int:
    points = torch.from_numpy(boolean_inputs(7)).float()
    model = nn.Sequential(nn.Linear(7, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    found = {}
    for _ in range(networks):
        for layer in model[::2]:
            layer.weight.normal_(std=layer.in_features**-0.5)
            layer.bias.normal_(std=0.1)
        key = np.packbits((model(points) > 0).numpy()).tobytes()
        found[key] = found.get(key, 0) + 1
    return len(found)
