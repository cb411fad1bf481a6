"""Write tests/gpy_reference.json: the log evidence that GPy's EP gives for signs of a Gaussian vector.

GPy 1.13's step likelihood (its Heaviside link) stops with a NameError.  Its probit likelihood is
the step likelihood of z plus independent noise of variance 1: matching the moments of z and of
z plus noise is the same, both being jointly Gaussian without the site.  So the values are those of
the step likelihood for the kernel plus the identity.

GPy does not run with this project's NumPy.  In an environment of its own, with the packages
numpy<2, scipy<1.12, matplotlib<3.9 and GPy, run ``python tests/gpy_reference.py``.
"""

import json
from importlib.metadata import version
from pathlib import Path

import GPy
import numpy as np

CASES = ((5, 0), (12, 1), (40, 2), (90, 3), (200, 4))


def log_evidence(size: int, seed: int) -> float:
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((size, size + 2))
    kernel, labels = factor @ factor.T, generator.choice([-1.0, 1.0], size)
    likelihood = GPy.likelihoods.Bernoulli(gp_link=GPy.likelihoods.link_functions.Probit())
    method = GPy.inference.latent_function_inference.EP(epsilon=1e-14, max_iters=2000)
    points = np.arange(size)[:, None].astype(float)
    fixed = GPy.kern.Fixed(1, covariance_matrix=kernel)
    outputs = GPy.core.parameterization.observable_array.ObsAr((labels[:, None] + 1) / 2)
    result = method.inference(fixed, points, likelihood, outputs)
    return float(np.squeeze(result[1]))


if __name__ == "__main__":
    cases = [{"size": size, "seed": seed, "log_z": log_evidence(size, seed)} for size, seed in CASES]
    record = {"versions": {name: version(name) for name in ("GPy", "numpy", "scipy")}, "cases": cases}
    Path(__file__).with_name("gpy_reference.json").write_text(json.dumps(record, indent=1) + "\n")
