"""The built pages: what a page with sliders weighs, and how soon a slider shows its frame.

The weight is the page and its own pictures, without the scripts and styles that all pages share.
The latency is measured in the browser, from a key press on a slider's handle until the frame has
been painted: two animation frames after the picture is there and decoded, an upper bound.
"""

import re
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.table import Row, duration, verdict

SITE = Path(__file__).resolve().parents[1] / "_build" / "html"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PRESSES = 20
TARGET_BYTES, TARGET_SECONDS = 500_000, 0.05

LISTEN = """handle => {
  const explorer = handle.closest(".explorer");
  const shown = () => [...explorer.querySelectorAll("figure.frame")].find(frame => frame.checkVisibility());
  window.latencies = [];
  handle.addEventListener("keydown", event => {
    const before = shown()?.dataset.frame;
    const look = async () => {
      const now = shown();
      if (!now || now.dataset.frame === before) return requestAnimationFrame(look);
      await now.querySelector("img").decode();
      const painted = () => window.latencies.push(performance.now() - event.timeStamp);
      requestAnimationFrame(() => requestAnimationFrame(painted));
    };
    requestAnimationFrame(look);
  }, {capture: true});
}"""


def rows() -> list[Row]:
    pages = with_sliders()
    if not pages:
        return [Row("skipped", found="no built page with sliders: run `make book` first")]
    return [*(weight_row(page) for page in pages), site_row(), *latency_rows(pages)]


def with_sliders() -> list[Path]:
    pages = sorted((SITE / "chapters").rglob("*.html"))
    return [page for page in pages if WIDGET_VIEW in page.read_text(encoding="utf-8")]


def weight_row(page: Path) -> Row:
    text, drawn = page.stat().st_size, sum(picture.stat().st_size for picture in pictures(page))
    found = f"{text / 1000:.0f} KB page + {drawn / 1000:.0f} KB pictures"
    return Row(name(page), found=found, target=verdict(text + drawn, TARGET_BYTES, f"{TARGET_BYTES // 1000} KB"))


def pictures(page: Path) -> set[Path]:
    """The files that the page shows, each once."""
    sources = re.findall(r'<img[^>]*\ssrc="([^":]+)"', page.read_text(encoding="utf-8"))
    return {file for file in ((page.parent / source).resolve() for source in sources) if file.is_file()}


def site_row() -> Row:
    size = sum(file.stat().st_size for file in SITE.rglob("*") if file.is_file())
    return Row("the whole built book, with all it shares", found=f"{size / 1e6:.1f} MB")


def latency_rows(pages: list[Path]) -> list[Row]:
    try:
        with browser() as chromium:
            return [latency_row(chromium, page) for page in pages]
    except LookupError as reason:
        return [Row("slider to shown frame: skipped", found=str(reason))]


@contextmanager
def browser() -> Iterator:
    """A browser without a window; a ``LookupError`` that says what is missing or went wrong."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise LookupError("Playwright is not installed") from None
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        raise LookupError(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        try:
            yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as failure:
            raise LookupError(failure.message.splitlines()[0]) from None


def latency_row(chromium, page: Path) -> Row:
    """The slowest of the page's sliders, by the median of its presses."""
    tab = chromium.new_page(viewport={"width": 1200, "height": 800})
    tab.goto(page.as_uri(), wait_until="load")
    tab.locator("figure.frame img").first.wait_for()
    medians = [statistics.median(latencies(tab, handle)) for handle in tab.locator(".explorer [role=slider]").all()]
    tab.close()
    slowest = max(medians)
    return Row(
        f"{name(page)}, key press to painted frame",
        time=duration(slowest),
        found=f"{PRESSES} presses, slowest of {len(medians)} slider{'s' * (len(medians) > 1)}",
        target=verdict(slowest, TARGET_SECONDS, duration(TARGET_SECONDS)),
    )


def latencies(tab, handle) -> list[float]:
    """Seconds from each key press to its frame: one step to the right, one back, and so on."""
    handle.press("Home")
    tab.wait_for_timeout(300)
    handle.evaluate(LISTEN)
    for press in range(PRESSES):
        handle.press("ArrowLeft" if press % 2 else "ArrowRight")
        tab.wait_for_function("count => window.latencies.length > count", arg=press)
    return [milliseconds / 1000 for milliseconds in tab.evaluate("window.latencies")]


def name(page: Path) -> str:
    return page.relative_to(SITE / "chapters").with_suffix("").as_posix()
