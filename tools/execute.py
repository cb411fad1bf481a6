"""Run chapters again in place, keeping their outputs and the state of their sliders.

Without arguments it runs the chapters whose code, or whose companion, changed since they last
ran; then the ledger, which reads the others' outputs.  A chapter that fails stays as it was.

Usage: python tools/execute.py [--all] [chapters/1-noise/steady-state.ipynb ...]
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from companion.files import replacing

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ROOT / "chapters"
LEDGER = CHAPTERS / "ledger.ipynb"
DIGEST = "companion_digest"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
MINUTES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="run these, changed or not")
    parser.add_argument("--all", action="store_true", help="run every chapter")
    args = parser.parse_args()
    # As the tests run them: two threads that wait for each other on busy cores take many times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = [path.resolve() for path in args.paths] or sorted(CHAPTERS.rglob("[!.]*.ipynb"))
    todo = [path for path in paths if path != LEDGER and (args.all or args.paths or _changed(path))]
    ledger = LEDGER.exists() and (bool(todo) or LEDGER in args.paths or args.all or _changed(LEDGER))
    failures = [fault for path in todo if (fault := run(path))]
    if ledger and not failures and (fault := run(LEDGER)):
        failures.append(fault)
    if failures:
        sys.exit("\n".join(failures))
    if not todo and not ledger:
        print("nothing changed; --all runs every chapter")


def run(path: Path) -> str:
    """Execute one notebook and write it back; if a cell fails, say which and write nothing."""
    print(f"running {_name(path)}", flush=True)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=60 * MINUTES,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=True,
        record_timing=False,
    )
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return f"{_name(path)}: {_failed_cell(notebook)} failed; the file is as it was\n{error}"
    notebook.metadata = _metadata(notebook)
    _write(path, _with_steady_ids(notebook))
    return ""


def digest(notebook: nbformat.NotebookNode) -> str:
    """What the outputs depend on: the notebook's code, the companion's and the ledger's rows."""
    parts = ["".join(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    companion = ROOT / "companion"
    for path in sorted([*companion.rglob("*.py"), *companion.rglob("*.toml")]):
        parts.append(path.read_text(encoding="utf-8"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _changed(path: Path) -> bool:
    notebook = nbformat.read(path, as_version=4)
    return notebook.metadata.get(DIGEST) != digest(notebook)


def _metadata(notebook: nbformat.NotebookNode) -> dict:
    """The same keys in the same order on every machine, and no times, so that diffs stay small."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    kept = {"kernelspec": KERNEL, "language_info": {"name": "python"}, DIGEST: digest(notebook)}
    drop = {*kept, "vscode", "toc"}
    return nbformat.from_dict(kept | {k: v for k, v in notebook.metadata.items() if k not in drop})


def _with_steady_ids(notebook: nbformat.NotebookNode) -> str:
    """The notebook's text with its widgets numbered, where ipywidgets drew random names."""
    text = nbformat.writes(notebook)
    saved = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for number, name in enumerate(saved):
        text = text.replace(name, f"{number:032x}")
    return nbformat.writes(nbformat.reads(text, as_version=4))  # the keys sorted by their new names


def _failed_cell(notebook: nbformat.NotebookNode) -> str:
    """The first code cell that did not finish: the one that raised, timed out or killed the kernel."""
    for number, cell in enumerate(notebook.cells, start=1):
        raised = any(output.output_type == "error" for output in cell.get("outputs", []))
        if cell.cell_type == "code" and (raised or not cell.execution_count):
            return f"cell {number} (id {cell.id})"
    return "a cell"


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write((text if text.endswith("\n") else text + "\n").encode())


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    main()
