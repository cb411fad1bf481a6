"""Sampling Boolean functions: the network, the counts, the posterior, interruption, bad input."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from companion import boolean_functions
from companion.boolean_functions import (
    FunctionCounts,
    boolean_inputs,
    network_outputs,
    random_networks,
    sample_boolean_functions,
)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(boolean_functions, "BLOCK", 100)
    monkeypatch.setattr(boolean_functions, "BLOCKS_PER_CHECKPOINT", 2)


def same(left: FunctionCounts, right: FunctionCounts) -> bool:
    return (
        np.array_equal(left.functions, right.functions)
        and np.array_equal(left.counts, right.counts)
        and (left.samples, left.bits) == (right.samples, right.bits)
    )


def test_inputs_count_upwards_in_binary():
    assert boolean_inputs(3).tolist()[:4] == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert boolean_inputs(7).shape == (128, 7)


def test_outputs_are_those_of_the_same_torch_networks():
    layers = random_networks(5, (3, 4, 6, 1), 1.3, 0.2, np.random.default_rng(0))
    points = torch.from_numpy(boolean_inputs(3)).float()
    together = network_outputs(layers, points)
    for k in range(5):
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
        with torch.no_grad():
            for layer, (weight, bias) in zip(model[::2], layers, strict=True):
                layer.weight.copy_(weight[k].T)
                layer.bias.copy_(bias[k, 0])
            torch.testing.assert_close(together[k], model(points).squeeze(-1))


def test_weights_have_the_variance_that_is_asked_for():
    (first, bias), (second, _) = random_networks(4000, (7, 5, 1), 1.5, 0.3, np.random.default_rng(0))
    for values, variance in ((first, 1.5**2 / 7), (bias, 0.3**2), (second, 1.5**2 / 5)):
        assert abs(values.square().mean() / variance - 1) < 4 * (2 / values.numel()) ** 0.5


def test_double_precision_changes_hardly_any_sign():
    points = torch.from_numpy(boolean_inputs(7))
    layers = random_networks(2000, (7, 40, 40, 1), 1.0, 0.1, np.random.default_rng(0))
    single = network_outputs(layers, points.float()) > 0
    double = network_outputs([(w.double(), b.double()) for w, b in layers], points) > 0
    assert (single != double).sum() <= 3  # of 256,000


def test_a_network_of_one_layer_of_one_unit_has_the_known_law():
    # Without biases the input 0 has output 0, which counts as 0; the output on 1 is w₂ max(w₁, 0),
    # positive if both weights are.
    counts = sample_boolean_functions(40_000, seed=3, inputs=1, widths=(1,), bias_scale=0)
    share = counts.count([[0, 1]])[0] / counts.samples
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / counts.samples) ** 0.5
    assert counts.count([0, 0]) + counts.count([0, 1]) == counts.samples
    assert counts.count([[1, 0], [1, 1]]).tolist() == [0, 0]


def test_counts_are_those_of_a_plain_loop(small_blocks):
    counts = sample_boolean_functions(250, seed=5, inputs=3, widths=(4,))
    tables = {}
    for block, size in ((0, 100), (1, 100), (2, 50)):
        stream = np.random.SeedSequence(5, spawn_key=(block,))
        layers = random_networks(size, (3, 4, 1), 1.0, 0.1, np.random.Generator(np.random.SFC64(stream)))
        for row in (network_outputs(layers, torch.from_numpy(boolean_inputs(3)).float()) > 0).int().tolist():
            tables[tuple(row)] = tables.get(tuple(row), 0) + 1
    assert {tuple(t): n for t, n in zip(counts.tables().tolist(), counts.counts.tolist(), strict=True)} == tables
    assert np.all(np.diff(counts.counts) <= 0) and counts.counts.sum() == counts.samples == 250
    assert counts.count(counts.tables()).tolist() == counts.counts.tolist()


def test_functions_that_fit_are_those_with_the_labels():
    counts = sample_boolean_functions(3000, seed=1, inputs=4, widths=(10,))
    inputs, labels = [3, 9, 15], [1, 0, 1]
    fit = (counts.tables()[:, inputs] == labels).all(axis=1)
    posterior = counts.fitting(inputs, labels)
    assert np.array_equal(posterior.tables(), counts.tables()[fit])
    assert posterior.samples == counts.counts[fit].sum() == posterior.counts.sum() > 0


def test_checkpoint_goes_on_further_and_ends_the_same(small_blocks, tmp_path):
    arguments = {"seed": 2, "inputs": 3, "widths": (4,)}
    whole = sample_boolean_functions(730, **arguments)
    path = tmp_path / "deep" / "counts.npz"
    for samples in (130, 500, 510, 730):
        last = sample_boolean_functions(samples, **arguments, checkpoint=path)
    assert same(whole, last)
    assert [file.name for file in path.parent.iterdir()] == ["counts.npz"]


SCRIPT = """
import sys
from companion import boolean_functions
boolean_functions.BLOCK, boolean_functions.BLOCKS_PER_CHECKPOINT = 100, 2
print("ready", flush=True)
boolean_functions.sample_boolean_functions(12_000, seed=2, inputs=3, widths=(4,), checkpoint=sys.argv[1])
"""


def test_killed_again_and_again_it_ends_with_the_same_counts(small_blocks, tmp_path):
    path, rng = tmp_path / "counts.npz", random.Random(0)
    killed = 0
    for _ in range(20):
        run = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE)
        run.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.15))
        run.kill()
        killed += run.wait() != 0
        if path.exists() and killed >= 3:
            break
    assert killed >= 3 and path.exists()
    arguments = {"seed": 2, "inputs": 3, "widths": (4,)}
    resumed = sample_boolean_functions(12_000, **arguments, checkpoint=path)
    assert same(resumed, sample_boolean_functions(12_000, **arguments))


def test_damaged_or_foreign_checkpoint_is_named(small_blocks, tmp_path):
    path = tmp_path / "counts.npz"
    sample_boolean_functions(400, seed=2, inputs=3, widths=(4,), checkpoint=path)
    with pytest.raises(ValueError, match=r"same arguments; .*counts\.npz has seed = 2"):
        sample_boolean_functions(400, seed=3, inputs=3, widths=(4,), checkpoint=path)
    with pytest.raises(ValueError, match=r"samples must be at least the 400"):
        sample_boolean_functions(200, seed=2, inputs=3, widths=(4,), checkpoint=path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"counts\.npz is damaged"):
        sample_boolean_functions(400, seed=2, inputs=3, widths=(4,), checkpoint=path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samples": 0}, "samples must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"inputs": 0}, "bits must be a whole number"),
        ({"inputs": 17}, "bits must be at most 16"),
        ({"widths": ()}, "widths must name at least one"),
        ({"widths": (4, 0)}, "widths must be a whole number"),
        ({"weight_scale": 0.0}, "weight_scale must be positive"),
        ({"bias_scale": -1.0}, "bias_scale must not be negative"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"samples": 10, "seed": 0, "inputs": 3, "widths": (4,)} | change
    with pytest.raises(ValueError, match=message):
        sample_boolean_functions(arguments.pop("samples"), **arguments)


def test_bad_questions_are_named():
    counts = sample_boolean_functions(100, seed=1, inputs=3, widths=(4,))
    with pytest.raises(ValueError, match="tables must hold 0 and 1 along a last axis of length 8"):
        counts.count([[0, 1]])
    with pytest.raises(ValueError, match="inputs must be positions from 0 to 7"):
        counts.fitting([8], [1])
    with pytest.raises(ValueError, match="labels must hold 0 and 1"):
        counts.fitting([0, 1], [1, -1])
    with pytest.raises(ValueError, match="none of"):
        counts.fitting(range(8), [0, 1, 1, 0, 1, 0, 0, 1])
