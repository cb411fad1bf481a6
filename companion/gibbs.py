"""Norms of per-sample gradients from forward passes alone, and the Gibbs weights that RW-SAM makes of them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from companion import validate
from companion.passes import Randomness, kept_buffers, moved, sample_losses

STEP = 1e-4  # δ: float32 rounds the loss by 1e-7, so the quotient by 1e-3


def gradient_norm_estimates(
    model: nn.Module,
    loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    delta: float = STEP,
    probes: int = 1,
    generator: torch.Generator,
) -> Tensor:
    r"""Estimate ‖∂U_i‖ for every sample by √((1/Q) Σ_q s_q²), s_q = (U_i(θ + δς_q) - U_i(θ))/δ.

    Parameters
    ----------
    model : nn.Module
        In the mode it is in; all its passes see the same dropout masks.  Its buffers and the state of torch's
        default generators are left as they were.
    loss : callable
        ``loss(outputs, targets)`` with a value or a row a sample, as with ``reduction="none"``.
    inputs, targets : Tensor, shapes (n, ...)
    delta : float
        δ > 0, in units of parameters.  All p parameters move by δ, so θ moves by δ√p.
    probes : int
        Number Q of vectors ς of random signs; Q + 1 forward passes, no backward one.
    generator : torch.Generator
        Source of the signs.

    Returns
    -------
    Tensor, shape (n,)
        In units of the loss over parameters.

    Raises
    ------
    ValueError
        If an argument is out of its range or a loss is not finite.

    Notes
    -----
    ``msharp`` eq. 21 (reconstructed).  With a = ςᵀ∂U_i and b = ςᵀH_iς a quotient is a + δb/2 + O(δ²):
    a single one is off by O(δ).  But replacing ς by -ς turns s(δ) into -s(-δ), so the mean of s² is
    even in δ,

        E s² = ‖∂U_i‖² + δ² E[b²/4 + ac/3] + O(δ⁴),   c = ∂³U_i[ς, ς, ς],

    and its bias is O(δ²) without central differences.  As δ → 0 the variance of the mean of Q squares
    is 2(‖g‖⁴ - Σ_k g_k⁴)/Q.  The root is biased low (Jensen): at Q = 1 its mean is E|ςᵀg|, between
    ‖g‖/√2 and ‖g‖ (Khinchine's inequality with Szarek's constant), near √(2/π)‖g‖ where no entry dominates.
    """
    delta, probes = validate.positive("delta", delta), validate.count("probes", probes)
    parameters = [p for p in model.parameters() if p.requires_grad]
    randomness = Randomness(inputs.device)
    shifted = shifted_losses(
        model, loss, inputs, targets, parameters, delta=delta, probes=probes, generator=generator
    )
    with torch.no_grad(), kept_buffers(model):
        losses = sample_losses(model, loss, inputs, targets)
    randomness.replay()
    if not (torch.isfinite(losses).all() and torch.isfinite(shifted).all()):
        where = "at the parameters" if not torch.isfinite(losses).all() else f"at a distance delta = {delta:g}"
        raise ValueError(f"loss must be finite, got {losses.sum().item() + shifted.sum().item()} {where}")
    return norms_from_losses(losses, shifted, delta)


def shifted_losses(
    model: nn.Module,
    loss,
    inputs: Tensor,
    targets: Tensor,
    parameters: Sequence[Tensor],
    *,
    delta: float,
    probes: int,
    generator: torch.Generator,
) -> Tensor:
    """U_i(θ + δς_q), shape (Q, n), over signs ς_q of these parameters.

    Leaves parameters, buffers and the state of torch's default generators as they were, so that a
    pass at θ that follows has the same dropout masks.
    """
    check_generator(generator)
    randomness, rows = Randomness(inputs.device), []
    for _ in range(probes):
        signs = random_signs(parameters, generator)
        # θ + δς, in the memory of ς.
        near = [torch.add(p.data, sign, alpha=delta, out=sign) for p, sign in zip(parameters, signs, strict=True)]
        with torch.no_grad(), kept_buffers(model), moved(parameters, near):
            rows.append(sample_losses(model, loss, inputs, targets))
        randomness.replay()
    return torch.stack(rows)


def norms_from_losses(losses: Tensor, shifted: Tensor, delta: float) -> Tensor:
    """√((1/Q) Σ_q ((shifted_q - losses)/δ)²), from shapes (n,) and (Q, n) to (n,)."""
    return torch.linalg.vector_norm((shifted - losses) / delta, dim=0) / math.sqrt(len(shifted))


def gibbs_weights(norms: Tensor, eta: float, *, relative: bool = True) -> Tensor:
    """Weights p_i ∝ exp(η r_i) with sum one.

    Parameters
    ----------
    norms : Tensor, shape (..., n)
        Gradient norms, not negative.
    eta : float
        η; 0 gives equal weights, η → ∞ all weight to the largest norm.
    relative : bool
        r_i = norms_i over their mean, so that η has no unit and a factor common to all norms, such
        as the estimator's bias, drops out; otherwise r_i = norms_i and η is one over a norm.

    Returns
    -------
    Tensor, shape (..., n)

    Raises
    ------
    ValueError
        If a norm is negative or not finite, or η is not finite.

    Notes
    -----
    ``msharp`` eq. 16 and 20 (reconstructed; the text gives p_i ∝ exp(λ‖∂U_i‖) and speaks of a
    normalization that it does not define).
    """
    eta = validate.number("eta", eta)
    if norms.ndim == 0 or norms.shape[-1] == 0:
        raise ValueError(f"norms must hold at least one sample, got shape {tuple(norms.shape)}")
    fine = (norms >= 0) & (norms < math.inf)
    if not fine.all():
        raise ValueError(f"norms must be finite and not negative, got {norms[~fine][0].item():g}")
    values = norms.double()
    if relative:
        values = values / values.mean(-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    # Largest exponent zero, whatever η: no overflow, in double precision even where η is huge.
    top = values.amax(-1, keepdim=True) if eta >= 0 else values.amin(-1, keepdim=True)
    return torch.softmax(eta * (values - top), dim=-1).to(norms.dtype)


def random_signs(parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A tensor of independent fair ±1 like each parameter.

    One for each random bit, which takes a twenty-fifth of the time of as many Bernoulli draws.
    """
    sizes, device = [p.numel() for p in parameters], generator.device
    words = torch.empty(-(-sum(sizes) // 64), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits
    places = torch.arange(8, dtype=torch.int8, device=device)[:, None]
    bits = (words.view(torch.int8) >> places).bitwise_and_(1)
    pieces = bits.mul_(2).sub_(1).flatten()[: sum(sizes)].split(sizes)
    return [piece.to(p.device, p.dtype).view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def check_generator(generator: torch.Generator) -> torch.Generator:
    """``generator`` if it is one of torch's."""
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, as torch.Generator().manual_seed(0) is, got {generator!r}"
        )
    return generator
