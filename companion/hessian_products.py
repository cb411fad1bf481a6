"""Products of a training loss's Hessian with vectors, by reverse mode over reverse mode."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.func import grad, vjp, vmap

from companion.problem import Problem

COLUMNS = 64  # columns of a dense Hessian computed at once


def hessian_rows(problem: Problem, chunk_size: int | None) -> Iterator[tuple[int, Tensor]]:
    """The Hessian's rows, ``COLUMNS`` at a time, each with the index of the first."""
    size = problem.size
    for start in range(0, size, COLUMNS):
        stop = min(start + COLUMNS, size)
        units = torch.zeros(stop - start, size, dtype=problem.vector.dtype, device=problem.inputs.device)
        units[torch.arange(stop - start), torch.arange(start, stop)] = 1
        rows = torch.zeros_like(units)
        for inputs, targets in problem.chunks(chunk_size):
            rows += vmap(_product(problem, inputs, targets))(units)
        yield start, rows


def _product(problem: Problem, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """z ↦ these samples' part of Hz, through one gradient graph that serves every z."""
    at = grad(lambda vector: problem.sum_of(problem.unflatten(vector), inputs, targets))
    _, pullback = vjp(at, problem.vector)  # H is symmetric: its transpose's product is its own
    return lambda probe: pullback(probe)[0]


def probed(
    problem: Problem, samples: int, generator: torch.Generator | None, chunk_size: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """``samples`` pairs (z, Hz) with z of independent signs."""
    where = problem.inputs.device if generator is None else generator.device
    product = hessian_product(problem, chunk_size)
    for _ in range(samples):
        signs = torch.randint(2, (problem.size,), generator=generator, device=where)
        probe = (2 * signs - 1).to(problem.vector)
        yield probe, product(probe)


def hessian_product(problem: Problem, chunk_size: int | None) -> Callable[[Tensor], Tensor]:
    """z ↦ Hz, with one graph for all z or, in chunks, with a new one for each."""
    if chunk_size is None or chunk_size >= len(problem):
        return _graph(problem, problem.inputs, problem.targets)
    return lambda probe: sum(_graph(problem, *piece)(probe) for piece in problem.chunks(chunk_size))


def _graph(problem: Problem, inputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
    """As :func:`_product`, by plain autograd, which is faster for one probe at a time."""
    leaves = {name: value.clone().requires_grad_(True) for name, value in problem.parameters.items()}
    with torch.enable_grad():
        total = problem.sum_of(leaves, inputs, targets)
        gradients = torch.autograd.grad(total, list(leaves.values()), create_graph=True, materialize_grads=True)
    live = [i for i, g in enumerate(gradients) if g.requires_grad]  # the others are constant

    def product(probe: Tensor) -> Tensor:
        along = list(problem.unflatten(probe).values())
        curved, along = [gradients[i] for i in live], [along[i] for i in live]
        options = {"retain_graph": True, "materialize_grads": True}
        back = torch.autograd.grad(curved, list(leaves.values()), along, **options) if live else [0 * probe]
        return torch.cat([value.reshape(-1) for value in back])

    return product


class HessianMatrix:
    """What curvlinops' estimators ask of a matrix: its shape, its place and products with columns.

    Not curvlinops' own Hessian: that differentiates the gradient in forward mode, for which PyTorch has a
    wrong formula behind ``nn.LayerNorm`` and none behind ``nn.GroupNorm``.
    """

    def __init__(self, problem: Problem, chunk_size: int | None):
        self.product = hessian_product(problem, chunk_size)
        self.shape = (problem.size, problem.size)
        self.dtype, self.device = problem.vector.dtype, problem.vector.device

    def __matmul__(self, columns: Tensor) -> Tensor:
        return torch.stack([self.product(column) for column in columns.mT], dim=1)

    def to_scipy(self) -> LinearOperator:
        def matvec(vector: np.ndarray) -> np.ndarray:
            return self.product(torch.as_tensor(vector, dtype=self.dtype, device=self.device)).cpu().numpy()

        return LinearOperator(self.shape, matvec, dtype=torch.empty(0, dtype=self.dtype).numpy().dtype)
