"""What is committed below chapters/: in the contents, run to the end, small cells, described figures."""

import json

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MAX_LINES = 20


def code_cells(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(number, cell) for number, cell in enumerate(cells, start=1) if cell["cell_type"] == "code"]


def outputs_of(cell, mime):
    return [output for output in cell["outputs"] if mime in output.get("data", {})]


def test_contents_list_every_chapter_and_nothing_else(root, contents):
    files = [path.relative_to(root) for suffix in ("md", "ipynb") for path in root.glob(f"chapters/**/[!.]*.{suffix}")]
    present = [path.with_suffix("").as_posix() for path in files if ".ipynb_checkpoints" not in path.parts]
    assert sorted(present) == sorted(contents)


def test_every_code_cell_was_run_in_order(notebook):
    counts = [cell["execution_count"] for _, cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run `make execute`"


def test_no_output_is_an_error_or_a_warning(notebook):
    for number, cell in code_cells(notebook):
        for output in cell["outputs"]:
            assert output["output_type"] != "error", f"cell {number} failed: {output['evalue']}"
            assert output.get("name") != "stderr", f"cell {number} wrote to stderr: {output['text']}"


def test_no_cell_is_empty(notebook):
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"], start=1):
        assert "".join(cell["source"]).strip(), f"cell {number} is empty"


def test_cells_are_short(notebook):
    for number, cell in code_cells(notebook):
        lines = "".join(cell["source"]).count("\n") + 1
        assert lines <= MAX_LINES, f"cell {number} has {lines} lines, more than {MAX_LINES}"


def test_figures_have_a_caption_and_alternative_text(notebook):
    for number, cell in code_cells(notebook):
        if not outputs_of(cell, "image/png"):
            continue
        said = cell["metadata"].get("mystnb", {})
        assert said.get("figure", {}).get("caption"), f"cell {number} shows a figure without a caption"
        assert said.get("image", {}).get("alt"), f"cell {number} shows a figure without alternative text"
        assert len(cell["outputs"]) == 1, f"cell {number} shows more than its one figure"


def test_sliders_are_saved_with_the_notebook(notebook_with_sliders):
    metadata = json.loads(notebook_with_sliders.read_text(encoding="utf-8"))["metadata"]
    state = metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    for _, cell in code_cells(notebook_with_sliders):
        for view in outputs_of(cell, WIDGET_VIEW):
            assert view["data"][WIDGET_VIEW]["model_id"] in state


def test_notebook_metadata_is_what_execute_writes(notebook):
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert metadata["language_info"] == {"name": "python"}
    assert all("execution" not in cell["metadata"] for _, cell in code_cells(notebook))
