"""Odds of the agent: what they weigh, what they cannot change, and how they lose their weight."""

import asyncio
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from agent_support import TASK, evidence_of, planner_of, score
from core_support import run
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts import AgentTTSSampler, Claim, ScriptedChatModel, guidelines, recommend
from optuna_agenttts.agent.advice import advised_candidate
from optuna_agenttts.agent.ask import plan_round
from optuna_agenttts.agent.prompts.short_names import short_names
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.agent.validation import read_plan
from optuna_agenttts.planner.evidence import Constraint, Odds
from optuna_agenttts.planner.numerical import has_differing_repeats
from optuna_agenttts.planner.odds import bayes_factor, fitted_odds, octaves, weighing
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.study.claims import odds_of

BIG, SMALL = "large-70B", "small-3B"
PLANNER = planner_of(TASK)
EVIDENCE = evidence_of(TASK, score, 12)
POINTS = PLANNER.pool(EVIDENCE).points
EQUAL = odds_of([], TASK)
TRUE = odds_of([Claim("retrieval", ("qwen-72B",), model_odds=(0.9,))], TASK)
FALSE = odds_of([Claim("retrieval", ("qwen-7B",), model_odds=(0.9,))], TASK)


def fitted(evidence=EVIDENCE):
    """Return the posterior probabilities of models and octaves."""
    return fitted_odds(Posterior(PLANNER.surrogate, evidence), POINTS, TASK)


def spread(odds, evidence=EVIDENCE, rounds=1):
    """Return the largest weight over the smallest one."""
    weights = weighing([odds] * rounds, fitted(evidence), len(evidence.scores))(POINTS)
    return weights.max() / weights.min()


# Posterior probabilities.


def test_posterior_probabilities_are_those_of_possible_models_and_octaves():
    """They add up to 1, and are 0 exactly where no allocation has a model or octave."""
    found = fitted()
    for stage, (models, samples) in enumerate(zip(found.models, found.samples)):
        assert models.sum() == pytest.approx(1)
        assert samples.sum() == pytest.approx(1)
        assert set(np.flatnonzero(models)) == set(POINTS.models[:, stage].tolist())
        assert set(np.flatnonzero(samples)) == set(octaves(POINTS.samples[:, stage]).tolist())


def test_posterior_probabilities_find_the_truth_of_a_landscape_without_noise():
    """After 40 trials, the truly best model of the first stage is the best with .9 and more."""
    names = [model.name for model in TASK.stages[0].models]
    assert fitted(evidence_of(TASK, score, 40)).models[0][names.index("qwen-72B")] > 0.9


def test_octaves_are_powers_of_two():
    """The octave of n samples is the whole part of log2(n)."""
    assert octaves(np.arange(1, 130)).tolist() == [n.bit_length() - 1 for n in range(1, 130)]


# Odds of claims.


@settings(max_examples=200)
@given(st.integers(1, 100), st.integers(0, 99), st.floats(0, 1))
def test_odds_of_a_range_are_those_of_its_octaves(low, width, odds):
    """Odds of all octaves add up to 1; those inside the range have at least its odds."""
    high = min(100, low + width)
    found = odds_of([Claim("answer", (BIG,), (low, high), (), odds)], TASK).samples[1]
    inside = slice(low.bit_length() - 1, high.bit_length())
    assert found.min() >= 0
    assert found[inside].sum() >= odds - 1e-9
    assert found.sum() == pytest.approx(1) or found[inside].sum() == pytest.approx(odds)


def test_ranges_beyond_the_samples_of_a_stage_say_nothing():
    """Rounds are kept when a task gets fewer samples; nothing is divided by zero."""
    with np.errstate(all="raise"):
        for samples, equal in (((64, 100), False), ((200, 300), True)):
            claims = [Claim("retrieval", ("qwen-7B",), samples, (), 0.8)]
            (found, _) = odds_of(claims, TASK).samples
            assert np.isfinite(found).all()
            assert (np.ptp(found) == 0) == equal


def test_models_without_odds_share_the_rest():
    """Claims of earlier versions have no odds: their models share .8."""
    old = Claim.from_dict({"stage": "answer", "models": [BIG], "samples": [2, 8]})
    assert odds_of([old], TASK).models[1] == pytest.approx([0.2, 0.8])
    new = Claim("answer", (SMALL,), model_odds=(0.3,))
    assert odds_of([new], TASK).models[1] == pytest.approx([0.3, 0.7])
    assert Claim.from_dict(json.loads(json.dumps(asdict(new)))) == new
    assert odds_of([replace(new, stage="gone")], TASK).models[1].tolist() == [1, 1]


# Weights.


def test_equal_odds_weigh_nothing():
    """Then all weights are 1, as without an agent."""
    assert spread(EQUAL) == pytest.approx(1)
    with_equal = PLANNER.propose(replace(EVIDENCE, odds=(EQUAL,)))
    assert with_equal == PLANNER.propose(EVIDENCE)


def test_odds_that_the_trials_contradict_lose_their_weight():
    """Right odds weigh more than wrong ones, and more rounds of each move them apart."""
    assert spread(TRUE) > 1.2 > 1.05 > spread(FALSE)
    assert spread(FALSE, rounds=3) < spread(FALSE)


def test_odds_decay_with_the_number_of_trials():
    """With the same posterior, they weigh less after more trials."""
    known = fitted()
    spreads = [np.ptp(np.log(weighing([TRUE], known, n)(POINTS))) for n in (12, 24, 48)]
    assert spreads[0] > spreads[1] > spreads[2] > 0


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=18, max_size=18))
def test_weights_are_bounded(values):
    """For any odds, no allocation has less than half of the largest weight."""
    sizes = [len(cells) for cells in EQUAL.cells()]
    parts = np.split(np.resize(np.array(values), sum(sizes)), np.cumsum(sizes)[:-1])
    odds = Odds(tuple(parts[:2]), tuple(parts[2:]))
    for rounds in (1, 5):
        assert 1 <= spread(odds, rounds=rounds) <= 2 + 1e-9
    for ours, theirs in zip(odds.cells(), fitted().cells()):
        assert 0 < bayes_factor(ours, theirs) < len(ours) + 1e-9


def test_nothing_but_the_next_trial_depends_on_odds():
    """What alternatives are worth, and what is still to be gained, are the same with odds."""
    others = [((0, 1), (0, 3)), ((1, 1), (1, 1))]
    plain = PLANNER.compare(EVIDENCE, others)
    weighed = PLANNER.compare(replace(EVIDENCE, odds=(FALSE,)), others)
    assert weighed.worth.tolist() == plain.worth.tolist()
    assert weighed.improvement == plain.improvement


def test_recommendations_do_not_depend_on_the_odds_of_rounds():
    """The same trials without the rounds are recommended from in the same way."""
    claims = [{"stage": "answer", "models": {SMALL: 0.05, BIG: 0.95}}]
    chat = ScriptedChatModel(lambda request: json.dumps({"claims": claims, "candidates": []}))
    study = run(AgentTTSSampler(TASK, llm=chat), n_trials=14)
    assert any(planned.claims for planned in guidelines(study))
    copy = run(AgentTTSSampler(TASK), n_trials=0)
    copy.add_trials(study.get_trials(deepcopy=False))
    ours, theirs = recommend(study, TASK), recommend(copy, TASK)
    assert (ours.allocation, ours.value, ours.interval) == (
        theirs.allocation,
        theirs.value,
        theirs.interval,
    )
    assert ours.ties == theirs.ties


def test_odds_of_the_rounds_weigh_the_trials_of_a_search():
    """An agent that states odds and proposes nothing changes what is tried, right or wrong."""

    def allocations(models):
        claims = [{"stage": "retrieval", "models": models, "samples": [1, 1], "samples_odds": 0.9}]
        reply = json.dumps({"claims": claims, "candidates": []})
        sampler = AgentTTSSampler(TASK, llm=ScriptedChatModel(lambda request: reply))
        study = run(sampler, n_trials=16)
        return [TASK.read(trial.params) for trial in study.get_trials(deepcopy=False)]

    plain = [TASK.read(t.params) for t in run(AgentTTSSampler(TASK), n_trials=16).trials]
    right = allocations({"qwen-72B": 0.9, "qwen-7B": 0.1})
    assert right != plain


# Replies.


def reply_of(samples, **more):
    """Return a reply with one candidate of these samples."""
    models = ("qwen-7B", SMALL)
    names = [stage.name for stage in TASK.stages]
    allocation = {
        stage: {"model": model, "samples": n} for stage, model, n in zip(names, models, samples)
    }
    return json.dumps({"candidates": [{"allocation": allocation, "reason": "r"}], **more})


def test_claims_may_name_models_as_the_tables_of_the_prompt_do():
    """Short names of models are read in claims, as in candidates."""
    for name, short in short_names(TASK).items():
        (stage,) = (s for s in TASK.stages if name in [model.name for model in s.models])
        claims = [{"stage": stage.name, "models": {short: 0.9}}]
        reply = read_plan(reply_of((1, 1), claims=claims), TASK, (), ("models",))
        assert reply.claims == (Claim(stage.name, (name,), None, (0.9,)),)


@pytest.mark.parametrize("samples", [(2, "max"), ("max", 3), ("max", "MAX"), ("maximum", 1)])
def test_max_is_as_many_samples_as_fit_beside_the_rest(samples):
    """One more sample of such a stage is over the budget or its maximum; others are as asked."""
    (proposal,) = read_plan(reply_of(samples), TASK, ()).proposals
    assert proposal.asked is None
    choices = TASK.read(proposal.params)
    assert TASK.feasible.fits(choices)
    for stage, wanted in enumerate(samples):
        model, number = choices[stage]
        if isinstance(wanted, int):
            assert number == wanted
            continue
        more = [*choices[:stage], (model, number + 1), *choices[stage + 1 :]]
        assert number == TASK.stages[stage].max_samples or not TASK.feasible.fits(more)


def ask(evidence, reply):
    """Return the round that a reply makes, and its request."""
    chat = ScriptedChatModel([reply])
    options = {"insights": (1, 2, 3), "guidelines": True, "wanted": 1, "kept": 1}
    made = asyncio.run(plan_round(chat, TaskQuestions(PLANNER, evidence, **options), 0))
    return made, chat.requests[0]


def test_trials_are_not_measured_again_where_repeats_have_equal_scores():
    """The fate of the request says why, and what does run on other instances."""
    made, request = ask(EVIDENCE, reply_of((1, 1), measure_again=[3, 99, "x"]))
    assert "measure_again" not in request.messages[1].content + request.schema
    assert [each.kind for each in made.dropped] == ["same score", "unknown trial", "unknown trial"]
    assert "confirm" in made.dropped[0].text
    assert len(made.candidates) == 1


def test_trials_are_measured_again_where_scores_are_random():
    """The trial's allocation comes first in the round, although it was tried."""
    count = len(EVIDENCE.scores)
    rows = np.array([0, *range(count)])
    repeated = replace(
        EVIDENCE.take(rows),
        scores=EVIDENCE.scores[rows] + 0.01 * (rows == 0) * np.arange(count + 1),
        numbers=tuple(range(count + 1)),
    )
    assert has_differing_repeats(repeated)
    made, request = ask(repeated, reply_of((1, 1), measure_again=[0]))
    assert "measure_again" in json.loads(request.schema)["required"]
    (kept,) = made.candidates
    assert kept.again
    choices = tuple(zip(repeated.models[0].tolist(), repeated.samples[0].tolist()))
    assert TASK.read(kept.params) == choices
    for again, outcomes in ((True, ("tried", "refused")), (False, ("taken",))):
        planned = replace(made, candidates=(replace(kept, again=again),))
        found = advised_candidate(PLANNER, repeated, Constraint(), planned, 0)
        assert found.proposed["outcome"] in outcomes
