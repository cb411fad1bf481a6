"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from companion import data, models

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8"), re.DOTALL
)


def test_there_are_examples():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_example_prints_finite_numbers(block, capsys):
    inputs, targets = data.digits(torch.float32)
    model = models.mlp(64, 16, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    exec(block, {"model": model, "inputs": inputs, "targets": targets, "batches": [(inputs, targets)]})
    printed = capsys.readouterr().out
    assert re.search(r"\d\.\d", printed)
    assert "nan" not in printed


def test_sharpness_takes_four_lines():
    (lines,) = [block.strip().splitlines() for block in BLOCKS if "sharpness" in block]
    assert len(lines) == 4


def test_rw_sam_takes_five_lines_and_trains():
    (block,) = [block for block in BLOCKS if "RWSAM" in block]
    assert len(block.strip().splitlines()) == 5
    inputs, targets = data.digits(torch.float32)
    model = models.mlp(64, 16, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    before = torch.nn.functional.cross_entropy(model(inputs), targets)
    batches = 4 * list(zip(inputs.split(64), targets.split(64), strict=True))
    exec(block, {"model": model, "batches": batches})
    assert torch.nn.functional.cross_entropy(model(inputs), targets) < before / 2
