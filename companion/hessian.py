"""The Hessian H = ∂²U of a network's training loss: dense, its diagonal, its trace, its top eigenvalues.

What is estimated with random probes comes as an :class:`Estimate` with its standard error.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from companion import validate
from companion.hessian_products import HessianMatrix, hessian_rows, probed
from companion.per_sample import backpack_diagonal, knows, without_script_warning
from companion.problem import Problem

METHODS = ("exact", "hutchinson", "hutch++")
RUNS = 4  # independent runs of Hutch++, whose spread gives the standard error


class Estimate(NamedTuple):
    """A value with its standard error and the number of random samples it rests on.

    ``value`` and ``standard_error`` are numbers or dicts of tensors by parameter name.  What was
    computed exactly has the standard error 0 from 0 samples.
    """

    value: float | dict[str, Tensor]
    standard_error: float | dict[str, Tensor]
    samples: int


def hessian_matrix(
    model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor, *, chunk_size: int | None = None
) -> Tensor:
    """The dense Hessian of the mean loss, for small models.

    Parameters
    ----------
    model : nn.Module
        Measured in evaluation mode over its parameters that require gradients.
    loss : callable
        ``loss(outputs, targets)``, a mean over samples.
    inputs, targets : Tensor, shapes (N, ...)
    chunk_size : int, optional
        Samples handled at once, which bounds the memory.

    Returns
    -------
    Tensor, shape (p, p)
        In units of loss over parameters squared.  At a kink of the loss it is what automatic
        differentiation takes it to be.

    Raises
    ------
    ValueError
        If an argument is out of its range, the loss is not finite, or the model is too large for a
        dense matrix.
    """
    problem = Problem(model, loss, inputs, targets).need_targets().need_small().checked(chunk_size)
    return torch.cat([rows for _, rows in hessian_rows(problem, chunk_size)])


def hessian_diagonal(
    model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor, *, chunk_size: int | None = None
) -> dict[str, Tensor]:
    """The exact diagonal of the Hessian, a tensor a parameter, by name.

    Arguments and errors as for :func:`hessian_matrix`.  BackPACK does it in about one backward
    pass an output where the model is an ``nn.Sequential`` of layers it knows; elsewhere it takes
    p Hessian-vector products: see :func:`hutchinson_diagonal` for large models.
    """
    problem = Problem(model, loss, inputs, targets).need_targets()
    if knows(problem):
        from backpack.extensions import DiagHessian

        return backpack_diagonal(problem, DiagHessian(), "diag_h", lambda value, n: value * n, chunk_size)
    pieces = [rows.diagonal(offset=start) for start, rows in hessian_rows(problem.checked(chunk_size), chunk_size)]
    return problem.unflatten(torch.cat(pieces))


def hutchinson_diagonal(
    model: nn.Module,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    *,
    samples: int = 100,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Estimate:
    """The diagonal of the Hessian as the mean of z ⊙ Hz over vectors z of independent signs.

    Unbiased; the variance of entry i is Σ_{j≠i} H_ij² / samples.

    Parameters
    ----------
    model, loss, inputs, targets
        As for :func:`hessian_matrix`.
    samples : int
        Probes z, at least 2.
    generator : torch.Generator, optional
        Source of the signs; torch's global one if none is given.
    chunk_size : int, optional
        Samples handled at once.  Without it one graph of the whole batch serves all probes, which
        is fastest; with it the graph of each chunk is built anew for each probe.

    Returns
    -------
    Estimate
        ``value`` and ``standard_error`` are dicts of tensors by parameter name.

    Notes
    -----
    Source: ``fisher`` eq. 3 (reconstructed).
    """
    problem = Problem(model, loss, inputs, targets).need_targets().checked(chunk_size)
    samples = _probes(samples)
    mean = torch.zeros_like(problem.vector)
    spread = torch.zeros_like(mean)
    for n, (probe, product) in enumerate(probed(problem, samples, generator, chunk_size), start=1):
        # Welford's update: the variance without the cancellation of a difference of two sums.
        deviation = probe * product - mean
        mean += deviation / n
        spread += deviation * (probe * product - mean)
    error = (spread / (samples - 1) / samples).sqrt()
    return Estimate(problem.unflatten(mean), problem.unflatten(error), samples)


def hessian_trace(
    model: nn.Module,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    *,
    method: str = "exact",
    samples: int = 100,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Estimate:
    """The trace of the Hessian.

    Parameters
    ----------
    model, loss, inputs, targets, generator, chunk_size
        As for :func:`hutchinson_diagonal`.
    method : {"exact", "hutchinson", "hutch++"}
        ``"exact"`` sums :func:`hessian_diagonal`.  ``"hutchinson"`` is the mean of zᵀHz, of
        variance 2 Σ_{i≠j} H_ij² / samples.  ``"hutch++"`` (curvlinops) takes the part of a random
        subspace exactly and probes the rest: better where few eigenvalues dominate.
    samples : int
        Hessian-vector products, at least 2; at least 12 for ``"hutch++"``, which divides them among
        4 runs, each with a multiple of 3.

    Returns
    -------
    Estimate
        For ``"exact"`` with the standard error 0 from 0 samples.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "exact":
        diagonal = hessian_diagonal(model, loss, inputs, targets, chunk_size=chunk_size)
        return Estimate(sum(float(value.sum()) for value in diagonal.values()), 0.0, 0)
    problem = Problem(model, loss, inputs, targets).need_targets().checked(chunk_size)
    samples = _probes(samples)
    if method == "hutch++":
        return _hutchpp(problem, samples, generator, chunk_size)
    values = [float(z @ product) for z, product in probed(problem, samples, generator, chunk_size)]
    return _estimate(values, samples)


def top_eigenvalues(
    model: nn.Module,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    *,
    count: int = 1,
    chunk_size: int | None = None,
) -> Tensor:
    """The ``count`` largest eigenvalues of the Hessian, in descending order, by Lanczos iteration.

    Arguments and errors as for :func:`hessian_matrix`.  "Largest" is algebraic: a saddle's most
    negative eigenvalue is not among them.  Lanczos by ARPACK to its full accuracy.  The
    result is a float64 tensor of shape (count,).
    """
    problem = Problem(model, loss, inputs, targets).need_targets().checked(chunk_size)
    if not 1 <= validate.count("count", count) <= problem.size:
        raise ValueError(f"count must be at most the model's {problem.size} parameters, got {count}")
    if count >= problem.size - 1:  # Lanczos needs room; such a matrix is tiny or wanted whole
        full = hessian_matrix(model, loss, inputs, targets, chunk_size=chunk_size)
        return torch.linalg.eigvalsh(full.double().cpu()).flip(0)[:count]
    start = np.random.default_rng(0).standard_normal(problem.size)
    operator = HessianMatrix(problem, chunk_size).to_scipy()
    largest = eigsh(operator, k=count, which="LA", v0=start.astype(operator.dtype), return_eigenvectors=False)
    return torch.from_numpy(np.sort(largest)[::-1].astype(float))


def _probes(samples: int) -> int:
    if validate.count("samples", samples) < 2:
        raise ValueError(f"samples must be at least 2, for a standard error, got {samples}")
    return samples


def _estimate(values: list[float], samples: int) -> Estimate:
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5), samples)


def _hutchpp(problem: Problem, samples: int, generator: torch.Generator | None, chunk_size: int | None) -> Estimate:
    with without_script_warning():
        from curvlinops import hutchpp_trace
    each = samples // RUNS // 3 * 3
    if each < 3:
        raise ValueError(f"samples must be at least {3 * RUNS} for hutch++, got {samples}")
    if each >= problem.size:
        below = f"samples must be below {RUNS * ((problem.size + 2) // 3 * 3)} for hutch++"
        raise ValueError(f"{below} and {problem.size} parameters, whose trace is cheap exactly, got {samples}")
    operator = HessianMatrix(problem, chunk_size)
    where = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**62, (1,), generator=generator, device=where))
    # curvlinops draws from the global generator, which is put back afterwards.
    with torch.random.fork_rng(), without_script_warning():
        torch.manual_seed(seed)
        values = [float(hutchpp_trace(operator, each)) for _ in range(RUNS)]
    return _estimate(values, each * RUNS)
