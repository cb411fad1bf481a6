"""The comparisons behind the ``msharp`` tables, on records whose answer is known, and the cost of a step."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from companion.experiments.experiment import Workplace
from companion.experiments.msharp_analysis import (
    TUNED,
    average,
    best_records,
    difference,
    grids,
    matched,
    method_name,
    noise_and_sharpness,
    over_micro_batches,
    rank_correlation,
    reference_of,
    tasks,
)
from companion.experiments.msharp_cost import COST, cost_settings, relative_times
from companion.experiments.msharp_report import accuracy_rows, equal_rho_rows, flatness_rows, mechanism_rows, report
from companion.experiments.msharp_settings import DIGITS

SEEDS = (0, 1, 2)


def made(validation=0.5, test=(0.5, 0.5, 0.5), hessian=1.0, noise=1.0, diverged=(), **changes):
    """A record as it would be."""
    settings = replace(DIGITS, seeds=SEEDS, **changes)
    runs = []
    for seed, accuracy in zip(SEEDS, test, strict=True):
        row = {"epoch": 2, "validation_accuracy": validation, "test_accuracy": accuracy, "memorized": None}
        row |= {"trace_hessian": hessian * (1 + seed), "trace_covariance": noise * (1 + seed)}
        runs.append({"seed": seed, "curve": [row], "diverged": "the loss became inf" if seed in diverged else None})
    return {"settings": asdict(settings), "result": {"runs": runs}}


def sam(rho, **changes):
    return made(method="sam", rho=rho, **changes)


def test_rho_is_chosen_by_validation_and_never_where_a_run_diverged():
    records = [sam(0.1, validation=0.6, test=(0.1, 0.1, 0.1)), sam(0.05, validation=0.5, test=(0.9, 0.9, 0.9))]
    records += [sam(0.2, validation=0.7, diverged=(1,)), made(validation=0.4)]
    best = best_records(records)
    assert best["SAM"][0]["settings"]["rho"] == 0.1 and not best["SAM"][1]
    assert best_records(records[:2])["SAM"][1], "0.1 is then the largest ρ"
    assert list(best) == ["SGD", "SAM"] and best["SGD"] == (records[3], False)
    assert best_records([sam(0.2, diverged=(1,))]) == {}


def test_eta_is_chosen_among_positive_ones():
    records = [sam(0.1)] + [
        made(method="rw-sam", rho=0.1, eta=eta, validation=v) for eta, v in ((-1.0, 0.9), (1.0, 0.7), (2.0, 0.8))
    ]
    records.append(made(method="rw-sam", rho=0.1, eta=1.0, probes=10, validation=0.95))
    assert best_records(records)[TUNED][0]["settings"]["eta"] == 2.0


def test_differences_are_those_of_pairs():
    ours, theirs = sam(0.1, test=(0.62, 0.72, 0.85), hessian=2.0), sam(0.2, test=(0.6, 0.7, 0.8))
    change = difference(ours, theirs, "test_accuracy")
    assert change.mean == pytest.approx(0.03) and change.error == pytest.approx(0.01) and change.seeds == 3
    factor = difference(ours, theirs, "trace_hessian", relative=True)
    assert factor.mean == pytest.approx(np.log(2)) and factor.error == pytest.approx(0, abs=1e-12)
    without = difference(ours, sam(0.2, test=(0.6, 0.7, 0.8), diverged=(2,)), "test_accuracy")
    assert without.mean == pytest.approx(0.02) and without.seeds == 2


def test_the_same_sharpness_at_another_rho():
    curve = {rho: sam(rho, hessian=np.exp(-rho), test=(rho, rho, rho)) for rho in (0.0, 0.1, 0.2, 0.4)}
    ratio, gap = matched(made(method="rw-sam", rho=0.1, hessian=np.exp(-0.3), test=(0.3, 0.4, 0.5)), curve)
    assert ratio.mean == pytest.approx(3) and ratio.error == pytest.approx(0, abs=1e-12) and ratio.seeds == 3
    assert gap.mean == pytest.approx(0.1) and gap.error == pytest.approx(0.1 / 3**0.5)
    assert matched(sam(0.1, hessian=np.exp(-0.5)), curve)[0].seeds == 0, "flatter than all"
    assert matched(sam(0.1, hessian=1.1), curve)[0].seeds == 0, "sharper than all"
    rising = {**curve, 0.3: sam(0.3, hessian=1.0)}
    assert matched(sam(0.1, hessian=np.exp(-0.1)), rising)[0].seeds == 0, "not monotone"
    some = {**curve, 0.3: sam(0.3, hessian=np.exp(-0.3), diverged=(1,))}
    assert matched(sam(0.1, hessian=np.exp(-0.1)), some)[0].seeds == 2


def test_average_of_few():
    assert average([]).seeds == 0 and np.isnan(average([]).mean)
    assert average([2.0]).mean == 2 and np.isnan(average([2.0]).error)
    assert average([1.0, 3.0]).error == pytest.approx(1)


def test_methods_are_compared_within_one_protocol():
    records = [made(), sam(0.1), made(label_noise=0.25), sam(0.1, epochs=7)]
    groups = list(tasks(records).values())
    assert sorted(map(len, groups)) == [1, 1, 2] and records[:2] in groups


def test_names_and_references():
    assert method_name(sam(0.1, micro_batch=8)["settings"]) == "SAM, m = 8"
    weighted = made(method="rw-sam", eta=0.5, probes=10)["settings"]
    assert method_name(weighted) == "RW-SAM, η = 0.5, Q = 10" and reference_of(method_name(weighted)) == "SAM"
    assert [reference_of(name) for name in ("RW-ASAM, η = 1", "ASAM", "USAM", "USAM, m = 8")] == [
        "ASAM", "SAM", "SAM", "USAM",
    ]  # fmt: skip
    order = [made(method="rw-sam", eta=1.0), sam(0.1, micro_batch=4), sam(0.1, micro_batch=8), sam(0.1), made()]
    assert list(grids(order)) == ["SGD", "SAM", "SAM, m = 8", "SAM, m = 4", "RW-SAM, η = 1"]
    assert over_micro_batches(order) == {0.1: {0: order[3], 4: order[1], 8: order[2]}}


def test_more_seeds_take_the_place_of_fewer():
    few, many = replace_seeds(sam(0.1), 1), sam(0.1)
    for records in ([few, many], [many, few]):
        assert grids(records)["SAM"][0.1] is many


def replace_seeds(record, number):
    settings = {**record["settings"], "seeds": SEEDS[:number]}
    return {"settings": settings, "result": {"runs": record["result"]["runs"][:number]}}


def test_rows_say_what_the_records_say():
    records = [made(test=(0.5, 0.6, 0.7)), sam(0.1, test=(0.6, 0.7, 0.8), hessian=3.0)]
    records.append(made(method="rw-sam", rho=0.1, eta=1.0, test=(0.62, 0.7, 0.84), hessian=1.5, noise=2.0))
    rows = {row[0]: row for row in accuracy_rows(records)}
    assert rows["SGD"][4] == "-10.00 ± 0.00 SAM" and rows["SAM"][4] == "–"
    assert rows["RW-SAM, η = 1"][3:5] == ("72.00 ± 6.43", "+2.00 ± 1.15 SAM")
    (row,) = equal_rho_rows(records)
    assert row[:2] == ("RW-SAM, η = 1 beside SAM", "0.1") and row[3:5] == ("0.50 ×/÷ 1.00", "2.00 ×/÷ 1.00")
    assert flatness_rows(records)[1][2:4] == ("0.50 ×/÷ 1.00", "2.00 ×/÷ 1.00")
    assert mechanism_rows(records)[0][:2] == (2, 9)


def test_noise_beside_sharpness():
    records = [sam(0.1, hessian=1.0, noise=2.0), sam(0.2, hessian=10.0, noise=20.0)]
    points = noise_and_sharpness(records)
    assert points == [(1, 2), (2, 4), (3, 6), (10, 20), (20, 40), (30, 60)]
    assert rank_correlation(points) == pytest.approx(1)
    assert noise_and_sharpness(records, epoch=1) == [] and np.isnan(rank_correlation(points[:2]))


def test_report_survives_runs_that_diverged_at_once():
    record = sam(0.1, diverged=SEEDS)
    for run in record["result"]["runs"]:
        run["curve"] = []
    found = report([record, made()])
    assert [row[0] for row in found.tables[0].rows] == ["SGD"]
    for draw in found.figures.values():
        draw().canvas.draw()


def test_cost_counts_passes_and_compares_with_sam():
    (settings,) = cost_settings("smoke")
    record = {"settings": asdict(settings), "result": COST.perform(settings, Workplace())}
    counted = {one["name"]: (one["forward"], one["backward"], one["samples"]) for one in record["result"]["optimizers"]}
    assert counted == {
        "SGD": (1, 1, 16), "SAM": (2, 2, 32), "SAM, m = 4": (8, 8, 32), "RW-SAM, Q = 1": (3, 2, 48),
    }  # fmt: skip
    times = relative_times(record)
    assert np.all(times["SAM"] == 1) and all(len(ratios) == settings.rounds for ratios in times.values())
    assert np.median(times["SGD"]) < 1 < np.median(times["SAM, m = 4"])
    assert COST.report([]).tables == [] and len(COST.report([record]).tables[0].rows) == 4
    COST.report([record, record]).figures["msharp-cost"]().canvas.draw()
