"""Networks of one shape trained as one batched model, for a GPU on which a single small one is mostly waiting."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from companion.training import OPTIMIZERS


class Batch:
    """K networks with stacked parameters.

    Parameters
    ----------
    models : sequence of nn.Module
        Of one architecture, without buffers; they are brought up to date after every epoch.
    optimizer : {"sgd", "adam"}
    learning_rates : sequence of float
        λ of each network; for Adam all equal, since its step is not linear in a gradient's scale.
    """

    def __init__(self, models: Sequence[nn.Module], optimizer: str, learning_rates: Sequence[float]):
        if optimizer == "adam" and len(set(learning_rates)) > 1:
            raise ValueError(f"learning_rates must be equal for adam, got {sorted(set(learning_rates))}")
        self.models = models
        stacked, buffers = stack_module_state(list(models))
        if buffers:
            raise ValueError(f"models must have no buffers, got {', '.join(buffers)}")
        self.parameters = {name: nn.Parameter(value.detach().clone()) for name, value in stacked.items()}
        # SGD gets its learning rate with the gradient, one a network.
        self.rates = next(iter(self.parameters.values())).detach().new_tensor(learning_rates)
        self.scaled = optimizer == "sgd"
        self.rate = 1.0 if self.scaled else learning_rates[0]
        self.optimizer = OPTIMIZERS[optimizer](list(self.parameters.values()), lr=self.rate)

    def step(self, loss: Callable, inputs: Tensor, targets: Tensor, factor: float) -> Tensor:
        """One step of every network on a batch of its own, shapes (K, B, ...); the losses before it, (K,)."""

        def value(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return loss(functional_call(self.models[0], parameters, (x,)), y)

        detached = {name: parameter.detach() for name, parameter in self.parameters.items()}
        gradients, losses = vmap(grad_and_value(value))(detached, inputs, targets)
        for name, parameter in self.parameters.items():
            scale = (factor * self.rates).view(-1, *[1] * (parameter.dim() - 1)) if self.scaled else 1.0
            parameter.grad = gradients[name] * scale
        self.optimizer.step()
        return losses

    def write_back(self) -> None:
        """Give every network its parameters."""
        with torch.no_grad():
            for k, model in enumerate(self.models):
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.parameters[name][k])

    def second_moments(self, k: int) -> dict[str, Tensor]:
        """Adam's average of squared gradients of network ``k``, with its bias correction."""
        states = {name: self.optimizer.state[parameter] for name, parameter in self.parameters.items()}
        decay = self.optimizer.param_groups[0]["betas"][1]
        return {name: s["exp_avg_sq"][k] / (1 - decay ** float(s["step"])) for name, s in states.items()}


def train_together(
    batch: Batch,
    loss: Callable,
    inputs: Tensor,
    targets: Tensor,
    *,
    batch_size: int,
    epochs: int,
    generators: Sequence[torch.Generator],
    decay: Callable[[int], float] = lambda epoch: 1.0,
) -> Iterator[tuple[int, Tensor]]:
    """What :func:`companion.training.train_epochs` does, for every network of the batch.

    Parameters
    ----------
    batch : Batch
    loss, inputs, targets, batch_size, epochs
        As there; the data are the same for all.
    generators : sequence of torch.Generator
        Source of each network's shuffles, on the CPU.
    decay : callable
        Factor of the learning rates by the number of epochs done.

    Yields
    ------
    int, Tensor
        The number of epochs done and the networks' last losses, shape (K,); one that has diverged has
        a loss that is not finite, and leaves the others alone.
    """
    losses = torch.empty(0)
    for epoch in range(1, epochs + 1):
        orders = torch.stack([torch.randperm(len(inputs), generator=g) for g in generators]).to(inputs.device)
        if not batch.scaled:
            for group in batch.optimizer.param_groups:
                group["lr"] = batch.rate * decay(epoch - 1)
        for start in range(0, len(inputs) - batch_size + 1, batch_size):
            chosen = orders[:, start : start + batch_size]
            losses = batch.step(loss, inputs[chosen], targets[chosen], decay(epoch - 1))
        batch.write_back()
        yield epoch, losses
