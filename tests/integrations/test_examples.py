"""Examples run offline, from anywhere, and say what they recommend."""

import ast
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the examples")
FAMILIES = (
    runpy.run_path(str(EXAMPLES / "paper_tasks.py"))["FAMILIES"] if EXAMPLES.exists() else ()
)


def run(folder, *arguments):
    """Run an example in a folder of its own; returns what it prints."""
    name, *rest = arguments
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *rest],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    if "--help" not in rest:
        assert "\nNext:  " in done.stdout
        # The study is kept, and the end says how to look at it.
        (kept,) = folder.glob("*.db")
        assert f"agenttts report {kept.name} " in done.stdout.replace("sqlite:///", "")
        assert f"optuna-dashboard sqlite:///{kept.name}" in done.stdout
        # A second run continues the study, whose name is that of the example.
        (study,) = optuna.get_all_study_summaries(f"sqlite:///{kept}")
        assert study.study_name.split()[0] == Path(name).stem == kept.stem
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_data_set_runs_end_to_end(tmp_path, family):
    """Search on some records of the sample, score on others, over HTTP."""
    said = run(tmp_path, "paper_tasks.py", family, "--trials", "3")
    assert "90 % interval" in said
    assert "Held out" in said


def test_the_gallery_lists_what_each_example_shows():
    """Each begins with what it shows, what it needs and how long it takes."""
    gallery = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in sorted(EXAMPLES.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "not an example" in text.splitlines()[0]:
            continue
        head = ast.get_docstring(ast.parse(text)).splitlines()
        labels = [
            line.split()[0] for line in head if line.startswith(("Shows:", "Needs:", "Takes:"))
        ]
        assert labels == ["Shows:", "Needs:", "Takes:"], path
        assert f"({path.relative_to(EXAMPLES)})" in gallery, path
    for path in EXAMPLES.glob("notebooks/*.ipynb"):
        assert f"({path.relative_to(EXAMPLES)})" in gallery, path
        last = json.loads(path.read_text(encoding="utf-8"))["cells"][-1]
        assert last["source"][0].startswith("## Next"), path


@pytest.mark.slow
def test_the_paper_s_tasks_need_no_arguments(tmp_path):
    """Without any, the first family runs, and the end names the others."""
    said = run(tmp_path, "paper_tasks.py")
    assert "Held out" in said
    assert all(family in said for family in FAMILIES if family != "two_wiki")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_objective", "llm_agent", "served"])
def test_examples_print_a_line_a_trial_and_a_recommendation(tmp_path, name):
    said = run(tmp_path, f"{name}.py")
    assert "(higher is better), cost in" in said
    assert "recommended" in said
    assert "{'" not in said


def test_every_family_of_the_paper_has_its_data_sets():
    """All six."""
    names = {"two_wiki", "hotpot_qa", "cwq", "web_qsp", "task_bench", "chat_dev"}
    assert set(FAMILIES) == names


@pytest.mark.slow
def test_a_pipeline_of_ones_own_takes_few_lines(tmp_path):
    """As many as the docs say; it checks, searches, recommends and scores."""
    run(tmp_path, "own_pipeline.py")
    said = run(tmp_path, "own_pipeline.py")
    assert "prompts" in said
    assert "FAIL" not in said
    assert "WARN" not in said
    assert "90 % interval" in said
    assert "on 20 instances" in said
    assert "against the baseline" in said
    assert len((EXAMPLES / "own_pipeline.py").read_text().splitlines()) <= 67


@pytest.mark.slow
def test_thinking_is_tuned_on_servers_that_read_it_in_three_ways(tmp_path):
    """In few lines; all efforts are taken, and count."""
    said = run(tmp_path, "thinking.py", "--trials", "4")
    assert "FAIL" not in said
    assert "WARN" not in said
    # One line for each model at each effort.
    assert said.count("tokens of thoughts on a question") == said.count("of thoughts on a") == 9
    assert "recommended" in said
    assert len((EXAMPLES / "thinking.py").read_text().splitlines()) <= 80


@pytest.mark.parametrize(
    ("script", "library"),
    [("train.py", "torch"), ("measure_grid.py", "numpy"), ("plot_curves.py", "matplotlib")],
)
def test_training_scripts_start(tmp_path, script, library):
    """Their imports resolve and they print their help."""
    pytest.importorskip(library)
    assert "--out" in run(tmp_path, f"playground_training/{script}", "--help")


def test_other_questions_will_do(tmp_path):
    """A small file of one's own, with letters of other alphabets and an empty last line."""
    questions = [
        {"question": f"\u2028{n} Ämter haben je 500000 €. Wie viele zusammen?", "answer": str(n)}
        for n in range(6)
    ]
    lines = "\n".join(json.dumps(question, ensure_ascii=False) for question in questions)
    (tmp_path / "own.jsonl").write_text(f"{lines}\n\n", encoding="utf-8")
    said = run(tmp_path, "own_pipeline.py", "--data", "own.jsonl")
    assert "4 built" in said
    assert "on 2 instances" in said


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("3 * 4 + 1", "13"),
        ("(7 - 9) / 4", "-0.5"),
        ("2500000 * 4", "10000000"),
        ("", None),
        (None, None),
        ("none", None),
        ("3 / 0", None),
        ("3 * x", None),
        ("9 ** 9 ** 9", None),
        ("__import__('os')", None),
        ("3 * 4 = 12", None),
        ("1\0", None),
        ("\ud800", None),
        ("(" * 10_000, None),
        ("-" * 100_000 + "1", None),
        ("9" * 5_000, None),
        ("9" * 400 + " * 2", None),
    ],
)
def test_the_pocket_calculator_takes_sums_only(formula, value):
    """Whatever a model writes, it does not raise, and runs nothing else."""
    calculate = runpy.run_path(str(EXAMPLES / "offline_models.py"))["calculate"]
    assert calculate(formula) == value
