"""Sharpness-aware minimization as an optimizer: SAM and USAM, m-SAM, n-SAM, and RW-SAM.

Each step descends along the gradient at θ + ρd, where d is a gradient at θ: normalized (SAM) or not
(USAM), of the batch, of each of its micro-batches of m samples (m-SAM), of other samples (n-SAM), or
weighted by sample (RW-SAM).  What these steps do on average is in :mod:`companion.sam_drift`.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from companion import passes, validate
from companion.gibbs import (
    STEP,
    check_generator,
    gibbs_weights,
    gradient_norm_estimates,
    norms_from_losses,
    shifted_losses,
)
from companion.passes import Gradients, kept_buffers
from companion.sam_drift import drift, penalty

__all__ = ["RWSAM", "SAM", "drift", "gibbs_weights", "gradient_norm_estimates", "penalty"]


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization around any optimizer of ``torch.optim``.

    >>> optimizer = SAM(model, torch.optim.SGD, lr=0.1, rho=0.05)              # doctest: +SKIP
    >>> value = optimizer.step(nn.CrossEntropyLoss(reduction="none"), x, y)    # doctest: +SKIP

    ``step`` takes the loss and the batch, not a closure without arguments: micro-batches need a part of
    the batch and RW-SAM a loss a sample, which such a closure could not give.

    Parameters
    ----------
    model : nn.Module
        Trained in place, in the mode it is in.
    base : type
        Class of the base optimizer, made with ``options``; one whose step needs a closure (L-BFGS) is refused.
    rho : float
        ρ ≥ 0: distance of the perturbed point in units of parameters (USAM: of parameters per
        gradient).  At 0 the step is the base optimizer's.
    normalize : bool
        True: d = g/‖g‖, over all groups together (SAM), zero where g = 0; False: d = g (USAM).
    adaptive : bool
        d = θ²g/‖θg‖, entry by entry (ASAM); with ``normalize=False`` d = θ²g.
    micro_batch_size : int, optional
        m.  Each micro-batch is perturbed by its own gradient and the gradients are averaged over
        samples; the last one is smaller where m does not divide the batch.  By default the batch.
    parameters : iterable, optional
        Parameters or groups, as for ``torch.optim``; a group may have its own ``rho``.  By default
        the model's parameters that require gradients.
    **options
        Of the base optimizer.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Notes
    -----
    A learning-rate scheduler takes this object as it takes the base optimizer.  Both passes over a
    micro-batch see the same dropout masks; buffers (the running statistics of batch normalization)
    change once.  At the perturbed point the parameters are in other memory: a view of one, made before the
    step, does not see it.  Source: ``msharp``; normalization and groups as in Foret et al. (2021), the adaptive
    variant as in Kwon et al. (2021).
    """

    def __init__(
        self,
        model: nn.Module,
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        rho: float = 0.05,
        normalize: bool = True,
        adaptive: bool = False,
        micro_batch_size: int | None = None,
        parameters: Iterable | None = None,
        **options,
    ):
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, got {model!r}")
        if not (isinstance(base, type) and issubclass(base, torch.optim.Optimizer)):
            raise ValueError(f"base must be a class of torch.optim, as torch.optim.SGD is, got {base!r}")
        if issubclass(base, torch.optim.LBFGS):
            raise ValueError("base must step without a closure, got LBFGS")
        for name, flag in (("normalize", normalize), ("adaptive", adaptive)):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} must be True or False, got {flag!r}")
        self.model, self.normalize, self.adaptive = model, normalize, adaptive
        if micro_batch_size is not None:
            validate.count("micro_batch_size", micro_batch_size)
        self.micro_batch_size, self.steps = micro_batch_size, 0
        if parameters is None:
            parameters = [p for p in model.parameters() if p.requires_grad]
        super().__init__(parameters, {"rho": validate.non_negative("rho", rho)})
        for group in self.param_groups:
            validate.non_negative("rho", group["rho"])
        self.base = base(self.param_groups, **options)
        self._share_with_base()

    def _share_with_base(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self.defaults = {**self.defaults, **self.base.defaults}

    def step(self, loss, inputs: Tensor, targets: Tensor, *, perturbation_batch: tuple[Tensor, Tensor] | None = None):
        """One step; returns the mean loss of the batch, before the step, as a tensor without a graph.

        With ``perturbation_batch`` it is the loss at the perturbed point, the only one computed.

        Parameters
        ----------
        loss : callable
            ``loss(outputs, targets)`` with a value or a row a sample, as with ``reduction="none"``; it is
            averaged here.
        inputs, targets : Tensor, shapes (B, ...)
        perturbation_batch : pair of Tensor, optional
            Inputs and targets of the samples whose gradient perturbs: n-SAM if they are the training set.

        Raises
        ------
        ValueError
            If a loss or gradient is not finite: the message names the step and what to change.  Parameters,
            buffers and the base optimizer are then as before the step.
        """
        size = passes.checked_batch("inputs", inputs, targets)
        if perturbation_batch is not None:
            passes.checked_batch("perturbation_batch", *perturbation_batch)
        parameters, perturbed = self._trainable(), None
        value, mean = None, [None] * len(parameters)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # or its memory would be held through all passes
        with kept_buffers(self.model, only_on_error=True), torch.enable_grad():
            if perturbation_batch is not None:
                perturbed = self._aside(loss, *perturbation_batch, parameters)
            for batch in passes.micro_batches(inputs, targets, self.micro_batch_size or size):
                one, gradients = self._micro_step(loss, *batch, parameters, perturbed)
                share = len(batch[0]) / size
                value = passes.added(value, one, share)
                mean = [passes.added(total, g, share) for total, g in zip(mean, gradients, strict=True)]
            self._finite("gradient at the perturbed parameters", passes.joint_norm(mean))
        for parameter, gradient in zip(parameters, mean, strict=True):
            parameter.grad = gradient
        self.base.step()
        self.steps += 1
        return value

    def _aside(self, loss, inputs, targets, parameters) -> list[Tensor]:
        """The values that other samples perturb to; their passes leave buffers and randomness alone."""
        randomness = passes.Randomness(inputs.device)
        with kept_buffers(self.model):
            _, perturbed = self._climb(loss, inputs, targets, parameters)
        randomness.replay()
        return perturbed

    def _micro_step(self, loss, inputs, targets, parameters, perturbed) -> tuple[Tensor, Gradients]:
        """The mean loss of one micro-batch, and its gradient at the perturbed point."""
        if perturbed is not None:
            with passes.moved(parameters, perturbed):
                _, there = self._losses(loss, inputs, targets, "perturbed parameters")
                return there.detach(), passes.gradients_of(there, parameters)
        randomness = passes.Randomness(inputs.device)
        value, perturbed = self._climb(loss, inputs, targets, parameters)
        randomness.replay()
        with kept_buffers(self.model), passes.moved(parameters, perturbed):
            _, there = self._losses(loss, inputs, targets, "perturbed parameters")
            return value, passes.gradients_of(there, parameters)

    def _climb(self, loss, inputs, targets, parameters) -> tuple[Tensor, list[Tensor]]:
        """The mean loss at θ, and θ + ρd: along g by ρ/‖g‖, or for ASAM along θ²g by ρ/‖θg‖."""
        value, gradients = self._ascent(loss, inputs, targets, parameters)
        rhos = [group["rho"] for group in self.param_groups for p in group["params"] if p.requires_grad]
        if self.adaptive:
            gradients = passes.times(gradients, parameters)
        norm = self._finite("gradient at the parameters", passes.joint_norm(gradients))
        if self.adaptive:
            gradients = passes.times(gradients, parameters)
        if self.normalize:
            rhos = [rho / norm if norm else 0.0 for rho in rhos]
        return value, passes.displaced(parameters, gradients, rhos)

    def _ascent(self, loss, inputs, targets, parameters) -> tuple[Tensor, Gradients]:
        """The mean loss at θ, without a graph, and the gradient to perturb with."""
        _, mean = self._losses(loss, inputs, targets, "parameters")
        return mean.detach(), passes.gradients_of(mean, parameters)

    def _losses(self, loss, inputs, targets, where: str) -> tuple[Tensor, Tensor]:
        """The loss of each sample, and their mean, which is finite."""
        losses = passes.sample_losses(self.model, loss, inputs, targets)
        mean = losses.mean()
        if not math.isfinite(mean.item()):
            for name, values in (("inputs", inputs), ("targets", targets)):
                bad = values[~torch.isfinite(values)]
                if bad.numel():
                    raise ValueError(f"{name} must be finite, got {bad[0].item()} at step {self.steps}")
        self._finite(f"loss at the {where}", mean.item())
        return losses, mean

    def _trainable(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def _finite(self, what: str, value: float) -> float:
        if math.isfinite(value):
            return value
        lr, rho = (max(float(group[name]) for group in self.param_groups) for name in ("lr", "rho"))
        raise ValueError(f"the {what} became {value} at step {self.steps}; lower lr = {lr:g} or rho = {rho:g}")

    def add_param_group(self, param_group: dict) -> None:
        """As for ``torch.optim``; the group may have its own ``rho``."""
        if not hasattr(self, "base"):  # called by the constructor
            return super().add_param_group(param_group)
        group = {"rho": self.defaults["rho"], **param_group}
        validate.non_negative("rho", group["rho"])
        return self.base.add_param_group(group)

    def state_dict(self) -> dict:
        """The base optimizer's state, with every group's ρ, and the number of steps."""
        return {"base": self.base.state_dict(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict) -> None:
        """Continue where the optimizer stood that ``state_dict`` is from."""
        missing = {"base", "steps"} - set(state_dict)
        if missing:
            raise ValueError(f"state_dict must come from a SAM optimizer, it lacks {', '.join(sorted(missing))}")
        self.base.load_state_dict(state_dict["base"])
        self.steps = state_dict["steps"]
        self._share_with_base()


class RWSAM(SAM):
    """SAM whose perturbation weights each sample by p_i ∝ exp(η r_i), r_i its relative gradient norm.

    >>> optimizer = RWSAM(model, torch.optim.SGD, lr=0.1, rho=0.05,
    ...                   generator=torch.Generator().manual_seed(0))          # doctest: +SKIP

    The norms come from Q forward passes; the update is the plain gradient at the perturbed point.

    Parameters
    ----------
    model, base, rho, normalize, adaptive, micro_batch_size, parameters, options
        As for :class:`SAM`.
    eta : float
        η; 0 is SAM, and no norm is then estimated.
    delta, probes
        δ and Q, as for :func:`~companion.gibbs.gradient_norm_estimates`.
    generator : torch.Generator
        Source of the random signs; its state is part of ``state_dict``.

    Notes
    -----
    ``msharp`` mechanism 2 (reconstructed).  At Q = 1 a step has two forward and two backward passes, as
    SAM has, and one forward pass more.
    """

    def __init__(
        self,
        model: nn.Module,
        base: type[torch.optim.Optimizer] = torch.optim.SGD,
        *,
        eta: float = 1.0,
        delta: float = STEP,
        probes: int = 1,
        generator: torch.Generator,
        **options,
    ):
        self.eta, self.delta = validate.number("eta", eta), validate.positive("delta", delta)
        self.probes, self.generator = validate.count("probes", probes), check_generator(generator)
        super().__init__(model, base, **options)

    def _ascent(self, loss, inputs, targets, parameters) -> tuple[Tensor, Gradients]:
        if self.eta == 0:
            return super()._ascent(loss, inputs, targets, parameters)
        # Before the pass at θ, which then draws the same dropout masks.
        probe = {"delta": self.delta, "probes": self.probes, "generator": self.generator}
        shifted = shifted_losses(self.model, loss, inputs, targets, parameters, **probe)
        losses, mean = self._losses(loss, inputs, targets, "parameters")
        self._finite(f"loss at a distance delta = {self.delta:g}", shifted.mean().item())
        weights = gibbs_weights(norms_from_losses(losses.detach(), shifted, self.delta), self.eta)
        return mean.detach(), passes.gradients_of(weights @ losses, parameters)

    def state_dict(self) -> dict:
        """As for :class:`SAM`, with the state of the generator."""
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Continue where the optimizer stood that ``state_dict`` is from."""
        if "generator" not in state_dict:
            raise ValueError("state_dict must come from an RWSAM optimizer, it lacks generator")
        super().load_state_dict(state_dict)
        self.generator.set_state(state_dict["generator"])
