"""The site builds without a warning, needs no other host, and finds every public name."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="needs the extra `docs`")
for name in ("furo", "myst_nb", "sphinx_copybutton"):
    pytest.importorskip(name, reason="needs the extra `docs`")

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "docs/conf.py").exists(), reason="needs the source tree"),
]


class Loaded(HTMLParser):
    """What a page loads, and what it links to."""

    def __init__(self):
        super().__init__()
        self.loads, self.links, self.ids = [], [], set()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values["id"]} if values.get("id") else set()
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif tag == "link" and values.get("rel") not in ("stylesheet", "icon", "preload"):
            return
        elif tag != "form":
            self.loads += [values[key] for key in ("src", "href", "srcset") if values.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; tests/notebooks runs the notebooks."""
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "-n", "--keep-going", "-q", "-D", "nb_execution_mode=off"]
    command = [sys.executable, "-m", "sphinx", *options, "-d", folder / "trees"]
    done = subprocess.run(
        [*command, ROOT / "docs", folder / "html"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    """Parse all pages."""
    parsed = {}
    for path in site.rglob("*.html"):
        parsed[path] = Loaded()
        parsed[path].feed(path.read_text("utf-8"))
    return parsed


def test_pages_load_nothing_from_other_hosts(site, pages):
    """No font, script or picture; links are another matter."""
    assert len(pages) > 100
    remote = re.compile(r"^(?:https?:)?//")
    found = {load for page in pages.values() for load in page.loads if remote.match(load)}
    assert not found
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)|@import [\"'](?:https?:)?//", styles)


def test_links_within_the_site_lead_somewhere(site, pages):
    """Pages exist, and so do the anchors in them."""
    broken = []
    for path, page in pages.items():
        if path.name in ("search.html", "genindex.html"):
            continue
        for link in page.links:
            if re.match(r"[a-z]+:|#$|$", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if target.is_dir():
                target /= "index.html"
            known = pages.get(target)
            if not target.exists() or (known and anchor and anchor not in known.ids):
                broken.append((path.relative_to(site).as_posix(), link))
    assert not broken


def test_search_and_inventory_know_every_public_name(site):
    """The search is a script with an index beside it: it needs no server."""
    from sphinx.util.inventory import InventoryFile

    sys.path.insert(0, str(ROOT / "docs/_extension"))
    from site_names import public_names

    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, uri: uri)
    known = {name.rpartition(".")[2] for kind in inventory for name in inventory[kind]}
    names = {name.rpartition(".")[2] for name in public_names()}
    assert names <= known
    index = (site / "searchindex.js").read_text("utf-8")
    assert all(f'"{name}"' in index or f'"{name.lower()}"' in index for name in names)


def test_every_page_is_reached_from_the_front_page(site, pages):
    """In the navigation, or by links."""
    seen, left = set(), [site / "index.html"]
    while left:
        path = left.pop()
        if path in seen or path not in pages:
            continue
        seen.add(path)
        left += [
            (path.parent / link.partition("#")[0]).resolve()
            for link in pages[path].links
            if link.partition("#")[0] and not re.match(r"[a-z]+:", link)
        ]
    unreached = {path.relative_to(site).as_posix() for path in set(pages) - seen}
    assert unreached <= {"genindex.html", "search.html", "py-modindex.html"}
