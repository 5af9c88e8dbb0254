"""Links of pages lead somewhere, and their blocks are Python; `test_blocks` runs them."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="needs the source tree")


def blocks(name):
    """Return the Python blocks of a page."""
    return [block for _, block in BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))]


def anchor(heading):
    """Return the anchor that GitHub gives to a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    """Files exist, and headings within them."""
    page = ROOT / name
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = unquote(target).partition("#")
        file = (page.parent / path) if path else page
        headings = (
            {anchor(line) for line in re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.M)}
            if file.suffix == ".md" and file.exists()
            else set()
        )
        if not file.exists() or (fragment and fragment not in headings):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("name", NAMES)
def test_python_blocks_are_python(name):
    """Every block compiles."""
    for block in blocks(name):
        compile(block, name, "exec")


@pytest.mark.skipif(not (ROOT / "optuna_agenttts/planner").exists(), reason="needs the rooms")
def test_contributors_are_sent_to_files_that_exist():
    """Paths in CONTRIBUTING are from the root, or from one of the packages."""
    roots = (ROOT, ROOT / "optuna_agenttts", ROOT / "integrations/optuna_agenttts_integrations")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [path for path in re.findall(r"`([\w.]+/[\w./]*)`", text) if path != ".ci/run"]
    assert len(paths) > 30
    assert not [path for path in paths if not any((root / path).exists() for root in roots)]
