"""What is made of the records of the ``shift`` experiments, on records and losses made up for the purpose."""

import numpy as np
import pytest

from companion.experiments.shift_analysis import difference, line_rows, power_law
from companion.experiments.shift_collapse import collapse_exponent, collapse_test, equal_time_rows, final_rows


def test_row_of_a_known_parabola():
    # U_te = 0.1 + 3 (r - 1)² below r = 1 and half as steep beyond; U_tr = 0.2 + r².
    profile = [
        {"r": k / 10, "train": 0.2 + (k / 10) ** 2, "test": 0.1 + (3 if k < 10 else 1.5) * (k / 10 - 1) ** 2}
        | {"train_error": 0.0, "test_error": 0.5}
        for k in range(-10, 21)
    ]
    line = {"time": 4.0, "shift": 2.0, "train_slope": 0.0, "train_curvature": 2.0, "profile": profile}
    line |= {"test_slope": 0.0, "test_curvature": 3.0}
    (row,) = line_rows([{"settings": {"seed": 1, "temperature": 0.1}, "result": {"lines": [line]}}])
    known = {"depth_train": 0.2, "depth_test": 0.1, "test_at_train": 3.1, "shift_curvature": 3.0, "share": 30.0}
    known |= {"curvature_test": 1.5, "curvature_train": 0.5, "flattened_test": 2.0, "flattened_train": 1.0}
    known |= {"asymmetry": 0.5, "predicted": 1.6, "exact_curvature_test": 0.75, "test_error": 0.5, "flow_time": 4.0}
    for name, value in known.items():
        assert row[name] == pytest.approx(value, rel=1e-6), name


def test_power_law_finds_the_exponent_of_each_seed():
    rows = [{"seed": s, "temperature": t, "c": (s + 1) * t**-0.5} for s in range(3) for t in (1e-3, 2e-3, 8e-3)]
    rows += [{"seed": 0, "temperature": 1.0, "c": -1.0}, {"seed": 7, "temperature": 1.0, "c": 1.0}]
    found = power_law(rows, "c")
    assert (found.value, found.error, found.runs) == (pytest.approx(-0.5), pytest.approx(0, abs=1e-9), 3)
    assert power_law([], "c") is None


def losses(rng, exponent, *, seeds=4, noise=0.02, batch_effect=0.0):
    """Final losses that fall with ln(λ/B^exponent), and differ by batch size beyond it where asked."""
    rows = []
    for seed in range(seeds):
        offset = rng.normal()
        for temperature in (1e-3, 4e-3, 1.6e-2):
            for size in (8, 32, 128):
                rate = temperature * size
                loss = offset - 0.3 * np.log(rate / size**exponent) + noise * rng.normal()
                loss += batch_effect * np.log2(size)
                rows.append({"seed": seed, "temperature": temperature, "batch_size": size, "test": loss})
                rows[-1]["learning_rate"] = rate
    return rows


def test_collapse_is_found_and_its_absence_too():
    rng = np.random.default_rng(0)
    found = collapse_test(losses(rng, 1.0), "test")
    assert found.p > 0.05 and found.over_batch_sizes < 0.03 < 0.3 < found.over_temperatures
    assert len(found.by_temperature) == 3 and {e.seeds for e in found.by_temperature} == {4}
    assert all(e.over_seeds > 5 * e.over_batch_sizes for e in found.by_temperature)
    for rows in (losses(rng, 0.5), losses(rng, 1.0, batch_effect=0.1)):
        broken = collapse_test(rows, "test")
        assert broken.p < 0.01 and all(e.f_ratio > 20 and e.p < 0.01 for e in broken.by_temperature)


def test_p_values_of_the_collapse_are_uniform_where_it_holds():
    rng = np.random.default_rng(1)
    values = [collapse_test(losses(rng, 1.0), "test", permutations=199).p for _ in range(200)]
    assert 0.01 < np.mean(np.array(values) < 0.1) < 0.2 and 0.4 < np.mean(values) < 0.6


def test_f_ratio_by_hand():
    table = {(0, 8): 1.0, (0, 32): 2.0, (1, 8): 3.0, (1, 32): 5.0, (2, 8): 2.0}  # the last seed is incomplete
    rows = [{"seed": s, "batch_size": b, "temperature": 0.1, "test": v} for (s, b), v in table.items()]
    (only,) = collapse_test(rows, "test").by_temperature
    # Sum of squares 2.25 between the sizes, 0.25 left over, each with one degree of freedom.
    assert (only.seeds, only.mean) == (2, 2.75) and only.f_ratio == pytest.approx(9.0)
    assert only.over_batch_sizes == pytest.approx(1.5 / 2**0.5) and only.over_seeds == pytest.approx(2.5 / 2**0.5)
    assert only.p == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="rows must hold a temperature with two batch sizes"):
        collapse_test(rows[:1], "test")


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5])
def test_collapse_exponent_is_that_of_the_data(exponent):
    found = collapse_exponent(losses(np.random.default_rng(2), exponent), "test")
    assert found.value == pytest.approx(exponent, abs=0.06) and 0 < found.error < 0.06
    assert collapse_exponent([], "test") is None


def test_equal_time_reads_the_hotter_run_earlier():
    def record(temperature, times, test):
        points = zip(range(1, 3), times, test, strict=True)
        curve = [{"epoch": e, "time": t, "train": 0.0, "test": v, "test_error": 0.0} for e, t, v in points]
        start = {"train": 0.0, "test": 10.0, "test_error": 0.0}
        runs = [{"batch_size": 8, "diverged": False, "curve": curve}]
        return {"settings": {"seed": 0, "temperature": temperature}, "result": {"start": start, "runs": runs}}

    (row,) = equal_time_rows([record(0.1, [1, 2], [9.0, 8.0]), record(0.4, [4, 8], [6.0, 2.0])])
    assert (row["temperature"], row["higher"], row["time"], row["test"]) == (0.1, 0.4, 2, 8.0)
    assert row["test_higher"] == pytest.approx(8.0)  # half-way from 10 to 6: the time alone explains it


def test_final_losses_are_medians_of_the_last_quarter():
    curve = [
        {"epoch": e, "time": 2.0 * e, **dict.fromkeys(("train", "train_error", "test_error"), 0.0)} for e in range(1, 9)
    ]
    for point in curve:
        point["test"] = 100.0 if point["epoch"] in (5, 6, 8) else float(point["epoch"])
    run = {"batch_size": 8, "learning_rate": 0.1, "diverged": False, "curve": curve}
    record = {"settings": {"seed": 0, "temperature": 0.1}, "result": {"runs": [run, {**run, "diverged": True}]}}
    (row,) = final_rows([record])
    assert (row["test"], row["time"]) == ((7 + 100) / 2, 16.0)


def test_difference_of_samples():
    rng = np.random.default_rng(0)
    apart, error, p = difference(rng.normal(size=30), rng.normal(2, 1, size=30))
    assert apart == pytest.approx(-2, abs=4 * error) and error == pytest.approx((2 / 30) ** 0.5, rel=0.3) and p < 0.001
    assert difference([1.0], [2.0, 3.0]) == (-1.5, None, None)
    assert difference([1.0, 2.0, 3.0], [2.0, 1.0, 3.0])[2] == 1.0
