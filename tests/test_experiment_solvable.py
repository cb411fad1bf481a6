"""The linear network against its theory, every smoke run end to end, and what becomes of the records."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from network_oracles import generator
from torch import nn

from companion.entropic_flow import balance_drift
from companion.experiments import solvable
from companion.experiments.experiment import PROFILES, Workplace, content_hash
from companion.experiments.solvable_analysis import (
    at_end,
    largest_runs,
    mean_and_error,
    noise_rows,
    relative,
    relative_rows,
    report,
    series,
    switch_rows,
)
from companion.experiments.solvable_labels import NoisyLabels, additive_root, squared_error
from companion.experiments.solvable_settings import image_settings, teacher_settings
from companion.experiments.solvable_training import MEASURES, Networks, measured
from companion.linear_network import TwoLayerLinear, gradient_fluctuation, hessian_trace, random_minimum
from companion.models import mlp

SMOKE = {
    experiment.name: (experiment, settings)
    for experiment in solvable.EXPERIMENTS
    for settings in [experiment.settings("smoke")]
}
LINEAR = next(s for s in SMOKE["solvable-architectures"][1] if s.model == "linear" and s.loss == "squared")


def record(experiment, settings, result):
    key = content_hash(experiment.name, settings)
    return {"key": key, "settings": json.loads(json.dumps(asdict(settings))), "result": result}


@pytest.fixture(scope="module")
def records():
    return [
        record(experiment, settings, experiment.perform(settings, Workplace()))
        for experiment, runs in SMOKE.values()
        for settings in runs
    ]


def test_measures_of_the_linear_network_are_those_of_its_theory():
    settings = LINEAR
    x, y = solvable.teacher_task(settings, 0)
    order = solvable.noisy_places(settings)[0]
    teacher = torch.linalg.lstsq(x, y).solution.T
    torch.testing.assert_close(x @ teacher.T, y)
    root = additive_root(4, 100.0, 4.0, order, simplex=False)
    model = TwoLayerLinear(teacher, root @ root.T, x.T @ x / len(x), 4)
    network = mlp(4, 4, 4, activation=nn.Identity, bias=False, generator=generator(5))
    weights = [network[0].weight.detach().numpy(), network[2].weight.detach().numpy()]
    found = measured(network, "squared", x, y, (root @ root.T).expand(len(x), -1, -1))
    assert found["trace"] == pytest.approx(hessian_trace(model, weights), rel=1e-9)
    assert found["fluctuation"] == pytest.approx(gradient_fluctuation(model, weights), rel=1e-9)
    closed = solvable.closed_forms(settings, [(x, y)], [order])
    assert closed["flattest"][0] == pytest.approx([4 * 2 * 4 * np.trace(model.input_covariance) ** 0.5] * 2, rel=1e-4)
    assert closed["predicted"][0][0] == pytest.approx(closed["flattest"][0][0])
    assert closed["predicted"][0][1] > 2 * closed["flattest"][0][1]


def test_one_step_moves_the_imbalance_by_its_exact_law():
    # From a minimum the mean of W₁W₁ᵀ - W₂ᵀW₂ changes by -4λ²/B times a W₁Σ_xW₁ᵀ - b W₂ᵀΣ_εW₂, at every λ.
    copies, rate, batch = 40_000, 0.1, 2
    settings = replace(LINEAR, inputs=2, outputs=2, teacher_width=2, samples=10)
    x, y = solvable.teacher_task(settings, 0)
    teacher, root = torch.linalg.lstsq(x, y).solution.T, additive_root(2, 9.0, 2.0, torch.arange(2), simplex=False)
    model = TwoLayerLinear(teacher, root @ root.T, x.T @ x / len(x), 2)
    weights = [torch.from_numpy(w) for w in random_minimum(model, 1.0, np.random.default_rng(4))]
    network = mlp(2, 2, 2, activation=nn.Identity, bias=False, generator=generator())
    with torch.no_grad():
        network[0].weight.copy_(weights[0])
        network[2].weight.copy_(weights[1])
    networks = Networks([network], copies)
    labels = NoisyLabels(y.expand(copies, 1, -1, -1), root.expand(copies, 1, -1, -1))
    index = torch.randint(10, (copies, batch), generator=generator(1))
    networks.step(squared_error, x[index], labels.draw(index, generator(2)), rate)
    first, second = (value.detach() for value in networks.parameters.values())
    changes = first @ first.mT - second.mT @ second - (weights[0] @ weights[0].T - weights[1].T @ weights[1])
    expected = rate**2 / (4 * batch) * balance_drift(model, [w.numpy() for w in weights])
    error = changes.std(0) / copies**0.5
    assert ((changes.mean(0) - torch.from_numpy(expected)).abs() < 4 * error).all()
    assert (np.abs(expected) > 20 * error.numpy()).any()


def test_linear_network_goes_towards_its_predicted_end_and_stops_with_the_noise():
    settings = replace(
        LINEAR, inputs=2, outputs=2, width=2, teacher_width=2, samples=40, measured=40, kappas=(1.0, 9.0),
        total_noise=16.0, learning_rate=0.08, batch_size=128, steps=1500, switch=200, descent=200,
        logged=(0, 200, 1200, 1350, 1500), logged_descent=(0, 100, 200), seeds=(0, 1, 2, 3, 4, 5),
    )  # fmt: skip
    one = record(solvable.EXPERIMENTS[0], settings, result := solvable.perform(settings, Workplace()))
    expected = relative(np.array(result["predicted"]))[:, 1]
    np.testing.assert_allclose(expected, 1.1925, rtol=2e-3)  # 19.08 / 16, as for V = 1
    reached, error = mean_and_error(relative(at_end(one, "trace"))[:, 1])
    assert 1 + 6 * error < reached < 1.1925 + 2 * error  # at this temperature somewhat below
    descent = series(one, "descent", "trace")[1]
    np.testing.assert_allclose(descent[0], series(one, "sgd", "trace")[1][1])
    np.testing.assert_allclose(descent[2], descent[1], rtol=1e-4)
    stopped = relative(descent)[2, :, 1].mean()
    assert stopped + 0.05 < reached  # where the noise ends, so does the rise


# ---- settings, runs, report


@pytest.mark.parametrize("profile", PROFILES)
def test_no_run_is_listed_twice_and_every_task_can_be_had(profile):
    for experiment in solvable.EXPERIMENTS:
        runs = experiment.settings(profile)
        assert len({content_hash(experiment.name, run) for run in runs}) == len(runs)
        assert experiment.differs[profile]
        for run in runs:
            assert run.switch <= run.steps and set(run.logged_descent) <= set(range(run.descent + 1))
    assert len(teacher_settings(profile)) == 15 and len(image_settings(profile)) == 1
    with pytest.raises(ValueError, match=r"^profile must be one of smoke, laptop, paper, got 'desk'$"):
        teacher_settings("desk")


def test_teachers_of_the_laptop_profile_are_whitened_and_flip_rates_are_possible():
    for settings in teacher_settings("laptop"):
        targets = []
        for seed in settings.seeds:
            x, y = solvable.teacher_task(settings, seed)
            assert len(x) == len(y) == settings.samples and x.shape[-1] == settings.inputs
            torch.testing.assert_close(y.T @ y / len(y), torch.eye(4, dtype=torch.float64))
            torch.testing.assert_close(y.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
            targets.append(y)
        labels = solvable.noisy_labels(settings, targets, solvable.noisy_places(settings), "cpu")
        assert labels.mean.shape == (5, 5, settings.samples, 4)
    with pytest.raises(ValueError, match=r"^teacher_width must let 4 outputs be independent, got 2 of them$"):
        solvable.teacher_task(replace(settings, teacher_width=3), 0)
    with pytest.raises(ValueError, match=r"^model must be linear, relu, mlp, rnn or transformer, got 'cnn'$"):
        solvable.starting_model(replace(settings, model="cnn"), 0)


def test_smoke_runs_are_whole_and_json(records):
    json.dumps(records, allow_nan=False)
    for one in records:
        settings, result = one["settings"], one["result"]
        assert [row["step"] for row in result["sgd"]] == settings["logged"]
        assert [row["step"] - settings["switch"] for row in result["descent"]] == settings["logged_descent"]
        for row in (*result["sgd"], *result["descent"]):
            assert set(row) == {"step", *MEASURES}
            assert np.array(row["trace"], dtype=float).shape == (1, 2)
        assert ("predicted" in result) == (settings["model"] == "linear" and settings["loss"] == "squared")
        start = result["sgd"][0]
        if settings["noise"] == "additive":  # the same network and the same mean labels for every κ
            assert start["trace"][0][0] == start["trace"][0][1]
        misfits = [row["misfit"] for row in result["descent"]]
        assert (np.array(misfits[-1]) < np.array(misfits[0])).all()
    # At every point of a piecewise linear network tr H is the Gauss-Newton matrix's; under isotropic noise of
    # variance c the fluctuation is 2c times as large.
    for one in records:
        if one["settings"]["model"] in ("linear", "relu", "mlp"):
            for row in one["result"]["sgd"]:
                np.testing.assert_allclose(row["trace"], row["gauss_newton"], rtol=1e-4)
                if one["settings"]["loss"] == "squared":
                    assert row["fluctuation"][0][0] == pytest.approx(2 * row["trace"][0][0], rel=1e-4)


def test_the_same_settings_give_the_same_result(records):
    experiment, runs = SMOKE["solvable-architectures"]
    for number in (1, 5, 12):
        assert experiment.perform(runs[number], Workplace()) == records[number]["result"]
    other = experiment.perform(replace(runs[1], seeds=(7,)), Workplace())
    assert other["sgd"] != records[1]["result"]["sgd"]


def test_progress_is_told():
    experiment, runs = SMOKE["solvable-architectures"]
    told = []
    experiment.perform(runs[0], Workplace(tick=lambda done, total: told.append((done, total))))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_run_that_diverges_is_a_result(records):
    experiment, runs = SMOKE["solvable-architectures"]
    settings = replace(runs[1], learning_rate=1e4)
    result = experiment.perform(settings, Workplace())
    json.dumps(result, allow_nan=False)
    assert result["sgd"][-1]["trace"] == [[None, None]] and result["sgd"][0]["trace"][0][0] > 0
    assert relative_rows([record(experiment, settings, result)])[0][2:] == ["–", "–"]
    assert report([record(experiment, settings, result)]).tables


@pytest.mark.parametrize("some", [slice(0), slice(1), slice(4, 8), slice(None)])
def test_report_of_none_one_and_all(records, some):
    found = report(records[some])
    assert bool(found.tables) == bool(found.figures) == bool(records[some])
    for table in found.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
    for make in found.figures.values():
        figure = make()
        assert isinstance(figure, Figure)
        import matplotlib.pyplot as plt

        plt.close(figure)


def made_up(seeds, kappas, traces, steps=100, **changes):
    """A record whose tr H at steps 0, 75 and 100 are given, and whose other measures are one."""
    settings = dict(model="relu", loss="squared", noise="additive", data=None, steps=steps, switch=0)
    settings |= dict(seeds=list(range(seeds)), kappas=list(kappas), total_noise=4.0, outputs=4)
    ones = {name: [[1.0] * len(kappas)] * seeds for name in MEASURES}
    sgd = [{"step": step, **ones, "trace": trace} for step, trace in zip((0, 75, 100), traces, strict=True)]
    return {"settings": settings | changes, "result": {"sgd": sgd, "descent": sgd[1:]}}


def test_rows_are_ratios_within_seeds_with_their_standard_errors():
    start, late, last = [[9.0, 9.0]] * 2, [[1.0, 2.0], [10.0, 40.0]], [[3.0, 4.0], [10.0, 60.0]]
    one = made_up(2, (1, 50), [start, late, last])
    np.testing.assert_allclose(at_end(one, "trace"), [[2.0, 3.0], [10.0, 50.0]])
    mean, error = mean_and_error(relative(at_end(one, "trace")))
    np.testing.assert_allclose(mean, [1, 3.25])
    np.testing.assert_allclose(error, [0, 1.75])
    assert relative_rows([one]) == [["squared error", "two layers, ReLU", "1.00 ± 0.00", "3.25 ± 1.75"]]
    assert [row[2:6] for row in switch_rows([one])] == [
        ["switch", "5.50 ± 4.50", "21.0 ± 19.0", "3.00 ± 1.00"],
        ["end of SGD", "6.00 ± 4.00", "26.5 ± 23.5", "3.25 ± 1.75"],
        ["end of descent", "6.50 ± 3.50", "32.0 ± 28.0", "3.67 ± 2.33"],
    ]
    assert noise_rows([one])[0][2:] == ["0.150 ± 0.100", "0.0883 ± 0.0783"]


def test_of_several_records_of_a_case_the_largest_counts():
    short, long = made_up(1, (1,), [[[1.0]]] * 3, steps=100), made_up(1, (1,), [[[1.0]]] * 3, steps=200)
    images = made_up(1, (1,), [[[1.0]]] * 3, data="mnist")
    assert list(largest_runs([images, short, long, short]).values()) == [long, images]


def test_seeds_that_have_diverged_are_left_out():
    mean, error = mean_and_error([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(mean, [2, 5, np.nan])
    np.testing.assert_array_equal(error, [1, np.nan, np.nan])
