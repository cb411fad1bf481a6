"""The figure style: white ground on every page, colours that differ for every reader."""

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from companion.plots import COLORS, subplots


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
