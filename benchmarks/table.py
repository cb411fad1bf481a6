"""The one table that all benchmarks print."""

from dataclasses import dataclass

from benchmarks.timing import Measured

HEADINGS = ("", "time", "first", "peak", "ratio", "found", "target")
NUMBERS = ("time", "first", "peak", "ratio")
GAP = "  "


@dataclass(frozen=True)
class Row:
    """One line of the table; a row with nothing but ``what`` is a heading."""

    what: str
    time: str = ""
    first: str = ""
    peak: str = ""
    ratio: str = ""
    found: str = ""
    target: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        return (self.what, self.time, self.first, self.peak, self.ratio, self.found, self.target)


def timed(what: str, measured: Measured, *, ours: Measured | None = None, found: str = "", target: str = "") -> Row:
    """The row of a measured call, with the ratio of its time to that of ``ours`` if that is given."""
    return Row(
        what,
        time=duration(measured.seconds),
        first=duration(measured.first),
        peak="n/a" if measured.mebibytes is None else f"{measured.mebibytes:.1f} MiB",
        ratio=f"{measured.seconds / ours.seconds:.2f}" if ours else "",
        found=found,
        target=target,
    )


def verdict(value: float, below: float, words: str) -> str:
    """The target in words, then ``ok`` or ``MISSED``."""
    return f"< {words}: {'ok' if value < below else 'MISSED'}"


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.2f} ms"


def lines(rows: list[Row]) -> list[str]:
    """The rows as aligned text: words on the left of their column, numbers on the right."""
    columns = zip(HEADINGS, *(row.cells for row in rows if not is_heading(row)), strict=True)
    widths = [max(map(len, column)) for column in columns]
    rule = "-" * (sum(widths) + len(GAP) * (len(widths) - 1))
    body = [f"{rule}\n{row.what}" if is_heading(row) else _line(row.cells, widths) for row in rows]
    return [_line(HEADINGS, widths), *body]


def is_heading(row: Row) -> bool:
    return not any(row.cells[1:])


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    sides = (cell.rjust if name in NUMBERS else cell.ljust for name, cell in zip(HEADINGS, cells, strict=True))
    return GAP.join(side(width) for side, width in zip(sides, widths, strict=True)).rstrip()
