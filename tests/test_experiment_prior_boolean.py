"""The Boolean experiment, end to end on a small sample, and the committed record."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from smoke_records import smoke_records

from companion.boolean_functions import FunctionCounts, boolean_inputs
from companion.experiments import prior_boolean
from companion.experiments.experiment import Workplace
from companion.experiments.prior_boolean import BOOLEAN, boolean_settings, perform_boolean
from companion.experiments.store import read_records
from companion.models import mlp
from companion.records import RESULTS


@pytest.fixture(scope="module")
def smoke():
    return smoke_records([BOOLEAN])["prior-boolean"][0]


@pytest.fixture(scope="module")
def committed():
    return read_records(RESULTS / "prior-boolean.jsonl").records[0]


def test_the_parts_of_a_result_agree(smoke):
    result = smoke["result"]
    counts_of_counts = np.array(result["counts_of_counts"])
    assert counts_of_counts[:, 0] @ counts_of_counts[:, 1] == 30_000
    assert counts_of_counts[:, 1].sum() == result["distinct"]
    flatness, found = result["flatness"], result["sgd_bayes"]
    assert [row["function"] for row in flatness] == [row["function"] for row in result["functions"][:6]]
    assert {row["minority"] for row in flatness[:2]} == {0}
    assert all(0.9 < row["first_order"] / row["sharpness"] < 1.1 for row in flatness)
    assert all(row["long"]["loss"] < row["loss"] for row in flatness)
    assert [row["rank"] for row in found] == [2, 300, 3000, 10_000]
    for row in found:
        assert row["totals"]["bayes"] >= 1 and row["totals"]["sgd"] <= 30
        assert [row["rank"], len(row["training_inputs"])] in smoke["settings"]["targets"]


def test_goes_on_from_what_an_interrupted_run_has_kept(smoke, tmp_path, monkeypatch):
    from companion import boolean_functions

    monkeypatch.setattr(boolean_functions, "BLOCKS_PER_CHECKPOINT", 1)
    few = replace(boolean_settings("smoke")[0], functions=2, networks=5)
    kept = perform_boolean(few, Workplace(scratch=tmp_path / "scratch"))
    assert (tmp_path / "scratch" / "sample.npz").exists()
    drawn, block = [], boolean_functions._block
    monkeypatch.setattr(boolean_functions, "_block", lambda *a: drawn.append(a) or block(*a))
    assert perform_boolean(few, Workplace(scratch=tmp_path / "scratch")) == kept
    again = len(drawn)
    assert perform_boolean(few, Workplace()) == kept and again < len(drawn) - again
    for name in ("distinct", "counts_of_counts", "functions"):
        assert kept[name] == smoke["result"][name]


def test_the_report_has_a_row_for_each_target(smoke):
    frequent, ranks, found = BOOLEAN.report([smoke]).tables
    assert len(frequent.rows) == 10 and len(ranks.rows) == 2 and len(found.rows) == 4
    assert all(0 <= float(cell) <= 1 for row in found.rows for cell in row[-2:])
    assert BOOLEAN.report([]).tables == []


def test_total_variation_by_hand():
    row = {"totals": {"bayes": 10, "sgd": 4, "adam": 2}, "functions": {"a": [5, 4, 0], "b": [3, 0, 2]}}
    assert prior_boolean.total_variation(row, "sgd") == pytest.approx((0.5 + 0.3 + 0.2) / 2)
    assert prior_boolean.total_variation(row, "adam") == pytest.approx((0.5 + 0.7 + 0.2) / 2)


def test_first_order_part_is_the_rise_of_a_linear_loss():
    # In a box so small that the loss is linear, all of the rise is the gradient's.
    model = mlp(7, 5, 1, generator=torch.Generator().manual_seed(0))
    points, targets = torch.from_numpy(boolean_inputs(7)), torch.zeros(128, 1, dtype=torch.float64)
    measured = prior_boolean.flatness(model, points, targets, seed=0)
    assert measured["first_order"] == pytest.approx(measured["sharpness"], rel=5e-3)
    assert measured["first_order"] < measured["sharpness"]


def test_error_is_that_of_the_inputs_left_out():
    tables = np.array([[0, 0, 1, 1], [0, 0, 0, 0]])
    mean, error = prior_boolean._mean_error(tables, np.array([3, 1]), np.array([0, 0, 1, 0]), np.array([2, 3]))
    assert mean == 0.5 and error == 0


def test_the_committed_sample_has_at_least_ten_million_networks(committed):
    result, settings = committed["result"], committed["settings"]
    counts_of_counts = np.array(result["counts_of_counts"])
    assert counts_of_counts[:, 0] @ counts_of_counts[:, 1] == settings["samples"] >= 10_000_000
    assert len(result["flatness"]) >= 990 and len(result["sgd_bayes"]) == len(settings["targets"])


def test_the_committed_sample_is_what_this_code_draws(committed):
    # The two constants have the largest counts; a fresh sample of 20,000 must agree within 4 standard errors.
    counts: FunctionCounts = prior_boolean.sample_boolean_functions(20_000, seed=77)
    for row in committed["result"]["functions"][:4]:
        table = np.unpackbits(np.frombuffer(bytes.fromhex(row["function"]), dtype=np.uint8))
        share = row["count"] / committed["settings"]["samples"]
        assert abs(counts.count(table) / 20_000 - share) < 4 * (share / 20_000) ** 0.5
