"""Sliders that work with a kernel in Jupyter and without one in the built page.

Every frame is drawn once in Python.  The browser only chooses which one to show: each slider's
``index`` is linked to a ``Stack``'s ``selected_index`` by ``jslink``, which needs no kernel.
"""

import base64
import html
import re
import zlib
from collections.abc import Callable, Iterator, Sequence

import ipywidgets
from matplotlib.figure import Figure

from companion import plots

LABELS = {
    "temperature": "temperature T",
    "batch_size": "batch size B",
    "learning_rate": "learning rate λ",
    "alpha": "factor α",
    "damping": "damping ε",
}
_FIGCAPTION = re.compile(r"<figcaption[^>]*>(.*)</figcaption>", re.DOTALL)


class Explorer(ipywidgets.VBox):
    """Sliders above the frame they choose; built by :func:`explorer`.

    Attributes
    ----------
    sliders : dict of str to SelectionSlider
        One slider an axis, by the axis' name.
    frames : Stack
        Nested stacks of ``HTML`` frames, one level an axis, in the order of ``sliders``.
    """

    def __init__(self, sliders: dict[str, ipywidgets.SelectionSlider], frames: ipywidgets.Stack):
        self.sliders = sliders
        self.frames = frames
        super().__init__(children=[*sliders.values(), frames])
        self.add_class("explorer")

    def shown(self) -> str:
        """The HTML of the frame that the sliders' present values select."""
        frame = self.frames
        for slider in self.sliders.values():
            frame = frame.children[slider.index]
        return frame.value

    def __repr__(self) -> str:
        """The axes and a checksum of the frames' sentences: nbval compares it, and no pictures."""
        axes = " × ".join(f"{name} ({len(s.options)})" for name, s in self.sliders.items())
        sentences = "".join(_FIGCAPTION.search(value)[1] for value in _leaves(self.frames))
        return f"Explorer: {axes}; sentences {zlib.crc32(sentences.encode()):08x}"


def explorer(
    frame: Callable[..., Figure | tuple[Figure, str]],
    *,
    initial: dict[str, object] | None = None,
    **axes: Sequence,
) -> Explorer:
    """Draw ``frame`` at every point of a grid and let sliders choose among the pictures.

    Parameters
    ----------
    frame : callable
        Called as ``frame(**values)`` with one keyword argument an axis.  Returns a figure, or a
        figure and a sentence that says what it shows; the sentence stands below the picture and
        is its alternative text.  The figure is closed once it is drawn.
    initial : dict, optional
        The value each slider starts at, by axis name; an axis not named starts in the middle.
    **axes : sequence
        The values of each axis, for example ``temperature=[0.01, 0.1], batch_size=[1, 8]``.
        One axis gives one slider.  Pages carry every frame, so keep the grid small.

    Returns
    -------
    Explorer
        Works in a live notebook and, through the saved widget state, in a static page.

    Raises
    ------
    ValueError
        If there is no axis, an axis is empty or repeats a value, or ``initial`` names an
        unknown axis or a value that is not on it.
    """
    _check_axes(axes, initial or {})
    start = {name: (initial or {}).get(name, values[len(values) // 2]) for name, values in axes.items()}
    sliders = {name: _slider(name, values, start[name]) for name, values in axes.items()}
    # One layout and one style for all frames: each would weigh two kilobytes in the page.
    shared = {"layout": ipywidgets.Layout(), "style": ipywidgets.HTML().style}
    return Explorer(sliders, _stack(frame, {}, axes, sliders, shared))


def _check_axes(axes: dict[str, Sequence], initial: dict[str, object]) -> None:
    if not axes:
        raise ValueError("explorer needs at least one axis, for example temperature=[0.01, 0.1]")
    for name, values in axes.items():
        if len(values) == 0 or len(set(values)) != len(values):
            raise ValueError(f"axis {name} must hold at least one value and none twice, got {list(values)}")
    for name, value in initial.items():
        if name not in axes:
            raise ValueError(f"initial names the axis {name!r}; the axes are {', '.join(axes)}")
        if value not in axes[name]:
            raise ValueError(f"initial {name} = {value!r} is not on its axis {list(axes[name])}")


def _slider(name: str, values: Sequence, value: object) -> ipywidgets.SelectionSlider:
    return ipywidgets.SelectionSlider(
        options=[(_text(v), v) for v in values],
        value=value,
        description=_label(name),
        style={"description_width": "8em"},
        layout={"width": "min(32em, 100%)"},
    )


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _stack(frame, fixed: dict, axes: dict[str, Sequence], sliders: dict, shared: dict) -> ipywidgets.Stack:
    """One level of stacks: the first axis of ``axes`` runs, those in ``fixed`` stand still."""
    name, *rest = axes
    inner = {key: axes[key] for key in rest}
    children = [
        _stack(frame, {**fixed, name: value}, inner, sliders, shared)
        if inner
        else ipywidgets.HTML(_frame_html(frame, {**fixed, name: value}), **shared)
        for value in axes[name]
    ]
    stack = ipywidgets.Stack(children=children, selected_index=sliders[name].index)
    ipywidgets.jslink((sliders[name], "index"), (stack, "selected_index"))
    return stack


def _leaves(frame: ipywidgets.Widget) -> Iterator[str]:
    """The HTML of every frame below ``frame``, the last axis running fastest."""
    if isinstance(frame, ipywidgets.HTML):
        yield frame.value
    else:
        for child in frame.children:
            yield from _leaves(child)


def _frame_html(frame, values: dict) -> str:
    drawn = frame(**values)
    figure, sentence = drawn if isinstance(drawn, tuple) else (drawn, "")
    where = ", ".join(f"{_label(name)} = {_text(v)}" for name, v in values.items())
    picture = base64.b64encode(plots.picture(figure, "webp")).decode()
    caption = html.escape(sentence)
    alt = html.escape(f"{where}. {sentence}".strip(), quote=True)
    return (
        f'<figure class="frame" data-frame="{html.escape(where, quote=True)}" style="margin:0">'
        f'<img src="data:image/webp;base64,{picture}" alt="{alt}" '
        'style="max-width:100%;height:auto;background:#fff">'
        f'<figcaption aria-live="polite">{caption}</figcaption></figure>'
    )
