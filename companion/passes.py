"""Repeated passes of one batch through a network at moved parameters, with nothing else changed between them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Gradients = Sequence[Tensor | None]  # None for a parameter that the loss does not depend on


def checked_batch(name: str, inputs: Tensor, targets: Tensor) -> int:
    """The number of samples, if it is at least one and there are as many targets."""
    size, labels = len(inputs), len(targets)
    if not size or size != labels:
        sizes = f"{size} samples and {labels} targets"
        raise ValueError(f"{name} must have at least one sample and a target for each, got {sizes}")
    return size


def micro_batches(inputs: Tensor, targets: Tensor, size: int) -> Iterable[tuple[Tensor, Tensor]]:
    """The batch in pieces of ``size`` samples, the last one smaller where that does not divide it."""
    if size >= len(inputs):
        return [(inputs, targets)]
    return zip(inputs.split(size), targets.split(size), strict=True)


def sample_losses(model: nn.Module, loss, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each sample, shape (n,): ``loss(model(inputs), targets)`` averaged over all but its first axis.

    Raises
    ------
    ValueError
        If ``loss`` does not return one value or one row a sample.
    """
    values = loss(model(inputs), targets)
    if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != len(inputs):
        got = tuple(values.shape) if isinstance(values, Tensor) else values
        raise ValueError(
            f"loss must return a value a sample, as with reduction='none'; for {len(inputs)} samples got shape {got}"
        )
    return values.flatten(1).mean(1) if values.ndim > 1 else values


def gradients_of(value: Tensor, parameters: Sequence[Tensor]) -> Gradients:
    """The gradient of a number in each parameter; the parameters' own ``grad`` is left alone."""
    return torch.autograd.grad(value, parameters, allow_unused=True)


def joint_norm(gradients: Gradients) -> float:
    """The Euclidean norm of all gradients together."""
    norms = [torch.linalg.vector_norm(g) for g in gradients if g is not None]
    if not norms:
        return 0.0
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms])).item()


def times(gradients: Gradients, parameters: Sequence[Tensor]) -> Gradients:
    """Each gradient times its parameter, entry by entry."""
    return [None if g is None else g * p.detach() for g, p in zip(gradients, parameters, strict=True)]


def added(total: Tensor | None, gradient: Tensor | None, share: float) -> Tensor | None:
    """``total`` + share · gradient, with None for zero; ``total`` is changed in place."""
    if gradient is None:
        return total
    if total is not None:
        return total.add_(gradient, alpha=share)
    return gradient if share == 1 else gradient * share


def displaced(parameters: Sequence[Tensor], directions: Gradients, scales: Sequence[float]) -> list[Tensor]:
    """θ + scale · direction, each parameter with its scale, in new memory; a None in ``directions`` moves nothing."""
    return [
        p.data if d is None or not scale else torch.add(p.data, d, alpha=scale)
        for p, d, scale in zip(parameters, directions, scales, strict=True)
    ]


@contextmanager
def moved(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """The parameters at these values; afterwards, or after an error, at the old ones.

    Each parameter lends its name to other memory and gets its own back, which nobody wrote to: the old bits without
    a copy.  What else shares that memory, such as a view made before, does not move.
    """
    before = [p.data for p in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data = value


@contextmanager
def kept_buffers(model: nn.Module, *, only_on_error: bool = False) -> Iterator[None]:
    """Puts the model's buffers, such as batch normalization's running statistics, back to what they were."""
    saved = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    failed = True
    try:
        yield
        failed = False
    finally:
        if failed or not only_on_error:
            with torch.no_grad():
                for module, name, buffer, value in saved:
                    buffer.copy_(value)
                    module._buffers[name] = buffer


class Randomness:
    """The state of torch's default generators, which dropout draws from, on the CPU and one other device."""

    def __init__(self, device: torch.device):
        self._cuda = device if device.type == "cuda" else None
        self._cpu_state = torch.get_rng_state()
        self._cuda_state = torch.cuda.get_rng_state(device) if self._cuda else None

    def replay(self) -> None:
        """From here on the draws that followed the making of this object come again."""
        torch.set_rng_state(self._cpu_state)
        if self._cuda:
            torch.cuda.set_rng_state(self._cuda_state, self._cuda)
