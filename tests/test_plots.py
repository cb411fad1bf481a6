"""The figure style: white ground on every page, colours that differ for every reader."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from companion.landscapes import paper_wells
from companion.plots import COLORS, picture, steady_state_panels, subplots


def luminance(color: str) -> float:
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_figures_are_opaque_white_and_of_the_size_asked():
    figure, axes = subplots(1, 2, width=5, height=2)
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert tuple(figure.get_size_inches()) == (5, 2)
    assert len(axes) == 2
    plt.close(figure)


def test_lines_take_the_books_colours_in_order():
    figure, axes = subplots()
    drawn = [axes.plot([0, 1])[0].get_color() for _ in COLORS]
    assert drawn == list(COLORS.values())
    plt.close(figure)


def test_colours_stand_out_from_white():
    assert all((1 + 0.05) / (luminance(color) + 0.05) > 2 for color in COLORS.values())


def test_style_does_not_leak():
    before = dict(mpl.rcParams)
    plt.close(subplots()[0])
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("form", ["png", "webp"])
def test_picture_keeps_the_size_and_few_colours(form):
    figure, axes = subplots(width=4, height=2)
    axes.plot([0, 1, 3])
    shown = Image.open(io.BytesIO(picture(figure, form)))
    assert (shown.format.lower(), shown.size) == (form, (400, 200))
    assert len(shown.convert("RGB").getcolors()) <= 32
    assert not plt.get_fignums()


def test_picture_names_the_forms_it_knows():
    with pytest.raises(ValueError, match="form must be png or webp, got 'gif'"):
        picture(subplots()[0], "gif")


def test_panels_draw_the_probabilities_they_name():
    wells, shift = paper_wells("4-left")
    figure = steady_state_panels(wells, shift, (0.002, 0.013, 0.06), np.array([0.002, 0.02]))
    _, _, masses, averages = figure.axes
    assert len(masses.lines) == 2
    np.testing.assert_allclose(sum(line.get_ydata() for line in masses.lines), 1)
    train, test = (line.get_ydata() for line in averages.lines)
    assert train[0] < train[1] and test[1] < test[0]
    plt.close(figure)
