"""Images, networks, the flow and the line against oracles, and every smoke run end to end."""

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from smoke_records import smoke_records
from torch import nn

from companion.data import load_dataset
from companion.experiments import shift, shift_training
from companion.experiments.experiment import PROFILES, Workplace, content_hash
from companion.experiments.shift_analysis import line_rows
from companion.experiments.shift_collapse import final_rows
from companion.experiments.shift_line import gradient_flow, line_derivatives, lines_between
from companion.experiments.shift_settings import line_settings, sample_settings, temperature_settings
from companion.experiments.shift_training import Split, draw, fallen, network
from companion.hessian import hessian_matrix
from companion.models import mlp

EXPERIMENTS = {experiment.name: experiment for experiment in shift.EXPERIMENTS}


@pytest.fixture(scope="module")
def records():
    return smoke_records(EXPERIMENTS.values())


@pytest.fixture
def tanh_problem():
    """A smooth network, so that finite differences and the Hessian agree, on two data sets."""
    generator = torch.Generator().manual_seed(0)
    model = mlp(3, 5, 4, activation=nn.Tanh, generator=generator, dtype=torch.float32)
    inputs = torch.randn(2, 40, 3, generator=generator)
    targets = torch.randint(4, (2, 40), generator=generator)
    return model, Split(inputs[0], targets[0], inputs[1], targets[1])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_settings_differ_and_say_how(name, profile):
    experiment = EXPERIMENTS[name]
    keys = {content_hash(name, settings) for settings in experiment.settings(profile)}
    assert len(keys) == len(experiment.settings(profile)) > 0
    assert experiment.differs[profile].endswith(".")


def test_every_profile_must_be_known():
    for settings in (line_settings, temperature_settings, sample_settings):
        with pytest.raises(ValueError, match="profile must be one of smoke, laptop, paper, got 'desk'"):
            settings("desk")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_same_settings_same_result(name, records):
    experiment = EXPERIMENTS[name]
    again = experiment.perform(experiment.settings("smoke")[0], Workplace())
    assert json.loads(json.dumps(again)) == records[name][0]["result"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_report_on_none_one_and_all_records(name, records):
    for count in (0, 1, len(records[name])):
        report = EXPERIMENTS[name].report(records[name][:count])
        assert bool(report.tables) == bool(report.figures) == (count > 0)
        for table in report.tables:
            assert all(len(row) == len(table.columns) for row in table.rows)
        for figure in report.figures.values():
            figure().clear()


def test_lines_of_smoke_runs_are_between_minima(records):
    for record in records["shift-line"]:
        assert not record["result"]["diverged"]
        assert record["result"]["curve"][-1]["train"] < record["result"]["curve"][0]["train"]
        for line in record["result"]["lines"]:
            by_place = {point["r"]: point for point in line["profile"]}
            assert set(np.round(np.arange(-5, 11) / 5, 6)) == {round(r, 6) for r in by_place}
            assert by_place[0]["train"] < by_place[1]["train"] and by_place[1]["test"] < by_place[0]["test"]
    for flow_time in (1.0, 4.0):
        rows = [row for row in line_rows(records["shift-line"]) if row["flow_time"] == flow_time]
        assert len(rows) == 4 and all(row["shift_curvature"] > 0 for row in rows)


def test_temperature_runs_share_their_first_stage(records):
    by_seed = {}
    for record in records["shift-temperature"]:
        by_seed.setdefault(record["settings"]["seed"], []).append(record["result"])
        for run in record["result"]["runs"]:
            assert run["learning_rate"] == pytest.approx(record["settings"]["temperature"] * run["batch_size"])
            assert [point["epoch"] for point in run["curve"]] == list(range(1, 7))
    for results in by_seed.values():
        assert results[0]["start"] == results[1]["start"]
        assert results[0]["runs"] != results[1]["runs"]


def test_a_run_that_diverges_says_so():
    settings = replace(line_settings("smoke")[0], temperature=1e9)
    result = shift.perform_line(settings, Workplace())
    assert result["diverged"] and result["lines"] == []
    settings = temperature_settings("smoke")[0]
    result = shift.perform_temperature(replace(settings, temperature=1e9, batch_sizes=(16,)), Workplace())
    assert result["runs"][0]["diverged"] and result["start"]["train"] < 2.3
    json.dumps(result, allow_nan=False)
    assert final_rows([{"settings": asdict(settings), "result": result}]) == []
    result = shift.perform_temperature(replace(settings, first_learning_rate=1e6), Workplace())
    assert result == {"start": None, "runs": []}
    record = {"settings": asdict(settings), "result": result}
    assert EXPERIMENTS["shift-temperature"].report([record]).tables
    sample = sample_settings("smoke")[0]
    assert shift.perform_sample(replace(sample, first_learning_rate=1e6), Workplace())["end"] is None


def test_other_errors_are_not_taken_for_divergence():
    settings = replace(line_settings("smoke")[0], batch_size=200)
    with pytest.raises(ValueError, match="batch_size must be at most the 120 samples"):
        shift.perform_line(replace(settings, time=1.0, temperature=1e-3, train=120), Workplace())


def test_splits_are_disjoint_and_standardized():
    settings = sample_settings("smoke")[0]
    data = load_dataset("digits")
    everything = torch.cat([data.train_inputs, data.test_inputs])
    for split, pool in (("default", data.train_inputs), ("reshuffled", everything)):
        drawn = draw(replace(settings, split=split, train=300, test=200), Workplace())
        torch.testing.assert_close(drawn.inputs.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(drawn.inputs.std(), torch.tensor(1.0), atol=1e-5, rtol=0)
        distances = torch.cdist(_rescaled(drawn.inputs), pool.flatten(1))
        chosen = distances.argmin(1)
        assert distances.min(1).values.max() < 0.01 and len(set(chosen.tolist())) == 300
        test = torch.cdist(_rescaled(drawn.test_inputs), everything.flatten(1)).argmin(1)
        from_test = (test >= len(data.train_inputs)).float().mean()
        assert from_test == 1 if split == "default" else 0.1 < from_test < 0.5
        assert len(set(test.tolist())) == 200 and not set(test.tolist()) & set(chosen.tolist())


def _rescaled(inputs):
    """Standardized digits as they were: the darkest pixel is 0, the brightest 1, in steps of 1/16."""
    flat = inputs.flatten(1)
    return (16 * (flat - flat.min()) / (flat.max() - flat.min())).round() / 16


def test_too_many_images_and_unknown_splits():
    settings = sample_settings("smoke")[0]
    with pytest.raises(ValueError, match="train and test must not exceed what scikit-learn's digits has, got 2000 and"):
        draw(replace(settings, train=2000), Workplace())
    with pytest.raises(ValueError, match="split must be default or reshuffled, got 'odd'"):
        draw(replace(settings, split="odd"), Workplace())


def test_network_has_the_layers_that_the_settings_name():
    settings = replace(sample_settings("smoke")[0], convolutions=(4, 6, 0, 8), hidden=(12,), batch_norm=True)
    split = draw(settings, Workplace())
    model = network(settings, split)
    names = [type(layer).__name__ for layer in model]
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert names == block + block + ["MaxPool2d"] + block + ["Flatten", "Linear", "ReLU", "Linear"]
    assert model(split.inputs).shape == (60, 10) and model[-3].in_features == 8 * 4 * 4
    with pytest.raises(ValueError, match="convolutions must leave a pixel"):
        network(replace(settings, convolutions=(0, 0, 0, 0)), split)


def test_learning_rate_falls_after_half_of_the_epochs(monkeypatch):
    settings = replace(sample_settings("smoke")[0], first_epochs=20)
    split, rates = draw(settings, Workplace()), []

    def stub(model, split, optimizer, *rest):
        for epoch in range(1, 21):
            rates.append(optimizer.param_groups[0]["lr"])
            yield epoch

    monkeypatch.setattr(shift_training, "trained", stub)
    assert list(fallen(network(settings, split), split, settings)) == list(range(1, 21))
    expected = [0.02] * 10 + [0.002] * 5 + [0.0002] * 3 + [0.00002] * 2
    np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize(("scale", "times"), [(1.0, (0.5, 2.0, 8.0)), (30.0, (1e-3, 1e-2, 1.0))])
def test_gradient_flow_solves_its_equation(scale, times):
    # Constant inputs: only the logits z = scale · w count, dz/dt = scale² (y - softmax z) - α z; stiff at scale 30.
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    nn.init.zeros_(model[0].weight)
    inputs, targets = torch.full((4, 1), scale), torch.tensor([0, 0, 0, 1])
    points = gradient_flow(model, inputs, targets, times=times, weight_decay=0.1)

    def slope(t, z):
        return scale**2 * (np.array([0.75, 0.25]) - np.exp(z) / np.exp(z).sum()) - 0.1 * z

    exact = solve_ivp(slope, (0, times[-1]), np.zeros(2), "LSODA", t_eval=times, rtol=1e-9, atol=1e-9).y.T
    assert [time for time, _ in points] == pytest.approx(times)
    np.testing.assert_allclose([scale * point.numpy() for _, point in points], exact, atol=0.05)
    assert not model[0].weight.any()


def test_gradient_flow_lowers_only_its_own_loss(tanh_problem):
    model, split = tanh_problem
    points = gradient_flow(model, split.inputs, split.targets, times=(1.0, 5.0, 25.0))
    losses = []
    for _, point in points:
        nn.utils.vector_to_parameters(point, model.parameters())
        losses.append(split.losses(model))
    assert losses[0]["train"] > losses[1]["train"] > losses[2]["train"]
    assert losses[2]["test"] > losses[0]["test"]


def test_line_derivatives_are_those_of_the_hessian(tanh_problem):
    model, split = tanh_problem
    point = nn.utils.parameters_to_vector(model.parameters()).detach()
    direction = torch.randn(len(point), generator=torch.Generator().manual_seed(3))
    slope, curvature = line_derivatives(model, point, direction, split.inputs, split.targets)
    double = copy.deepcopy(model).double()
    hessian = hessian_matrix(double, nn.CrossEntropyLoss(), split.inputs.double(), split.targets)
    assert curvature == pytest.approx(float(direction.double() @ hessian @ direction.double()), rel=1e-6)
    loss = nn.CrossEntropyLoss()(double(split.inputs.double()), split.targets)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(double.parameters()))])
    assert slope == pytest.approx(float(gradient @ direction.double()), rel=1e-6)


def test_lines_of_a_smooth_network_obey_eq_3(tanh_problem):
    model, split = tanh_problem
    (line,) = lines_between(model, split, (0.3,), 0.0, 20)
    (row,) = line_rows([{"settings": {"seed": 0}, "result": {"lines": [line]}}])
    # A short flow: along so short a shift the losses are parabolas, though not at their minima.
    expected = row["depth_test"] - row["slope"] + row["exact_shift_curvature"]
    assert row["test_at_train"] == pytest.approx(expected, abs=2e-3)
    profile = {round(point["r"], 6): point["test"] for point in line["profile"]}
    difference_ = (profile[1.05] - 2 * profile[1.0] + profile[0.95]) / 0.05**2
    assert line["test_curvature"] == pytest.approx(difference_, rel=0.02)
    assert line["shift"] == pytest.approx(line["train_distance"] + line["test_distance"], rel=0.6)


def test_losses_of_a_batch_normalized_network_use_its_running_averages():
    settings = sample_settings("smoke")[0]
    split = draw(settings, Workplace())
    model = network(settings, split)
    running = copy.deepcopy(model[1].running_mean)
    first = split.losses(model)
    assert split.losses(model) == first and torch.equal(model[1].running_mean, running) and model.training
    outputs = model.eval()(split.inputs).detach()
    assert first["train"] == pytest.approx(float(nn.CrossEntropyLoss()(outputs, split.targets)))
    wrong = (outputs.argmax(1) != split.targets).double().mean()
    assert first["train_error"] == pytest.approx(float(wrong))
