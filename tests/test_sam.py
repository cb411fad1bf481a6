"""companion/sam.py: SAM and RW-SAM against their updates written out by hand, and what they leave alone."""

import copy

import pytest
import torch
from torch import nn

from companion.models import mlp
from companion.sam import RWSAM, SAM, gibbs_weights, gradient_norm_estimates

LOSS = nn.CrossEntropyLoss(reduction="none")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def small(device="cpu", seed=0):
    return mlp(4, 6, 3, activation=nn.Tanh, generator=seeded(seed)).to(device)


def batch(size=12, device="cpu"):
    generator = seeded(5)
    inputs = torch.randn(size, 4, dtype=torch.float64, generator=generator)
    return inputs.to(device), torch.randint(3, (size,), generator=generator).to(device)


def vector(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain_gradient(model, inputs, targets, weights=None):
    model.zero_grad()
    losses = LOSS(model(inputs), targets)
    (losses.mean() if weights is None else weights @ losses).backward()
    return [p.grad.clone() for p in model.parameters()]


def by_hand(model, inputs, targets, *, lr, rho, normalize=True, adaptive=False, weights=None, from_batch=None):
    """One step of SGD on SAM's gradient, as its authors publish it: climb, differentiate, climb down, descend."""
    start = copy.deepcopy(model.state_dict())
    gradient = plain_gradient(model, *(from_batch or (inputs, targets)), weights)
    scale = [p.detach().abs() if adaptive else torch.ones_like(p) for p in model.parameters()]
    norm = torch.sqrt(sum((s * g).square().sum() for s, g in zip(scale, gradient, strict=True))) if normalize else 1
    with torch.no_grad():
        for p, s, g in zip(model.parameters(), scale, gradient, strict=True):
            p += rho * s**2 * g / norm
    gradient = plain_gradient(model, inputs, targets)
    model.load_state_dict(start)
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradient, strict=True):
            p -= lr * g


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_step_is_the_official_update(normalize, adaptive, device):
    model, data = small(device), batch(device=device)
    reference, options = copy.deepcopy(model), {"rho": 0.3, "normalize": normalize, "adaptive": adaptive}
    optimizer = SAM(model, torch.optim.SGD, lr=0.1, **options)
    for _ in range(3):
        before = LOSS(model(data[0]), data[1]).mean()
        assert optimizer.step(LOSS, *data).item() == pytest.approx(before.item(), rel=1e-14)
        by_hand(reference, *data, lr=0.1, **options)
        torch.testing.assert_close(vector(model), vector(reference), rtol=1e-12, atol=1e-14)


def test_at_rho_zero_the_step_is_the_base_optimizers():
    model, data = small(), batch()
    reference = copy.deepcopy(model)
    ours, plain = SAM(model, torch.optim.Adam, rho=0.0, lr=0.1), torch.optim.Adam(reference.parameters(), lr=0.1)
    for _ in range(4):
        ours.step(LOSS, *data)
        plain_gradient(reference, *data)
        plain.step()
    assert torch.equal(vector(model), vector(reference))


def test_micro_batches_are_perturbed_each_by_its_own_gradient():
    model, (inputs, targets) = small(), batch(size=10)  # 4, 4 and 2 samples
    mean = torch.zeros_like(vector(model))
    for start in (0, 4, 8):
        part = inputs[start : start + 4], targets[start : start + 4]
        moved = copy.deepcopy(model)
        by_hand(moved, *part, lr=1.0, rho=0.3)
        mean += len(part[0]) / 10 * (vector(moved) - vector(model))
    expected = vector(model) + 0.1 * mean
    SAM(model, lr=0.1, rho=0.3, micro_batch_size=4).step(LOSS, inputs, targets)
    torch.testing.assert_close(vector(model), expected, rtol=1e-12, atol=1e-14)


def test_the_loss_returned_is_the_mean_over_micro_batches_of_any_size():
    value = SAM(small(), lr=0.1, micro_batch_size=5).step(LOSS, *batch())
    assert value.item() == pytest.approx(LOSS(small()(batch()[0]), batch()[1]).mean().item(), rel=1e-14)


@pytest.mark.parametrize("size", [12, 50])
def test_one_micro_batch_is_sam(size):
    one, other = small(), small()
    SAM(one, lr=0.1, rho=0.3).step(LOSS, *batch())
    SAM(other, lr=0.1, rho=0.3, micro_batch_size=size).step(LOSS, *batch())
    assert torch.equal(vector(one), vector(other))


def test_other_samples_can_perturb():
    model, data, others = small(), batch(), batch(size=40)
    reference = copy.deepcopy(model)
    SAM(model, lr=0.1, rho=0.3).step(LOSS, *data, perturbation_batch=others)
    by_hand(reference, *data, lr=0.1, rho=0.3, from_batch=others)
    torch.testing.assert_close(vector(model), vector(reference), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
def test_rwsam_at_eta_zero_is_sam(device):
    one, other = small(device), small(device)
    SAM(one, lr=0.1, rho=0.3, micro_batch_size=5).step(LOSS, *batch(device=device))
    RWSAM(other, lr=0.1, rho=0.3, micro_batch_size=5, eta=0.0, generator=seeded()).step(LOSS, *batch(device=device))
    assert torch.equal(vector(one), vector(other))


@pytest.mark.parametrize("device", DEVICES)
def test_rwsam_weights_the_perturbation_and_not_the_update(device):
    model, data = small(device), batch(device=device)
    norms = gradient_norm_estimates(model, LOSS, *data, delta=1e-3, probes=2, generator=seeded(1, device))
    reference, uniform = copy.deepcopy(model), copy.deepcopy(model)
    by_hand(reference, *data, lr=0.1, rho=0.3, weights=gibbs_weights(norms, 1.5))
    by_hand(uniform, *data, lr=0.1, rho=0.3)
    RWSAM(model, lr=0.1, rho=0.3, eta=1.5, delta=1e-3, probes=2, generator=seeded(1, device)).step(LOSS, *data)
    torch.testing.assert_close(vector(model), vector(reference), rtol=1e-11, atol=1e-13)
    assert (vector(model) - vector(uniform)).norm() > 1e-3


class Noisy(nn.Module):
    """Batch normalization and dropout, which tell of every pass."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
        self.masks = []
        self.layers[2].register_forward_hook(lambda layer, x, y: self.masks.append((y == 0) & (x[0] != 0)))

    def forward(self, inputs):
        return self.layers(inputs)


@pytest.mark.parametrize("make", [SAM, lambda *a, **k: RWSAM(*a, generator=seeded(), **k)])
def test_every_pass_sees_one_dropout_mask_and_statistics_move_once(make):
    torch.manual_seed(1)
    model, data = Noisy(), batch()
    statistics = copy.deepcopy(model.layers[1])
    expected = statistics(model.layers[0](data[0]).detach())  # one pass over the batch moves them
    assert expected.shape == (12, 8)
    state = torch.get_rng_state()
    make(model, lr=0.1, rho=0.3).step(LOSS, *data)
    assert len(model.masks) in (2, 3) and all(torch.equal(mask, model.masks[0]) for mask in model.masks)
    for name, buffer in statistics.named_buffers():
        assert torch.equal(dict(model.layers[1].named_buffers())[name], buffer), name
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    nn.functional.dropout(torch.ones(12, 8, dtype=torch.float64), 0.5)
    assert torch.equal(after, torch.get_rng_state())  # as after one pass: the next batch has its own mask


def test_micro_batches_have_masks_of_their_own_and_other_samples_move_no_statistics():
    torch.manual_seed(1)
    model = Noisy()
    optimizer = SAM(model, lr=0.1, rho=0.3, micro_batch_size=6)
    optimizer.step(LOSS, *batch())
    first, again, second, _ = model.masks
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert model.layers[1].num_batches_tracked == 2
    optimizer.micro_batch_size = None
    optimizer.step(LOSS, *batch(), perturbation_batch=batch(size=30))
    assert model.layers[1].num_batches_tracked == 3


def test_a_model_in_evaluation_mode_stays_there():
    model = Noisy().eval()
    before = copy.deepcopy(dict(model.named_buffers()))
    SAM(model, lr=0.1).step(LOSS, *batch())
    assert not model.training and all(torch.equal(before[n], b) for n, b in model.named_buffers())


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_a_state_dict_continues_bit_for_bit(base, tmp_path):
    options = {"momentum": 0.9} if base is torch.optim.SGD else {}

    def start(model):
        return RWSAM(model, base, lr=0.05, rho=0.2, generator=seeded(), **options)

    straight = small()
    optimizer = start(straight)
    for _ in range(6):
        optimizer.step(LOSS, *batch())
    model = small()
    optimizer = start(model)
    for _ in range(3):
        optimizer.step(LOSS, *batch())
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "stop")
    weights, state = torch.load(tmp_path / "stop")
    resumed = small(seed=9)
    resumed.load_state_dict(weights)
    optimizer = RWSAM(resumed, base, lr=7.0, rho=7.0, generator=seeded(3))
    optimizer.load_state_dict(state)
    for _ in range(3):
        optimizer.step(LOSS, *batch())
    assert optimizer.steps == 6 and optimizer.param_groups[0]["rho"] == 0.2
    assert torch.equal(vector(straight), vector(resumed))


def test_groups_have_their_own_rho_and_learning_rate():
    model, data = small(), batch()
    first, last = model[0], model[2]
    groups = [{"params": list(first.parameters()), "rho": 0.4, "lr": 0.5}, {"params": list(last.parameters())}]
    optimizer = SAM(model, lr=0.1, rho=0.2, parameters=groups)
    gradient = plain_gradient(model, *data)
    norm = torch.stack([g.norm() for g in gradient]).norm()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p, g, rho in zip(moved.parameters(), gradient, (0.4, 0.4, 0.2, 0.2), strict=True):
            p += rho * g / norm
    there = plain_gradient(moved, *data)
    steps = [lr * g for lr, g in zip((0.5, 0.5, 0.1, 0.1), there, strict=True)]
    expected = [p.detach() - step for p, step in zip(model.parameters(), steps, strict=True)]
    optimizer.step(LOSS, *data)
    for p, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-12, atol=1e-14)


def test_a_scheduler_drives_the_learning_rate_and_a_group_can_join():
    model, data = small(), batch()
    optimizer = SAM(model, lr=0.1, rho=0.2, parameters=model[0].parameters())
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.3})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.step(LOSS, *data)
    scheduler.step()
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.05, 0.15]
    assert [group["rho"] for group in optimizer.param_groups] == [0.2, 0.2]


def test_frozen_and_unused_parameters_stay():
    model, data = small(), batch()
    model[0].bias.requires_grad_(False)
    model.extra = nn.Parameter(torch.ones(2, dtype=torch.float64))
    forward = nn.Sequential(*list(model)[:3])
    wrapped = nn.Module()
    wrapped.inner, wrapped.extra, wrapped.forward = forward, model.extra, forward.forward
    before = forward[0].bias.clone()
    SAM(wrapped, lr=0.1, weight_decay=0.1).step(LOSS, *data)
    assert torch.equal(forward[0].bias, before) and torch.equal(wrapped.extra, torch.ones(2).double())


def test_a_loss_with_a_row_a_sample_is_averaged():
    model, (inputs, _) = small(), batch()
    target = torch.zeros(12, 3, dtype=torch.float64)
    value = SAM(model, lr=0.1).step(nn.MSELoss(reduction="none"), inputs, target)
    assert value.item() == pytest.approx(nn.MSELoss()(small()(inputs), target).item(), rel=1e-14)


def test_where_the_gradient_vanishes_nothing_moves():
    model = nn.Linear(4, 3).double()
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    value = SAM(model, lr=0.1).step(nn.MSELoss(reduction="none"), batch()[0], torch.zeros(12, 3).double())
    assert value == 0 and not vector(model).any()


def test_gradients_from_before_the_step_do_not_count():
    one, other = small(), small()
    one[0].bias.grad = torch.ones(6).double()
    for model, optimizer in ((one, SAM(one, lr=0.1)), (other, SAM(other, lr=0.1))):
        model[0].bias.requires_grad_(False)  # held by the optimizer still
        optimizer.step(LOSS, *batch())
    assert torch.equal(vector(one), vector(other)) and one[0].bias.grad is None


@pytest.mark.parametrize("make", [SAM, lambda *a, **k: RWSAM(*a, generator=seeded(), **k)])
def test_parameters_keep_their_memory(make):
    model = small()
    views = [p.detach().view(-1) for p in model.parameters()]
    make(model, lr=0.1, rho=0.3, micro_batch_size=5).step(LOSS, *batch())
    assert torch.equal(torch.cat(views), vector(model)) and not torch.equal(vector(model), vector(small()))


@pytest.mark.parametrize("make", [SAM, lambda *a, **k: RWSAM(*a, generator=seeded(), **k)])
def test_a_gradient_at_the_perturbed_parameters_that_is_not_finite_leaves_no_trace(make):
    model = small()
    start, memory = vector(model), [p.data_ptr() for p in model.parameters()]

    def loss(outputs, labels):  # √(x²) at x = 0 has the derivative 0/0
        losses = LOSS(outputs, labels)
        moved = not torch.equal(vector(model), start) and torch.is_grad_enabled()  # and not the probe of RW-SAM
        return losses + (0 * outputs[:, 0]).square().sqrt() if moved else losses

    with pytest.raises(ValueError, match=r"^the gradient at the perturbed parameters became nan at step 0; lower lr"):
        make(model, lr=0.1, rho=0.3).step(loss, *batch())
    assert torch.equal(vector(model), start) and [p.data_ptr() for p in model.parameters()] == memory
