"""Estimates of τ: what their draws are, that parts of a list are independent, and how wide a family must be."""

import numpy as np
import pytest
from scipy.stats import norm, studentized_range

from companion.experiments.who_predicts_analysis import bootstrap_weights, taus
from companion.experiments.who_predicts_estimates import Estimate, candidates, critical_value, estimate


@pytest.fixture(scope="module")
def rows():
    """120 networks: ``keskar`` follows the error, ``norm`` has nothing to do with it."""
    generator = np.random.default_rng(0)
    return [
        {
            "seed": k,
            "attack": k % 3,
            "optimizer": ("sgd", "adam")[k // 60],
            "test_error": (error := generator.random()),
            "keskar": error + generator.random(),
            "norm": generator.random(),
        }
        for k in range(120)
    ]


def test_estimate_is_tau_of_the_chosen_networks_in_the_draws_of_all(rows):
    adam = [row for row in rows if row["optimizer"] == "adam"]
    found = estimate(rows, "keskar", optimizer="adam", draws=50, seed=4)
    assert found.value == taus(adam, "keskar", ("attack",))[0]
    np.testing.assert_array_equal(found.draws, taus(adam, "keskar", ("attack",), bootstrap_weights(120, 50, 4)[:, 60:]))
    assert str(found) == f"{found.value:+.2f} ± {np.std(found.draws):.2f}"
    assert estimate(rows, "keskar", strata=()).value == taus(rows, "keskar", ())[0]


def test_error_is_that_of_fresh_samples_and_a_little_more():
    generator = np.random.default_rng(1)

    def sample():
        errors, noise = generator.random((2, 143))
        pairs = enumerate(zip(errors, 0.3 * errors + 0.7 * noise, strict=True))
        return [{"seed": k, "attack": k % 4, "test_error": error, "keskar": value} for k, (error, value) in pairs]

    fresh = np.std([estimate(sample(), "keskar", draws=2).value for _ in range(300)])
    told = np.mean([estimate(sample(), "keskar", draws=200).error for _ in range(15)])
    assert 0.97 * fresh < told < 1.3 * fresh


def test_difference_of_one_measure_vanishes_and_parts_are_independent(rows):
    same = estimate(rows, "keskar") - estimate(rows, "keskar")
    assert same.value == 0 and same.error == 0
    sgd, adam = (estimate(rows, "norm", optimizer=name) for name in ("sgd", "adam"))
    assert abs(np.corrcoef(sgd.draws, adam.draws)[0, 1]) < 0.12
    assert (sgd - adam).error == pytest.approx(np.hypot(sgd.error, adam.error), rel=0.1)


@pytest.mark.parametrize("count", [1, 10, 57])
def test_critical_value_of_independent_normal_estimates(count):
    generator = np.random.default_rng(2)
    family = [Estimate(3.0 * k, 3.0 * k + (k + 1) * generator.normal(size=40_000)) for k in range(count)]
    expected = norm.ppf(0.5 + 0.5 * 0.95 ** (1 / count))
    assert critical_value(family) == pytest.approx(expected, rel=0.02)
    constant = Estimate(1.0, np.ones(40_000))
    assert critical_value([*family, constant]) == critical_value(family)
    assert critical_value(family[:1] * 5) == critical_value(family[:1])


def test_a_family_of_noise_is_rarely_told_from_zero(rows):
    told = 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        noise = [{**row, "norm": generator.random(), "distance": generator.random()} for row in rows]
        family = [estimate(noise, key, draws=200) for key in ("norm", "distance")]
        told += any(abs(one.value) > critical_value(family) * one.error for one in family)
    assert told <= 6  # 1.5 expected; 7 or more have probability 0.001


def test_candidates_are_those_that_no_other_exceeds():
    noise = np.random.default_rng(3).normal(size=(4, 20_000))
    values = {"low": 0.0, "close": 9.0, "first": 10.0, "twin": 10.0}
    known = {key: Estimate(value, value + draws) for (key, value), draws in zip(values.items(), noise, strict=True)}
    known["twin"] = known["first"]
    left, c = candidates(known)
    assert left == ["close", "first", "twin"]
    assert c == pytest.approx(studentized_range.ppf(0.95, 3, np.inf) / np.sqrt(2), rel=0.02)  # Tukey's, of three


def test_the_largest_is_rarely_ruled_out():
    generator, lost = np.random.default_rng(4), 0
    for _ in range(100):
        seen, spread = generator.normal(size=6), generator.normal(size=(6, 1000))
        left, _ = candidates({str(k): Estimate(float(seen[k]), seen[k] + spread[k]) for k in range(6)})
        lost += "0" not in left  # all are equally large in truth, so that each is the largest
    assert lost <= 11  # at most 5 expected; 12 or more have probability 0.004


def test_bad_input_is_refused(rows):
    with pytest.raises(ValueError, match="key must be a measure of the catalogue, got 'sharpness'"):
        estimate(rows, "sharpness")
    with pytest.raises(ValueError, match="key 'keskar' differs between no two of the 0 networks"):
        estimate(rows, "keskar", optimizer="lion")
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 1"):
        critical_value([estimate(rows, "keskar")], level=1)
    with pytest.raises(ValueError, match="family must hold an estimate that varies, got 1 that do not"):
        critical_value([Estimate(0.0, np.zeros(10))])
