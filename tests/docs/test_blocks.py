"""Every block of every page runs as printed, in order, in a fresh folder, or is marked."""

import re
import sys
from collections import Counter

import optuna
import pytest

pytest.importorskip("sybil", reason="needs Sybil, which needs Python 3.11")
from blocks_support import PAGES, ROOT, Page, Stranger

from optuna_agenttts_integrations.tasks import LLAMA, QWEN
from optuna_agenttts_integrations.testing.serving import LoopbackServer

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="needs the source tree")
RUN_ELSEWHERE = ("choosing.md", "confirming.md")
"""Pages that run in other tests: below, and in `tests/playground/test_confirmed_search.py`."""
NAMES = [str(page.relative_to(ROOT)) for page in PAGES if page.name not in RUN_ELSEWHERE]
MODEL = re.compile(r"(?:[\w.-]+/)?[\w.-]*\d[Bb](?:-[\w.-]+)?")
"""Names of models, which have a size."""


@pytest.fixture(scope="module")
def server():
    """Serve every model that a page or a task names, all alike, and vectors."""
    names = {name for page in PAGES for name in MODEL.findall(page.read_text(encoding="utf-8"))}
    names |= {model.name for model in (*QWEN, *LLAMA)}

    def embed(texts):
        return [[1.0, len(text)] for text in texts]

    with LoopbackServer(dict.fromkeys(names, Stranger()), embed=embed) as started:
        yield started.url


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a fresh folder that has the clone's code, with Optuna as a new process has it."""
    before = optuna.logging.get_verbosity()
    for name in ("examples", "integrations"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    optuna.logging.set_verbosity(before)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
def test_blocks_run_as_printed(name, folder, server):
    """From top to bottom; output that is shown is output that is produced."""
    Page(ROOT / name, folder, server).run()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_search_is_kept(folder, server):
    """Run again, the page from a search to predictions finds what its first run has stored."""
    (path,) = [page for page in PAGES if page.name == "choosing.md"]
    runs = []
    for _ in range(2):
        page = Page(path, folder, server)
        page.run()
        runs.append(page.names)
    first, second = (names["predictions"] for names in runs)
    assert first.answers == second.answers
    assert not first.failed
    assert second.spend == 0 < first.spend
    assert runs[0]["allocation"] == runs[1]["allocation"]
    assert len(runs[0]["study"].trials) == len(runs[1]["study"].trials)


def test_blocks_are_counted(capsys):
    """Those that run here, and those that are marked, each with its reason."""
    counts, reasons = Counter(), []
    for path in PAGES:
        page = Page(path)
        page.run(dry=True)
        counts.update(page.counts)
        reasons += page.reasons
    with capsys.disabled():
        sys.stdout.write(f"\nBlocks of README and pages: {dict(counts)}\n")
        sys.stdout.writelines(f"  {reason}\n" for reason in reasons)
    assert counts["marked"] == len(reasons)
    assert counts["executed"] > 3 * counts["marked"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```bash\nfalse\n```\n", "page.md:1"),
        ("```console\n$ echo one\ntwo\n```\n", "+one"),
        ("```python\nprint(12)\n```\n\n```text\n1...3\n```\n", "+12"),
        ("```json\n{}\n```\n", "name the file"),
        ("<!-- skip: next -->\n```python\n1 / 0\n```\n", "needs its reason"),
    ],
)
def test_a_false_block_is_found(text, problem, folder, monkeypatch):
    """Errors, exit codes, other output, files without names, and marks without reasons."""
    monkeypatch.setattr("blocks_support.ROOT", folder)
    (folder / "page.md").write_text(text)
    with pytest.raises(AssertionError) as raised:
        Page(folder / "page.md", folder).run()
    assert problem in str(raised.value)


def test_a_true_page_passes(folder, monkeypatch):
    """Names are kept from block to block, files are written, and marks are counted."""
    monkeypatch.setattr("blocks_support.ROOT", folder)
    (folder / "page.md").write_text(
        "```python\nnumber = 12\n```\n"
        "```python\nprint(number)\nprint('in', 3.1, 'seconds')\n```\n"
        "```text\n12\nin ... seconds\n```\n"
        "<!-- file: conf/one.json -->\n```json\n{}\n```\n"
        "```console\n$ cat conf/one.json\n{}\n$ python -c 'import optuna_agenttts'\n```\n"
        '<!-- skip: next if(missing("nothing_like_it"), reason="needs a package") -->\n'
        "```python\nimport nothing_like_it\n```\n"
        "```text\nnot compared\n```\n"
        '<!-- skip: next if(missing("optuna"), reason="needs Optuna") -->\n'
        "```python\nassert number == 12\n```\n"
    )
    page = Page(folder / "page.md", folder)
    page.run()
    assert page.counts == {"executed": 4, "compared": 1, "written": 1, "marked": 1}
    assert page.reasons[0] == "page.md:22: needs a package"
