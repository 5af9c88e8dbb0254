"""Trials that the real `WilcoxonPruner` stops, in real storages."""

import json
import sys

import numpy as np
import optuna
import pytest
from optuna.cli import main as optuna_cli
from optuna.pruners import WilcoxonPruner
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pipeline_support import allocation, make_objective

from optuna_agenttts.study.archive import Archive
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts_integrations import objective as objective_module
from optuna_agenttts_integrations.cli import main

PRUNER = WilcoxonPruner(p_threshold=0.2)


def search(storage=None):
    """Try a good allocation and then others, most of which are stopped."""
    objective, _ = make_objective(count=40)
    tried = [(("large", 3), ("large", 3))]
    tried += [(("small", 1), ("small", 1)), (("small", 1), ("large", 1))]
    with objective:
        study = optuna.create_study(
            study_name="s", direction="maximize", storage=storage, pruner=PRUNER
        )
        for find, say in tried:
            study.enqueue_trial(objective.task.params(allocation(find, say)))
        study.optimize(objective, n_trials=len(tried))
    return study, objective.task


@pytest.fixture(scope="module", params=["memory", "sqlite", "journal"])
def stopped(request, tmp_path_factory):
    """Return a study with stopped trials, its task, and the URL or file of its storage."""
    path = str(tmp_path_factory.mktemp("stopped") / "study")
    if request.param == "memory":
        storage, path = InMemoryStorage(), None
    elif request.param == "sqlite":
        path = f"sqlite:///{path}.db"
        storage = RDBStorage(path)
    else:
        storage = JournalStorage(JournalFileBackend(path))
    study, task = search(storage)
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    return study, task, path


def means(study):
    """Return the mean of the outcomes of each trial."""
    return [float(np.mean(list(outcomes_of(trial).values()))) for trial in study.trials]


def test_the_value_of_a_stopped_trial_is_the_mean_of_what_it_saw(stopped):
    """In the study and in its data frame; the trial stays pruned, and no instance is lost."""
    study, _, _ = stopped
    expected = means(study)
    assert [trial.value for trial in study.trials] == pytest.approx(expected)
    for trial in study.trials:
        seen = outcomes_of(trial)
        assert list(seen) == list(range(len(seen)))
        assert (40 in trial.intermediate_values) == (trial.state == TrialState.PRUNED)
        assert (len(seen) < 40) == (trial.state == TrialState.PRUNED)
    pytest.importorskip("pandas")
    assert study.trials_dataframe()["value"].tolist() == pytest.approx(expected)


def test_a_stopped_trial_is_never_the_best(stopped):
    """Even if the few instances that it saw were easy."""
    study, _, _ = stopped
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert study.best_trial.number == max(complete, key=lambda t: t.value).number
    assert study.best_value == study.best_trial.value


def test_evidence_knows_stopped_trials_and_only_instances(stopped):
    """Their scores are their values."""
    study, task, _ = stopped
    evidence = Archive(task, maximize=True).read(study.trials)
    assert evidence.scores == pytest.approx([trial.value for trial in study.trials])
    states = [trial.state == TrialState.PRUNED for trial in study.trials]
    assert list(evidence.stopped) == states
    assert max(max(outcomes) for outcomes in evidence.outcomes) == 39
    assert [share < 1 for share in evidence.shares] == states


def test_commands_show_the_mean(stopped, monkeypatch, capsys):
    """Those of Optuna and ours, which counts states."""
    study, _, path = stopped
    if path is None:
        pytest.skip("other processes cannot read a study in memory")
    arguments = ["optuna", "trials", "--storage", path, "--study-name", "s", "--format", "json"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--quiet"])
    capsys.readouterr()
    assert optuna_cli() == 0
    shown = [row["value"] for row in json.loads(capsys.readouterr().out)]
    assert shown == pytest.approx(means(study))
    assert main(["report", path]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert f"{len(study.trials) - len(pruned)} complete, {len(pruned)} pruned" in printed
    for trial in pruned:
        count = len(outcomes_of(trial))
        assert f"trial {trial.number}: {trial.value:.3g} on {count} instance" in printed


@pytest.mark.slow
def test_the_pruner_stops_the_same_trials_as_without_the_reserved_step(monkeypatch):
    """Its pairs of outcomes and the best trial are the same."""
    with_step, _ = search()
    monkeypatch.setattr(objective_module, "report_stopped", lambda *_: None)
    without, _ = search()
    assert any(trial.state == TrialState.PRUNED for trial in without.trials)
    for one, other in zip(with_step.trials, without.trials):
        assert one.params == other.params
        assert one.state == other.state
        assert outcomes_of(one) == other.intermediate_values
    assert with_step.best_trial.number == without.best_trial.number


def test_a_pruner_that_is_asked_about_a_stopped_trial_pairs_instances_only(stopped):
    """`WilcoxonPruner` compares the steps that the best trial has, and the best one is whole."""
    study, _, _ = stopped
    for trial in study.trials:
        if trial.state == TrialState.PRUNED:
            shared = set(trial.intermediate_values) & set(study.best_trial.intermediate_values)
            assert shared == set(outcomes_of(trial))
