"""The Boolean experiment, end to end on a small sample, and the committed records."""

import numpy as np
import pytest
import torch

from companion.boolean_functions import FunctionCounts, boolean_inputs
from companion.experiments import boolean_prior
from companion.models import mlp
from companion.records import read_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    arguments = ["--samples", "30000", "--functions", "6", "--networks", "30", "--seed", "4", "--out", str(out)]
    boolean_prior.main(arguments)
    return out


def test_writes_three_records_that_agree(folder):
    prior, flatness, found = (
        read_record(name, folder) for name in ("boolean-prior", "boolean-flatness", "boolean-sgd-bayes")
    )
    counts_of_counts = np.array(prior.about["counts_of_counts"])
    assert (counts_of_counts[:, 0] @ counts_of_counts[:, 1], counts_of_counts[:, 1].sum()) == (
        30_000,
        prior.about["distinct"],
    )
    assert [row["function"] for row in flatness.rows] == [row["function"] for row in prior.rows[:6]]
    assert {row["minority"] for row in flatness.rows[:2]} == {0}
    assert all(0.9 < row["first_order"] / row["sharpness"] < 1.1 for row in flatness.rows)
    assert [row["rank"] for row in found.rows] == [2, 300, 3000, 10_000]
    assert all(row["long"]["loss"] < row["loss"] for row in flatness.rows)
    for row in found.rows:
        assert row["totals"]["bayes"] >= 1 and row["totals"]["sgd"] <= 30
        assert len(row["training_inputs"]) == dict(boolean_prior.TARGETS)[row["rank"]]


def test_runs_again_with_the_same_rows(folder, tmp_path):
    boolean_prior.main(
        ["--samples", "30000", "--functions", "2", "--networks", "30", "--seed", "4", "--out", str(tmp_path)]
    )
    for name in ("boolean-prior", "boolean-sgd-bayes"):
        assert read_record(name, folder).rows == read_record(name, tmp_path).rows


def test_first_order_part_is_the_rise_of_a_linear_loss():
    # In a box so small that the loss is linear, all of the rise is the gradient's.
    model = mlp(7, 5, 1, generator=torch.Generator().manual_seed(0))
    points, targets = torch.from_numpy(boolean_inputs(7)), torch.zeros(128, 1, dtype=torch.float64)
    measured = boolean_prior.flatness(model, points, targets, seed=0)
    assert measured["first_order"] == pytest.approx(measured["sharpness"], rel=5e-3)
    assert measured["first_order"] < measured["sharpness"]


def test_error_is_that_of_the_inputs_left_out():
    tables = np.array([[0, 0, 1, 1], [0, 0, 0, 0]])
    mean, error = boolean_prior._mean_error(tables, np.array([3, 1]), np.array([0, 0, 1, 0]), np.array([2, 3]))
    assert mean == 0.5 and error == 0


def test_committed_records_are_of_at_least_ten_million_networks():
    prior = read_record("boolean-prior")
    counts_of_counts = np.array(prior.about["counts_of_counts"])
    assert counts_of_counts[:, 0] @ counts_of_counts[:, 1] == prior.about["samples"] >= 10_000_000
    flatness = read_record("boolean-flatness")
    assert len(flatness.rows) >= 990 and flatness.about["samples"] == prior.about["samples"]
    assert len(read_record("boolean-sgd-bayes").rows) == len(boolean_prior.TARGETS)


def test_committed_sample_is_what_this_code_draws():
    # The two constants have the largest counts; a fresh sample of 20,000 must agree within 4 standard errors.
    from companion.boolean_functions import sample_boolean_functions

    rows, total = read_record("boolean-prior").rows, read_record("boolean-prior").about["samples"]
    counts: FunctionCounts = sample_boolean_functions(20_000, seed=77)
    for row in rows[:4]:
        table = np.unpackbits(np.frombuffer(bytes.fromhex(row["function"]), dtype=np.uint8))
        share = row["count"] / total
        assert abs(counts.count(table) / 20_000 - share) < 4 * (share / 20_000) ** 0.5
