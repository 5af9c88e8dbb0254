"""`MultiStageObjective` in studies of a score and then a cost."""

import math

import optuna
import pytest
from optuna.pruners import WilcoxonPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from pipeline_support import make_objective

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, frontier, recommend
from optuna_agenttts.study.archive import Archive
from optuna_agenttts.study.measured import effective_task
from optuna_agenttts.study.stopped import outcomes_of

BOTH = ["maximize", "minimize"]


def run(objective, trials=6, **options):
    """Return a study of two objectives."""
    options.setdefault("sampler", AgentTTSSampler(objective.task, explain=False))
    study = optuna.create_study(directions=BOTH, **options)
    study.optimize(objective, n_trials=trials)
    return study


def test_trials_return_score_and_cost():
    """Their outcomes give intervals, and the planner takes the cost as the task's own."""
    objective, _ = make_objective()
    with objective:
        study = run(objective)
        for trial in study.trials:
            outcomes = outcomes_of(trial)
            assert not trial.intermediate_values
            assert len(outcomes) == 20
            assert trial.values[0] == pytest.approx(sum(outcomes.values()) / 20)
        task = effective_task(study, objective.task)
        # The lengths, and with them the costs, are measured after three trials.
        assert task != objective.task
        evidence = Archive.of(study, task).read(study.trials)
        assert all(map(math.isnan, evidence.measured))
        assert evidence.frontier
        assert recommend(study).interval is not None
        assert frontier(study).unit == task.cost_model.unit


def test_the_score_equals_that_of_a_search_with_one_objective():
    first, _ = make_objective()
    second, _ = make_objective()
    with first, second:
        study = run(first, 4, sampler=RandomSampler(seed=0))
        single = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))
        single.optimize(second, n_trials=4)
        assert [t.values[0] for t in study.trials] == [t.value for t in single.trials]
        assert [outcomes_of(t) for t in study.trials] == [outcomes_of(t) for t in single.trials]


def test_trials_that_the_limit_stops_keep_what_they_saw():
    """No pruner is asked, which Optuna's trials of two objectives refuse."""
    objective, _ = make_objective()
    with objective:
        spent = [t.user_attrs["spend"] for t in run(objective, 3).trials]
    limited, _ = make_objective(max_spend=spent[0] + 0.5 * spent[1])
    with limited:
        study = run(limited, 3, pruner=WilcoxonPruner())
    stopped = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert stopped
    assert not any(t.values or t.intermediate_values for t in stopped)


def test_an_agent_with_transcripts_plans():
    asked = []

    def reply(request):
        asked.append(request)
        return '{"guidelines": ["x"], "candidates": []}'

    objective, _ = make_objective()
    sampler = AgentTTSSampler(objective.task, llm=ScriptedChatModel(reply), explain=False)
    with objective:
        study = run(objective, 12, sampler=sampler)
    assert asked
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert "<transcripts>" in asked[-1].messages[1].content
