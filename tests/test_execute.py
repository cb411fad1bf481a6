"""tools/execute.py: it saves what the pages need and never loses a reader's notebook."""

import execute
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


@pytest.fixture
def write(tmp_path):
    def write(*cells):
        path = tmp_path / "chapter.ipynb"
        notebook = new_notebook(cells=list(cells), metadata={"language_info": {"name": "python", "version": "3.0"}})
        nbformat.write(notebook, path)
        return path

    return write


def test_run_keeps_outputs_slider_state_and_cell_ids(write):
    path = write(
        new_markdown_cell("# A chapter"),
        new_code_cell("1 + 1", id="sum"),
        new_code_cell("import ipywidgets; ipywidgets.IntSlider()", id="slider"),
    )
    assert execute.run(path) == ""
    first = path.read_text()
    notebook = nbformat.reads(first, as_version=4)
    assert [cell.id for cell in notebook.cells[1:]] == ["sum", "slider"]
    assert notebook.cells[1].outputs[0].data["text/plain"] == "2"
    view = notebook.cells[2].outputs[0].data["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] in notebook.metadata.widgets[execute.WIDGET_STATE]["state"]
    assert notebook.metadata.language_info == {"name": "python"}
    assert not execute._changed(path)
    assert execute.run(path) == ""
    assert path.read_text() == first, "a second run of the same code changed the file"


def test_changed_code_is_noticed_and_changed_prose_is_not(write):
    path = write(new_markdown_cell("before"), new_code_cell("1"))
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata[execute.DIGEST] = execute.digest(notebook)
    notebook.cells[0].source = "after"
    nbformat.write(notebook, path)
    assert not execute._changed(path)
    notebook.cells[1].source = "2"
    nbformat.write(notebook, path)
    assert execute._changed(path)


def test_failing_cell_is_named_and_the_file_is_left_alone(write):
    path = write(new_code_cell("1", id="fine"), new_code_cell("1 / 0", id="broken"))
    before = path.read_bytes()
    fault = execute.run(path)
    assert "cell 2 (id broken) failed" in fault and "ZeroDivisionError" in fault
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
