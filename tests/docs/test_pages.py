"""The pages keep their word: links lead somewhere, blocks are Python, the first program runs."""

import re
from pathlib import Path
from urllib.parse import unquote

import optuna
import optuna_dashboard
import pytest

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task
from optuna_agenttts_integrations.cli import main
from optuna_agenttts_integrations.playground import make_objective, make_problems

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


def test_the_first_program_of_the_readme_runs(capsys):
    """What a newcomer pastes recommends an allocation."""
    exec(compile(blocks("README.md")[0], "README.md", "exec"), {"__name__": "readme"})
    assert "large-72B" in capsys.readouterr().out


@pytest.mark.slow
def test_the_guide_on_other_budgets_runs(capsys, tmp_path, monkeypatch):
    """From a search to a frontier, a file, and the allocation in it."""
    monkeypatch.chdir(tmp_path)
    names = {"optuna": optuna, "AgentTTSSampler": AgentTTSSampler}
    about = [block for block in blocks("docs/guide.md") if "frontier(" in block or "load" in block]
    assert len(about) == 2
    for block in about:
        exec(compile(block, "docs/guide.md", "exec"), names)
    assert "retrieval: " in capsys.readouterr().out
    assert (tmp_path / "best.json").exists()


def test_the_guide_on_predictions_runs(capsys):
    """The objective, the pipeline and a predictor give the same answers."""
    (block,) = [block for block in blocks("docs/guide.md") if "Predictor" in block]
    head = "import optuna\nfrom optuna_agenttts import AgentTTSSampler, recommend\n"
    exec(compile(head + block, "docs/guide.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == lines[-2]
    assert lines[-1] == eval(lines[1])[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_page_on_choosing_runs_twice(tmp_path, monkeypatch, capsys):
    """One block after the other; a second run finds what the first one has stored."""
    monkeypatch.chdir(tmp_path)
    names, printed = [{}, {}], []
    for space in names:
        for block in blocks("docs/choosing.md"):
            exec(compile(block, "docs/choosing.md", "exec"), space)
        space["objective"].close()
        printed.append(capsys.readouterr().out)
    first, second = (space["predictions"] for space in names)
    assert first.answers == second.answers
    assert not first.failed
    assert second.spend == 0 < first.spend
    assert names[0]["allocation"] == names[1]["allocation"]
    assert len(names[0]["study"].trials) == len(names[1]["study"].trials)
    assert all("confirmed on" in text for text in printed)


def test_the_page_on_figures_runs(tmp_path, monkeypatch):
    """A notebook would show the second figure; the first one is a file."""
    monkeypatch.chdir(tmp_path)
    task = Task(
        name="one",
        stages=[Stage("a", models=[Model("m-1B")], prompt_tokens=9, generation_tokens=9)],
    )
    study = optuna.create_study(sampler=AgentTTSSampler(task))
    study.optimize(lambda trial: task.suggest(trial)["a"].samples / 100, n_trials=2)
    (block,) = [block for block in blocks("docs/reading.md") if "plot_frontier" in block]
    exec(compile(block, "docs/reading.md", "exec"), {"study": study})
    assert (tmp_path / "frontier.html").exists()


def test_the_page_on_the_dashboard_runs():
    """A study is explained at once, and one with another sampler while it runs."""
    task = Task(
        name="one",
        stages=[Stage("a", models=[Model("m-1B")], prompt_tokens=9, generation_tokens=9)],
    )

    def objective(trial):
        return task.suggest(trial)["a"].samples / 100

    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    study.optimize(objective, n_trials=2)
    known = {"study": study, "objective": objective, "optuna": optuna}
    for block in blocks("docs/reading.md"):
        if "explain" in block.lower():
            exec(compile(block, "docs/reading.md", "exec"), known)
            assert optuna_dashboard.get_note(known.get("tpe", study))


def test_the_page_on_notebooks_runs():
    """It shows tables."""
    task = Task(
        name="one",
        stages=[Stage("a", models=[Model("m-1B")], prompt_tokens=9, generation_tokens=9)],
    )
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    study.optimize(lambda trial: task.suggest(trial)["a"].samples / 100, n_trials=2)
    (block,) = [block for block in blocks("docs/reading.md") if "summary.task" in block]
    known = {"study": study}
    exec(compile(block, "docs/reading.md", "exec"), known)
    assert "<table" in known["summary"]._repr_html_()


@pytest.mark.skipif(not (ROOT / "optuna_agenttts/planner").exists(), reason="needs the rooms")
def test_contributors_are_sent_to_files_that_exist():
    """Paths in CONTRIBUTING are from the root, or from one of the packages."""
    roots = (ROOT, ROOT / "optuna_agenttts", ROOT / "integrations/optuna_agenttts_integrations")
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [path for path in re.findall(r"`([\w.]+/[\w./]*)`", text) if path != ".ci/run"]
    assert len(paths) > 30
    assert not [path for path in paths if not any((root / path).exists() for root in roots)]


def test_the_page_on_reading_a_study_as_data_frames_runs(capsys):
    """On the playground: a summary, trials, ties, outcomes and rounds."""
    (block,) = [block for block in blocks("docs/reading.md") if "trials_dataframe" in block]
    with make_objective(problems=make_problems("search", 6), progress=False) as objective:
        study = optuna.create_study(direction="maximize")
        study.optimize(objective, n_trials=3)
    exec(compile(block, "docs/reading.md", "exec"), {"study": study})
    printed = capsys.readouterr().out
    assert "What to use" in printed
    assert "search-" in printed


def test_the_page_on_reading_a_study_in_a_terminal_runs(tmp_path, monkeypatch, capsys):
    """The program, and each command on its study."""
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks("docs/reading.md") if "PrintTrials" in block]
    with make_objective(problems=make_problems("search", 6), progress=False) as objective:
        study = optuna.create_study(
            storage="sqlite:///study.db", study_name="mine", direction="maximize"
        )
        program = block.replace("n_trials=20", "n_trials=13")
        exec(compile(program, "docs/reading.md", "exec"), {"study": study, "objective": objective})
    assert "recommended" in capsys.readouterr().out
    text = (ROOT / "docs/reading.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ agenttts (.*)$", text, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        assert main(command.split()) == 0, command
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "trials.csv").exists()
