"""Claims of the agent: reading, comparison with the fit, and use in prompts and notes."""

import asyncio
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from agent_support import TASK, evidence_of, planner_of, score
from core_support import run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optuna_agenttts import AgentTTSSampler, Claim, ScriptedChatModel, Verdict, guidelines
from optuna_agenttts import storage as keys
from optuna_agenttts.agent.ask import plan_round
from optuna_agenttts.agent.facts import Facts, fit_facts
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.agent.validation import read_plan
from optuna_agenttts.agent.verdicts import check_claims
from optuna_agenttts.explanation.note import guidelines_note
from optuna_agenttts.planner.evidence import Odds
from optuna_agenttts.planner.odds import bayes_factor
from optuna_agenttts.study.claims import contradictions, summary
from optuna_agenttts.study.rounds import Round, write_round

BOTH = ("models", "samples")
BIG, SMALL = "large-70B", "small-3B"
WRONG = Claim("retrieval", ("qwen-7B",))
PLANNER = planner_of(TASK)
EVIDENCE = evidence_of(TASK, score, 40)
FACTS = fit_facts(PLANNER, EVIDENCE)


def facts_of(models=(0.5, 0.5), samples=(1,) * 7):
    """Return facts whose posterior has these probabilities in the answer stage."""
    equal = np.ones(2) / 2, np.ones(7) / 7
    given = (np.array(each, dtype=float) for each in (models, samples))
    return Facts(odds=Odds(*((other, each / each.sum()) for other, each in zip(equal, given))))


def outcome(aspect, claim, **posterior):
    """Return outcome and text of the verdict on one aspect of a claim; None if there is none."""
    found = check_claims([claim], facts_of(**posterior), TASK)
    return next(((v.outcome, v.text) for v in found if v.aspect == aspect), None)


# Models. The stage has a small model, then a large one.


def test_verdicts_state_the_odds_and_the_posterior():
    """The fit agrees with odds that it makes more probable, and contradicts their opposite."""
    claim = Claim("answer", (BIG, SMALL), model_odds=(0.8, 0.2))
    assert outcome("models", claim, models=(0.05, 0.95)) == (
        "agrees",
        "answer: the odds of the best model were 0.8 for large-70B, 0.2 for small-3B; the fit "
        "has 0.95 for large-70B, 0.05 for small-3B.",
    )
    assert outcome("models", claim, models=(0.95, 0.05))[0] == "contradicts"
    assert outcome("models", claim, models=(0.55, 0.45))[0] == "open"


def test_odds_that_are_equal_are_open_for_any_fit():
    """They say nothing, with or without numbers."""
    for claim in (
        Claim("answer", (BIG, SMALL)),
        Claim("answer", (BIG, SMALL), model_odds=(0.5, 0.5)),
        Claim("answer", (BIG,), model_odds=(0.5,)),
    ):
        for models in ((0.01, 0.99), (0.5, 0.5), (0.99, 0.01)):
            assert outcome("models", claim, models=models)[0] == "open"


def test_claims_agree_with_the_truth_of_a_landscape_without_noise():
    """After 40 trials, claims with the truly best models agree, and the others do not."""
    true = [Claim("retrieval", ("qwen-72B",)), Claim("answer", (SMALL,))]
    false = [Claim("retrieval", ("qwen-7B",)), Claim("answer", (BIG,))]
    assert not contradictions(check_claims(true, FACTS, TASK))
    assert all(verdict.outcome != "agrees" for verdict in check_claims(false, FACTS, TASK))
    assert [v.outcome for v in check_claims(true[:1], FACTS, TASK)] == ["agrees"]
    assert [v.outcome for v in check_claims(false[:1], FACTS, TASK)] == ["contradicts"]


@settings(max_examples=200)
@given(st.floats(0.01, 0.99), st.floats(0, 1))
def test_odds_and_their_opposite_never_both_agree(fitted, odds):
    """Their Bayes factors add up to two: where one is above, the other is below."""
    ours = np.array([odds, 1 - odds])
    posterior = np.array([fitted, 1 - fitted])
    assert bayes_factor(ours, posterior) + bayes_factor(1 - ours, posterior) == pytest.approx(2)
    claims = [Claim("answer", (SMALL, BIG), model_odds=(p, 1 - p)) for p in (odds, 1 - odds)]
    first, second = (outcome("models", c, models=(fitted, 1 - fitted))[0] for c in claims)
    assert (first, second) != ("agrees", "agrees")


# Samples: octaves 1, 2 to 3, 4 to 7, ..., 64 to 100.


@pytest.mark.parametrize(
    ("claimed", "samples", "verdict"),
    [
        ((4, 7), (0, 0, 1, 0, 0, 0, 0), "agrees"),
        ((5, 9), (0, 0, 1, 1, 0, 0, 0), "agrees"),
        ((30, 60), (0, 0, 1, 0, 0, 0, 0), "contradicts"),
        ((1, 1), (0, 0, 1, 1, 1, 0, 0), "contradicts"),
        # The range is almost all, or the posterior knows nothing.
        ((1, 100), (0, 0, 1, 0, 0, 0, 0), "open"),
        ((4, 7), (1, 1, 1, 1, 1, 1, 1), "open"),
    ],
)
def test_ranges_of_samples_are_compared_with_the_octaves_of_the_posterior(
    claimed, samples, verdict
):
    """A range that holds the probable octaves agrees, one beside them is contradicted."""
    samples = np.array(samples) + 0.01
    claim = Claim("answer", (BIG,), claimed, sample_odds=0.8)
    assert outcome("samples", claim, samples=samples)[0] == verdict


def test_there_are_no_verdicts_without_facts():
    """There is no verdict before the first score, on one model, one octave, or unknown names."""
    claim = Claim("answer", (BIG,), (5, 10))
    assert check_claims([claim], Facts(), TASK) == ()
    assert fit_facts(PLANNER, evidence_of(TASK, score, 0)) == Facts()
    assert outcome("models", claim, models=(0, 1)) is None
    assert outcome("samples", claim, samples=(0, 1, 0, 0, 0, 0, 0)) is None
    assert outcome("samples", replace(claim, samples=None)) is None
    for foreign in (replace(claim, stage="search"), replace(claim, models=("gone",))):
        assert check_claims([foreign], facts_of(), TASK) == ()
    assert check_claims([], facts_of(), TASK) == ()
    assert summary(()) == ""


# Replies.

CANDIDATE = {
    "allocation": {
        "retrieval": {"model": "qwen-7B", "samples": 2},
        "answer": {"model": SMALL, "samples": 3},
    },
    "reason": "r",
}


def reply_with(claims, *samples):
    """Return a reply with claims and candidates with these numbers of samples."""
    items = [json.loads(json.dumps(CANDIDATE)) for _ in samples or (3,)]
    for item, number in zip(items, samples):
        item["allocation"]["answer"]["samples"] = number
    return json.dumps({"guidelines": ["g"], "claims": claims, "candidates": items})


GOOD = {"stage": "answer", "models": [BIG], "samples": [2, 8]}


@pytest.mark.parametrize(
    ("claims", "read", "unusable"),
    [
        (None, [], 0),
        ([], [], 0),
        ([GOOD], [Claim("answer", (BIG,), (2, 8))], 0),
        ([{**GOOD, "models": ["LARGE-70b", BIG]}], [Claim("answer", (BIG,), (2, 8))], 0),
        ([{"stage": "answer", "models": [BIG]}], [Claim("answer", (BIG,))], 0),
        ([{**GOOD, "samples": [2.0, "8"]}], [Claim("answer", (BIG,), (2, 8))], 0),
        ([{**GOOD, "samples": [9, "max"]}], [Claim("answer", (BIG,), (9, 100))], 0),
        *(
            (
                [{"stage": "answer", "models": odds}],
                [Claim("answer", (BIG, SMALL), None, (0.75, 0.25))],
                0,
            )
            for odds in (
                {SMALL: 0.25, BIG: 0.75},
                {SMALL: 25, BIG: "75"},
                [{"model": SMALL, "odds": 0.25}, {"model": "LARGE-70b", "odds": 0.75}],
                [{"model": SMALL, "odds": 0.3}, {"model": BIG, "odds": 0.9}],
            )
        ),
        ([{**GOOD, "samples_odds": 60}], [Claim("answer", (BIG,), (2, 8), (), 0.6)], 0),
        # Without odds of each, or with one that is no number, they are equal.
        *(
            (
                [{"stage": "answer", "models": [{"model": SMALL, "odds": odds}, BIG]}],
                [Claim("answer", (SMALL, BIG))],
                0,
            )
            for odds in (0.5, "likely", None, True, -1, float("inf"))
        ),
        *(
            ([{**GOOD, "samples": bad}], [Claim("answer", (BIG,))], 1)
            for bad in ([0, 8], [101, 200], [1, 2, 3], "few", [True, 3], {}, [])
        ),
        *(
            ([{**GOOD, "models": bad}], [], 1)
            for bad in (
                [],
                ["gpt"],
                [BIG, "gpt"],
                [BIG, None],
                None,
                ["qwen-72B"],
                [BIG] * 99,
                {BIG: 0, SMALL: 0},
                {"gpt": 0.5},
            )
        ),
        *(([{**GOOD, "stage": bad}], [], 1) for bad in ("search", None, 3, ["answer"])),
        ([GOOD, {**GOOD, "models": [SMALL]}], [Claim("answer", (BIG,), (2, 8))], 1),
        ({"answer": GOOD}, [Claim("answer", (BIG,), (2, 8))], 0),
        ({"answer": 3}, [], 1),
        ("large models win", [], 1),
        ([1, None, []], [], 3),
    ],
    ids=str,
)
def test_usable_claims_are_read_and_others_are_counted(claims, read, unusable):
    """Unusable claims neither drop candidates nor cause a repair request."""
    reply = read_plan(reply_with(claims), TASK, (), BOTH)
    assert (list(reply.claims), reply.unusable_claims) == (read, unusable)
    assert len(reply.proposals) == 1
    assert reply.problems == ()


def test_claims_that_were_not_requested_are_ignored():
    """Claims are ignored if not requested, and samples without Insight 2."""
    assert read_plan(reply_with([GOOD]), TASK, ()).claims == ()
    (claim,) = read_plan(reply_with([GOOD]), TASK, (), ("models",)).claims
    assert claim == Claim("answer", (BIG,))


GARBAGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["answer", "retrieval", BIG, SMALL, "qwen-72B", "9" * 30])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["stage", "models", "samples", "samples_odds", "model", "odds", BIG]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=20,
)


@pytest.mark.slow
@settings(max_examples=300)
@given(GARBAGE | st.lists(GARBAGE))
@example([{"stage": "answer", "models": [BIG], "samples": [10**400, 1]}])
def test_garbage_in_claims_never_raises_nor_costs_a_proposal(claims):
    """Accepted claims have names and ranges of the task, and survive checking and storing."""
    reply = read_plan(reply_with(claims), TASK, (), BOTH)
    assert len(reply.proposals) == 1
    assert len(reply.claims) <= len(TASK.stages)
    stages = {stage.name: stage for stage in TASK.stages}
    for claim in reply.claims:
        stage = stages[claim.stage]
        assert set(claim.models) <= {model.name for model in stage.models}
        low, high = claim.samples or (1, 1)
        assert 1 <= low <= high <= stage.max_samples
        assert all(0 <= odds <= 1 for odds in claim.model_odds)
        assert sum(claim.model_odds) <= 1 + 1e-9
    verdicts = check_claims(reply.claims, FACTS, TASK)
    planned = Round(number=1, claims=reply.claims, verdicts=verdicts)
    assert Round.from_dict(json.loads(json.dumps(asdict(planned)))) == planned


def ask(script, claims=(), **options):
    """Plan a round after one with claims; return it and the model."""
    chat = ScriptedChatModel(script)
    options = {"insights": (1, 2, 3), "guidelines": True, "wanted": 8, **options}
    earlier = [Round(number=0, claims=tuple(claims))]
    questions = TaskQuestions(PLANNER, EVIDENCE, rounds=earlier, **options)
    return asyncio.run(plan_round(chat, questions, 1)), chat


def test_unusable_claims_cause_no_repair_request():
    """Unusable claims are counted, and repair requests do not mention them."""
    made, chat = ask([reply_with([{"stage": "search"}], 1, 2, 3)])
    assert len(chat.requests) == 1
    assert made.problems == {"unusable claim": 1}
    made, chat = ask([reply_with("<x>", 1, 0), reply_with([GOOD], 2, 3)])
    assert len(chat.requests) == 2
    assert "claim" not in chat.requests[1].messages[-1].content
    assert made.claims == (Claim("answer", (BIG,), (2, 8)),)
    assert [verdict.aspect for verdict in made.verdicts] == ["models", "samples"]


def test_facts_are_fitted_once_a_round(monkeypatch):
    """Claims are compared with the facts that the prompt shows."""
    fits = []

    def counted(planner, evidence):
        fits.append(evidence)
        return fit_facts(planner, evidence)

    monkeypatch.setattr("optuna_agenttts.agent.task_questions.fit_facts", counted)
    made, _ = ask([reply_with([GOOD], 1, 2, 3)], [Claim("answer", (SMALL,))])
    assert made.verdicts
    assert len(fits) == 1


def test_contradicted_claims_come_back_in_the_next_prompt():
    """The prompt repeats the verdicts of the current fit on contradicted claims only."""
    claims = (WRONG, Claim("answer", (BIG, SMALL)))
    (verdict,) = contradictions(check_claims(claims, FACTS, TASK))
    _, chat = ask([reply_with([], 1, 2, 3)], claims)
    text = chat.requests[0].messages[1].content
    block = text.partition("<contradicted>")[2].partition("</contradicted>")[0]
    assert block.splitlines()[2:] == [json.dumps(verdict.text, ensure_ascii=False)]


@pytest.mark.parametrize(
    "options",
    [
        {"guidelines": False},
        {"insights": ()},
        {"tables": ("gains", "effects")},
        {"tables": ()},
    ],
    ids=str,
)
def test_contradictions_do_not_reveal_ablated_figures(options):
    """They are omitted without guidelines, insights, or the table with the same figures."""
    _, chat = ask([reply_with([], 1, 2, 3)], [WRONG], **options)
    assert "contradicted" not in chat.requests[0].messages[1].content


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, ("stage", "models", "samples", "samples_odds")),
        ({"insights": (2,)}, ("stage", "models", "samples", "samples_odds")),
        ({"insights": (1, 3)}, ("stage", "models")),
        ({"insights": (3,)}, None),
        ({"insights": ()}, None),
        ({"guidelines": False}, None),
    ],
    ids=str,
)
def test_claims_are_requested_with_guidelines_and_their_insights(options, asked):
    """Prompt and schema request the same fields; claims that were not requested are dropped."""
    made, chat = ask([reply_with([GOOD], 1, 2, 3)], **options)
    (request,) = chat.requests
    properties = json.loads(request.schema)["properties"]
    assert ("claims" in properties) == ("laims" in request.messages[1].content) == bool(asked)
    if asked:
        assert set(properties["claims"]["items"]["required"]) == set(asked)
    assert bool(made.claims) == bool(asked)


# Rounds, note.


def test_rounds_of_other_versions_can_be_read():
    """Rounds without claims, with unknown fields, or with broken claims can be read."""
    study = run(AgentTTSSampler(TASK), n_trials=1)
    old = asdict(Round(number=1, guidelines=("g",)))
    for name in ("claims", "verdicts", "first", "end", "next_at", "dropped"):
        del old[name]
    good = asdict(Claim("answer", (BIG,), (2, 8)))
    broken = [
        3,
        None,
        {},
        {**good, "models": "x"},
        {**good, "samples": ["a", 2]},
        {**good, "new": 1},
    ]
    kept = [
        old,
        {**old, "number": 2, "colour": "red"},
        {**old, "number": 3, "claims": broken, "verdicts": [{"outcome": "maybe"}, 4]},
        {**old, "number": 4, "claims": 7, "verdicts": "x"},
    ]
    for values in kept:
        key = f"{keys.ROUND}{values['number']}"
        keys.write_study_value(study._storage, study._study_id, key, values)
    plain = [Round(number=number, guidelines=("g",)) for number in range(1, 5)]
    plain[2] = replace(plain[2], claims=(Claim("answer", (BIG,), (2, 8)),))
    assert list(guidelines(study)) == plain


def test_note_counts_the_claims_and_shows_the_contradicted_ones_escaped():
    """Verdicts contain no active Markdown."""
    study = run(AgentTTSSampler(TASK), n_trials=1)
    hostile = "[x](http://y) <b> | # `c`"
    verdicts = (
        Verdict("answer", "models", "contradicts", hostile),
        Verdict("answer", "samples", "open", "an open one"),
        Verdict("retrieval", "models", "agrees", "a good one"),
    )
    planned = Round(number=1, guidelines=("g",), verdicts=verdicts)
    write_round(study, planned)
    assert guidelines(study) == (planned,)
    text = guidelines_note([planned])
    assert "Of 3 claims the fit agrees with 1, contradicts 1 and leaves 1 open." in text
    assert "- \\[x\\]\\(http:\u2060//y\\) \\<b\\> \\| \\# \\`c\\`" in text
    assert "an open one" not in text


def test_claims_are_stored_and_compared_with_later_trials():
    """Rounds store claims and verdicts, and prompts show the contradicted ones."""

    def script(request):
        script.rounds += 1
        claims = [{"stage": "retrieval", "models": ["qwen-7B"], "samples": [1, 2]}]
        return reply_with(claims, *range(script.rounds, script.rounds + 8))

    script.rounds = 0
    chat = ScriptedChatModel(script)
    study = run(AgentTTSSampler(TASK, llm=chat), n_trials=20)
    rounds = guidelines(study)
    assert all(planned.claims == (replace(WRONG, samples=(1, 2)),) for planned in rounds)
    assert all(v.stage == "retrieval" for planned in rounds for v in planned.verdicts)
    assert contradictions(rounds[-1].verdicts)
    assert "<contradicted>" in chat.requests[-1].messages[1].content
    assert "<contradicted>" not in chat.requests[0].messages[1].content
