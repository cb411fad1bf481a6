"""companion/experiments/runner.py: killed for real, two at once, failures, batches, a Dask cluster."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_experiment

from companion.experiments import runner
from companion.experiments.experiment import content_hash
from companion.experiments.store import append_record, read_records
from companion.experiments.workers import perform_runs, progress_note, read_note

TESTS = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}


def started(out, *arguments):
    command = [sys.executable, str(TESTS / "toy_experiment.py"), str(out), *map(str, arguments)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def told(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return [int(number) for number in output.split()]


def substance(out):
    """What does not depend on when and where: keys, settings, results."""
    stored = read_records(out / "toy.jsonl")
    assert stored.damaged == ()
    return sorted((r["key"], json.dumps(r["settings"]), json.dumps(r["result"])) for r in stored.records)


def test_a_record_says_all_that_is_needed_to_repeat_it(tmp_path):
    runner.run([toy_experiment.experiment(2)], "smoke", out=tmp_path, quiet=True)
    first = read_records(tmp_path / "toy.jsonl").records[0]
    assert first["settings"] == {"seed": 0, "padding": 0, "seconds": 0.0, "bad": False}
    assert first["result"] == {"square": 0, "padding": ""}
    assert (first["experiment"], first["profile"], first["device"]) == ("toy", "smoke", "cpu")
    assert first["versions"]["torch"] and "cores" in first["machine"] and "revision" in first
    assert first["seconds"] >= 0 and first["key"] == content_hash("toy", toy_experiment.Settings(0))


def test_the_hash_depends_on_every_setting_and_the_name():
    base = toy_experiment.Settings(0)
    others = [toy_experiment.Settings(1), toy_experiment.Settings(0, 1), toy_experiment.Settings(0, bad=True)]
    assert len({content_hash("toy", s) for s in (base, *others)} | {content_hash("other", base)}) == 5
    assert content_hash("toy", base) == content_hash("toy", toy_experiment.Settings(0))
    code = "from toy_experiment import *; from companion.experiments.experiment import content_hash as h;"
    elsewhere = [sys.executable, "-c", f"{code} print(h('toy', Settings(0)))"]
    assert subprocess.check_output(elsewhere, env=ENVIRONMENT, text=True).strip() == content_hash("toy", base)


def test_only_what_is_missing_is_computed(tmp_path):
    few, all_of_them = toy_experiment.experiment(3), toy_experiment.experiment()
    assert runner.run([few], "smoke", out=tmp_path, quiet=True).added == 3
    before = (tmp_path / "toy.jsonl").read_bytes()
    outcome = runner.run([all_of_them], "smoke", out=tmp_path, quiet=True)
    assert (outcome.recorded, outcome.added) == (3, toy_experiment.RUNS - 3)
    assert (tmp_path / "toy.jsonl").read_bytes().startswith(before)
    outcome = runner.run([all_of_them], "smoke", out=tmp_path, quiet=True)
    assert (outcome.recorded, outcome.added) == (toy_experiment.RUNS, 0)


def test_killed_many_times_it_ends_as_if_it_had_not_been(tmp_path):
    """Records of a megabyte, so that kills meet writes; forked, so that no time goes into imports."""
    toy = toy_experiment.experiment(12, seconds=0.01, padding=500_000)
    assert runner.run([toy], "smoke", out=tmp_path / "calm", quiet=True).added == 12
    kills, rng, killed = 0, random.Random(1), tmp_path / "killed"
    while len(read_records(killed / "toy.jsonl").records) < 12:
        process = multiprocessing.get_context("fork").Process(
            target=runner.run, args=([toy], "smoke"), kwargs={"out": killed, "quiet": True}
        )
        process.start()
        process.join(rng.uniform(0, 0.05 + 0.01 * kills))  # longer each time: a slow machine gets there too
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
    assert kills >= 8
    runner.run([toy], "smoke", out=killed, quiet=True)
    assert substance(killed) == substance(tmp_path / "calm")


def test_workers_that_outlive_a_killed_runner_harm_nothing(tmp_path):
    process = started(tmp_path, "--seconds", 0.3, "--jobs", 2)
    while not (tmp_path / "toy.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()  # the runner alone, not its workers
    process.wait()
    recorded, added, elsewhere = told(started(tmp_path, "--seconds", 0.3, "--jobs", 2))
    assert recorded >= 1 and elsewhere == 0 and recorded + added == toy_experiment.RUNS
    assert len(substance(tmp_path)) == toy_experiment.RUNS


def test_two_runners_share_the_work_and_compute_nothing_twice(tmp_path):
    processes = [started(tmp_path, "--count", 30, "--seconds", 0.1) for _ in range(2)]
    counts = [told(process) for process in processes]
    lines = (tmp_path / "toy.jsonl").read_bytes().splitlines()
    assert len(lines) == 30 == sum(added for _, added, _ in counts)
    assert len(substance(tmp_path)) == 30


def test_a_damaged_line_is_reported_and_run_again(tmp_path):
    toy = toy_experiment.experiment(4)
    runner.run([toy], "smoke", out=tmp_path, quiet=True)
    path, expected = tmp_path / "toy.jsonl", substance(tmp_path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], lines[1][:50], lines[2], lines[3][:-3]]))
    outcome = runner.run([toy], "smoke", out=tmp_path, quiet=True)
    assert outcome.damaged == {"toy.jsonl": (2, 4)} and (outcome.recorded, outcome.added) == (2, 2)
    assert substance(tmp_path) == expected
    assert runner.run([toy], "smoke", out=tmp_path, quiet=True).damaged == {}


def test_a_run_that_fails_does_not_take_the_others_with_it(tmp_path):
    toy = toy_experiment.experiment(3)
    some_bad = toy_experiment.experiment(3, bad=True)
    both = lambda profile: [*toy.settings(profile), *some_bad.settings(profile)]  # noqa: E731
    mixed = runner.Experiment(toy.name, toy.asks, both, toy.perform, toy.report, toy.differs)
    outcome = runner.run([mixed], "smoke", out=tmp_path, jobs=2, quiet=True)
    assert outcome.added == 3 and len(outcome.failed) == 3
    assert {record["error"] for record in outcome.failed} == {f"RuntimeError: seed {n} is bad" for n in range(3)}
    assert all("toy_experiment.py" in record["trace"] for record in outcome.failed)
    assert len(substance(tmp_path)) == 3  # and the next run tries again
    assert len(runner.run([mixed], "smoke", out=tmp_path, quiet=True).failed) == 3


def test_on_a_gpu_runs_go_in_batches_of_one_kind(tmp_path):
    toy = toy_experiment.experiment(5, batched=True)
    tasks = runner.missing_tasks([toy], "smoke", tmp_path, "cuda")
    assert [[s.seed for s in task.settings] for task in tasks] == [[0, 2, 4], [1, 3]]
    append_record(tmp_path / "toy.jsonl", {"key": content_hash("toy", toy_experiment.Settings(2))})
    tasks = runner.missing_tasks([toy], "smoke", tmp_path, "cuda")
    assert [[s.seed for s in task.settings] for task in tasks] == [[0, 4], [1, 3]]
    assert [len(t.settings) for t in runner.missing_tasks([toy], "smoke", tmp_path, "cpu")] == [1, 1, 1, 1]
    records = perform_runs(toy, tasks[0].settings, "smoke", None, "cpu", tmp_path)
    assert [record["result"]["in a batch of"] for record in records] == [2, 2]
    assert [record["key"] for record in records] == tasks[0].keys


def test_progress_is_noted_and_cleared(tmp_path, monkeypatch):
    tick = progress_note(tmp_path, "abc")
    tick(3, 10)
    assert read_note(tmp_path, "abc")["epoch"] == 3 and read_note(tmp_path, "other") is None
    tick(4, 10)  # too soon after the other
    assert read_note(tmp_path, "abc")["epoch"] == 3
    (tmp_path / "file").write_text("")
    progress_note(tmp_path / "file", "abc")(1, 2)  # a folder that is not there stops nothing
    runner.run([toy_experiment.experiment(2)], "smoke", out=tmp_path / "clean", quiet=True)
    assert not list((tmp_path / "clean" / runner.WORKSHOP / "progress").iterdir())


def test_the_bar_counts_runs(tmp_path, capsys):
    runner.run([toy_experiment.experiment(3)], "smoke", out=tmp_path)
    assert "3.0/3 runs" in capsys.readouterr().err


@pytest.fixture
def cluster(tmp_path):
    """The address of a scheduler on the loopback address, and its two workers, as real processes."""
    file = tmp_path / "scheduler.json"
    quiet = {"env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    scheduler = subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(file)], **quiet)
    processes = [scheduler]
    try:
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().strip():
            assert time.monotonic() < deadline and scheduler.poll() is None
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
        for n in range(2):
            local = ["--local-directory", str(tmp_path / f"worker{n}"), "--host", "127.0.0.1", "--no-dashboard"]
            processes.append(subprocess.Popen([*command, *local], **quiet))
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_cluster_that_loses_a_worker_loses_no_run(tmp_path, cluster, monkeypatch):
    from distributed import Client

    address, workers = cluster
    with Client(address) as client:
        client.wait_for_workers(2, timeout=60)
    out, kept, by = tmp_path / "out", runner._keep, set()

    def keep_and_kill(record, *rest):
        kept(record, *rest)
        by.add(record["key"])
        if len(by) == 5:
            workers[0].send_signal(signal.SIGKILL)

    monkeypatch.setattr(runner, "_keep", keep_and_kill)
    toy = toy_experiment.experiment(20, seconds=0.2)
    outcome = runner.run([toy], "smoke", out=out, cluster=address, quiet=True)
    assert workers[0].wait(10) == -signal.SIGKILL and workers[1].poll() is None
    assert (outcome.added, outcome.failed) == (20, [])
    assert len((out / "toy.jsonl").read_bytes().splitlines()) == 20
    expected = sorted((content_hash("toy", s), s.seed**2) for s in toy.settings("smoke"))
    assert sorted((r["key"], r["result"]["square"]) for r in read_records(out / "toy.jsonl").records) == expected
