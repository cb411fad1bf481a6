"""Networks of one architecture trained as one batch with plain SGD, and what is measured on each of them."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from companion.experiments.solvable_labels import LOSSES, misfit, output_hessian
from companion.hessian import hessian_matrix, hessian_trace, top_eigenvalues

DENSE = 1000  # parameters up to which the whole Hessian is built
CHUNK = 50  # samples whose Jacobians are held at once
MEASURES = ("trace", "top", "misfit", "fluctuation", "gauss_newton")


class Networks:
    """Copies of networks that do not feel each other, with stacked parameters.

    Parameters
    ----------
    models : sequence of nn.Module
        Of one architecture, S of them; what they are trained on has S·copies as leading axis.
    copies : int
        How often each of them is taken, K; the copies of one model are neighbours.
    """

    def __init__(self, models: Sequence[nn.Module], copies: int):
        self.template = models[0]
        named = [dict(model.named_parameters()) for model in models]
        self.parameters = {
            name: torch.stack([parameters[name].detach() for parameters in named])
            .repeat_interleave(copies, 0)
            .requires_grad_()
            for name in named[0]
        }

    def copied(self) -> "Networks":
        """The same networks at the same place, to go on from there another way."""
        other = copy.copy(self)
        other.parameters = {name: value.detach().clone().requires_grad_() for name, value in self.parameters.items()}
        return other

    def step(self, loss: Callable, inputs: Tensor, labels: Tensor, learning_rate: float) -> None:
        """One step of gradient descent of each network on its own inputs and labels, (S·K, B, ...)."""
        outputs = vmap(lambda parameters, x: functional_call(self.template, parameters, (x,)))(self.parameters, inputs)
        # The loss is a mean over all; times their number it is the sum of each network's own.
        gradients = torch.autograd.grad(loss(outputs, labels) * len(outputs), list(self.parameters.values()))
        with torch.no_grad():
            for value, gradient in zip(self.parameters.values(), gradients, strict=True):
                value.sub_(gradient, alpha=learning_rate)

    def model(self, number: int) -> nn.Module:
        """One of the networks, as a float64 module of its own."""
        model = copy.deepcopy(self.template)
        model.load_state_dict({name: value[number].detach() for name, value in self.parameters.items()}, strict=False)
        return model.double()


def measured(model: nn.Module, loss: str, inputs: Tensor, mean: Tensor, covariances: Tensor) -> dict | None:
    """What is measured on a network, on the loss against the mean labels, which the full batch sees.

    Parameters
    ----------
    model : nn.Module
        float64.
    loss : {"squared", "cross-entropy"}
    inputs, mean : Tensor, shapes (N, ...) and (N, C)
        float64.
    covariances : Tensor, shape (N, C, C)
        Σ_ε of each sample's label.

    Returns
    -------
    dict or None
        ``trace`` and ``top``, the trace and the largest eigenvalue of the Hessian, exact; ``misfit``, the
        loss above its least value; ``fluctuation``, the part of E‖∂ℓ‖² that the label noise causes, which at
        an exact fit is all of tr D; ``gauss_newton``, the trace of the Gauss-Newton matrix, which at an
        exact fit is tr H.  None if the network has diverged.
    """
    if not all(torch.isfinite(value).all() for value in model.parameters()):
        return None
    with torch.no_grad():
        outputs = model(inputs)
    function, passed_on = LOSSES[loss]
    grams = output_grams(model, inputs)
    trace, top = _trace_and_top(model, function, inputs, mean)
    return {
        "trace": trace,
        "top": top,
        "misfit": misfit(loss, outputs, mean),
        "fluctuation": passed_on**2 * float((grams * covariances).sum((1, 2)).mean()),
        "gauss_newton": float((grams * output_hessian(loss, outputs)).sum((1, 2)).mean()),
    }


def output_grams(model: nn.Module, inputs: Tensor) -> Tensor:
    """JJᵀ of each sample, J being the derivative of its outputs by the parameters; shape (N, C, C)."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def outputs(values: dict, one_input: Tensor) -> Tensor:
        return functional_call(model, values, (one_input[None],))[0]

    grams = []
    for piece in inputs.split(CHUNK):
        jacobians = vmap(jacrev(outputs), (None, 0))(parameters, piece)
        grams.append(sum(j.flatten(2) @ j.flatten(2).mT for j in jacobians.values()))
    return torch.cat(grams)


def _trace_and_top(model: nn.Module, function: Callable, inputs: Tensor, mean: Tensor) -> tuple[float, float]:
    if sum(value.numel() for value in model.parameters()) <= DENSE:
        eigenvalues = torch.linalg.eigvalsh(hessian_matrix(model, function, inputs, mean))
        return float(eigenvalues.sum()), float(eigenvalues[-1])
    if function is LOSSES["squared"][0]:  # as a loss that has a fast exact diagonal: a mean over outputs as well
        trace = mean.shape[1] * hessian_trace(model, nn.MSELoss(), inputs, mean).value
    else:
        trace = hessian_trace(model, function, inputs, mean).value
    return trace, float(top_eigenvalues(model, function, inputs, mean)[0])
