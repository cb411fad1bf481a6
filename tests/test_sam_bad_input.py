"""companion/sam.py and its parts: bad arguments are refused by name, divergence is reported and leaves no trace."""

import copy
import math

import pytest
import torch
from test_sam import LOSS, Noisy, batch, seeded, small, vector
from torch import nn

from companion.gibbs import gibbs_weights, gradient_norm_estimates
from companion.sam import RWSAM, SAM


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -0.1}, "rho must not be negative, got -0.1"),
        ({"rho": math.nan}, "rho must be finite, got nan"),
        ({"micro_batch_size": 0}, "micro_batch_size must be a whole number of at least 1, got 0"),
        ({"normalize": 1}, "normalize must be True or False, got 1"),
        ({"adaptive": "yes"}, "adaptive must be True or False, got 'yes'"),
        ({"base": "sgd"}, "base must be a class of torch.optim, as torch.optim.SGD is, got 'sgd'"),
        ({"base": torch.optim.LBFGS}, "base must step without a closure, got LBFGS"),
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"model": [1]}, r"model must be a torch.nn.Module, got \[1\]"),
        ({"parameters": [{"params": [torch.ones(1)], "rho": -1.0}]}, "rho must not be negative, got -1"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        SAM(**{"model": small(), "lr": 0.1, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": math.inf}, "eta must be finite, got inf"),
        ({"delta": 0.0}, "delta must be positive, got 0"),
        ({"probes": 0}, "probes must be a whole number of at least 1, got 0"),
        ({"generator": 3}, r"generator must be a torch.Generator, as torch.Generator\(\).* is, got 3"),
    ],
)
def test_a_bad_option_of_rwsam_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        RWSAM(small(), lr=0.1, **{"generator": seeded(), **options})


def test_a_group_with_a_bad_rho_cannot_join():
    model = small()
    optimizer = SAM(model, lr=0.1, parameters=model[0].parameters())
    with pytest.raises(ValueError, match=r"^rho must not be negative, got -1$"):
        optimizer.add_param_group({"params": model[2].parameters(), "rho": -1})


def test_a_batch_without_samples_or_targets_is_refused():
    optimizer, (inputs, targets) = SAM(small(), lr=0.1), batch()
    with pytest.raises(ValueError, match=r"^inputs must have at least one sample and a target for each, got 12 .* 3 t"):
        optimizer.step(LOSS, inputs, targets[:3])
    with pytest.raises(ValueError, match=r"^inputs must have at least one sample .*, got 0 samples and 0 targets$"):
        optimizer.step(LOSS, inputs[:0], targets[:0])
    with pytest.raises(ValueError, match=r"^perturbation_batch must have .*, got 12 samples and 5 targets$"):
        optimizer.step(LOSS, inputs, targets, perturbation_batch=(inputs, targets[:5]))


@pytest.mark.parametrize("make", [SAM, lambda *a, **k: RWSAM(*a, generator=seeded(), **k)])
def test_a_loss_that_is_a_mean_is_refused(make):
    with pytest.raises(ValueError, match=r"^loss must return a value a sample, .*; for 12 samples got shape \(\)$"):
        make(small(), lr=0.1).step(nn.CrossEntropyLoss(), *batch())


@pytest.mark.parametrize("make", [SAM, lambda *a, **k: RWSAM(*a, generator=seeded(), **k)])
@pytest.mark.parametrize("spoil", ["inputs", "perturbed", "gradient", "parameters"])
def test_what_is_not_finite_is_named_and_leaves_no_trace(make, spoil):
    model, (inputs, targets) = Noisy(), batch()
    optimizer, loss = make(model, torch.optim.Adam, lr=0.1, rho=0.5), LOSS
    optimizer.step(loss, inputs, targets)
    message = r"at step 1; lower lr = 0.1 or rho = 0.5$"
    if spoil == "inputs":
        inputs = inputs.index_fill(0, torch.tensor([3]), math.nan)
        message = r"^inputs must be finite, got nan at step 1$"
    elif spoil == "perturbed":
        start, message = model.layers[3].weight.detach().clone(), r"^the loss at .* became nan " + message

        def loss(outputs, labels):
            return LOSS(outputs, labels) * (1.0 if torch.equal(model.layers[3].weight, start) else math.nan)
    elif spoil == "gradient":
        message = r"^the gradient at the parameters became nan " + message

        def loss(outputs, labels):  # √(x²) at x = 0 has the derivative 0/0
            return LOSS(outputs, labels) + (0 * outputs[:, 0]).square().sqrt()
    else:
        with torch.no_grad():
            model.layers[0].weight[0, 0] = math.nan
        message = r"^the loss at the parameters became nan " + message
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.step(loss, inputs, targets)
    for name, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7), before[name].nan_to_num(7)), name
    after = optimizer.state_dict()
    assert after["steps"] == 1 and str(after["base"]) == str(state["base"])


def test_a_foreign_state_is_refused():
    model = small()
    with pytest.raises(ValueError, match=r"^state_dict must come from a SAM optimizer, it lacks base, steps$"):
        SAM(model, lr=0.1).load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
    with pytest.raises(ValueError, match=r"^state_dict must come from an RWSAM optimizer, it lacks generator$"):
        RWSAM(model, lr=0.1, generator=seeded()).load_state_dict(SAM(model, lr=0.1).state_dict())
    assert torch.equal(vector(model), vector(small()))


@pytest.mark.parametrize(
    ("norms", "eta", "message"),
    [
        ([1.0, -2.0], 1.0, "norms must be finite and not negative, got -2"),
        ([1.0, math.nan], 1.0, "norms must be finite and not negative, got nan"),
        ([1.0, 2.0], math.inf, "eta must be finite, got inf"),
        ([], 1.0, r"norms must hold at least one sample, got shape \(0,\)"),
    ],
)
def test_bad_norms_are_refused(norms, eta, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        gibbs_weights(torch.tensor(norms), eta)


def test_estimates_of_a_loss_that_is_not_finite_are_refused():
    inputs, targets = batch()
    with pytest.raises(ValueError, match=r"^loss must be finite, got nan at the parameters$"):
        gradient_norm_estimates(small(), LOSS, inputs * math.inf, targets, generator=seeded())
