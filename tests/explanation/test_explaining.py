"""Studies explain themselves in optuna-dashboard, at little cost and without any harm."""

import json
import logging
import pickle
import time

import optuna
import optuna_dashboard
import pytest
from explained_studies import (
    LARGE,
    SMALL,
    Clock,
    attributes_of,
    noted,
    objective_of,
    run,
    task_of,
    trial_notes,
)
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from storages_support import open_grpc, open_journal, open_memory, open_sqlite

from optuna_agenttts import AgentTTSSampler, Explain, Model, NoTaskError, TaskError, explain
from optuna_agenttts.explanation import explaining, pace
from optuna_agenttts.explanation.attributes import facts_of
from optuna_agenttts.explanation.note import HEADING, note
from optuna_agenttts.explanation.pace import START
from optuna_agenttts.explanation.trial_notes import MOST_NOTES
from optuna_agenttts.report.summary import summarize
from optuna_agenttts.visualization.figures import FIGURES

TASK = task_of(metric="exact match", metric_range=(0, 1))
PREFIX = "dashboard:plot_data:agenttts-"


def patient(**options):
    """Return an `Explain` whose time never runs out."""
    return Explain(clock=Clock(step=1000.0), share=1.0, **options)


def graphs_of(study):
    """Return the graphs that the dashboard shows, by name."""
    found = {}
    for key, text in attributes_of(study).items():
        if key.startswith(PREFIX):
            name, _, position = key[len(PREFIX) :].rpartition(":")
            found.setdefault(name, {})[int(position)] = text
    return {
        name: json.loads("".join(parts[i] for i in range(len(parts))))
        for name, parts in found.items()
    }


@pytest.mark.parametrize(
    ("opener", "sampler"),
    [
        (open_memory, TPESampler(seed=0)),
        (open_sqlite, AgentTTSSampler(TASK, explain=False)),
        pytest.param(open_journal, AgentTTSSampler(TASK, explain=False), marks=pytest.mark.slow),
        pytest.param(open_grpc, AgentTTSSampler(TASK, explain=False), marks=pytest.mark.slow),
    ],
)
def test_explaining_writes_attributes_note_trials_and_figures(opener, sampler, tmp_path):
    with opener(tmp_path) as storage:
        study = run(TASK, 6, sampler, storage=storage)
        assert not optuna_dashboard.get_note(study)
        explain(study)
        summary = summarize(study)
        assert optuna_dashboard.get_note(study) == note(summary)
        assert study.user_attrs == facts_of(summary)
        assert attributes_of(study)["dashboard:objective_names"] == ["exact match"]
        for trial, text in zip(study.trials, trial_notes(study)):
            assert ("Worst of 20 instances" in text) == bool(trial.intermediate_values)
        assert graphs_of(study).keys() == FIGURES.keys()
        before = attributes_of(study)
        explain(study)
        after = attributes_of(study)
        assert {**before, "agenttts:explaining": 0} == {**after, "agenttts:explaining": 0}


def test_a_sampler_explains_from_the_first_trial_on():
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    study.optimize(objective_of(TASK), n_trials=1)
    text = optuna_dashboard.get_note(study)
    assert text.startswith(HEADING)
    assert "1 complete, on up to 20 instances" in text
    assert "exact match" in study.user_attrs["Task"]
    assert "small-7B" in study.user_attrs["Stage 1"]


def test_a_first_trial_that_ends_last_leaves_a_whole_note():
    sampler = AgentTTSSampler(TASK, seed=0, explain=patient(figures=False))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    first, objective = study.ask(), objective_of(TASK)
    value = objective(first)
    study.optimize(objective, n_trials=4)
    assert "### What to use" in optuna_dashboard.get_note(study)
    study.tell(first, value)
    assert "### What to use" in optuna_dashboard.get_note(study)
    assert study.user_attrs["Expected"] != "not known yet"


@pytest.mark.slow
def test_a_sampler_explains_as_the_search_goes_on():
    study = run(TASK, 10, AgentTTSSampler(TASK, explain=patient()))
    assert "10 complete" in optuna_dashboard.get_note(study)
    assert graphs_of(study).keys() == FIGURES.keys()
    assert all(trial_notes(study))


@pytest.mark.slow
def test_a_callback_explains_studies_of_other_samplers():
    study = run(TASK, 10, TPESampler(seed=0), callbacks=[patient()])
    assert optuna_dashboard.get_note(study) == note(summarize(study))
    assert graphs_of(study).keys() == FIGURES.keys()


def test_searches_do_not_depend_on_explaining():
    found = [
        [trial.params for trial in run(TASK, 8, AgentTTSSampler(TASK, seed=0, explain=e)).trials]
        for e in (False, patient())
    ]
    assert found[0] == found[1]


def test_without_explaining_nothing_is_written():
    study = run(TASK, 2, AgentTTSSampler(TASK, explain=False))
    assert not study.user_attrs
    assert not any(key.startswith("dashboard:") for key in attributes_of(study))


@pytest.mark.parametrize("sampler", [AgentTTSSampler(explain=patient()), RandomSampler()])
def test_without_a_task_nothing_is_written(sampler):
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=3, callbacks=[patient()])
    assert not study.user_attrs
    assert not any(key.startswith("dashboard:") for key in attributes_of(study))
    with pytest.raises(NoTaskError):
        explain(study)


def test_errors_are_logged_once_and_fail_no_trial(monkeypatch, caplog):
    def broken(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(explaining, "save_note", broken)
    with caplog.at_level(logging.WARNING, logger="optuna_agenttts"):
        study = run(TASK, 6, AgentTTSSampler(TASK, explain=patient()))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 6
    assert [r.message for r in caplog.records if "could not be explained" in r.message] == [
        f"Study {study.study_name!r} could not be explained for optuna-dashboard "
        "(OSError('disk full')). The search is not affected, and `explain(study)` tries it again."
    ]


def test_time_is_bounded_by_a_share_of_the_search():
    """Explaining here seems to take longer than the trials themselves."""
    clock = Clock(step=1.0)
    explainer = Explain(clock=clock)

    def objective(trial):
        clock.now += 1.0
        return objective_of(TASK)(trial)

    study = run(TASK, 30, AgentTTSSampler(TASK, explain=explainer), objective)
    assert "1 complete" in optuna_dashboard.get_note(study)
    with pytest.raises(TaskError, match="`share` must be above 0 and at most 1, got 2"):
        Explain(share=2)


@pytest.mark.parametrize(
    ("seconds", "slow", "trials", "share"),
    [(0.8, 1.2, 20, 0.19), (10, 1, 20, 0.02), (10, 3, 30, 0.02)],
)
def test_short_searches_have_a_late_note(seconds, slow, trials, share, monkeypatch):
    """Parts seem to take as long as measured on the quickstart, or on a slower machine."""
    clock, notes, figures, taken = Clock(), [], [], 0.0

    def took(seconds):
        clock.now += slow * seconds

    def write(view, *, brief=False):
        took(0.1 if brief else 0.35 if len(notes) > 1 else 0.6)
        notes.append(len(view.trials))

    def draw(view, name):
        took(0.17)
        figures.append(len(view.trials))

    monkeypatch.setattr(pace, "START", START)
    monkeypatch.setattr(explaining, "_write", write)
    monkeypatch.setattr(explaining, "save_graph", draw)
    monkeypatch.setattr(explaining, "save_trial_notes", lambda *_, **__: took(0.03))
    done = run(TASK, 1, AgentTTSSampler(TASK, explain=False)).trials[0]
    study, explainer = optuna.create_study(direction="maximize"), Explain(task=TASK, clock=clock)
    for _ in range(trials):
        clock.now += seconds
        study.add_trial(done)
        start = clock.now
        explainer(study, study.trials[-1])
        taken += clock.now - start
    assert {1, 5} <= set(notes)
    assert notes[-1] >= (trials if slow < 2 else trials - 10)
    assert taken <= share * seconds * trials
    assert slow > 2 or figures.count(10) >= 3


def test_what_users_wrote_stays():
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    study.set_user_attr("Task", "mine")
    optuna_dashboard.save_note(study, "My own *words*.")

    def objective(trial):
        optuna_dashboard.save_note(trial, "Seen by me.")
        return objective_of(TASK)(trial)

    study.optimize(objective, n_trials=3)
    for _ in range(2):
        explain(study, objective=Inspector(), figures=False)
    text = optuna_dashboard.get_note(study)
    assert text.startswith(f"My own *words*.\n\n{HEADING}")
    assert text.count(HEADING) == 1
    assert study.user_attrs["Task"] == "mine"
    assert all(text.startswith("Seen by me.\n\n### Trial ") for text in trial_notes(study))
    assert all(text.count("### Trial") == 1 for text in trial_notes(study))


def test_metric_names_of_the_user_stay_and_dataframes_keep_their_columns():
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    study.set_metric_names(["mine"])
    study.optimize(objective_of(TASK), n_trials=1)
    assert "dashboard:objective_names" not in attributes_of(study)
    assert study.metric_names == ["mine"]
    assert run(TASK, 1, AgentTTSSampler(TASK)).metric_names is None


class Inspector:
    """Objective that knows hostile replies."""

    def inspect(self, trial, instance=None, *, study=None):
        """Return an inspection."""
        from optuna_agenttts_integrations import InstanceInspection
        from optuna_agenttts_integrations.inspection.records import (
            InspectedReply,
            InspectedRequest,
            InspectedStage,
        )

        replies = (InspectedReply(0, "```\n<b>right</b>"), InspectedReply(1, None))
        request = InspectedRequest("samples", (), replies)
        stage = InspectedStage("answer", "ran", "m", 2, (request,), "<i>4</i>")
        return InstanceInspection(f"q{instance}", "trial 0", stages=(stage,))


def test_replies_are_shown_only_if_they_are_asked_for():
    study = run(TASK, 2, AgentTTSSampler(TASK))
    explain(study, figures=False)
    assert not any("right" in text for text in trial_notes(study))
    explain(study, objective=Inspector(), figures=False)
    for text in trial_notes(study):
        assert "````text\n```\n<b>right</b>\n````" in text
        assert r"Result: \<i\>4\</i\>" in text


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_worst_instances_come_first(direction):
    def objective(trial):
        TASK.suggest(trial)
        for step in range(10):
            trial.report(float(step), step)
        return 4.5

    study = run(TASK, 1, AgentTTSSampler(TASK), objective, direction=direction)
    explain(study, figures=False)
    worst = 0 if direction == "maximize" else 9
    first = trial_notes(study)[0].split("---")[-1].split("|")[2:4]
    assert [cell.strip() for cell in first] == [f"step {worst}", f"{worst}"]


def test_notes_and_figures_are_bounded():
    study = run(task_of(10_000), MOST_NOTES + 20, RandomSampler(seed=0))
    explain(study)
    assert sum(map(bool, trial_notes(study))) == MOST_NOTES
    for graph in graphs_of(study).values():
        assert "height" not in graph["layout"]
        assert len(json.dumps(graph)) < 200_000


def test_studies_of_all_kinds_are_explained():
    cases = {
        "nothing": ([], []),
        "failed": ([TrialState.FAIL] * 2, ["Nothing to recommend", "2 failed"]),
        "pruned": ([TrialState.COMPLETE] * 3 + [TrialState.PRUNED] * 2, ["2 pruned"]),
    }
    for states, words in cases.values():
        wanted = iter(states)

        def objective(trial, wanted=wanted):
            value, state = objective_of(TASK)(trial), next(wanted)
            if state == TrialState.FAIL:
                raise ValueError
            if state == TrialState.PRUNED:
                raise optuna.TrialPruned
            return value

        sampler = AgentTTSSampler(TASK, explain=patient(figures=False))
        study = run(TASK, len(states), sampler, objective, catch=(ValueError,))
        TASK.register(study)
        explain(study)
        text = optuna_dashboard.get_note(study)
        assert all(word in text for word in words)


def test_several_objectives_and_constraints_are_described():
    study = optuna.create_study(directions=["maximize"] * 2, sampler=RandomSampler(seed=0))

    def objective(trial):
        allocation = TASK.suggest(trial)
        return float(allocation["answer"].samples), TASK.cost(allocation)

    study.optimize(objective, n_trials=3, callbacks=[patient(figures=False)])
    explain(study)
    assert "several objectives" in optuna_dashboard.get_note(study)
    assert not graphs_of(study).keys() - {"spend", "search", "outcomes"}

    def constrained(trial):
        trial.set_user_attr("late", float(trial.number - 1))
        return objective_of(TASK)(trial)

    sampler = TPESampler(seed=0, constraints_func=lambda trial: (trial.user_attrs["late"],))
    study = run(TASK, 3, sampler, constrained)
    explain(study, figures=False)
    assert "Trials that violate a constraint: 2" in optuna_dashboard.get_note(study)
    shown = [("**not met**" in text, "met" in text) for text in trial_notes(study)]
    assert shown == [(False, True), (False, True), (True, True)]


def test_hostile_names_are_text():
    start = "<script>alert(1)</script> | `x` [a](http://b) 😀\n# "
    # Names of stages are keys of storages, which hold 512 characters.
    key, name = start + 100 * "long", start + 300 * "long"
    models = [Model(f"{name}-{size}B", parameters=size * 1e9) for size in (7, 72)]
    task = task_of(names=(key, "answer"), models=models, name=name, metric=name, description=name)
    study = run(task, 4, AgentTTSSampler(task, explain=patient(figures=False)))
    explain(study, figures=False)
    for text in (optuna_dashboard.get_note(study), *trial_notes(study)):
        assert "<script" not in text.replace("\\<", "")
        assert "](" not in text
        assert "\n# " not in text
    assert all("\n" not in value and len(value) <= 150 for value in study.user_attrs.values())


@pytest.mark.slow
@pytest.mark.parametrize("open_storage", [open_memory, open_sqlite, open_journal])
def test_workers_that_explain_at_the_same_time_leave_whole_texts(open_storage, tmp_path):
    with open_storage(tmp_path) as storage:
        sampler = AgentTTSSampler(TASK, explain=patient(figures=False))
        study = run(TASK, 16, sampler, storage=storage, n_jobs=8)
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 16
        text = optuna_dashboard.get_note(study)
        assert text.count(HEADING) == text.count("### In this dashboard") == 1
        explain(study)
        assert optuna_dashboard.get_note(study) == note(summarize(study))


def test_another_worker_is_left_to_it_and_a_dead_one_is_not():
    study = run(TASK, 5, AgentTTSSampler(TASK, explain=False))
    key = "agenttts:explaining"
    study._storage.set_study_system_attr(
        study._study_id, key, {"by": "another", "at": time.time()}
    )
    patient()(study, study.trials[-1])
    assert not optuna_dashboard.get_note(study)
    study._storage.set_study_system_attr(
        study._study_id, key, {"by": "another", "at": time.time() - 61}
    )
    patient()(study, study.trials[-1])
    assert optuna_dashboard.get_note(study)


def test_samplers_that_explain_are_pickled():
    sampler = pickle.loads(pickle.dumps(AgentTTSSampler(TASK, explain=Explain(share=0.5))))
    study = run(TASK, 1, sampler)
    assert optuna_dashboard.get_note(pickle.loads(pickle.dumps(study)))
    with pytest.raises(TaskError, match="`explain` must be a bool or an `Explain`, got 1"):
        AgentTTSSampler(TASK, explain=1)


@pytest.mark.slow
def test_four_stages_and_hyperband_are_explained():
    task = task_of(2000, ("plan", "write", "review", "test"), (SMALL, LARGE))
    study = optuna.create_study(
        direction="maximize",
        sampler=AgentTTSSampler(task, explain=patient()),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=20),
    )
    study.optimize(objective_of(task), n_trials=5)
    text = optuna_dashboard.get_note(study)
    assert all(f"**{name}**" in text for name in ("plan", "write", "review", "test"))
    assert "5 complete" in text
    assert optuna_dashboard.get_note(noted(study, study.trials[0]))
