"""Labels with fresh noise at every step, for many networks at once, and the losses they are used with.

``solvable`` says that the noise in the labels is not isotropic, and no more.  Here half of the outputs
are κ times as noisy as the other half, at the same total noise.  For squared error and, as one reading,
for cross-entropy the noise is Gaussian and added to the labels; as another reading labels are flipped
to another class, κ times as often in half of the classes.  All three are reconstructions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from companion import validate


@dataclass(frozen=True)
class NoisyLabels:
    """Labels of S data sets (seeds) of N samples under K kinds of noise, with C outputs.

    Attributes
    ----------
    mean : Tensor, shape (S, K, N, C)
        The mean label, which the full batch sees.
    root : Tensor, shape (S, K, C, C), or None
        Labels are mean + root · z with z a standard Gaussian.  Without it they are one class drawn
        with the probabilities ``mean``, one-hot.
    """

    mean: Tensor
    root: Tensor | None

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy labels of samples ``index``, shape (S, B); (S·K, B, C).

        The K kinds of noise share the random numbers, so that they differ in nothing but their kind.
        """
        seeds, kinds, _, outputs = self.mean.shape
        first = torch.arange(seeds, device=index.device)[:, None, None]
        second = torch.arange(kinds, device=index.device)[:, None]
        mean = self.mean[first, second, index[:, None]]
        shape, where = (seeds, 1, index.shape[1]), self.mean.device
        if self.root is None:
            level = torch.rand(*shape, 1, generator=generator).to(where)
            classes = (level > mean.cumsum(-1)[..., :-1]).sum(-1)
            labels = torch.nn.functional.one_hot(classes, outputs).to(mean.dtype)
        else:
            z = torch.randn(*shape, outputs, generator=generator, dtype=mean.dtype)
            labels = mean + z.to(where) @ self.root.mT
        return labels.flatten(0, 1)

    def covariances(self, seed: int, kind: int) -> Tensor:
        """Σ_ε of each sample, shape (N, C, C), float64."""
        mean = self.mean[seed, kind].double()
        if self.root is None:
            return torch.diag_embed(mean) - mean[:, :, None] * mean[:, None, :]
        root = self.root[seed, kind].double()
        return (root @ root.T).expand(len(mean), -1, -1)


def two_levels(count: int, kappa: float, order: Tensor) -> Tensor:
    """Half of ``count`` numbers 1, the other half κ, in the given order of places; float64, shape (count,)."""
    if validate.positive("kappa", kappa) < 1:
        raise ValueError(f"kappa must be at least 1, got {kappa:g}")
    levels = torch.ones(count, dtype=torch.float64)
    levels[order[count // 2 :]] = kappa
    return levels


def additive_root(outputs: int, kappa: float, total: float, order: Tensor, *, simplex: bool) -> Tensor:
    """A root R of Σ_ε = RRᵀ = diag(two levels 1 : κ) with trace ``total``; float64, shape (C, C).

    With ``simplex`` the noise's mean over the outputs is taken out, so that labels keep their sum, 1
    for probabilities.  Its trace is then (1 - 1/C) ``total``, for every κ.
    """
    variances = two_levels(outputs, kappa, order)
    root = torch.diag((variances * validate.positive("total", total) / variances.sum()).sqrt())
    return root - root.mean(0) if simplex else root


def flipped(classes: Tensor, outputs: int, kappa: float, rate: float, order: Tensor) -> Tensor:
    """The distribution of each sample's label when classes are flipped; float64, shape (N, C).

    A label of class c becomes one of the others with the probability r_c, all equally likely.  r_c
    is κ times as large in half of the classes, and its mean over the samples is ``rate``.

    Raises
    ------
    ValueError
        If a flip probability would reach (C - 1)/C, where the label says nothing of the class.
    """
    levels = two_levels(outputs, kappa, order)
    probability = levels[classes] * rate / levels[classes].mean()
    if probability.max() >= (outputs - 1) / outputs:
        largest = f"classes are flipped with probability {float(probability.max()):.3g}"
        raise ValueError(f"rate must be smaller: at κ = {kappa:g} {largest}, got {rate:g}")
    right = torch.nn.functional.one_hot(classes, outputs).double()
    return right * (1 - probability)[:, None] + (1 - right) * probability[:, None] / (outputs - 1)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over samples of ‖y - f‖², without ½ and summed over outputs; leading axes are samples."""
    return (outputs - labels).square().sum(-1).mean()


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over samples of -Σ_c y_c log softmax(f)_c for labels whose sum is 1; leading axes are samples."""
    return (outputs.logsumexp(-1) - (labels * outputs).sum(-1)).mean()


def output_hessian(name: str, outputs: Tensor) -> Tensor:
    """The second derivative of a sample's loss with respect to its outputs; (N, C) ↦ (N, C, C)."""
    if name == "squared":
        return 2 * torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device).expand(len(outputs), -1, -1)
    p = outputs.softmax(-1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def misfit(name: str, outputs: Tensor, mean: Tensor) -> float:
    """The mean loss above its least value: ‖E y - f‖², or the Kullback–Leibler divergence from E y to softmax(f)."""
    if name == "squared":
        return float(squared_error(outputs, mean))
    entropy = -torch.xlogy(mean, mean).sum(-1).mean()
    return float(cross_entropy(outputs, mean) - entropy)


# By name: the loss, and the factor with which it passes on the noise of a label to the slope at the outputs.
LOSSES = {"squared": (squared_error, 2.0), "cross-entropy": (cross_entropy, 1.0)}
