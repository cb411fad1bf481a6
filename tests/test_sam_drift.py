"""companion/sam_drift.py: the exact mean update against a loop, the optimizer and its expansion in ρ."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from companion.sam import SAM
from companion.sam_drift import drift, micro_batches, penalty, variance_factor

# U_i(θ) = exp(a_iᵀθ) + (b_iᵀθ)²/2: four losses of two parameters whose gradients and Hessians all differ.
A = np.array([[0.3, -0.5], [-0.7, 0.2], [0.4, 0.6], [0.1, -0.9]])
B = np.array([[1.0, 0.2], [-0.3, 0.8], [0.5, -0.6], [0.9, 0.4]])
THETA = np.array([0.4, -0.7])


def gradient(theta):
    return np.exp(theta @ A.T)[..., None] * A + (theta @ B.T)[..., None] * B


def mean_loss(theta):
    return (np.exp(theta @ A.T) + (theta @ B.T) ** 2 / 2).mean(-1)


def slope(function, theta, step=1e-5):
    ends = [(function(theta + step * e), function(theta - step * e)) for e in np.eye(theta.size)]
    return np.array([(right - left) / (2 * step) for right, left in ends])


def by_loop(variant, rho, m, *, normalize, replacement, eta=0.0):
    every = itertools.product(range(4), repeat=m) if replacement else itertools.combinations(range(4), m)
    updates = []
    for row in every:
        own = gradient(THETA)[list(row)]
        weights = np.full(m, 1 / m)
        if variant == "rw-sam":
            norms = np.linalg.norm(own, axis=1)
            weights = np.exp(eta * norms / norms.mean())
            weights /= weights.sum()
        direction = gradient(THETA).mean(0) if variant == "n-sam" else weights @ own
        if normalize:
            direction = direction / np.linalg.norm(direction)
        updates.append(-gradient(THETA + rho * direction)[list(row)].mean(0))
    return np.mean(updates, axis=0)


@pytest.mark.parametrize("variant", ["m-sam", "n-sam", "rw-sam"])
@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
def test_the_drift_is_the_mean_over_all_micro_batches(variant, m, normalize, replacement):
    options = {"normalize": normalize, "replacement": replacement}
    if variant == "rw-sam":
        options["eta"] = 1.3
    found = drift(variant, gradient, THETA, rho=0.2, micro_batch_size=m, **options)
    np.testing.assert_allclose(found, by_loop(variant, 0.2, m, **options), rtol=1e-12)


@pytest.mark.parametrize("variant", ["m-sam", "n-sam"])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("replacement", [False, True])
def test_the_drift_follows_loss_and_penalty_with_a_remainder_of_second_order(variant, m, normalize, replacement):
    options = {"micro_batch_size": m, "normalize": normalize, "replacement": replacement}

    def remainder(rho):
        total = slope(lambda at: mean_loss(at) + penalty(variant, gradient(at), rho=rho, **options), THETA)
        return np.linalg.norm(drift(variant, gradient, THETA, rho=rho, **options) + total)

    ratio = remainder(0.02) / remainder(0.01)
    assert ratio == pytest.approx(4, rel=0.05)
    first_order = np.linalg.norm(slope(lambda at: penalty(variant, gradient(at), rho=0.01, **options), THETA))
    assert remainder(0.01) < 0.05 * first_order


@pytest.mark.parametrize("replacement", [False, True])
def test_the_penalty_of_usam_is_the_mean_squared_gradient(replacement):
    rows = gradient(np.stack([THETA, -THETA]))
    members, probability = micro_batches(4, 3, replacement=replacement)
    expected = 0.3 / 2 * (rows[:, members].mean(2) ** 2).sum(-1) @ probability
    found = penalty("m-sam", rows, rho=0.3, micro_batch_size=3, normalize=False, replacement=replacement)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_the_penalty_falls_with_the_micro_batch_size():
    for normalize, replacement in itertools.product((False, True), repeat=2):
        options = {"rho": 1.0, "normalize": normalize, "replacement": replacement}
        values = [penalty("m-sam", gradient(THETA), micro_batch_size=m, **options) for m in (1, 2, 3, 4)]
        assert (np.diff(values) < 0).all()


def test_the_full_batch_without_replacement_is_n_sam():
    options = {"rho": 0.2, "micro_batch_size": 4}
    np.testing.assert_allclose(
        drift("m-sam", gradient, THETA, **options), drift("n-sam", gradient, THETA, **options), rtol=1e-14
    )
    assert variance_factor(4, 4) == 0 and variance_factor(1, 1) == 0 and variance_factor(4, 4, replacement=True) == 0.25


def test_micro_batches_are_all_there_with_their_probabilities():
    members, probability = micro_batches(3, 2, replacement=True)
    law = dict.fromkeys(itertools.combinations_with_replacement(range(3), 2), 0.0)
    for row in itertools.product(range(3), repeat=2):
        law[tuple(sorted(row))] += 1 / 9
    assert {tuple(row): p for row, p in zip(members.tolist(), probability, strict=True)} == pytest.approx(law)


def test_the_optimizers_mean_step_is_the_drift():
    # Squared error of a linear model, every micro-batch of two of five samples given to the optimizer.
    generator = np.random.default_rng(0)
    inputs, targets, start = generator.normal(size=(5, 3)), generator.normal(size=5), generator.normal(size=3)

    def rows(theta):
        return 2 * (theta @ inputs.T - targets)[..., None] * inputs

    steps = []
    for pair in itertools.combinations(range(5), 2):
        model = nn.Linear(3, 1, bias=False).double()
        model.weight.data[:] = torch.from_numpy(start)
        data = torch.from_numpy(inputs[list(pair)]), torch.from_numpy(targets[list(pair), None])
        SAM(model, torch.optim.SGD, lr=1.0, rho=0.3).step(nn.MSELoss(reduction="none"), *data)
        steps.append(model.weight.detach().numpy()[0] - start)
    np.testing.assert_allclose(
        np.mean(steps, axis=0), drift("m-sam", rows, start, rho=0.3, micro_batch_size=2), rtol=1e-10
    )


def test_the_mean_update_of_rw_sam_is_no_gradient_and_at_eta_zero_it_is():
    def curl(eta):
        def field(theta):
            return drift("rw-sam", gradient, theta, rho=1e-3, micro_batch_size=4, normalize=False, eta=eta)

        jacobian = slope(field, THETA, step=1e-4)  # [k, j] = ∂_k of component j
        return (jacobian[0, 1] - jacobian[1, 0]) / 1e-3

    rows = gradient(THETA)
    hessians = np.exp(A @ THETA)[:, None, None] * A[:, :, None] * A[:, None, :] + B[:, :, None] * B[:, None, :]
    norms = np.linalg.norm(rows, axis=1)
    p = np.exp(0.8 * norms / norms.mean())
    p /= p.sum()
    slopes = np.einsum("ijk,ik->ij", hessians, rows) / norms[:, None]  # ∂‖∂U_i‖
    relative = slopes / norms.mean() - norms[:, None] * slopes.mean(0) / norms.mean() ** 2
    weights = np.einsum("i,ijk->jk", p, hessians) + 0.8 * rows.T @ (p[:, None] * (relative - p @ relative))
    product = hessians.mean(0) @ weights
    expected = -(product - product.T)[1, 0]
    assert abs(expected) > 0.01
    assert curl(0.8) == pytest.approx(expected, rel=0.02)
    assert abs(curl(0.0)) < 0.02 * abs(expected)


def test_rw_sam_does_not_see_noise_of_one_size():
    def opposite(theta):  # U_{1,2} = θ²/2 ± (θ + θ²/4): at θ = 0 gradients ±1 and curvatures 1 ± 1/2
        signs = np.array([1.0, -1.0])
        return theta[..., None, :] + (signs * (1 + theta / 2))[..., None]

    options = {"rho": 1e-3, "normalize": False}
    weighted = drift("rw-sam", opposite, np.zeros(1), micro_batch_size=2, eta=3.0, **options)
    single = drift("m-sam", opposite, np.zeros(1), micro_batch_size=1, **options)
    assert weighted == 0
    assert single == pytest.approx(-1e-3 / 2, rel=1e-9)  # -(ρ/2) d tr D/dθ with tr D = (1 + θ/2)²


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "sam"}, "variant must be one of m-sam, n-sam, rw-sam, got 'sam'"),
        ({"rho": -1.0}, "rho must not be negative, got -1"),
        ({"micro_batch_size": 5}, "micro_batch_size must be at most the 4 samples there are, got 5"),
        ({"micro_batch_size": 0}, "micro_batch_size must be a whole number of at least 1, got 0"),
        ({"micro_batch_size": 400, "replacement": True}, "micro_batch_size must leave at most 200000 .* makes 1082.*"),
        ({"eta": 1.0}, "eta must be 0 for m-sam, which has no weights, got 1"),
        ({"theta": 1.0}, r"theta must be of shape \(p,\), got shape \(\)"),
        ({"theta": [np.nan, 0.0]}, "theta must be finite, got nan"),
        ({"gradient": lambda t: t}, r"gradient must return shape \(..., N, p\) for points of shape \(2,\), got \(2,\)"),
        ({"gradient": lambda t: gradient(t) * np.inf}, "gradient must be finite, got -?inf"),
    ],
)
def test_a_bad_argument_is_refused(change, message):
    arguments = {"variant": "m-sam", "gradient": gradient, "theta": THETA, "rho": 0.1, "micro_batch_size": 2}
    with pytest.raises(ValueError, match=f"^{message}$"):
        drift(**{**arguments, **change})


def test_a_penalty_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"^variant must be m-sam or n-sam: the mean update of rw-sam is not a grad"):
        penalty("rw-sam", gradient(THETA), rho=0.1, micro_batch_size=2)
    with pytest.raises(ValueError, match=r"^gradients must be of shape \(..., N, p\), got shape \(3,\)$"):
        penalty("m-sam", np.ones(3), rho=0.1, micro_batch_size=2)
