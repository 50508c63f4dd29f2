"""The site builds without a warning, holds what is stored, and every link within it leads somewhere."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

for name in ("sphinx", "myst_nb", "furo", "latex2mathml"):
    pytest.importorskip(name, reason=f"{name} is missing; pip install -r docs/requirements.txt")

REPOSITORY = Path(__file__).resolve().parents[2]
BOOKS = sorted([*REPOSITORY.glob("notebooks/*.ipynb"), *REPOSITORY.glob("exercises/*.ipynb")])
MODULES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in REPOSITORY.glob("grlib/**/*.py")
    if path.name != "__main__.py" and path.parent.name != "grlib"
]


class Page(HTMLParser):
    """What a page links to, loads and names, and its text without blanks."""

    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.loads, self.names, self.parts = path, [], [], set(), []
        self.tags, self.frames = [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = squeezed("".join(self.parts))

    def handle_starttag(self, tag, attributes):
        have = dict(attributes)
        self.tags.append(tag)
        self.names |= {have[key] for key in ("id", "name") if have.get(key)}
        self.links += [have["href"]] if tag == "a" and "href" in have else []
        self.loads += [have[key] for key in ("src", "href") if key in have and tag != "a"]
        self.frames += [have["srcdoc"]] if "srcdoc" in have else []

    def handle_data(self, data):
        self.parts.append(data)


class Text(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.text, self.hidden, self.frames = "", False, []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.hidden = tag in ("style", "script")
        self.frames += [value for key, value in attributes if key == "srcdoc"]

    def handle_data(self, data):
        self.text += "" if self.hidden else data


def squeezed(text):
    return re.sub(r"\s", "", text)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """All pages of a fresh build, by their path; a warning is an error."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", "-c", "docs"]
    made = subprocess.run(
        [*command, "-d", str(place / "doctrees"), ".", str(place / "site")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    root = place / "site"
    return {path.relative_to(root).as_posix(): Page(path) for path in root.rglob("*.html")}


def test_links_lead_somewhere(site):
    by_path = {page.path: page for page in site.values()}
    broken = []
    for name, page in site.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            fragment = unquote(parts.fragment)
            if not target.is_file():
                broken.append(f"{name}: {link}")
            elif fragment and target in by_path and fragment not in by_path[target].names:
                broken.append(f"{name}: {link}: no such place")
    assert not broken


def test_a_page_needs_no_network(site):
    assert not [(name, link) for name, page in site.items() for link in page.loads if urlsplit(link).netloc]
    assert "math" in site["notebooks/07_operation_level_ppo.html"].tags


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_is_there_with_its_outputs(site, path):
    page = site[path.relative_to(REPOSITORY).with_suffix(".html").as_posix()]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures, frames = 0, []
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
        if "text/html" in data:
            shown = Text(data["text/html"])
            assert squeezed(shown.text) in page.text
            frames += shown.frames
        elif "image/png" in data:
            pictures += 1
        elif not data:
            assert all(squeezed(line) in page.text for line in "".join(output["text"]).splitlines())
    assert page.tags.count("img") >= pictures and page.frames == frames


def test_the_library_the_words_and_the_pages_to_play_with(site):
    assert {f"build/api/{name}.html" for name in MODULES} <= set(site)
    words = [name for name in site["docs/glossary.html"].names if name.startswith("term-")]
    assert len(words) >= 20
    assert "docs/glossary.html" in site["index.html"].links
    for book in BOOKS:
        page = site[book.relative_to(REPOSITORY).with_suffix(".html").as_posix()]
        assert "../docs/glossary.html" in page.links
    for name in ("player", "curves-laptop", "curves-gpu"):
        assert "const data = " in site[f"{name}.html"].path.read_text(encoding="utf-8")
        assert f"../{name}.html" in site["docs/player.html"].loads
