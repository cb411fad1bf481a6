"""Training and measures of the ``msharp`` experiments against what is known of them, and every smoke run end to end."""

import json
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from companion.data import Dataset, load_dataset
from companion.experiments.experiment import PROFILES, Workplace, content_hash
from companion.experiments.msharp import EXPERIMENTS, perform
from companion.experiments.msharp_settings import DIGITS, accuracy_settings
from companion.experiments.msharp_training import (
    MOST_SHIFT,
    Images,
    _step,
    augmented,
    build,
    draw_images,
    make_optimizer,
    measure,
    residual_network,
    with_wrong_labels,
)
from companion.hessian import hessian_matrix
from companion.models import mlp

OTHERS = ({}, {"micro_batch": 4}, {"method": "usam"}, {"method": "asam"}, {"method": "n-sam"})
SHORT = replace(DIGITS, train_images=64, validation_images=20, batch_size=16, epochs=1, logged=(1,))


def seed(number):
    return torch.Generator().manual_seed(number)


def curve(**changes):
    """What a short run logs."""
    (run,) = perform(replace(SHORT, **changes), Workplace())["runs"]
    return run["curve"]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_settings_are_distinct_json(experiment):
    for profile in PROFILES:
        runs = experiment.settings(profile)
        assert len({content_hash(experiment.name, settings) for settings in runs}) == len(runs) > 0
        assert profile in experiment.differs
    with pytest.raises(ValueError, match="profile must be one of smoke, laptop, paper, got 'desk'"):
        experiment.settings("desk")


@pytest.fixture(scope="module")
def smoke_records():
    (experiment,) = (one for one in EXPERIMENTS if one.name == "msharp-accuracy")
    return [
        {"settings": json.loads(json.dumps(asdict(settings))), "result": experiment.perform(settings, Workplace())}
        for settings in experiment.settings("smoke")
    ]


def test_smoke_runs_log_every_measure(smoke_records):
    assert {record["settings"]["method"] for record in smoke_records} >= {"sgd", "sam", "n-sam", "rw-sam", "rw-asam"}
    for record in smoke_records:
        settings = record["settings"]
        json.dumps(record["result"], allow_nan=False)
        assert [run["seed"] for run in record["result"]["runs"]] == settings["seeds"]
        for run in record["result"]["runs"]:
            assert run["diverged"] is None and [row["epoch"] for row in run["curve"]] == settings["logged"]
            for row in run["curve"]:
                assert (row["memorized"] is None) == (row["norm_ratio"] is None) == (settings["label_noise"] == 0)
                assert row["trace_hessian"] > 0 < row["trace_covariance"]


def test_report_of_none_one_and_all(smoke_records):
    report = next(one for one in EXPERIMENTS if one.name == "msharp-accuracy").report
    assert report([]).tables == [] and report([]).figures == {}
    for records in (smoke_records[:1], smoke_records):
        found = report(records)
        assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
        for draw in found.figures.values():
            draw().canvas.draw()


def test_a_run_repeats_itself():
    settings = replace(SHORT, method="rw-sam", rho=0.1, eta=1.0, label_noise=0.25, seeds=(3,))
    assert perform(settings, Workplace()) == perform(settings, Workplace())
    assert perform(settings, Workplace()) != perform(replace(settings, seeds=(4,)), Workplace())


def test_ticks_count_the_epochs_of_all_seeds():
    ticks = []
    perform(replace(SHORT, epochs=2, seeds=(0, 1)), Workplace(tick=lambda *at: ticks.append(at)))
    assert ticks == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_methods_meet_where_they_must():
    def close(one, other):
        for row, expected in zip(one, other, strict=True):
            known = {key: value for key, value in expected.items() if value is not None}
            assert {key: row[key] for key in known} == pytest.approx(known, rel=1e-3, abs=1e-6)

    close(curve(method="sam", rho=0.0), curve())
    close(curve(method="rw-sam", rho=0.1, eta=0.0), curve(method="sam", rho=0.1))
    close(curve(method="sam", rho=0.1, micro_batch=16), curve(method="sam", rho=0.1))
    apart = [curve(), *(curve(**{"method": "sam", "rho": 0.1, **changes}) for changes in OTHERS)]
    assert all(one != other for one, other in combinations(apart, 2))


def test_n_sam_goes_uphill_with_all_training_images():
    settings = replace(SHORT, method="n-sam", rho=0.1, momentum=0.0, weight_decay=0.0)
    images = draw_images(settings, load_dataset("digits"), 0)
    model, other = build(settings, (1, 8, 8), 0), build(settings, (1, 8, 8), 0)
    optimizer, loss = make_optimizer(settings, model, 0), nn.CrossEntropyLoss()
    x, y = images.inputs[:16], images.targets[:16]
    _step(settings, model, optimizer, x, y, images)
    parameters = list(other.parameters())
    uphill = torch.autograd.grad(loss(other(images.inputs), images.targets), parameters)
    norm = torch.cat([g.flatten() for g in uphill]).norm()
    with torch.no_grad():
        for p, g in zip(parameters, uphill, strict=True):
            p += settings.rho * g / norm
    downhill = torch.autograd.grad(loss(other(x), y), parameters)
    for moved, p, up, down in zip(model.parameters(), parameters, uphill, downhill, strict=True):
        expected = p - settings.rho * up / norm - settings.learning_rate * down
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


def test_wrong_labels_are_wrong_and_nested():
    targets = torch.arange(200) % 10
    few, those_few = with_wrong_labels(targets, 0.1, seed(0))
    many, those_many = with_wrong_labels(targets, 0.4, seed(0))
    assert those_few.sum() == 20 and those_many.sum() == 80 and those_many[those_few].all()
    assert torch.equal(few != targets, those_few) and torch.equal(many != targets, those_many)
    assert torch.equal(few[those_few], many[those_few]) and many.unique().tolist() == list(range(10))
    with pytest.raises(ValueError, match=r"label_noise must be between 0 and 1, got 1\.5"):
        with_wrong_labels(targets, 1.5, seed(0))


def test_drawn_images_do_not_overlap():
    values = torch.arange(100.0)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    data = Dataset("numbers", values, torch.arange(100) % 10, values[:5] + 1000, torch.arange(5), "")
    settings = replace(SHORT, train_images=60, validation_images=40, pool=2, label_noise=0.5)
    images = draw_images(settings, data, 0)
    drawn = torch.cat([images.inputs, images.validation_inputs]).flatten()
    assert len(drawn.unique()) == 100 and abs(images.inputs.mean()) < 1e-6 < abs(images.validation_inputs.mean())
    assert images.inputs.shape == (60, 1, 1, 1) and images.wrong.sum() == 30
    slope = (drawn.max() - drawn.min()) / 99
    number = ((images.validation_inputs.flatten() - drawn.min()) / slope).round().long()
    assert torch.equal(images.validation_targets, number % 10)
    with pytest.raises(ValueError, match=r"train_images \+ validation_images must be at most 100.*got 101"):
        draw_images(replace(settings, validation_images=41), data, 0)


def test_augmented_images_are_shifted_or_mirrored():
    images = torch.rand(24, 3, 6, 6, generator=seed(0))
    found, kinds = augmented(images, seed(1)), set()
    for image, result in zip(images, found, strict=True):
        padded, shifts = pad(image, [MOST_SHIFT] * 4), range(2 * MOST_SHIFT + 1)
        crops = {(i, j): padded[:, i : i + 6, j : j + 6] for i in shifts for j in shifts}
        every = {(*at, flip): crop.flip(2) if flip else crop for at, crop in crops.items() for flip in (False, True)}
        match = [at for at, candidate in every.items() if torch.equal(candidate, result)]
        assert len(match) >= 1
        kinds.add(match[0])
    assert len({at[:2] for at in kinds}) > 10 and {at[2] for at in kinds} == {False, True}


def test_measures_are_those_of_the_definitions():
    settings = replace(SHORT, widths=(3,), measured_images=12)
    generator, targets = seed(5), torch.arange(20) % 10
    inputs = torch.randn(20, 1, 2, 2, generator=generator)
    wrong = torch.arange(20) < 5
    images = Images(inputs, targets, wrong, inputs[:4], targets[:4], inputs[4:9], targets[4:9])
    model = nn.Sequential(nn.Flatten(), *mlp(4, 3, 10, generator=generator, dtype=torch.float32))
    found, loss = measure(settings, model, images, 0), nn.CrossEntropyLoss()
    double = nn.Sequential(*model).double()
    x, y = inputs[:12].double(), targets[:12]
    rows = []
    for i in range(12):
        gradients = torch.autograd.grad(loss(double(x[i : i + 1]), y[i : i + 1]), list(double.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    rows = torch.stack(rows)
    covariance = rows.square().sum(1).mean() - rows.mean(0).square().sum()
    assert found["trace_covariance"] == pytest.approx(covariance.item(), rel=1e-5)
    trace = hessian_matrix(double, loss, x, y).trace().item()
    assert found["trace_hessian"] == pytest.approx(trace, rel=1e-5)
    norms = rows.norm(dim=1)
    assert found["norm_ratio"] == pytest.approx((norms[:5].mean() / norms[5:].mean()).item(), rel=0.3)
    right = (double(inputs.double()).argmax(1) == targets).double()
    expected = {"train": right, "validation": right[:4], "test": right[4:9]}
    assert all(found[f"{part}_accuracy"] == pytest.approx(value.mean().item()) for part, value in expected.items())
    assert found["memorized"] == pytest.approx(right[:5].mean().item())


def test_a_run_that_diverges_is_a_result():
    for method in ("sgd", "sam"):
        settings = replace(SHORT, method=method, learning_rate=1e18, epochs=3, logged=(1, 2, 3), seeds=(0, 1))
        result = perform(settings, Workplace())
        assert all("became" in run["diverged"] and len(run["curve"]) < 3 for run in result["runs"])
        json.dumps(result, allow_nan=False)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"method must be one of sgd, sam, .*, got 'adam'"):
        perform(replace(SHORT, method="adam"), Workplace())
    with pytest.raises(ValueError, match="network must be one of mlp, cnn, resnet18, got 'vgg'"):
        perform(replace(SHORT, network="vgg"), Workplace())


def test_residual_network_is_seeded_and_keeps_small_images_large():
    state = torch.get_rng_state()
    model, again = residual_network(3, 1).eval(), residual_network(3, 1)
    assert torch.equal(state, torch.get_rng_state())
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(model.conv1.weight, residual_network(3, 2).conv1.weight)
    shapes = []
    model.layer1.register_forward_hook(lambda module, args, output: shapes.append(output.shape[2:]))
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10) and shapes == [(16, 16)]


def test_paper_profile_trains_its_network():
    settings = next(s for s in accuracy_settings("paper") if s.method == "rw-sam")
    small = dict(data="digits", train_images=4, validation_images=1, batch_size=4, epochs=1, logged=(1,), seeds=(0,))
    settings = replace(settings, **small, measured_images=1, trace_probes=2)
    images = draw_images(settings, load_dataset("digits"), 0)
    model = build(settings, (1, 8, 8), 0)
    before = model.conv1.weight.detach().clone()
    inputs = augmented(images.inputs, seed(0))
    _step(settings, model, make_optimizer(settings, model, 0), inputs, images.targets, images)
    assert not torch.equal(before, model.conv1.weight)
    found = measure(settings, model, replace(images, test_inputs=inputs, test_targets=images.targets), 0)
    assert found["trace_covariance"] == pytest.approx(0, abs=1e-6)  # of a single image
    assert np.isfinite(found["trace_hessian"]) and model.training
