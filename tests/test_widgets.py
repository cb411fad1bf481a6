"""The sliders in Python: what they start with, which frame they choose, what they refuse."""

import itertools

import matplotlib.pyplot as plt
import pytest

from companion.widgets import Explorer, explorer

TEMPERATURES = [0.01, 0.1, 1.0]
BATCH_SIZES = [1, 8]


def frame(temperature, batch_size=1):
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, temperature], [0, batch_size])
    return figure, f"T is {temperature} & B is {batch_size}"


@pytest.fixture(scope="module")
def grid() -> Explorer:
    return explorer(frame, initial={"temperature": 0.01}, temperature=TEMPERATURES, batch_size=BATCH_SIZES)


def test_one_axis_gives_one_slider():
    one = explorer(frame, temperature=TEMPERATURES)
    assert list(one.sliders) == ["temperature"]
    assert one.sliders["temperature"].value == 0.1
    assert 'data-frame="temperature T = 0.1"' in one.shown()


def test_sliders_start_where_asked_and_else_in_the_middle():
    fresh = explorer(frame, initial={"temperature": 0.01}, temperature=TEMPERATURES, batch_size=BATCH_SIZES)
    assert {name: slider.value for name, slider in fresh.sliders.items()} == {"temperature": 0.01, "batch_size": 8}


def test_stacks_start_at_the_frame_of_the_sliders():
    fresh = explorer(frame, initial={"temperature": 1.0}, temperature=TEMPERATURES, batch_size=BATCH_SIZES)
    stack = fresh.frames
    for slider in fresh.sliders.values():
        assert stack.selected_index == slider.index
        stack = stack.children[stack.selected_index]
    assert stack.value == fresh.shown()


def test_every_combination_shows_its_own_frame(grid):
    for temperature, batch_size in itertools.product(TEMPERATURES, BATCH_SIZES):
        grid.sliders["temperature"].value = temperature
        grid.sliders["batch_size"].value = batch_size
        assert f'data-frame="temperature T = {temperature:g}, batch size B = {batch_size}"' in grid.shown()


def test_every_stack_is_linked_to_its_slider(monkeypatch):
    links = {}
    monkeypatch.setattr("ipywidgets.jslink", lambda source, target: links.update({target: source}))
    linked = explorer(frame, temperature=TEMPERATURES, batch_size=BATCH_SIZES)
    assert links.pop((linked.frames, "selected_index")) == (linked.sliders["temperature"], "index")
    inner = {(stack, "selected_index") for stack in linked.frames.children}
    assert links == dict.fromkeys(inner, (linked.sliders["batch_size"], "index"))


def test_sentence_is_caption_and_alternative_text_and_is_escaped(grid):
    shown = grid.shown()
    assert shown.count("T is") == 2
    assert " &amp; B is" in shown


def test_picture_without_a_sentence_is_named_by_its_values():
    alone = explorer(lambda temperature: frame(temperature)[0], temperature=[0.5])
    assert 'alt="temperature T = 0.5.' in alone.shown()


def test_figures_are_closed():
    before = plt.get_fignums()
    explorer(frame, temperature=TEMPERATURES)
    assert plt.get_fignums() == before


def test_repr_tells_frames_apart_that_say_something_else():
    def other(temperature):
        return frame(temperature)[0], f"twice T is {2 * temperature}"

    def view(drawn):
        return repr(explorer(drawn, temperature=TEMPERATURES))

    assert view(frame).startswith("Explorer: temperature (3); sentences ")
    assert view(frame) == view(frame) != view(other)


@pytest.mark.parametrize(
    ("axes", "initial", "message"),
    [
        ({}, {}, "at least one axis"),
        ({"temperature": []}, {}, r"axis temperature .* got \[\]"),
        ({"temperature": [1, 1]}, {}, r"axis temperature .* got \[1, 1\]"),
        ({"temperature": [1]}, {"batch": 1}, "'batch'; the axes are temperature"),
        ({"temperature": [1, 2]}, {"temperature": 3}, r"temperature = 3 is not on its axis \[1, 2\]"),
    ],
)
def test_bad_axes_are_refused(axes, initial, message):
    with pytest.raises(ValueError, match=message):
        explorer(frame, initial=initial, **axes)


def test_an_axis_without_a_label_of_its_own_is_named_alike_above_the_slider_and_in_the_frame():
    one = explorer(lambda prior_scale: plt.subplots()[0], prior_scale=[1, 2])
    assert one.sliders["prior_scale"].description == "prior scale"
    assert 'data-frame="prior scale = 2"' in one.shown()
