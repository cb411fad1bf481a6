"""The HTML as files: every link leads somewhere, every image is described, nothing is too large."""

import functools
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

MAX_BYTES = 500_000
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


@functools.cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(tag["id"] for tag in soup(path).find_all(id=True))


@pytest.fixture(params=["index", "search", "genindex", "contents"])
def pages(request, site, contents):
    """The pages to look through: Sphinx's own one by one, then those of the contents together."""
    names = contents if request.param == "contents" else [request.param]
    return [site / f"{name}.html" for name in names]


def fault(page: Path, target: str) -> str:
    """Why a link within the book leads nowhere; empty if it arrives."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return ""
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not file.is_file():
        return "no such file"
    if parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in anchors(file):
        return "no such anchor"
    return ""


def test_every_link_within_the_book_arrives(pages):
    links = {(page, a["href"]) for page in pages for a in soup(page).find_all("a", href=True)}
    broken = [f"{page.name}: {target}: {why}" for page, target in links if (why := fault(page, target))]
    assert not broken, "\n".join(broken)


def test_everything_a_page_loads_lies_within_the_book(pages):
    for page in pages:
        for name, attribute in LOADED.items():
            for tag in soup(page).find_all(name, **{attribute: True}):
                target = tag[attribute]
                assert target.startswith("data:") or not urlsplit(target).netloc, f"{page.name} loads {target}"
                assert target.startswith("data:") or not fault(page, target), f"{page.name} lacks {target}"


def test_every_image_has_alternative_text(pages):
    for page in pages:
        for image in soup(page).find_all("img"):
            assert image.get("alt", "").strip(), f"{page.name}: {image.get('src', '')[:80]} has no alternative text"


def test_pages_stay_small(document, site):
    size = (site / f"{document}.html").stat().st_size
    assert size < MAX_BYTES, f"{size} bytes; a smaller slider grid or fewer colours would help"


def test_notebook_can_be_downloaded(notebook, root, site):
    page = site / notebook.relative_to(root).with_suffix(".html")
    (link,) = soup(page).select('a.btn-download-source-button[href$=".ipynb"]')
    downloaded = json.loads((page.parent / link["href"]).read_text(encoding="utf-8"))
    assert downloaded["cells"] == json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def test_first_page_leads_to_the_book_by_a_relative_address(site):
    refresh = soup(site / "index.html").find("meta", attrs={"http-equiv": "Refresh"})
    assert refresh["content"].split("url=")[1] == "chapters/index.html"
