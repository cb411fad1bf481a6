"""One figure style for the whole book: opaque white, colour-blind-safe, readable at phone width."""

import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image as DisplayedPicture
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from companion.steady_state import basin_probabilities, expected_loss, stationary_density

PALETTE_SIZE = 32

# Okabe and Ito's palette without its yellow, which vanishes on white.
COLORS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "amber": "#E69F00",
    "black": "#000000",
}

STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.prop_cycle": plt.cycler(color=list(COLORS.values())),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "font.size": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.dpi": 100,
}


def subplots(
    nrows: int = 1, ncols: int = 1, *, width: float = 7.0, height: float = 3.0, **kwargs
) -> tuple[Figure, Axes | np.ndarray]:
    """``plt.subplots`` in the book's style; ``width`` and ``height`` are the figure's, in inches."""
    with plt.rc_context(STYLE):
        return plt.subplots(nrows, ncols, figsize=(width, height), layout="constrained", **kwargs)


def picture(figure: Figure, form: str) -> bytes:
    """The figure as "png" or lossless "webp", in few colours, and closed: pages carry dozens of them."""
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", facecolor="white")
    plt.close(figure)
    few = Image.open(raw).convert("RGB").quantize(PALETTE_SIZE, dither=Image.Dither.NONE)
    if form == "png":
        few.save(small, format="png", optimize=True)
    elif form == "webp":
        few.convert("RGB").save(small, format="webp", lossless=True, quality=60, method=3)
    else:
        raise ValueError(f"form must be png or webp, got {form!r}")
    return small.getvalue()


def show(figure: Figure) -> None:
    """Show the figure as the cell's one output, a quarter as large as the notebook's own."""
    display(DisplayedPicture(data=picture(figure, "png"), format="png"))


def steady_state_panels(wells, shift: float, temperatures, curve) -> Figure:
    """The four panels of ``shift`` figures 4 and 6 for constant noise, D = 1.

    The train and test loss, the steady state at each of ``temperatures``, and along ``curve``
    (an increasing array of temperatures) the basins' masses and both expected losses.
    """
    minima = wells.local_minima()
    theta = np.linspace(minima[0] - 0.9, minima[-1] + 1.4, 600)
    wide = np.linspace(minima[0] - 60, minima[-1] + 60, 60_001)
    test = wells.shifted(shift)
    figure, panels = subplots(2, 2, width=7.2, height=5.0)
    losses, densities, masses, averages = panels.ravel()
    losses.plot(theta, wells(theta), label="train")
    losses.plot(theta, test(theta), "--", label="test")
    losses.set(title="loss", xlabel="θ")
    for temperature, line in zip(temperatures, ("-", "--", ":"), strict=True):
        density = np.interp(theta, wide, stationary_density(wells, 1.0, temperature, wide))
        densities.plot(theta, density, line, label=f"T = {temperature:g}")
    densities.set(title="steady state", xlabel="θ", yscale="log", ylim=(1e-3, None))
    probabilities = np.array([basin_probabilities(wells, temperature) for temperature in curve])
    for minimum, probability, line in zip(minima, probabilities.T, ("-", "--", ":"), strict=False):
        masses.plot(curve, probability, line, label=f"basin of θ = {minimum:.1f}")
    masses.set(title="basin probability", xlabel="temperature T", xscale="log", ylim=(-0.03, 1.03))
    for loss, name, line in ((wells, "train", "-"), (test, "test", "--")):
        averages.plot(curve, [expected_loss(loss, wells, temperature) for temperature in curve], line, label=name)
    averages.set(title="expected loss", xlabel="temperature T", xscale="log")
    for panel in panels.ravel():
        panel.legend(fontsize=8)
    return figure
