"""Every measure of one trained network that could say how well it generalizes, as one dict of numbers.

None has seen the test set.  ``held_out_*`` and ``shift_*`` use labelled images that were not trained on,
``log_prior`` the same images without their labels; the others the training set, wrong labels included.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from companion.expectation_propagation import log_prior_probability
from companion.experiments.who_predicts_bounds import pac_bayes_bounds
from companion.experiments.who_predicts_shift import shift_measures
from companion.fisher import fisher_diagonal, minibatch_squared_diagonal
from companion.hessian import hessian_diagonal, top_eigenvalues
from companion.nngp import nngp_kernel
from companion.noise import gradient_covariance_diagonal
from companion.per_sample import batch_indices, sample_pullbacks, square_root_columns
from companion.problem import Problem, flatten
from companion.sharpness import (
    adam_adjusted_sharpness,
    average_sharpness,
    fisher_rao_norm,
    keskar_sharpness,
    worst_case_sharpness,
)

LOSS = nn.CrossEntropyLoss()
EXACT_DAMPINGS = (0.0, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
DAMPINGS = (1e-8, 1e-6, 1e-4, 1e-2)  # where the metric is noisy or singular
DENSE_DAMPINGS = (0.0, 1e-4, 1e-2, 1e-1)
DENSE_SAMPLES = 50  # of the training set, evenly spaced in it, behind the dense matrices
BATCHES = 20  # mini-batches behind an average of squares
ADAM_DAMPING = 1e-8
BOX = 1e-4  # ζ of ``prior`` table 1
RISE = {"steps": 10, "restarts": 1}
BALL, ADAPTIVE_BALL = 0.1, 0.5
CLOUD, ADAPTIVE_CLOUD, PAIRS = 0.02, 0.2, 20
PRIOR_SCALES = {"depth": 2, "weight_scale": 2**0.5, "bias_scale": 0.0}  # as the weights are drawn
EP_TOLERANCE = 1e-5


@dataclass(frozen=True)
class AttackSplit:
    """Two classes of images: a training set whose last samples are labelled wrongly, and two sets without errors.

    Attributes
    ----------
    inputs, targets : Tensor, shapes (N + |A|, pixels) and (N + |A|,)
        S, then the attack set A.
    clean : int
        N = |S|.
    held_inputs, held_targets, test_inputs, test_targets : Tensor
        Neither shares an image with the other or with the training set.
    """

    inputs: Tensor
    targets: Tensor
    clean: int
    held_inputs: Tensor
    held_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def all_measures(
    model: nn.Sequential, start: nn.Sequential, split: AttackSplit, *, batch_size: int, seed: int
) -> dict[str, float | None]:
    """Everything that is measured again after a rescaling: all but log P(f) and what Adam remembers.

    Parameters
    ----------
    model, start : nn.Sequential
        The trained network in float32, and as it was before training.
    split : AttackSplit
    batch_size : int
        B of the training, for the averages over mini-batches.
    seed : int
        Of probes, mini-batches and sampled labels: the same ones for every model of a seed.

    Returns
    -------
    dict of str to float
        None where a measure has no finite value, as the shift of a network that diverges on the
        held-out set.
    """
    data = (split.inputs, split.targets)
    exact = copy.deepcopy(model).double()
    outputs = function_measures(model, split)
    measured = {
        **outputs,
        **norm_measures(exact, copy.deepcopy(start).double(), split, outputs["margin"]),
        **diagonal_measures(exact, split, batch_size, seed),
        **dense_measures(exact, split),
        **rise_measures(model, *data, seed),
        **pac_bayes_bounds(model, start, split.inputs[: split.clean], split.targets[: split.clean], seed),
        **shift_measures(model, split.held_inputs, split.held_targets, seed),
    }
    return {name: _finite(value) for name, value in measured.items()}


@torch.no_grad()
def function_measures(model: nn.Module, split: AttackSplit) -> dict[str, float]:
    """What depends on the outputs alone; the margin is the 10 % quantile of the difference of the outputs."""
    training, held, test = (model(x) for x in (split.inputs, split.held_inputs, split.test_inputs))
    signed = (training[:, 1] - training[:, 0]) * (2 * split.targets - 1)
    return {
        "train_error": _error(training, split.targets),
        "train_loss": float(LOSS(training, split.targets)),
        "margin": float(signed.quantile(0.1)),
        "held_out_error": _error(held, split.held_targets),
        "held_out_loss": float(LOSS(held, split.held_targets)),
        "test_error": _error(test, split.test_targets),
        "test_loss": float(LOSS(test, split.test_targets)),
    }


def log_prior(model: nn.Module, split: AttackSplit) -> float:
    """ln P(f) of the model's labels on S and on the held-out images, in nats, by expectation propagation.

    The prior is that of the infinitely wide ReLU network with the weights' law before training and no
    biases; for a tanh network it is still this one.  The difference of the two outputs has the
    process of one output, scaled, and labels depend on its sign alone.
    """
    points = torch.cat([split.inputs[: split.clean], split.held_inputs]).double()
    with torch.no_grad():
        labels = 2 * model(points.to(next(model.parameters()).dtype)).argmax(1).cpu().numpy() - 1
    kernel = nngp_kernel(points.cpu().numpy(), **PRIOR_SCALES)
    return log_prior_probability(kernel, labels, tolerance=EP_TOLERANCE).value


@torch.no_grad()
def norm_measures(
    model: nn.Sequential, start: nn.Sequential, split: AttackSplit, margin: float
) -> dict[str, float | None]:
    """Lengths: of weights, way from the start and gradient, in the Fisher metric, and over the margin; in float64."""
    weights, before = (nn.utils.parameters_to_vector(m.parameters()) for m in (model, start))
    spectral = float(np.prod([float(torch.linalg.matrix_norm(p, 2)) for p in model.parameters() if p.ndim == 2]))
    inputs = split.inputs.double()
    problem = Problem(model, LOSS, inputs, split.targets)
    with torch.enable_grad():
        gradient = torch.func.grad(problem.sum_of)(problem.parameters, inputs, split.targets)
    return {
        "norm": float(weights.norm()),
        "distance": float((weights - before).norm()),
        "spectral_over_margin": spectral / margin if margin else None,
        "fisher_rao": fisher_rao_norm(model, LOSS, inputs),
        "gradient_norm": float(flatten(gradient).norm()),
    }


def diagonal_measures(model: nn.Sequential, split: AttackSplit, batch_size: int, seed: int) -> dict[str, float | None]:
    """tr H, tr D and every ratio of diagonals; ``model`` in float64."""
    x, y = split.inputs.double(), split.targets
    hessian = flatten(hessian_diagonal(model, LOSS, x, y))
    fisher = flatten(fisher_diagonal(model, LOSS, x))
    noise = flatten(gradient_covariance_diagonal(model, LOSS, x, y))
    sampled = flatten(fisher_diagonal(model, LOSS, x, fisher="mc", generator=_generator(seed, 1)))
    batches = {"batch_size": min(batch_size, len(x)), "batches": BATCHES}
    squared = flatten(minibatch_squared_diagonal(model, LOSS, x, **batches, generator=_generator(seed, 2)))
    adam = flatten(squared_gradients(model, x, y, **batches, generator=_generator(seed, 3)))
    return {
        "trace_hessian": float(hessian.sum()),
        "trace_fisher": float(fisher.sum()),
        "trace_noise": float(noise.sum()),
        **{f"riemannian_exact_{e:g}": ratio(hessian, fisher, e) for e in EXACT_DAMPINGS},
        **{f"riemannian_mc_{e:g}": ratio(hessian, sampled, e) for e in DAMPINGS},
        **{f"riemannian_batch_{e:g}": ratio(hessian, squared, e) for e in DAMPINGS},
        **{f"noise_metric_{e:g}": ratio(hessian, noise, e) for e in DAMPINGS},
        **{f"takeuchi_{e:g}": ratio(noise, hessian.clamp_min(0), e) for e in DAMPINGS},
        "adam_adjusted": ratio(hessian, adam.sqrt(), ADAM_DAMPING),
    }


def adam_state_sharpness(model: nn.Sequential, split: AttackSplit, optimizer: torch.optim.Optimizer) -> float | None:
    """The Adam-adjusted sharpness from the optimizer's own running averages; None for an optimizer without."""
    if not isinstance(optimizer, torch.optim.Adam):
        return None
    measured = adam_adjusted_sharpness(model, LOSS, split.inputs, split.targets, optimizer, damping=ADAM_DAMPING)
    return _finite(measured)


def dense_measures(model: nn.Sequential, split: AttackSplit) -> dict[str, float]:
    """tr((F + εI)⁻¹H) of the whole matrices, both on the same few training samples; ``model`` in float64."""
    picked = torch.linspace(0, len(split.inputs) - 1, min(DENSE_SAMPLES, len(split.inputs))).round().long()
    picked = picked.to(split.inputs.device)
    traces = low_rank_traces(model, split.inputs[picked].double(), split.targets[picked], DENSE_DAMPINGS)
    return {f"riemannian_dense_{e:g}": value for e, value in traces.items()}


def low_rank_traces(model: nn.Sequential, x: Tensor, y: Tensor, dampings: tuple[float, ...]) -> dict[float, float]:
    """tr((F + εI)⁻¹H), with F⁺ at ε = 0, of a model with more parameters than fit in a matrix.

    F has the range of n·C vectors, and off it (F + εI)⁻¹ is 1/ε: with the eigenvectors u of F that have
    an eigenvalue λ > 0, it is Σ uᵀHu/(λ + ε) + (tr H - Σ uᵀHu)/ε.

    Parameters
    ----------
    model : nn.Sequential
        In float64, with exact diagonals.
    x, y : Tensor, shapes (n, ...) and (n,)
    dampings : tuple of float

    Returns
    -------
    dict
        The trace by ε.
    """
    problem = Problem(model, LOSS, x, y).need_targets().checked()
    with torch.no_grad():
        columns = square_root_columns(LOSS, problem.outputs(problem.parameters, x))
    pulled = [sample_pullbacks(problem, x, column) for column in columns.unbind(1)]
    rows = torch.cat([torch.cat([v.flatten(1) for v in p.values()], dim=1) for p in pulled]) / len(x) ** 0.5
    eigenvalues, vectors = torch.linalg.eigh(rows @ rows.T)
    active = eigenvalues > len(rows) * torch.finfo(rows.dtype).eps * eigenvalues[-1]
    eigenvalues = eigenvalues[active]
    along = (vectors[:, active].T @ rows) / eigenvalues.sqrt()[:, None]
    gradient = torch.func.grad(lambda at: problem.sum_of(problem.unflatten(at), x, y))
    _, pullback = torch.func.vjp(gradient, problem.vector)
    products = torch.func.vmap(lambda u: u @ pullback(u)[0], chunk_size=25)(along)
    rest = float(flatten(hessian_diagonal(model, LOSS, x, y)).sum() - products.sum())
    return {e: float((products / (eigenvalues + e)).sum()) + (rest / e if e else 0.0) for e in dampings}


def rise_measures(model: nn.Sequential, x: Tensor, y: Tensor, seed: int) -> dict[str, float]:
    """Rises of the training loss in a box, in balls and in clouds, and the largest eigenvalue of H."""
    adaptive, draws = {"adaptive": True}, {"samples": PAIRS}
    worst = {"generator": _generator(seed, 4), **RISE}
    cloud = {"generator": _generator(seed, 5), **draws}
    return {
        "keskar": keskar_sharpness(model, LOSS, x, y, rho=BOX, **adaptive, **worst),
        "worst_case": worst_case_sharpness(model, LOSS, x, y, rho=BALL, **worst),
        "worst_case_adaptive": worst_case_sharpness(model, LOSS, x, y, rho=ADAPTIVE_BALL, **adaptive, **worst),
        "average": average_sharpness(model, LOSS, x, y, rho=CLOUD, **cloud).value,
        "average_adaptive": average_sharpness(model, LOSS, x, y, rho=ADAPTIVE_CLOUD, **adaptive, **cloud).value,
        "top_eigenvalue": float(top_eigenvalues(model, LOSS, x, y)[0]),
    }


def squared_gradients(
    model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int, batches: int, generator: torch.Generator
) -> Mapping[str, Tensor]:
    """The squared mean gradient of a mini-batch with its own labels, averaged: what Adam would remember here."""
    problem = Problem(model, LOSS, x, y)
    mean_loss = torch.func.grad(lambda at, a, b: problem.loss(problem.outputs(at, a), b))
    total = {name: torch.zeros_like(value) for name, value in problem.parameters.items()}
    for _ in range(batches):
        batch = batch_indices(len(x), batch_size, generator).to(x.device)
        for name, value in mean_loss(problem.parameters, x[batch], y[batch]).items():
            total[name] += value.square() / batches
    return total


def ratio(numerator: Tensor, denominator: Tensor, damping: float) -> float | None:
    """Σᵢ aᵢ/(bᵢ + ε), without the entries where both vanish; None where bᵢ + ε alone does."""
    dead = denominator + damping == 0
    if (numerator[dead] != 0).any():
        return None
    return float((numerator[~dead] / (denominator[~dead] + damping)).sum())


def _error(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) != targets).double().mean())


def _finite(value: float | None) -> float | None:
    """The value to eight digits, or None where there is none."""
    return float(f"{value:.8g}") if value is not None and np.isfinite(value) else None


def _generator(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(1_000 * seed + purpose)
