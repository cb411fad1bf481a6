"""The ``prior`` experiments: their parts against independent computations, and the smoke profile end to end."""

import copy
import json
import math
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from scipy.stats import kendalltau
from smoke_records import smoke_records
from torch import nn

from companion.boolean_functions import network_outputs, random_networks
from companion.data import load_dataset
from companion.ensembles import as_module
from companion.experiments import prior
from companion.experiments.experiment import PROFILES, Workplace, content_hash
from companion.experiments.prior_alpha import Follower, spaced
from companion.experiments.prior_alpha_analysis import alpha_report, spike_rows
from companion.experiments.prior_analysis import attack_report, estimate, kendall, label_report, network_rows, tau
from companion.experiments.prior_measures import labels_of, sharpness, two_outputs
from companion.experiments.prior_tasks import attacked, binary_task, interpolation, log10_prior
from companion.experiments.prior_training import EntropySGD, rescaled, train_stack
from companion.reparametrization import rescale_layers

SIZES = (5, 8, 8, 1)
EXPERIMENTS = {experiment.name: experiment for experiment in prior.EXPERIMENTS}


def rng(seed=0):
    return np.random.default_rng(seed)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stack_and_data(count=3, samples=12):
    layers = random_networks(count, SIZES, 1.4, 0.3, rng())
    points = torch.from_numpy(rng(1).standard_normal((count, samples, SIZES[0]), dtype=np.float32))
    labels = torch.from_numpy(rng(2).integers(0, 2, (count, samples))).float()
    return layers, points, labels


def trained(layers, points, labels, **changes):
    """The outputs after each epoch, and the layers."""
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 5, "epochs": 3, "generator": seeded()} | changes
    return [outputs for _, outputs in train_stack(layers, points, labels, **settings)]


@pytest.fixture(scope="module")
def records():
    return smoke_records(EXPERIMENTS.values())


# ---- the parts ------------------------------------------------------------------------------------------------


def test_task_has_classes_0_to_4_against_5_to_9_and_disjoint_parts():
    task, data = binary_task("digits", None, train=50, test=40, seed=0), load_dataset("digits")
    for inputs, labels, part, targets in (
        (task.inputs, task.labels, data.train_inputs, data.train_targets),
        (task.test_inputs, task.test_labels, data.test_inputs, data.test_targets),
    ):
        nearest = torch.cdist(inputs, part.flatten(1)).argmin(1)
        assert torch.equal(part.flatten(1)[nearest], inputs)
        assert torch.equal((targets[nearest] >= 5).float(), labels)
    assert len(task.inputs) + len(task.spare_inputs) == len(data.train_inputs)
    assert torch.cdist(task.inputs, task.spare_inputs).min() > 0
    assert task.points.shape == (90, 64)


def test_task_wants_no_more_images_than_there_are():
    with pytest.raises(ValueError, match="train must be at most the 1297 images"):
        binary_task("digits", None, train=1298, test=10, seed=0)
    task = binary_task("digits", None, train=1290, test=10, seed=0)
    with pytest.raises(ValueError, match="attack must be at most the 7 images"):
        attacked(task, 8, 1, rng())


def test_attack_sets_are_wrong_and_each_network_has_its_own():
    task = binary_task("digits", None, train=30, test=10, seed=0)
    points, labels = attacked(task, 20, 2, rng())
    assert torch.equal(points[:, :30], task.inputs.expand(2, -1, -1))
    assert torch.equal(labels[:, :30], task.labels.expand(2, -1))
    rows = torch.cdist(points[:, 30:], task.spare_inputs.expand(2, -1, -1)).argmin(2)
    assert torch.equal(labels[:, 30:], 1 - task.spare_labels[rows])
    assert len(set(rows[0].tolist())) == 20 and set(rows[0].tolist()) != set(rows[1].tolist())


@pytest.mark.parametrize("name", ["sgd", "full-batch", "momentum", "adam", "rmsprop", "adagrad"])
def test_stack_trains_each_network_as_it_would_train_alone(name):
    layers, points, labels = stack_and_data()
    alone = as_module(layers, 1, torch.float32)
    chosen = {
        "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.05),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05, alpha=0.9),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    }.get(name, lambda p: torch.optim.SGD(p, lr=0.05))(alone.parameters())
    for _ in range(4):
        chosen.zero_grad()
        nn.BCEWithLogitsLoss()(alone(points[1])[:, 0], labels[1]).backward()
        chosen.step()
    *_, outputs = trained(layers, points, labels, optimizer=name, learning_rate=0.05, batch_size=12, epochs=4)
    torch.testing.assert_close(outputs[1], alone(points[1])[:, 0], rtol=1e-4, atol=1e-5)


def test_epoch_goes_through_every_sample_once():
    # With one sample a batch and a rate so small that the loss is linear, an epoch is N steps of the mean gradient.
    layers, points, labels = stack_and_data(count=1, samples=7)
    before = network_outputs(layers, points)
    whole = copy.deepcopy(layers)
    (after,) = trained(layers, points, labels, learning_rate=1e-4, batch_size=2, epochs=1)
    (expected,) = trained(whole, points, labels, learning_rate=1e-4, batch_size=7, epochs=1)
    steps = 7 / 2
    assert torch.allclose(
        (after - before) / steps, expected - before, atol=0.3 * float((expected - before).abs().max())
    )


def test_one_order_keeps_copies_alike_and_own_orders_do_not():
    layers, points, labels = stack_and_data(count=1)
    copies = [(w.repeat(2, 1, 1), b.repeat(2, 1, 1)) for w, b in layers]
    same = points.expand(2, -1, -1), labels.expand(2, -1)
    assert torch.equal(*trained(copy.deepcopy(copies), *same, one_order=True)[-1])
    assert not torch.allclose(*trained(copies, *same)[-1], atol=1e-5)


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"optimizer must be entropy-sgd or one of sgd, .*, got 'lion'"):
        trained(*stack_and_data(), optimizer="lion")


def test_entropy_sgd_without_memory_noise_and_scope_is_gradient_descent():
    start = torch.tensor([1.0, -2.0])
    x = start.clone().requires_grad_(True)
    plain = {"memory": 0.0, "noise": 0.0, "scope": 0.0, "length": 3, "inner_rate": 0.1}
    optimizer = EntropySGD([x], lr=1.0, generator=seeded(), **plain)

    def closure():
        optimizer.zero_grad()
        loss = (x**2).sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(x.detach(), 0.9**3 * start)


def test_entropy_sgd_averages_is_pulled_back_and_tightens_its_scope():
    x = torch.zeros(1, requires_grad=True)
    optimizer = EntropySGD([x], lr=0.5, generator=seeded(), length=2, noise=0.0, scope=2.0, growth=0.5, memory=0.75)

    def closure():
        optimizer.zero_grad()
        loss = -x.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    first = 0.1
    second = first - 0.1 * (-1 - 2.0 * (0 - first))  # the gradient, and the pull towards the center 0
    mean = 0.75 * (0.25 * first) + 0.25 * second
    assert float(x.detach()) == pytest.approx(0.5 * mean, rel=1e-6)
    assert optimizer.param_groups[0]["scope"] == pytest.approx(3.0)


def test_measures_agree_with_the_dense_hessian():
    layers, points, labels = stack_and_data(samples=30)
    model = as_module(layers, 0)
    inputs, targets = points[0].double(), labels[0]
    names, shapes = zip(*[(n, p.shape) for n, p in model.named_parameters()], strict=True)

    def loss(vector):
        parts = vector.split([math.prod(shape) for shape in shapes])
        values = {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
        return nn.BCEWithLogitsLoss()(torch.func.functional_call(model, values, (inputs,))[:, 0], targets.double())

    at = nn.utils.parameters_to_vector(model.parameters()).detach()
    hessian, gradient = torch.func.hessian(loss)(at), torch.func.grad(loss)(at)
    largest = torch.linalg.eigvalsh(hessian).flip(0)[:4]
    found = sharpness(model, inputs, targets, box=1e-6, eigenvalues=4)
    assert found["loss"] == pytest.approx(float(loss(at)), rel=1e-12)
    assert found["trace"] == pytest.approx(float(hessian.trace()), rel=1e-10)
    assert found["top_eigenvalue"] == pytest.approx(float(largest[0]), rel=1e-5)
    assert found["log10_product"] == pytest.approx(float(largest.log10().sum()), abs=1e-4)
    rise = 100 * float(gradient.abs() @ (at.abs() + 1)) * 1e-6 / (1 + found["loss"])
    assert found["first_order"] == pytest.approx(rise, rel=1e-9)
    assert found["sharpness"] == pytest.approx(rise, rel=1e-3)  # in so small a box the loss is linear
    assert "top_eigenvalue" not in sharpness(model, inputs, targets, box=1e-6, eigenvalues=0)


def test_two_outputs_keep_the_loss_and_the_labels():
    layers, points, labels = stack_and_data()
    model, inputs = as_module(layers, 2), points[2].double()
    outputs = two_outputs(model)(inputs)
    torch.testing.assert_close(
        nn.CrossEntropyLoss()(outputs, labels[2].long()),
        nn.BCEWithLogitsLoss()(model(inputs)[:, 0], labels[2].double()),
    )
    assert np.array_equal(outputs.argmax(1).numpy(), labels_of(model, points[2]))


def test_prior_of_independent_labels_is_a_half_each():
    assert log10_prior(np.eye(6), np.array([0, 1, 1, 0, 0, 1.0])) == pytest.approx(6 * math.log10(0.5))


def test_interpolation_goes_through_the_known_labels():
    centers = np.array([0.0, 1.0, 2.0, 0.1, 0.9, 2.1])
    kernel = np.exp(-((centers[:, None] - centers) ** 2) / 0.1)
    assert interpolation(kernel, np.array([1.0, 0.0, 1.0])).tolist() == [1, 0, 1]


@pytest.mark.parametrize("layer", [0, 1])
def test_rescaled_stack_is_that_of_rescale_layers(layer):
    layers, points, _ = stack_and_data(count=1)
    stack = rescaled(layers, (1.0, 7.0), layer)
    for k, alpha in enumerate((1.0, 7.0)):
        expected = rescale_layers(as_module(layers, 0), alpha, layer=layer)
        for mine, other in zip(as_module(stack, k).parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(*network_outputs(stack, points.expand(2, -1, -1)), rtol=1e-4, atol=1e-5)


def test_follower_counts_labels_that_left_and_came_back_and_survives_divergence():
    task = binary_task("digits", None, train=20, test=10, seed=0)
    layers = random_networks(1, (64, 8, 8, 1), 1.0, 0.1, rng())
    negative = [*layers[:-1], (-layers[-1][0], -layers[-1][1])]
    follower = Follower(task, np.eye(30), 1e-4)
    follower.start(layers)
    follower.watch(negative)
    follower.watch(layers)
    row = follower.row(layers, 0, 2)
    assert (row["changed"], row["most_changed"]) == (0, 30)
    lost = [(layers[0][0] * float("inf"), layers[0][1]), *layers[1:]]
    assert follower.row(lost, 0, 3) == {"epoch": 3}


def test_spaced_epochs_start_at_one_and_end_at_the_last():
    assert spaced(1000, 24) >= {1, 2, 1000} and max(spaced(1000, 24)) == 1000
    assert spaced(5, 50) == {1, 2, 3, 4, 5}


# ---- the analysis ---------------------------------------------------------------------------------------------


def test_kendall_is_scipys_also_with_ties():
    x, y = rng(3).integers(0, 6, (2, 40))
    assert kendall(x, y) == pytest.approx(kendalltau(x, y).statistic)
    assert math.isnan(kendall(np.ones(5), np.arange(5)))


def test_kendall_within_groups_sees_what_the_groups_hide():
    groups = np.repeat(np.arange(4), 10)
    within = np.tile(np.arange(10), 4)
    x, y = 100 * groups + within, 100 * groups - within
    assert kendall(x, y) > 0.5
    assert kendall(x, y, groups) == pytest.approx(-1)


def test_tau_has_an_interval_and_leaves_out_what_was_not_measured():
    draw = rng(4)
    rows = [
        {"attack": i % 3, "accuracy": i / 60, "good": i + 5 * draw.normal(), "noise": draw.normal()} for i in range(60)
    ]
    rows.append({"attack": 0, "accuracy": 0.5, "good": None, "noise": None})
    value, low, high = tau(rows, "good")
    assert 0.6 < low < value < high < 1
    assert tau(rows, "noise")[1] < 0 < tau(rows, "noise")[2]
    assert tau(rows, "good", minus="noise")[1] > 0
    assert tau(rows[:3], "good") is None


def test_estimate_draws_the_networks_of_one_attack_set_together():
    draw, rows = rng(5), []
    for number, name in np.ndindex(30, 3):
        accuracy = draw.normal()
        row = {"data": "mnist", "train": 5, "attack": number % 3, "network": number, "optimizer": name}
        rows.append({**row, "accuracy": accuracy, "good": accuracy + 0.5 * draw.normal(), "same": accuracy})
    rows.append({**rows[0], "good": None, "same": None})
    everywhere, within = (estimate(rows, "good", strata=strata) for strata in ((), ("attack", "optimizer")))
    assert everywhere.value == pytest.approx(kendall(*np.array([(r["good"], r["accuracy"]) for r in rows[:-1]]).T))
    groups = [10 * r["attack"] + r["optimizer"] for r in rows[:-1]]
    expected = kendall([r["good"] for r in rows[:-1]], [r["accuracy"] for r in rows[:-1]], groups)
    assert within.value == pytest.approx(expected)
    assert within.error > everywhere.error > 0
    # Copies of one network under another optimizer bring no new attack sets, and so no smaller error.
    first = [row for row in rows if row["optimizer"] == 0][:-1]
    copies = [{**row, "optimizer": name} for row in first for name in range(3)]
    alone, copied = (estimate(part, "good", strata=("optimizer",)) for part in (first, copies))
    assert copied.error == pytest.approx(alone.error)
    assert (estimate(rows, "same", optimizer=1) - estimate(rows, "same", optimizer=2)).error == 0
    with pytest.raises(ValueError, match="ranks no pair"):
        estimate(rows, "good", strata=("attack", "optimizer", "network"))


# ---- the experiments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_settings_are_plain_and_none_comes_twice(profile):
    for name, experiment in EXPERIMENTS.items():
        settings = experiment.settings(profile)
        assert len({content_hash(name, one) for one in settings}) == len(settings) > 0
        for one in settings:
            values = [getattr(one, field.name) for field in fields(one)]
            assert all(isinstance(value, str | int | float | tuple) for value in values)
        assert experiment.differs[profile]


def test_full_batch_is_all_of_its_samples():
    runs = [s for s in prior.attack_settings("laptop") if s.optimizer == "full-batch"]
    assert runs and all(s.batch_size == s.train + s.attack for s in runs)


def test_same_settings_give_the_same_result(records):
    settings = prior.attack_settings("smoke")[0]
    again = json.loads(json.dumps(prior.perform_attack(settings, Workplace())))
    assert again == records["prior-attack"][0]["result"]
    assert prior.perform_attack(replace(settings, seed=1), Workplace()) != again


def test_moments_are_what_their_names_say(records):
    seen = set()
    for record in records["prior-attack"]:
        settings = record["settings"]
        for network in record["result"]["networks"]:
            seen |= set(network)
            assert network["fit"]["errors"] == 0
            if settings["attack"] == 0:
                assert network["fit"]["sharpness"] == network["fit"]["clean_sharpness"]
            if "level" in network:
                assert network["level"]["loss"] <= settings["level"] + 1e-6
                assert network["level"]["epoch"] >= network["fit"]["epoch"]
            if settings["overtraining"]:
                assert network["late"]["epoch"] == network["fit"]["epoch"] + settings["overtraining"]
    assert seen == {"fit", "level", "late"}


def test_wrong_labels_cost_accuracy_and_prior(records):
    rows = [row for row in network_rows(records["prior-attack"]) if row["moment"] == "fit"]
    mean = {
        (size, name): np.mean([row[name] for row in rows if (row["attack"] > 0) == size])
        for size in (False, True)
        for name in ("accuracy", "log10_prior")
    }
    assert mean[True, "accuracy"] < mean[False, "accuracy"] - 0.1
    assert mean[True, "log10_prior"] < mean[False, "log10_prior"] - 1


def test_network_that_does_not_fit_has_no_moment():
    settings = replace(prior.attack_settings("smoke")[1], max_epochs=1)
    assert prior.perform_attack(settings, Workplace())["networks"] == [{}]


def test_labels_of_no_network_lose_prior_with_each_flip(records):
    (record,) = records["prior-labels"]
    rows = record["result"]["rows"]
    flips = [row for row in rows if row["source"] == "flips"]
    assert [row["accuracy"] for row in flips] == pytest.approx([1, 1 - 20 / 60])
    assert flips[1]["log10_prior"] < flips[0]["log10_prior"] - 3
    assert {row["source"] for row in rows} == {"flips", "kernel", "neighbour"}
    assert min(row["accuracy"] for row in rows if row["wrong"] == 0) > 0.8


def test_rescaling_keeps_the_function_and_raises_the_sharpness(records):
    rows = {row["alpha"]: row for row in spike_rows(records["prior-alpha"])}
    assert rows[1.0]["jump"] == 1 and rows[1.0]["same"] == rows[0.1]["same"] == 0
    assert rows[0.1]["jump"] > 3
    result = records["prior-alpha"][0]["result"]
    last, first = result["before"][-1], result["after"][1]["rows"][0]
    assert first["log10_prior"] == last["log10_prior"] and first["accuracy"] == last["accuracy"]
    assert last["epoch"] == result["fit"] + records["prior-alpha"][0]["settings"]["wait"]


def test_network_that_does_not_fit_is_not_rescaled():
    settings = replace(prior.alpha_settings("smoke")[0], max_epochs=1)
    result = prior.perform_alpha(settings, Workplace())
    assert result["fit"] is None and result["after"] == []
    record = {"settings": asdict(settings), "profile": "smoke", "result": result}
    assert not alpha_report([record]).figures


@pytest.mark.parametrize(
    ("name", "report"),
    [("prior-attack", attack_report), ("prior-labels", label_report), ("prior-alpha", alpha_report)],
)
def test_report_of_none_one_and_all_records(records, name, report):
    for some in ([], records[name][:1], records[name]):
        made = report(some)
        assert all(len(row) == len(table.columns) for table in made.tables for row in table.rows)
        assert bool(some) == any(table.rows for table in made.tables)
        for draw in made.figures.values():
            plt.close(draw())
    assert EXPERIMENTS[name].report is report
