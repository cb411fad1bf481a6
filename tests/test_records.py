"""What a record says of where it was made."""

import subprocess

from companion import records


def test_circumstances_name_machine_versions_and_revision(monkeypatch):
    found = records.circumstances()
    assert "cores" in found["machine"] and set(found["versions"]) == {"numpy", "torch", "scipy"}
    assert all(found["versions"].values())
    monkeypatch.setattr(records.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError("git")))
    assert records.circumstances()["revision"] == ""


def test_the_revision_is_the_commit(monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout="abc1234+\n")
    monkeypatch.setattr(records.subprocess, "run", lambda *a, **k: done)
    assert records.circumstances()["revision"] == "abc1234+"
