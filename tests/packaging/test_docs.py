"""The documentation: its site builds without a warning, and every example in a docstring does what it says."""

import doctest
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in ("rapids_pipeline", "features")
    for path in sorted((ROOT / package).rglob("*.py"))
}
WITH_EXAMPLES = [name for name, path in MODULES.items() if ">>> " in path.read_text()]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "benchmarks" / "results").glob("*.md"),
]


class Anchors(HTMLParser):
    """The places of a page, what it loads, and where its links lead."""

    def __init__(self, page: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag in ("script", "img", "link") and (place := given.get("src") or given.get("href")):
            self.loaded.append(place)


def make_docs(folder: Path) -> subprocess.CompletedProcess:
    """Run the recipe of `make docs` by this environment, into another folder."""
    prefix = Path(sys.executable).parents[1]
    ready = f"{prefix}/.ready-to-test"
    return subprocess.run(
        ["make", "--assume-old", ready, "docs", f"VENV={prefix}", f"DOCS={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    done = make_docs(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Anchors]:
    return {page: Anchors(page) for page in site.rglob("*.html")}


def test_every_page_is_on_the_site_and_in_its_menu(pages, site):
    wanted = {path.relative_to(ROOT).with_suffix(".html") for path in PAGES}
    wanted = {Path("index.html") if path.name == "README.html" else path for path in wanted}
    menu = {(site / link.partition("#")[0]).resolve() for link in pages[site / "index.html"].links}
    assert {path for path in wanted if (site / path).resolve() not in menu} == set()
    assert {page.relative_to(site) for page in pages} == wanted | {Path("404.html")}


def test_links_of_the_site_lead_to_pages_and_anchors(pages):
    broken = []
    for page, found in pages.items():
        for link in found.links:
            place, _, anchor = link.partition("#")
            if page.name == "404.html" or re.match(r"[a-z]+:", link):
                continue
            target = (page.parent / unquote(place)).resolve() if place else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and unquote(anchor) not in pages[target].ids):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_lists_and_tables_are_set_off_from_paragraphs(site):
    """Without a blank line before it, a list is text of the paragraph: Markdown on GitHub is laxer than the site's."""
    found = {
        f"{page.name}: {item.group()}"
        for page in site.rglob("*.html")
        for text in re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), re.DOTALL)
        if (item := re.search(r"\n *([-*] |\d+\. |\|).{0,60}", text))
    }
    assert found == set()


def test_the_site_loads_nothing_from_the_network(pages):
    loaded = {
        (page, place) for page, found in pages.items() for place in found.loaded if page.name != "404.html"
    }
    assert [place for _, place in loaded if re.match(r"([a-z]+:)?//", place)] == []
    assert [place for page, place in loaded if not (page.parent / place.partition("?")[0]).exists()] == []


def test_the_reference_has_what_the_docstrings_say(site):
    page = (site / "docs" / "reference" / "evaluation.html").read_text()
    assert "the score of the task (MRRMSE)" in page
    assert 'id="rapids_pipeline.evaluation.splits.NamedSplit"' in page


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("[a page](nowhere.md)", "page does not exist"),
        ("[a place](#nowhere)", "anchor does not exist"),
        ("::: features.nowhere", "features.nowhere could not be found"),
    ],
)
def test_a_broken_page_ends_the_build(tmp_path, fault, message):
    settings, _, _ = (ROOT / "docs" / "mkdocs.yml").read_text().partition("\nnav:")
    (tmp_path / "mkdocs.yml").write_text(settings)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "README.md").write_text(f"# A page\n\n{fault}\n")
    program = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [program, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert message in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings_run(module):
    found = doctest.testmod(import_module(module))
    assert found.attempted
    assert found.failed == 0
