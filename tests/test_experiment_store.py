"""companion/experiments/store.py: torn, flipped and foreign lines cost themselves and nothing else."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from companion.experiments.store import append_record, decode, encode, read_records, set_damaged_aside

RECORDS = [{"key": f"k{n}", "settings": {"σ": 0.1 * n}, "result": [n, None, "a\u2028b"]} for n in range(3)]


@pytest.fixture
def path(tmp_path):
    for record in RECORDS:
        append_record(tmp_path / "toy.jsonl", record)
    return tmp_path / "toy.jsonl"


def test_records_come_back_one_a_line(path):
    assert read_records(path).records == tuple(RECORDS)
    assert read_records(path).damaged == ()
    assert [json.loads(line)["key"] for line in path.read_bytes().splitlines()] == ["k0", "k1", "k2"]
    assert read_records(path.with_name("none.jsonl")) == read_records(path.with_name("other.jsonl"))


def test_a_file_cut_anywhere_loses_one_record_and_takes_the_next(path):
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1  # of the last line
    for end in range(start + 1, len(whole)):
        path.write_bytes(whole[:end])
        kept = RECORDS if end == len(whole) - 1 else RECORDS[:2]  # only its end is missing
        assert read_records(path).records == tuple(kept)
        append_record(path, {"key": "new"})
        stored = read_records(path)
        assert stored.records == (*kept, {"key": "new"})
        assert stored.damaged == (() if len(kept) == 3 else (3,))


def test_any_byte_changed_costs_its_line(path):
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    for place in range(len(lines[0]) + 1, len(lines[0]) + 1 + len(lines[1])):
        changed = bytearray(whole)
        changed[place] ^= 1
        if bytes(changed).count(b"\n") == 3:
            path.write_bytes(changed)
            assert read_records(path).records == (RECORDS[0], RECORDS[2])
            assert read_records(path).damaged == (2,)


@pytest.mark.parametrize("line", [b"", b"[]", b"3", b"null", b'{"key": 1}', b'{"sum": "00000000"}', b"\xff\xfe", b"{"])
def test_what_is_no_record_is_none(line):
    assert decode(line) is None


def test_what_json_cannot_hold_is_not_written(path):
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises((ValueError, TypeError)):
            append_record(path, {"key": "x", "result": value})
    assert read_records(path).records == tuple(RECORDS)


def test_the_first_of_a_key_counts(path):
    append_record(path, {"key": "k1", "result": "again"})
    assert read_records(path).records == tuple(RECORDS)


def test_damaged_lines_are_moved_aside_once(path):
    good = path.read_bytes()
    path.write_bytes(good[:40] + b"\n" + good)
    assert set_damaged_aside(path) == (1,)
    assert path.read_bytes() == good
    assert path.with_suffix(".damaged").read_bytes() == good[:40] + b"\n"
    assert set_damaged_aside(path) == () == set_damaged_aside(path.with_name("none.jsonl"))


def test_writers_do_not_mix_their_lines(tmp_path):
    def write(n):
        append_record(tmp_path / "toy.jsonl", {"key": str(n), "text": "x" * 20_000})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    stored = read_records(tmp_path / "toy.jsonl")
    assert {record["key"] for record in stored.records} == set(map(str, range(100)))
    assert stored.damaged == ()


def test_a_write_that_does_not_fit_is_taken_back(path):
    """A file-size limit stops the real write half-way, as a full disk does."""
    before, line = path.read_bytes(), len(encode({"key": "big", "text": "x" * 5000}))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from companion.experiments.store import append_record\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + line // 2}, resource.RLIM_INFINITY))\n"
        "try: append_record(Path(sys.argv[1]), {'key': 'big', 'text': 'x' * 5000})\n"
        "except OSError as error: print('refused', error)"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert told.startswith("refused")
    assert path.read_bytes() == before
