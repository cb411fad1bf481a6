"""The built book, served on this machine, and a browser that can reach nothing else."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def documents() -> list[str]:
    """The documents in the table of contents, in reading order, without their suffixes."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *listed]


def notebooks() -> list[Path]:
    return sorted((ROOT / "chapters").rglob("[!.]*.ipynb"))


def with_sliders() -> list[Path]:
    return [path for path in notebooks() if WIDGET_VIEW in path.read_text(encoding="utf-8")]


def pytest_generate_tests(metafunc):
    """``document`` is each page of the contents, ``notebook`` each chapter with code."""
    if "document" in metafunc.fixturenames:
        metafunc.parametrize("document", documents(), scope="module")
    for fixture, found in (("notebook", notebooks), ("notebook_with_sliders", with_sliders)):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, found(), ids=lambda path: path.relative_to(ROOT).as_posix(), scope="module")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def contents() -> list[str]:
    return documents()


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "index.html").exists():
        pytest.fail("there is no _build/html/index.html: run `make book` first", pytrace=False)
    return SITE


@pytest.fixture(scope="session")
def address(site):
    """Where the built book is served, with a slash at the end."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """Chromium; where there is none a failure in continuous integration and a skip elsewhere."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"no browser to look at the pages with: none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


class Reader:
    """One open page, and what it tried that it must not: requests elsewhere, errors."""

    def __init__(self, browser, address: str):
        self.address = address
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        self.page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
        self.page.route("**/*", self._allow_only_the_book)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("response", lambda answer: answer.status >= 400 and self.errors.append(answer.url))

    def _allow_only_the_book(self, route):
        if route.request.url.startswith(self.address):
            route.continue_()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()

    def open(self, path: str):
        """Go to ``path`` and wait until its math is set and its sliders stand."""
        self.page.goto(self.address + path, wait_until="load")
        self.page.evaluate("window.MathJax?.startup?.promise.then(() => true)")
        views = self.page.locator(f'script[type="{WIDGET_VIEW}"]').count()
        for number in range(views):
            self.page.locator(".explorer").nth(number).locator("figure.frame img").wait_for()
        return self.page


@pytest.fixture
def reader(browser, address):
    fresh = Reader(browser, address)
    yield fresh
    fresh.page.close()


@pytest.fixture(scope="module")
def opened(browser, address, document):
    """A reader who has this document open; shared by the tests of a module, so leave it as found."""
    shared = Reader(browser, address)
    shared.open(f"{document}.html")
    yield shared
    shared.page.close()
