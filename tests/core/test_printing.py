"""One line for each trial: what it has, where it is coloured, and what it hides."""

import gc
import io
import math

import optuna
import pytest
from optuna.trial import TrialState

from optuna_agenttts import AgentTTSSampler, Model, PrintTrials, Stage, Task

NAMES = ("org/small-3B-Instruct", "org/large-70B-Instruct")


class Terminal(io.StringIO):
    """Terminal of 60 columns."""

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)


def make_task(names=NAMES):
    models = [Model(name, parameters=size) for name, size in zip(names, (3e9, 70e9))]
    stages = [
        Stage(name, models=models, prompt_tokens=9, generation_tokens=9, max_samples=20)
        for name in ("find", "answer")
    ]
    return Task(name="qa", stages=stages, metric="exact match", metric_range=(0, 1))


def run(task, callback, *, scores=(0.25, 0.75, 0.5), direction="maximize", **options):
    """Run trials with these scores; None fails, and -1 is pruned after two outcomes."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(direction=direction, sampler=sampler, **options)

    def objective(trial):
        task.suggest(trial)
        score = scores[trial.number]
        if score == -1:
            trial.report(0.0, 0)
            trial.report(1.0, 1)
            raise optuna.TrialPruned
        return score

    study.optimize(objective, n_trials=len(scores), callbacks=[callback])
    return study


def test_each_trial_has_one_line_with_score_cost_and_allocation():
    """Below two lines with the metric, its direction, the unit and the columns."""
    task, file = make_task(), io.StringIO()
    study = run(task, PrintTrials(file=file), scores=(0.25, 0.75, -1, float("nan"), 0.5))
    scale, heads, *lines = file.getvalue().splitlines()
    unit = task.cost_model.unit
    assert scale == f"exact match (higher is better), cost in {unit} per instance"
    assert heads.split() == ["trial", "score", "cost", "find", "answer"]
    assert len(lines) == len(study.trials)
    for trial, line in zip(study.trials, lines):
        numbers, *settings = line.split(" x ")
        for stage, setting in zip(("find", "answer"), settings):
            assert setting.split()[0] == trial.params[f"{stage}.model"]
        assert numbers.split()[0].rstrip("*") == str(trial.number)
    assert [line[4] for line in lines] == ["*", "*", " ", " ", " "]
    assert [line.split()[1] for line in lines] == ["0.250", "0.750", "0.500", "-", "0.500"]
    assert lines[2].endswith("(pruned after 2 instances)")
    assert lines[3].endswith("(failed)")


def test_scores_of_a_minimized_study_are_best_if_low():
    file = io.StringIO()
    run(make_task(), PrintTrials(file=file), direction="minimize")
    scale, _, *lines = file.getvalue().splitlines()
    assert scale.startswith("exact match (lower is better)")
    assert [line[4] for line in lines] == ["*", " ", " "]


def test_reuse_has_a_column_if_trials_report_it():
    file, callback = io.StringIO(), PrintTrials(file=io.StringIO())
    study = run(make_task(), callback)
    trial = study.get_trials()[-1]
    trial.set_user_attr("reused", 0.347)
    PrintTrials(file=file)(study, trial)
    _, heads, line = file.getvalue().splitlines()
    assert heads.split()[:4] == ["trial", "score", "cost", "reused"]
    assert line.split()[3] == "35%"


def test_cells_are_below_the_heads_of_their_columns():
    """Also those of trials that failed before they reported reuse, and of parameters."""
    task, file = make_task(), io.StringIO()

    def objective(trial):
        task.suggest(trial)
        if trial.number in (0, 3):
            raise ValueError
        trial.set_user_attr("reused", math.nan if trial.number == 4 else 0.25)
        return 0.5

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=6, catch=ValueError, callbacks=[PrintTrials(file=file)])
    _, heads, failed, _, *others = file.getvalue().splitlines()
    assert failed[heads.index("find") :].lstrip()[0].isdigit()
    heads, *lines = others
    end = heads.index("reused") + len("reused")
    assert [line[:end].split()[-1] for line in lines] == ["25%", "25%", "-", "-", "25%"]
    assert all(line[end : end + 2] == "  " for line in lines)
    file = io.StringIO()
    study.optimize(
        lambda trial: trial.suggest_int("a", 1, 1), 1, callbacks=[PrintTrials(file=file)]
    )
    assert file.getvalue().splitlines()[-1] == "   6      1.000         -  a=1"


@pytest.mark.parametrize("kind", ["none", "object", "closed", "pipe"])
def test_a_search_does_not_need_a_terminal(monkeypatch, kind):
    """Neither one without a console, nor one whose output is closed or cannot say what it is."""

    class Lines(list):
        write, flush = list.append, list.clear

    class Pipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    closed = io.StringIO()
    closed.close()
    outputs = {"none": None, "object": Lines(), "closed": closed, "pipe": Pipe()}
    monkeypatch.setattr("sys.stdout", outputs[kind])
    assert len(run(make_task(), PrintTrials()).trials) == 3


def test_names_are_shortened_on_a_terminal_only():
    """As far as they stay different: first the owners go, then the end that all have."""
    task, file = make_task(), Terminal()
    run(task, PrintTrials(file=file, color=False))
    lines = file.getvalue().splitlines()
    assert all(len(line) < 60 for line in lines[1:])
    assert {line.split(" x ")[1].split()[0] for line in lines[2:]} <= {"small-3B", "large-70B"}
    file = io.StringIO()
    run(task, PrintTrials(file=file))
    assert "org/small-3B-Instruct" in file.getvalue()


@pytest.mark.parametrize(
    ("file", "color", "variable", "expected"),
    [
        (Terminal, None, "", True),
        (Terminal, None, "1", False),
        (Terminal, False, "", False),
        (io.StringIO, None, "", False),
        (io.StringIO, True, "1", True),
    ],
)
def test_colors_are_for_terminals(monkeypatch, file, color, variable, expected):
    """Unless the caller or NO_COLOR decides otherwise; each coloured line resets the colour."""
    monkeypatch.setenv("NO_COLOR", variable)
    opened = file()
    run(make_task(), PrintTrials(file=opened, color=color))
    lines = [line for line in opened.getvalue().splitlines() if "\033" in line]
    assert bool(lines) == expected
    assert all(line.startswith("\033[1;32m") and line.endswith("\033[0m") for line in lines)


def test_lines_of_optuna_are_hidden_as_long_as_the_callback_exists(caplog):
    """Lines about failed trials stay."""
    with caplog.at_level("INFO", "optuna"):
        callback = PrintTrials(file=io.StringIO())
        run(make_task(), callback, scores=(0.5, -1, float("nan")))
        texts = [record.getMessage() for record in caplog.records]
        assert not any("finished with" in text or "Trial 1 pruned" in text for text in texts)
        assert any("Trial 2 failed" in text for text in texts)
        del callback
        gc.collect()
        caplog.clear()
        run(make_task(), lambda study, trial: None, scores=(0.5,))
        assert any("finished with" in record.getMessage() for record in caplog.records)


def test_control_characters_and_other_alphabets_are_printed_safely():
    """On one line, without escape sequences of a name, also where the encoding is ASCII."""
    task = make_task(("\033[31mred\nname", 'größe <b>"|`😀'))
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    run(task, PrintTrials(file=file), scores=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    file.flush()
    text = file.buffer.getvalue().decode("ascii")
    assert "\033" not in text
    assert len(text.splitlines()) == 8
    assert r"gr\xf6\xdfe" in text


@pytest.mark.parametrize("directions", [["maximize"], ["minimize", "maximize"]])
def test_a_study_without_a_task_has_lines_with_parameters(directions):
    """Also one with several objectives, whose values are all printed."""
    file = io.StringIO()
    study = optuna.create_study(directions=directions)
    study.optimize(
        lambda trial: [trial.suggest_float("x", 2, 3)] * len(directions),
        n_trials=2,
        callbacks=[PrintTrials(file=file)],
    )
    heads, *lines = file.getvalue().splitlines()
    assert heads.split() == ["trial", "score"]
    assert len(lines) == 2
    assert all("x=2." in line for line in lines)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_each_study_has_its_own_heads():
    """A callback may be used for several studies."""
    file = io.StringIO()
    callback = PrintTrials(file=file)
    for name in ("a", "b"):
        run(make_task(), callback, scores=(0.5,), study_name=name)
    assert file.getvalue().count("trial  ") == 2


def test_it_prints_with_workers_and_our_sampler():
    """Eight threads print eight whole lines, below the heads."""
    task, file = make_task(), io.StringIO()
    study = optuna.create_study(sampler=AgentTTSSampler(task), direction="maximize")
    study.optimize(
        lambda trial: len(task.suggest(trial)) / 4,
        n_trials=8,
        n_jobs=8,
        callbacks=[PrintTrials(file=file)],
    )
    _, _, *lines = file.getvalue().splitlines()
    assert sorted(int(line.split()[0].rstrip("*")) for line in lines) == list(range(8))
