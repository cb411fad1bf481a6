"""The Gaussian process that a fully connected ReLU network tends to as its layers widen."""

import numpy as np

from companion import validate


def nngp_kernel(inputs, other=None, *, depth: int, weight_scale: float, bias_scale: float) -> np.ndarray:
    """The covariance of the outputs of an infinitely wide ReLU network with random weights.

    Weights are Gaussian with variance σ_w²/fan-in, biases with σ_b².  Starting from
    K(x, x') = σ_b² + σ_w² x·x'/d, each hidden layer takes K to

        σ_b² + (σ_w²/2π) √(K(x,x) K(x',x')) [sin φ + (π - φ) cos φ],  cos φ = K(x,x')/√(K(x,x) K(x',x')).

    Parameters
    ----------
    inputs : array_like, shape (n, d)
    other : array_like, shape (k, d), optional
        The second argument of the kernel; ``inputs`` itself if left out.
    depth : int
        Number of hidden layers.
    weight_scale, bias_scale : float
        σ_w > 0 and σ_b ≥ 0.

    Returns
    -------
    ndarray, shape (n, n) or (n, k)
        Symmetric and positive semidefinite if ``other`` is left out.

    Raises
    ------
    ValueError
        If an argument is not what is said above.

    Notes
    -----
    ``prior`` app. D; Cho & Saul (2009), arc-cosine kernel of order 1.  With σ_b = 0 the outputs
    on an input and its positive multiples are proportional, and the kernel is singular.
    """
    inputs = _points("inputs", inputs)
    depth = validate.count("depth", depth)
    weights = validate.positive("weight_scale", weight_scale) ** 2
    biases = validate.non_negative("bias_scale", bias_scale) ** 2
    others = inputs if other is None else _points("other", other)
    if others.shape[1] != inputs.shape[1]:
        raise ValueError(f"other must have {inputs.shape[1]} columns as inputs has, got {others.shape[1]}")
    features = inputs.shape[1]
    kernel = biases + weights * inputs @ others.T / features
    left, right = (biases + weights * np.sum(points**2, axis=1) / features for points in (inputs, others))
    for _ in range(depth):
        scale = np.sqrt(np.outer(left, right))
        cosine = np.divide(kernel, scale, out=np.ones_like(kernel), where=scale > 0).clip(-1, 1)
        angle = np.arccos(cosine)
        kernel = biases + weights / (2 * np.pi) * scale * (np.sin(angle) + (np.pi - angle) * cosine)
        left, right = biases + weights / 2 * left, biases + weights / 2 * right
    if other is None:
        kernel = (kernel + kernel.T) / 2
        np.fill_diagonal(kernel, left)  # exact, where the arc cosine near 1 loses half the digits
    return kernel


def _points(name: str, values) -> np.ndarray:
    points = validate.finite(name, values)
    if points.ndim != 2 or points.size == 0:
        raise ValueError(f"{name} must have shape (n, d) with at least one row and column, got {points.shape}")
    return points
