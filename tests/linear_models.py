"""Random linear networks and their data for the tests."""

import numpy as np

from companion.linear_model import TwoLayerLinear


def covariance(rng, size, rank=None):
    root = rng.normal(size=(size, rank or size + 1))
    return root @ root.T / size


def random_model(seed, outputs=3, inputs=2, width=3, **given):
    rng = np.random.default_rng(seed)
    drawn = dict(
        teacher=rng.normal(size=(outputs, inputs)),
        noise_covariance=covariance(rng, outputs),
        input_covariance=covariance(rng, inputs),
        width=width,
    )
    return TwoLayerLinear(**drawn | given)
