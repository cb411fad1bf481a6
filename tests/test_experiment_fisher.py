"""companion/experiments/fisher*.py: the smoke profile end to end, identities that must hold in it, the tables."""

from dataclasses import replace
from math import log

import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from companion.experiments.experiment import Workplace
from companion.experiments.fisher import EXPERIMENTS, build, perform, perform_together
from companion.experiments.fisher_analysis import (
    READINGS,
    at_base,
    halfway,
    log_ratio,
    logged,
    ranks,
    report,
    sharing,
    temperature_exponent,
    time_report,
)
from companion.experiments.fisher_measures import adam_adjusted, ratio, second_moments
from companion.experiments.fisher_settings import DIGITS, cifar_settings, mnist_settings, shared, time_settings

SMOKE = mnist_settings("smoke") + cifar_settings("smoke")


@pytest.fixture(scope="module")
def results():
    return {settings: perform(settings, Workplace()) for settings in SMOKE}


def records(results):
    from dataclasses import asdict

    return [{"settings": asdict(settings), "result": result} for settings, result in results.items()]


def test_the_smoke_profile_learns_and_measures(results):
    for settings, result in results.items():
        epochs = result["epochs"]
        assert [entry["epoch"] for entry in epochs] == [1, 2]
        assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
        assert 0.1 < epochs[-1]["test_accuracy"] <= 1 and set(result["alignment"]) >= {"cosine", "frobenius"}
        assert ("adam_adjusted" in epochs[-1]) == (settings.optimizer == "adam")
        assert ("rescaled" in result) == (settings.activation == "relu")


def test_for_relu_the_undamped_measure_counts_the_active_parameters(results):
    for settings, result in results.items():
        entry = result["epochs"][-1]
        count = entry["riemannian"]["exact"]["0"]
        if settings.activation == "relu":
            assert count == pytest.approx(entry["active"], rel=1e-6)
            assert entry["trace"] == pytest.approx(entry["fisher_trace"], rel=1e-6)
        else:
            assert count != pytest.approx(entry["active"], rel=0.01)


def test_rescaling_leaves_the_undamped_measure_and_changes_the_others(results):
    result = results[SMOKE[0]]
    before, (twice, tenfold) = result["epochs"][-1], result["rescaled"]
    assert (twice["alpha"], tenfold["alpha"]) == (2, 10)
    for after in (twice, tenfold):
        assert after["riemannian"]["exact"]["0"] == pytest.approx(before["riemannian"]["exact"]["0"], rel=1e-6)
    assert tenfold["trace"] > 2 * before["trace"]
    changed = tenfold["riemannian"]["exact"]["0.001"] / before["riemannian"]["exact"]["0.001"]
    assert abs(changed - 1) > 0.05


def test_mini_batches_of_more_samples_give_a_smaller_fisher(results):
    """F/B: the ratio built on it is larger than S_R by about B where the damping is small."""
    for settings in SMOKE[:2]:
        entry = results[settings]["epochs"][-1]["riemannian"]
        assert entry["mini-batch"]["0"] > 3 * entry["exact"]["0"]


def test_the_same_settings_give_the_same_result(results):
    assert perform(SMOKE[0], Workplace()) == results[SMOKE[0]]


@pytest.mark.parametrize("kind", [0, 3])
def test_together_as_one_by_one(results, kind):
    """What a GPU does, here on the CPU: float32, so not to the last digit."""
    base = SMOKE[kind]
    group = [base, replace(base, seed=5)]
    together = perform_together(group, Workplace())
    assert shared(group[0]) == shared(group[1]) != shared(replace(base, batch_size=7))
    for settings, result in zip(group, together, strict=True):
        alone = results.get(settings) or perform(settings, Workplace())
        for found, wanted in zip(result["epochs"], alone["epochs"], strict=True):
            assert found["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-3)
            assert found["trace"] == pytest.approx(wanted["trace"], rel=1e-2)
            if base.optimizer == "adam":
                assert found["adam_adjusted"] == pytest.approx(wanted["adam_adjusted"], rel=1e-2)
        assert len(result.get("rescaled", [])) == len(alone.get("rescaled", []))


def test_divergence_is_a_result():
    wild = replace(DIGITS, learning_rate=1e6, seed=1)
    alone = perform(wild, Workplace())
    assert "diverged" in alone and "rescaled" not in alone
    calm, lost = perform_together([DIGITS, wild], Workplace())
    assert "diverged" in lost and "diverged" not in calm and calm["epochs"]


def test_adam_adjusted_by_hand():
    model = build(DIGITS, type("D", (), {"train_inputs": torch.zeros(1, 1, 8, 8)}))
    inputs, targets = torch.randn(7, 64, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    moments = second_moments(model, optimizer)  # after one step: the squared gradient itself
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(moments[name], parameter.grad.square(), rtol=1e-4, atol=1e-12)
    from companion.hessian import hessian_diagonal

    diagonal = hessian_diagonal(model.double(), nn.CrossEntropyLoss(), inputs.double(), targets)
    expected = sum(float((diagonal[k] / (moments[k].double().sqrt() + 1e-8)).sum()) for k in diagonal)
    assert adam_adjusted(model, (inputs, targets), moments) == pytest.approx(expected)


def test_ratio_leaves_out_what_is_zero():
    assert ratio(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([2.0, 4.0, 0.0]), 0.0) == 1.0
    assert ratio(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 0.0]), 1.0) == 4.5


def test_the_report_takes_any_number_of_records(results):
    every = records(results)
    for some in ([], every[:1], every[:3], every):
        tables = report(some).tables
        assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    table = next(table for table in report(every[:2]).tables if table.title.startswith("table 4"))
    row = table.rows[0]
    expected = every[0]["result"]["epochs"][-1]
    assert row[:4] == ("sgd", "relu", 32, 1) and row[5].value == pytest.approx(expected["trace"])
    assert row[6].value == pytest.approx(expected["riemannian"]["exact"]["0"])
    assert list(table.columns[6:]) == list(READINGS)
    for draw in report(every).figures.values():
        assert draw().axes


def test_a_table_varies_one_setting_at_a_time():
    kinds = (("sgd", 32, 0.1), ("sgd", 128, 0.1), ("sgd", 512, 0.5), ("sgd", 128, 0.5), ("adam", 32, 0.001))
    names = ("optimizer", "batch_size", "learning_rate")
    some = [{"settings": {"data": "mnist", **dict(zip(names, kind, strict=True))}} for kind in kinds]
    assert at_base(some, "batch_size") == [some[0], some[1], some[4]]
    assert at_base(some, "learning_rate") == [some[1], some[3]]


def test_the_laptop_profile_is_the_papers_protocol_on_mnist():
    laptop = mnist_settings("laptop")
    assert laptop == mnist_settings("paper")
    assert {s.batch_size for s in laptop} == {32, 128, 512} and {s.seed for s in laptop} == {0, 1, 2}
    assert all((s.epochs, s.log_every, s.train_size, s.widths) == (20, 5, 60_000, (256, 256)) for s in laptop)
    assert len({s.learning_rate for s in laptop if s.optimizer == "sgd"}) == 4
    assert {e.name for e in EXPERIMENTS} == {"fisher-mnist", "fisher-cifar", "fisher-time"}


def test_every_batch_size_is_measured_at_the_same_training_times():
    runs = time_settings("laptop")
    assert len(runs) == 9 and {s.batch_size for s in runs} == {32, 128, 512}
    smallest = mnist_settings("laptop")
    assert all(s in smallest for s in runs if s.batch_size == 32)  # so that the two experiments can be compared
    steps = {s.batch_size: s.log_every * (s.train_size // s.batch_size) for s in runs}
    assert max(steps.values()) / min(steps.values()) < 1.002  # but for the images that an epoch leaves out
    assert {s.epochs // s.log_every for s in runs} == {4}


def test_the_table_at_equal_training_time():
    results = {settings: perform(settings, Workplace()) for settings in time_settings("smoke")}
    made = time_report(records(results))
    (table,) = made.tables
    assert [row[:2] for row in table.rows] == [(32, 1), (32, 2), (128, 4), (128, 8)]
    assert [float(row[2]) for row in table.rows] == [4, 8, 4, 8]
    last = results[time_settings("smoke")[1]]["epochs"][-1]
    assert table.rows[-1][5].value == pytest.approx(last["train_loss"])
    assert table.rows[-1][6].value == pytest.approx(last["trace"])
    (draw,) = made.figures.values()
    left, right = draw().axes
    assert [line.get_label() for line in left.containers] == ["B = 32", "B = 128"]
    assert list(right.containers[1].lines[0].get_ydata())[-1] == pytest.approx(last["trace"])
    assert time_report([]).tables[0].rows == [] and not time_report([]).figures


def law(seed, batch_size, rate, epoch, factor=1.0):
    """A record in which S_R = 1000 (λ n)^-2 T^-0.5, times a factor of its own."""
    time, temperature = rate * epoch * (96 // batch_size), rate / batch_size
    entry = {"epoch": epoch, "trace": 1000 * time**-2 * temperature**-0.5 * factor, "test_accuracy": 0.9}
    settings = {"seed": seed, "batch_size": batch_size, "learning_rate": rate, "train_size": 100}
    return {"settings": settings, "result": {"epochs": [entry]}}


def test_logged_epochs_carry_temperature_and_training_time():
    (row,) = logged([law(0, 32, 0.1, 5), {"settings": {}, "result": {"epochs": [], "diverged": "yes"}}])
    assert row["temperature"] == pytest.approx(0.1 / 32)
    assert row["time"] == pytest.approx(0.1 * 5 * 3) and row["epoch"] == 5 and row["train_size"] == 100


def test_rows_are_compared_only_across_temperatures():
    rows = [{"time": time, "temperature": t} for time, t in ((1.0, 1), (1.01, 2), (1.0201, 3), (5.0, 1), (5.0, 1))]
    assert sharing(rows, "time", 0.015) == [rows[:2]]
    assert sharing(rows, "time", 0.03) == [rows[:3]]
    assert sharing(rows, "time") == []


def test_exponent_tells_temperature_from_training_time():
    """At equal time it is the law's own, -0.5; at equal epochs, where time is T times a constant, -2.5."""
    runs = [law(seed, b, rate, 4, 2.0**seed) for seed in (0, 1) for b, rate in ((32, 0.1), (16, 0.1), (32, 0.05))]
    runs += [law(seed, 32, 0.05, 8, 2.0**seed) for seed in (0, 1)]
    rows = logged(runs)
    at_time = temperature_exponent(rows, lambda row: row["trace"], "time")
    at_epoch = temperature_exponent(rows, lambda row: row["trace"], "epoch")
    assert at_time.value == pytest.approx(-0.5) and at_time.runs == 2 and at_time.error == pytest.approx(0, abs=1e-9)
    assert at_epoch.value == pytest.approx(-2.5)
    with pytest.raises(ValueError, match="two temperatures at one time for every seed, got none for seed 1"):
        temperature_exponent(rows[:3] + rows[-2:], lambda row: row["trace"], "time")


def test_halfway_goes_with_the_epoch_it_was_measured_at(results):
    rows = halfway([*records(results), {"settings": {}, "result": {"epochs": [], "diverged": "yes"}}])
    assert len(rows) == len(results)
    for row, (settings, result) in zip(rows, results.items(), strict=True):
        assert row["epoch"] == settings.epochs // 2 == 1 and row["seed"] == settings.seed
        assert row["train_loss"] == result["epochs"][0]["train_loss"]
        assert row["cosine"] == result["alignment"]["cosine"]


def test_log_ratio_by_hand():
    upper, lower = ([{"trace": value} for value in values] for values in ((2.0, 8.0), (1.0, 4.0)))
    found = log_ratio(upper, lower, lambda row: row["trace"])
    assert found.value == pytest.approx(log(2)) and found.runs == 4
    assert found.error == pytest.approx(log(2) * 2**0.5)  # each mean: half of log 4
    assert log_ratio(upper, lower[:1], lambda row: row["trace"]).error is None


def test_ranks_put_the_error_first_and_chance_nowhere():
    source = torch.Generator().manual_seed(1)
    errors, chance = torch.rand(30, generator=source).tolist(), torch.rand(30, generator=source).tolist()
    rows = [{"test_accuracy": 1 - error, "chance": other} for error, other in zip(errors, chance, strict=True)]
    measures = {
        "error": lambda row: 1 - row["test_accuracy"],
        "accuracy": lambda row: row["test_accuracy"],
        "chance": lambda row: row["chance"],
    }
    found = ranks(rows, measures, draws=500)
    assert found["error"] == pytest.approx((1, 1, 1)) and found["accuracy"] == pytest.approx((-1, -1, -1))
    value, low, high = found["chance"]
    assert value == pytest.approx(kendalltau(errors, chance).statistic)
    assert low < 0 < high and low < value < high and high - low < 1
    below = ranks(rows, measures, against="error", draws=500)
    assert below["error"] == (0, 0, 0) and below["chance"] == pytest.approx((value - 1, low - 1, high - 1))


def test_ranks_draw_seeds_of_one_setting_together():
    source = torch.Generator().manual_seed(3)
    chance, errors = torch.rand(2, 6, generator=source).tolist()
    settings = [{"batch_size": k, "test_accuracy": 1 - errors[k], "chance": chance[k]} for k in range(6)]
    copies = [{**row, "seed": seed} for row in settings for seed in range(4)]
    measures = {"chance": lambda row: row["chance"]}
    narrow, wide = ranks(copies, measures)["chance"], ranks(copies, measures, together=("batch_size",))["chance"]
    assert narrow[0] == wide[0] == pytest.approx(ranks(settings, measures)["chance"][0])
    assert wide == pytest.approx(ranks(settings, measures)["chance"])  # a copy brings no news
    assert wide[2] - wide[1] > 1.4 * (narrow[2] - narrow[1])
