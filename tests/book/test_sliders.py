"""Every slider on every page, moved with the keyboard through all its values, with no kernel behind it."""

import itertools
import json

import pytest

STATE = "application/vnd.jupyter.widget-state+json"


def saved_axes(notebook) -> list[list[list[str]]]:
    """For each explorer in the notebook: for each of its sliders, the values it can show."""
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    state = {key: item["state"] for key, item in metadata.get("widgets", {}).get(STATE, {}).get("state", {}).items()}
    boxes = [item for item in state.values() if "explorer" in item.get("_dom_classes", [])]
    children = [[state[name.removeprefix("IPY_MODEL_")] for name in box["children"]] for box in boxes]
    return [[child["_options_labels"] for child in box if "_options_labels" in child] for box in children]


def values_shown(explorer) -> str:
    """What the sliders say, in the words in which a frame names its place on the grid."""
    sliders = explorer.locator(".widget-slider").all()
    said = [(s.locator(".widget-label").inner_text(), s.locator(".widget-readout").inner_text()) for s in sliders]
    return ", ".join(f"{label} = {value}" for label, value in said)


def assert_frame_is_the_one_for_the_values(explorer):
    values = values_shown(explorer)
    explorer.locator(f'figure.frame[data-frame="{values}"]').wait_for(timeout=2000)
    frames = explorer.locator("figure.frame:visible")
    assert frames.count() == 1
    assert frames.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def move(slider, key: str):
    slider.locator("[role=slider]").press(key)


def set_to(slider, index: int):
    move(slider, "Home")
    for _ in range(index):
        move(slider, "ArrowRight")


@pytest.fixture
def explorers(notebook_with_sliders, root, reader):
    """The page's explorers and the values of their sliders, one pair each."""
    axes = saved_axes(notebook_with_sliders)
    page = reader.open(notebook_with_sliders.relative_to(root).with_suffix(".html").as_posix())
    found = page.locator(".explorer").all()
    assert len(found) == len(axes) > 0
    return list(zip(found, axes, strict=True))


def test_first_frame_is_the_one_for_the_first_values(explorers):
    for explorer, _ in explorers:
        assert_frame_is_the_one_for_the_values(explorer)


def test_every_value_shows_its_frame(explorers, reader):
    for explorer, axes in explorers:
        sliders = explorer.locator(".widget-slider").all()
        assert len(sliders) == len(axes)
        *outer, inner = sliders
        for place in itertools.product(*(range(len(values)) for values in axes[:-1])):
            for slider, index in zip(outer, place, strict=True):
                set_to(slider, index)
            move(inner, "Home")
            for index, value in enumerate(axes[-1]):
                if index:
                    move(inner, "ArrowRight")
                assert_frame_is_the_one_for_the_values(explorer)
                expected = [labels[at] for labels, at in zip(axes, (*place, index), strict=True)]
                assert explorer.locator(".widget-readout").all_inner_texts() == expected, value
    assert not reader.elsewhere and not reader.errors


def test_focus_is_visible_on_a_handle(explorers, reader):
    explorer, _ = explorers[0]
    handle = explorer.locator("[role=slider]").first
    handle.press("ArrowRight")
    assert handle.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
