"""The agent in searches for good scores at every cost, and for a cheap good score."""

import json
from dataclasses import replace

import numpy as np
import optuna
import pytest
from agent_support import TASK, score
from core_support import open_storage
from posterior_cases import draw_evidence
from test_prompts import LATER

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, guidelines
from optuna_agenttts.agent.facts import Forecast, fit_facts
from optuna_agenttts.agent.prompts import render_plan
from optuna_agenttts.agent.prompts.history import listed_trials
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts.planner.frontier_improvement import END
from optuna_agenttts.planner.fronts import added_area, behind_front
from optuna_agenttts.planner.numerical import NumericalPlanner

BOTH = ["maximize", "minimize"]
TRUTH = {
    key: (score(TASK.allocation(key)), TASK.feasible.cost(key))
    for models in ((0, 0), (0, 1), (1, 0))
    for samples in ((1, 1), (2, 9), (4, 16), (8, 24), (16, 40), (24, 14), (24, 26), (2, 21))
    for key in [tuple(zip(models, samples))]
    if TASK.feasible.fits(key)
}


def evidence_of(seed, trials=15, measured=False):
    """Return random trials of two objectives, their costs measured or the task's."""
    evidence = draw_evidence(TASK, "scores", seed=seed, trials=trials)
    costs = np.random.default_rng(seed).integers(1, 5, trials).astype(float)
    second = tuple(costs) if measured else (float("nan"),) * trials
    own = TASK.feasible.costs_of(evidence.models, evidence.samples)
    return replace(evidence, frontier=True, measured=second), costs if measured else own


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_trials_are_compared_with_the_best_that_is_as_cheap(seed, measured):
    evidence, costs = evidence_of(seed, measured=measured)
    gaps, best = behind_front(evidence)
    for row in range(len(costs)):
        rivals = evidence.scores[costs <= costs[row]]
        assert gaps[row] == rivals.max() - evidence.scores[row]
        assert evidence.scores[best[row]] == rivals.max()
        assert costs[best[row]] <= costs[row]


@pytest.mark.parametrize("seed", range(4))
def test_a_trial_adds_the_area_that_is_lost_without_it(seed):
    evidence, costs = evidence_of(seed)
    end = costs.min() + END * (costs.max() - costs.min())
    least = evidence.scores.min()

    def area(rows):
        order = rows[np.argsort(costs[rows], kind="stable")]
        levels = np.maximum.accumulate(np.append(least, evidence.scores[order]))
        return np.diff(np.concatenate([[costs.min()], costs[order], [end]])) @ levels

    rows, added = np.arange(len(costs)), added_area(evidence)
    for row in rows:
        lost = area(rows) - area(np.delete(rows, row))
        assert max(added[row], 0.0) == pytest.approx(lost, abs=1e-9)


# Prompts.


def planned(floor=None, measured=False, frontier=True):
    """Return the data of a prompt about random trials, with fitted facts."""
    evidence, _ = evidence_of(0, 20, measured)
    evidence = replace(evidence, frontier=frontier)
    facts = fit_facts(NumericalPlanner(TASK, floor=floor), evidence)
    return replace(LATER, evidence=evidence, facts=facts, floor=floor)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ("goal: two objectives, the value and the cost", "on the front", "raise the front")),
        ({"measured": True}, ("goal: two objectives, the value and the measured cost", "| 4\n")),
        (
            {"floor": 0.5, "frontier": False},
            ("lowest cost whose value is at least 0.5", "reach the value of the goal"),
        ),
    ],
)
def test_the_goal_and_the_front_are_stated(options, words):
    data = planned(**options)
    text = render_plan(data)[1].content
    assert all(word in text for word in words)
    front = text.partition("<front>\n")[2].partition("\n</front>")[0].splitlines()[2:]
    costs = [float(line.split(" | ")[-1]) for line in front]
    assert costs == sorted(costs)
    assert "beat the best so far" not in text
    assert "Odds weigh what is tried next" not in text
    assert estimated_tokens(text) <= 3000


def test_a_search_for_the_best_score_states_no_goal():
    data = planned(frontier=False)
    text = render_plan(data)[1].content
    assert "goal" not in text
    assert "front" not in text


def test_long_fronts_keep_their_ends():
    points = [Forecast(((0, n), (0, 1)), n / 100, 0.01) for n in range(1, 90)]
    data = planned()
    data = replace(data, facts=replace(data.facts, front=tuple(points)))
    text = render_plan(data)[1].content
    assert "7B x 1, 3B x 1 | " in text
    assert "7B x 89, 3B x 1 | " in text
    assert estimated_tokens(text) <= 3000


def test_listed_trials_are_on_the_front_first():
    evidence, _ = evidence_of(1, 30)
    gaps, _ = behind_front(evidence)
    listed = listed_trials(evidence, int((gaps == 0).sum()), 1, models=False)
    assert set(listed) == {*np.flatnonzero(gaps == 0).tolist(), 29}


# Searches.


def reply_of(keys):
    """Return a reply that proposes allocations."""
    settings = [TASK.allocation(key) for key in keys]
    stages = [
        {stage: {"model": model, "samples": samples} for stage, (model, samples) in one.items()}
        for one in settings
    ]
    return json.dumps(
        {"guidelines": ["x"], "candidates": [{"allocation": s, "reason": "r"} for s in stages]}
    )


def searched(proposals, n_trials=24, storage=None, **options):
    """Return a study whose agent proposes the first allocations that were not proposed yet."""
    left = list(proposals)

    def reply(request):
        return reply_of([left.pop(0) for _ in range(min(6, len(left)))])

    llm = ScriptedChatModel(reply) if left else None
    sampler = AgentTTSSampler(TASK, llm=llm, explain=False, **options)
    directions = ["maximize"] if options else BOTH
    study = optuna.create_study(directions=directions, sampler=sampler, storage=storage)

    def objective(trial):
        allocation = TASK.suggest(trial)
        return score(allocation) if options else (score(allocation), TASK.cost(allocation))

    study.optimize(objective, n_trials=n_trials)
    return study


def area_of(study):
    """Return the area under the front up to the budget."""
    pairs = sorted((t.values[1], t.values[0]) for t in study.trials)
    costs, scores = np.array(pairs).T
    return float(np.diff(costs, append=TASK.budget) @ np.maximum.accumulate(scores))


def origins_of(study):
    """Return how many trials each origin has."""
    origins = [trial.user_attrs["agenttts:origin"] for trial in study.trials]
    return {origin: origins.count(origin) for origin in origins}


def test_a_knowing_agent_helps_and_a_wrong_one_harms_little():
    truths = list(TRUTH.values())
    front = [k for k, (s, c) in TRUTH.items() if s == max(o for o, d in truths if d <= c)]
    wrong = [((0, n), (0, 1)) for n in range(60, 84)]
    plain = area_of(searched([]))
    right = searched(front)
    assert area_of(right) >= 0.995 * plain
    assert origins_of(right)["agent"] >= 1
    misled = searched(wrong)
    assert origins_of(misled).get("agent", 0) <= 2
    assert area_of(misled) >= 0.97 * plain


def test_a_search_for_a_floor_weighs_proposals_by_their_cost():
    """What reaches the floor at a high cost promises nothing."""
    dear = [((0, n), (1, 26)) for n in range(12, 24)]
    study = searched(dear, at_least=0.3)
    known = [proposal for planned in guidelines(study) for proposal in planned.candidates]
    assert known
    assert sum(proposal.outcome == "tried" for proposal in known) <= 1
    assert len(known) >= 6


def test_workers_of_two_objectives_share_rounds(tmp_path):
    """A sampler that reads a study resumes its agent's queue."""
    opened = open_storage("sqlite", tmp_path / "s.db")
    study = searched(list(TRUTH), 9, opened)
    rounds = guidelines(study)
    assert rounds
    again = optuna.load_study(
        study_name=study.study_name,
        storage=opened,
        sampler=AgentTTSSampler(
            TASK, llm=ScriptedChatModel(lambda request: reply_of([])), explain=False
        ),
    )
    again.optimize(lambda t: (score(a := TASK.suggest(t)), TASK.cost(a)), n_trials=3)
    assert guidelines(again)[: len(rounds)][0].candidates == rounds[0].candidates


def test_no_agent_is_asked_about_other_objectives(caplog):
    asked = []

    def reply(request):
        asked.append(request)
        return reply_of([])

    sampler = AgentTTSSampler(TASK, llm=ScriptedChatModel(reply), explain=False)
    study = optuna.create_study(directions=["maximize"] * 2, sampler=sampler)
    study.optimize(lambda t: (score(a := TASK.suggest(t)), TASK.cost(a)), n_trials=8)
    assert not asked
    assert "no agent is asked" in caplog.text
