"""Records: written and read back, damaged lines, what is missing."""

import pytest

from companion.records import read_record, write_record


def test_comes_back_with_its_circumstances(tmp_path):
    path = write_record("deep", {"seed": 3, "σ": 0.1}, [{"a": 1}, {"a": [2, 3]}], tmp_path / "new")
    record = read_record("deep", tmp_path / "new")
    assert record.rows == ({"a": 1}, {"a": [2, 3]})
    assert (record.about["seed"], record.about["σ"]) == (3, 0.1)
    assert "cores" in record.about["machine"] and record.about["versions"]["torch"]
    assert [file.name for file in path.parent.iterdir()] == ["deep.jsonl"]


def test_damaged_line_is_named_and_the_others_are_kept(tmp_path):
    path = write_record("deep", {"seed": 3}, [{"a": 1}, {"a": 2}, {"a": 3}], tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], lines[2][:4], lines[3]]) + "\n")
    with pytest.warns(UserWarning, match=r"deep\.jsonl, line 3: damaged, left out"):
        record = read_record("deep", tmp_path)
    assert record.rows == ({"a": 1}, {"a": 3})
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"deep\.jsonl, line 1: damaged"):
        read_record("deep", tmp_path)


def test_missing_record_lists_those_there_are(tmp_path):
    write_record("one", {}, [], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no record .two. in .*; there are: one"):
        read_record("two", tmp_path)


def test_failed_write_leaves_the_old_record(tmp_path):
    write_record("one", {}, [{"a": 1}], tmp_path)
    with pytest.raises(TypeError):
        write_record("one", {}, [{"a": object()}], tmp_path)
    assert read_record("one", tmp_path).rows == ({"a": 1},)
    assert len(list(tmp_path.iterdir())) == 1
