"""The measures against oracles, τ against SciPy, and every smoke run end to end."""

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import kendalltau
from torch import nn

from companion.expectation_propagation import log_prior_probability
from companion.experiments import who_predicts, who_predicts_analysis, who_predicts_measures
from companion.experiments.experiment import Workplace, content_hash
from companion.experiments.who_predicts_analysis import LABELS, SHOWN, difference, networks, ranking, tau
from companion.experiments.who_predicts_bounds import diagonal_kl, pac_bayes_bounds
from companion.experiments.who_predicts_report import forest_figure, one_protocol, report
from companion.experiments.who_predicts_shift import shift_measures
from companion.fisher import fisher_matrix
from companion.hessian import hessian_matrix
from companion.metric import metric_trace
from companion.models import mlp
from companion.nngp import nngp_kernel
from companion.pac_bayes import gaussian_kl

CROSS_ENTROPY = nn.CrossEntropyLoss()
SMOKE = who_predicts.settings("smoke")
# What a rescaling of the layers of a ReLU network leaves as it is, up to rounding.
INVARIANT = (
    "train_loss", "margin", "test_error", "held_out_loss", "spectral_over_margin", "fisher_rao",
    "riemannian_exact_0", "worst_case_adaptive", "average_adaptive", "log_prior",
)  # fmt: skip


def record(settings, result):
    return {"key": content_hash("who-predicts-error", settings), "settings": asdict(settings), "result": result}


@pytest.fixture(scope="module")
def records():
    return [record(settings, who_predicts.perform(settings, Workplace())) for settings in SMOKE]


def small(activation=nn.ReLU, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    model = mlp(6, 5, 4, 2, activation=activation, generator=generator, dtype=dtype)
    x = torch.randn(12, 6, generator=generator, dtype=dtype)
    return model, x, (x[:, 0] > 0).long()


def test_smoke_runs_reach_both_moments_and_are_json(records):
    json.dumps(records, allow_nan=False)
    for one in records:
        moments = one["result"]["moments"]
        assert moments["first_fit"]["epoch"] <= moments["equal_loss"]["epoch"] <= one["result"]["epochs"]
        assert moments["equal_loss"]["measures"]["train_loss"] <= one["settings"]["loss_target"] + 1e-6
        for moment in moments.values():
            assert moment["measures"]["train_error"] == 0
            assert 0 < moment["measures"]["test_error"] < 0.5
        assert (one["result"]["alphas"] is None) == (one["settings"]["activation"] == "tanh")


def test_the_same_settings_give_the_same_result(records):
    assert who_predicts.perform(SMOKE[1], Workplace()) == records[1]["result"]


def test_every_measure_of_the_catalogue_is_there(records):
    row = networks(records, optimizer="adam")[0]
    assert [key for key in LABELS if row.get(key) is None] == []
    assert set(SHOWN) <= set(LABELS)
    assert networks(records, optimizer="sgd")[0]["adam_state"] is None


def test_rescaling_changes_what_it_must_and_nothing_else(records):
    for one in records[:2]:
        moment = one["result"]["moments"]["first_fit"]
        before, after = moment["measures"], moment["rescaled"]
        for key in INVARIANT:
            assert after[key] == pytest.approx(before[key], rel=2e-3), key
        for key in ("trace_hessian", "norm", "keskar", "riemannian_exact_0.01", "pac_bayes_laplace"):
            assert abs(after[key] / before[key] - 1) > 1e-2, key


def test_trace_of_the_hessian_is_that_of_the_fisher_matrix_for_relu_only(records):
    *relu, tanh = (one["result"]["moments"]["first_fit"]["measures"] for one in records)
    for measures in relu:
        assert measures["trace_hessian"] == pytest.approx(measures["trace_fisher"], rel=1e-7)
        assert measures["riemannian_exact_0"] == pytest.approx(round(measures["riemannian_exact_0"]), abs=1e-6)
    assert tanh["trace_hessian"] != pytest.approx(tanh["trace_fisher"], rel=1e-2)


def test_attack_set_is_labelled_wrongly_and_shares_no_image():
    settings = replace(SMOKE[0], attack=10)
    split = who_predicts.attack_split(settings, Workplace())
    data = who_predicts.load_dataset("digits")
    label = {
        tuple(x.tolist()): int(y >= 5) for x, y in zip(data.train_inputs.flatten(1), data.train_targets, strict=True)
    }
    wrong = [label[tuple(x.tolist())] != int(y) for x, y in zip(split.inputs, split.targets, strict=True)]
    assert wrong == [False] * 60 + [True] * 10
    assert all(label[tuple(x.tolist())] == int(y) for x, y in zip(split.held_inputs, split.held_targets, strict=True))
    images = {tuple(x.tolist()) for x in torch.cat([split.inputs, split.held_inputs])}
    assert len(images) == 60 + 10 + 40
    clean = who_predicts.attack_split(replace(settings, attack=0), Workplace())
    assert torch.equal(clean.inputs, split.inputs[:60]) and torch.equal(clean.held_inputs, split.held_inputs)


def test_attack_set_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="attack and test_size must fit in 1297 and 500 images"):
        who_predicts.attack_split(replace(SMOKE[0], attack=1200), Workplace())


def test_a_run_that_diverges_or_never_fits_is_a_result():
    result = who_predicts.perform(replace(SMOKE[0], learning_rate=1e30), Workplace())
    assert result["diverged"] and result["moments"] == {"first_fit": None, "equal_loss": None}
    short = who_predicts.perform(replace(SMOKE[0], max_epochs=1, learning_rate=1e-5), Workplace())
    assert not short["diverged"] and short["epochs"] == 1 and short["train_error"] > 0
    both = [record(SMOKE[0], result), record(SMOKE[0], short)]
    assert networks(both) == [] and report(both).tables[0].rows[0][2:6] == (2, 0, 0, 1)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.1])
def test_low_rank_trace_is_that_of_the_dense_matrices(activation, damping):
    model, x, y = small(activation)
    hessian, fisher = hessian_matrix(model, CROSS_ENTROPY, x, y), fisher_matrix(model, CROSS_ENTROPY, x)
    measured = who_predicts_measures.low_rank_traces(model, x, y, (damping,))[damping]
    assert measured == pytest.approx(metric_trace(hessian, fisher, damping=damping), rel=1e-6)


def test_divergence_is_that_of_the_dense_gaussians():
    generator = np.random.default_rng(0)
    variances, mean = generator.uniform(0.1, 2, 5), generator.normal(size=5)
    expected = gaussian_kl(mean, np.diag(variances), np.zeros(5), 0.7 * np.eye(5))
    assert diagonal_kl(torch.from_numpy(variances), 0.7, float(mean @ mean)) == pytest.approx(expected)


def test_bounds_are_those_of_a_cloud_with_the_error_allowed_and_grow_with_distance():
    model, x, _ = small(dtype=torch.float32)
    labels = model(x).argmax(1)
    far = copy.deepcopy(model)
    with torch.no_grad():
        far[0].weight += 1
    near, distant = (pac_bayes_bounds(model, start, x, labels, seed=0) for start in (model, far))
    assert all(distant[key] > near[key] for key in ("pac_bayes_isotropic", "pac_bayes_laplace"))
    # Without a distance the isotropic posterior is its prior: KL = 0, and the union over σ = 1.05^-j is left.
    shares = [0.05 * 6 / (np.pi * j) ** 2 for j in range(1, 151)]
    bounds = [0.1 + np.sqrt(np.log(2 * np.sqrt(12) / share) / 24) for share in shares]
    assert sum(shares) < 0.05
    assert min(abs(np.array(bounds) - near["pac_bayes_isotropic"])) < 1e-12
    wrong = pac_bayes_bounds(model, model, x, 1 - labels, seed=0)
    assert wrong == {"pac_bayes_isotropic": None, "pac_bayes_laplace": None}


def test_shift_curvature_of_a_quadratic_loss_is_the_loss_it_costs():
    # Without a hidden layer and near the minimum the loss is nearly a parabola: eq. 3 of `shift` then holds.
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(400, 3, generator=generator)
    y = (torch.rand(400, generator=generator) < torch.sigmoid(x[:, 0] / 2)).long()
    model = nn.Sequential(nn.Linear(3, 2))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200)

    def closure():
        optimizer.zero_grad()
        loss = CROSS_ENTROPY(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        lowest = float(CROSS_ENTROPY(model(x), y))
        model[0].weight += 0.1 * torch.tensor([[1.0, 0.0, 0.5], [-1.0, 0.0, -0.5]])
        start = float(CROSS_ENTROPY(model(x), y))
    minimum = shift_measures(model, x, y, seed=0)
    assert minimum["shift_minimum"] == pytest.approx(lowest, abs=2e-4)
    assert minimum["shift_curvature"] == pytest.approx(start - lowest, rel=0.15)
    assert minimum["shift_curvature_fit"] == pytest.approx(start - lowest, rel=0.15)


def test_shift_of_a_network_that_diverges_is_missing():
    model, x, y = small(dtype=torch.float32)
    with torch.no_grad():
        model[0].weight *= 1e20
        model[2].weight *= 1e18
    assert set(shift_measures(model, x, y, seed=0).values()) == {None}


def test_log_prior_is_that_of_the_labels_on_clean_and_held_out_images():
    split = who_predicts.attack_split(SMOKE[0], Workplace())
    model = nn.Sequential(nn.Linear(64, 2))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([0.0, 1.0]))
    points = torch.cat([split.inputs[:60], split.held_inputs]).double().numpy()
    kernel = nngp_kernel(points, depth=2, weight_scale=2**0.5, bias_scale=0.0)
    expected = log_prior_probability(kernel, np.ones(100)).value
    assert who_predicts_measures.log_prior(model, split) == pytest.approx(expected, rel=1e-4)


def test_squared_gradient_of_the_whole_batch_is_the_gradient_squared():
    model, x, y = small()
    one = {"batch_size": 12, "batches": 1, "generator": torch.Generator()}
    squared = who_predicts_measures.squared_gradients(model, x, y, **one)
    gradients = torch.autograd.grad(CROSS_ENTROPY(model(x), y), list(model.parameters()))
    for value, gradient in zip(squared.values(), gradients, strict=True):
        torch.testing.assert_close(value, gradient.square())


def test_ratio_leaves_out_dead_parameters_and_refuses_to_divide_by_zero():
    zero_three, one_two = torch.tensor([0.0, 3.0]), torch.tensor([0.0, 2.0])
    assert who_predicts_measures.ratio(zero_three, one_two, 0.0) == 1.5
    assert who_predicts_measures.ratio(zero_three + 1, one_two, 0.0) is None
    assert who_predicts_measures.ratio(zero_three + 1, one_two, 2.0) == 1.5


def test_tau_is_scipys_with_ties_and_in_every_bootstrap_draw():
    generator = np.random.default_rng(3)
    values, errors = generator.integers(0, 8, 30), generator.integers(0, 10, 30)
    assert tau(values, errors)[0] == pytest.approx(kendalltau(values, errors).statistic)
    weights = who_predicts_analysis.bootstrap_weights(30, 5, 0)
    assert weights.sum(axis=1).tolist() == [30] * 5
    expected = [kendalltau(*(np.repeat(v, w.astype(int)) for v in (values, errors))).statistic for w in weights]
    np.testing.assert_allclose(tau(values, errors, weights=weights), expected)


def test_tau_within_strata_sees_no_pair_across_them():
    # Simpson: falls within each stratum, rises over both.
    values, errors, strata = [1, 2, 3, 11, 12, 13], [3, 2, 1, 13, 12, 11], [0, 0, 0, 1, 1, 1]
    assert tau(values, errors, strata)[0] == -1
    assert tau(values, errors)[0] == pytest.approx(1 / 5)
    assert tau([1, 2, np.nan], [1, 2, 0])[0] == 1
    assert np.isnan(tau([1, 2], [1, 2], [0, 1])[0])


def test_ranking_finds_the_measure_that_is_the_error_and_counts_what_is_missing():
    generator = np.random.default_rng(0)
    errors = generator.random(24)
    rows = [
        {"seed": k, "attack": k % 2, "test_error": e, "keskar": 2 * e, "log_prior": -e, "norm": generator.random()}
        for k, e in enumerate(errors)
    ]
    rows[0]["log_prior"] = None
    ranks = ranking(rows, ("norm", "keskar", "log_prior"))
    assert [rank.tau for rank in ranks[:2]] == [1, 1] and ranks[2].key == "norm"
    assert [rank.networks for rank in ranks if rank.key == "log_prior"] == [23]
    assert ranks[0].low == ranks[0].high == 1 and ranks[2].low < ranks[2].tau < ranks[2].high
    assert sum(rank.best for rank in ranks) == pytest.approx(1) and ranks[2].best == 0
    value, low, high = difference(rows, "keskar", "norm")
    assert low < value < high and value == pytest.approx(1 - ranks[2].tau)
    assert difference(rows, "keskar", "keskar", other_rows=rows) == (0, 0, 0)
    with pytest.raises(ValueError, match="other_rows must be the networks of rows"):
        difference(rows, "keskar", "norm", other_rows=rows[1:])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_report_of_some_records(records, count):
    made = report(records[:count])
    assert len(made.tables) == 7
    assert all(len(row) == len(table.columns) for table in made.tables for row in table.rows)
    for figure in made.figures.values():
        assert isinstance(figure(), Figure)


def test_forest_has_a_row_a_measure_and_a_series_a_ranking():
    generator = np.random.default_rng(0)
    rows = [{"seed": k, "test_error": k, "attack": k % 2, "keskar": -k, "norm": generator.random()} for k in range(20)]
    ranks = ranking(rows, ("keskar", "norm", "attack"))
    figure = forest_figure({"one": {"all": ranks, "again": ranks[::-1]}, "two": {"all": ranks}})
    first, second = figure.axes
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["size of the attack set", "Keskar, box", "|θ|"]  # the best measure on top
    assert [len(panel.containers) for panel in (first, second)] == [2, 1]
    at, height = first.containers[0][0].get_data()
    assert list(at) == [rank.tau for rank in ranks[:2]] and [round(y) for y in height] == [2, 1]


def test_report_takes_one_protocol(records):
    other = record(replace(SMOKE[0], train_size=61), records[0]["result"])
    assert one_protocol([*records, other]) == records


def test_profiles_hold_no_network_twice_and_the_laptop_has_enough():
    for profile in ("smoke", "laptop", "paper"):
        runs = who_predicts.settings(profile)
        assert len({content_hash("who-predicts-error", run) for run in runs}) == len(runs)
        assert len({run.seed for run in runs}) == len(runs)
    assert len(who_predicts.settings("laptop")) == 192
    assert [run for run in who_predicts.settings("laptop") if run.batch_size > run.train_size] == []
