"""companion/experiments/command.py: what a reader types, and what is wrong with it."""

import io
import multiprocessing
import resource
import sys

import pytest
import torch
import toy_experiment

from companion.data import load_dataset
from companion.experiments import catalogue
from companion.experiments.catalogue import chosen, experiments
from companion.experiments.command import main
from companion.experiments.experiment import PROFILES, content_hash
from companion.experiments.runner import claim
from companion.experiments.store import read_records
from companion.experiments.workers import note_path


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(catalogue, "experiments", lambda: {"toy": toy_experiment.experiment(3)})


def errors(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def test_list_counts_the_runs_of_every_profile(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(experiments())
    for line, experiment in zip(lines, experiments().values(), strict=True):
        assert line.split()[1:4] == [str(len(experiment.settings(profile))) for profile in PROFILES]
        assert line.endswith(experiment.asks)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_run_has_settings_of_its_own(profile):
    for experiment in experiments().values():
        keys = [content_hash(experiment.name, settings) for settings in experiment.settings(profile)]
        assert len(keys) == len(set(keys)) > 0, experiment.name


def test_run_status_and_report(toys, tmp_path, capsys):
    options = ["--profile", "smoke", "--out", str(tmp_path)]
    assert main(["status", *options]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["toy", "0", "3"]
    assert main(["run", "toy", "--jobs", "1", *options]) == 0
    assert "3 runs added" in capsys.readouterr().out
    assert main(["run", "toy", *options]) == 0
    assert "nothing was missing" in capsys.readouterr().out
    assert main(["status", "toy", *options]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["toy", "3", "0"]
    assert main(["report", *options]) == 0
    out = capsys.readouterr().out
    assert "3 of 3 runs on record" in out and "differs from the paper: nothing" in out
    assert out.splitlines()[-3:] == ["squares", "runs", "3"]


def test_status_shows_damage_and_what_is_under_way(toys, tmp_path, capsys):
    options = ["--profile", "smoke", "--out", str(tmp_path)]
    main(["run", "toy", *options])
    path = tmp_path / "toy.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(lines[0] + b"\n" + lines[1][:-4] + b"\n")
    key = read_records(path).records[0]["key"]
    other = next(k for s in toy_experiment.experiment(3).settings("") if (k := content_hash("toy", s)) != key)
    note_path(tmp_path, other).write_text('{"epoch": 3, "epochs": 9, "start": 0}')
    capsys.readouterr()
    main(["status", *options])
    out = capsys.readouterr().out
    assert "toy.jsonl: line 2 is damaged" in out and "epoch 3/9" not in out  # no runner holds it
    lock = claim(tmp_path, other)
    main(["status", *options])
    assert f"{other} epoch 3/9" in capsys.readouterr().out
    lock.release()
    assert main(["run", "toy", *options]) == 0
    assert "damaged at line 2; moved to toy.damaged and run again" in capsys.readouterr().out


def test_names_and_profiles_that_are_not_there(capsys):
    assert "experiment must be one of" in (told := errors(capsys, "run", "fisher-mnits"))
    assert told.rstrip().endswith("did you mean fisher-mnist?")
    assert "did you mean laptop?" in errors(capsys, "run", "fisher", "--profile", "labtop")
    assert "did you mean" not in errors(capsys, "report", "qqqqqq")
    assert "did you mean cuda?" in errors(capsys, "run", "fisher", "--device", "cude")
    assert "--jobs must be a whole number of at least 1, got 0" in errors(capsys, "run", "fisher", "--jobs", "0")
    with pytest.raises(SystemExit):
        main(["walk"])


def test_a_papers_name_stands_for_all_of_its_experiments():
    fisher = ["fisher-mnist", "fisher-time", "fisher-cifar"]
    assert [e.name for e in chosen(["fisher"])] == fisher
    assert [e.name for e in chosen(["fisher", "fisher-mnist"])] == fisher
    assert [e.name for e in chosen([])] == list(experiments())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_cuda_device(capsys):
    assert "needs a CUDA device, and torch sees none" in errors(capsys, "run", "fisher", "--device", "cuda")


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    told = errors(capsys, "run", "fisher", "--profile", "smoke", "--out", tmp_path / "file" / "below")
    assert "cannot be written" in told and "give another folder" in told


def test_data_that_are_missing(tmp_path, capsys):
    told = errors(capsys, "run", "fisher-mnist", "--data", tmp_path, "--out", tmp_path / "out")
    assert f"no MNIST/raw with its four files in {tmp_path}" in told and "--data" in told
    told = errors(capsys, "run", "fisher-cifar", "--data", tmp_path, "--out", tmp_path / "out")
    assert "cifar10.npz" in told and not list((tmp_path / "out").glob("*.jsonl"))


def test_no_space_left(toys, tmp_path):
    """In a process whose files may have a hundred bytes: a write fails half-way, as on a full disk."""

    def limited(told):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        sys.stderr = io.StringIO()
        status = main(["run", "toy", "--profile", "smoke", "--out", str(tmp_path), "--jobs", "1"])
        told.send((status, sys.stderr.getvalue()))

    fork = multiprocessing.get_context("fork")
    there, here = fork.Pipe()
    process = fork.Process(target=limited, args=(here,))
    process.start()
    process.join(60)
    status, told = there.recv()
    assert status == 2 and "no space left for" in told and "0 new records were kept" in told
    assert (tmp_path / "toy.jsonl").read_bytes() == b""
    assert main(["run", "toy", "--profile", "smoke", "--out", str(tmp_path), "--jobs", "1"]) == 0
    assert len(read_records(tmp_path / "toy.jsonl").records) == 3


def test_no_cluster_at_the_address(toys, tmp_path, capsys):
    told = errors(
        capsys, "run", "toy", "--profile", "smoke", "--out", tmp_path, "--cluster", "tcp://127.0.0.1:9", "--jobs", "1"
    )
    assert "127.0.0.1:9" in told


def test_data_come_from_the_folder_that_the_variable_names(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_dataset("mnist")
