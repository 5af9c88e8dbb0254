"""Validation of replies: what is accepted, repaired or reported, and that nothing raises."""

import json

import pytest
from agent_support import TASK
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from optuna_agenttts import Model, Stage, Task, efforts
from optuna_agenttts.agent.validation import read_params, read_plan

BIG, SMALL = ("qwen-72B", 1), ("small-3B", 3)


def item(retrieval=BIG, answer=SMALL, **changes):
    """Return a candidate."""
    setting = {
        stage: {"model": model, "samples": samples}
        for stage, (model, samples) in (("retrieval", retrieval), ("answer", answer))
    }
    return {"allocation": setting, "reason": "why", **changes}


def reply_of(*items, **changes):
    """Return a reply as text."""
    return json.dumps({"guidelines": ["g"], "candidates": list(items), **changes})


GOOD = reply_of(item())


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure, here it is:\n{GOOD}\nGood luck!",
        f"<think>maybe {{1}} or {{2}}</think>{GOOD}",
        GOOD.replace('"why"}', '"why",}'),
        GOOD.replace('"', "'"),
        GOOD[:-2],
        json.dumps([{"note": 1}, json.loads(GOOD)]),
        reply_of(item(retrieval=("QWEN-72b ", 1))),
        reply_of(item(retrieval=("qwen-72B", 1.0), answer=("small-3B", "3"))),
    ],
    ids=range(10),
)
def test_unambiguous_errors_are_repaired(text):
    """Fences, chatter, thoughts, commas, quotes, truncation, case, and types are repaired."""
    reply = read_plan(text, TASK, ())
    assert [TASK.read(proposal.params) for proposal in reply.proposals] == [((1, 1), (0, 3))]
    assert reply.proposals[0].reason == "why"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "no JSON"),
        ("no idea", "no JSON"),
        ("[1, 2]", "no JSON"),
        ("{" * 50_000, "no JSON"),
        ("{}", "no candidates"),
        ('{"candidates": {}}', "no candidates"),
        ('{"candidates": [3]}', "wrong type"),
        (reply_of(item(allocation=[])), "wrong type"),
        (reply_of(item(allocation={"search": {}})), "unknown stage"),
        (
            reply_of(item(allocation={"retrieval": {"model": "qwen-7B", "samples": 1}})),
            "missing stage",
        ),
        (reply_of(item(allocation={"retrieval": 1, "answer": 2})), "wrong type"),
        (reply_of(item(retrieval=("qwen-9B", 1))), "unknown model"),
        (reply_of(item(retrieval=(None, 1))), "unknown model"),
        *(
            (reply_of(item(answer=("small-3B", bad))), "wrong type")
            for bad in (None, True, 1.5, "x", [])
        ),
        (reply_of(item(answer=("small-3B", float("nan")))), "wrong type"),
        (reply_of(item(answer=("small-3B", float("inf")))), "wrong type"),
        (reply_of(item(answer=("small-3B", 10**12))), "wrong type"),
        (reply_of(item(answer=("small-3B", 0))), "out of range"),
        (reply_of(item(answer=("small-3B", -2))), "out of range"),
        (reply_of(item(retrieval=BIG, answer=("large-70B", 1))), "over budget"),
    ],
    ids=range(24),
)
def test_problems_are_reported(text, kind):
    """Each reply yields no proposal and one problem of the right kind."""
    reply = read_plan(text, TASK, ())
    assert reply.proposals == ()
    assert [problem.kind for problem in reply.problems] == [kind]
    assert len(reply.problems[0].text) < 400


SETTINGS = item()["allocation"]
RETRIEVAL, ANSWER = SETTINGS.values()


@pytest.mark.parametrize(
    "text",
    [
        reply_of({**SETTINGS, "reason": "why"}),
        reply_of(item(allocation="72B x 1, small-3B x 3")),
        reply_of(item(allocation=["72b × 1", "3b*3"])),
        reply_of(item(allocation={"retrieval": "qwen-72B x 1", "answer": ["small-3B", 3]})),
        reply_of(
            item(allocation=[{"stage": "answer", **ANSWER}, {"stage": "retrieval", **RETRIEVAL}])
        ),
        reply_of(item(allocation={"Retrieval": RETRIEVAL, "ANSWER ": ANSWER})),
        reply_of(item(allocation={**SETTINGS, "cost": 812, "reason": "why"})),
        json.dumps([item()]),
        json.dumps({"plan": json.loads(GOOD)}),
        json.dumps({"candidates": item()}),
    ],
    ids=range(10),
)
def test_other_forms_of_candidates_are_read(text):
    """Forms of clear meaning need no repair request."""
    reply = read_plan(text, TASK, ())
    assert [TASK.read(proposal.params) for proposal in reply.proposals] == [((1, 1), (0, 3))]
    assert not reply.problems


@pytest.mark.parametrize(
    ("models", "odds"),
    [
        ({"7B": "70%", "72B": "30 %"}, (0.7, 0.3)),
        ({"7b": 99, "72b": 1}, (0.99, 0.01)),
        ([{"model": "72B", "odds": 0.5}, {"model": "7B", "odds": 60}], (0.6, 0.005)),
        ([{"model": "qwen-7B", "probability": 0.7}], (0.7,)),
        ({"model": "qwen-7B", "odds": 0.7}, (0.7,)),
        ("qwen-7B", ()),
    ],
)
def test_odds_are_read_in_any_form(models, odds):
    """All odds of a claim are in percent if one of them is."""
    claim = {"stage": "Retrieval", "models": models}
    for claims in ([claim], claim, {"retrieval": {"models": models}}):
        reply = read_plan(reply_of(item(), claims=claims), TASK, (), ("models", "samples"))
        (found,) = reply.claims
        assert (found.models[0], found.model_odds) == ("qwen-7B", pytest.approx(odds))
        assert reply.unusable_claims == 0


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        ("4-16", (4, 16)),
        ("4 to max", (4, 100)),
        ({"min": 4, "max": 16}, (4, 16)),
        ([16, 4], (4, 16)),
        ([4, 400], (4, 100)),
        (4, (4, 4)),
        ([200, 400], None),
        ([0, 4], None),
        ("few", None),
        ([4, None], None),
    ],
)
def test_ranges_of_samples_are_read_in_any_form(samples, found):
    """They are cut to the numbers of the stage, and counted if they mean nothing."""
    claims = [{"stage": "retrieval", "models": ["7B"], "samples": samples, "samples_odds": "60%"}]
    reply = read_plan(reply_of(item(), claims=claims), TASK, (), ("models", "samples"))
    assert reply.claims[0].samples == found
    assert reply.claims[0].sample_odds == (None if found is None else 0.6)
    assert reply.unusable_claims == (found is None)


THINKING = Task(
    name="thinking",
    stages=[
        Stage(
            "answer",
            models=[
                *efforts(Model("Qwen/Qwen3-8B"), off={}, low={}, high={}),
                *efforts(Model("Qwen/Qwen3-83B"), low={}),
                *Stage(
                    "any",
                    models=[Model("org/b-3B")],
                    prompt_tokens=1,
                    generation_tokens=1,
                    thinking=(0, 1024),
                ).models,
                Model("plain-7B"),
                Model("org/b-3B"),
            ],
            prompt_tokens=100,
            generation_tokens=10,
        )
    ],
    budget=1e6,
)
CHOICES = [model.name for model in THINKING.stages[0].models]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({"model": "Qwen/Qwen3-8B, low thinking"}, 1),
        ({"model": "qwen3-8b, LOW thinking"}, 1),
        ({"model": "Qwen/Qwen3-8B", "thinking": "low"}, 1),
        ({"model": "Qwen3-8B", "effort": "high thinking"}, 2),
        ({"model": "Qwen/Qwen3-8B", "reasoning_effort": "none"}, 0),
        ({"model": "Qwen/Qwen3-8B", "thinking": False}, 0),
        ({"model": "Qwen/Qwen3-8B, low thinking", "thinking": "low"}, 1),
        ({"model": "Qwen/Qwen3-8B (high)"}, 2),
        ({"model": "Qwen3-8B: no thinking"}, 0),
        ({"model": "Qwen/Qwen3-83B"}, 3),
        ({"model": "org/b-3B", "thinking": 1024}, 5),
        ({"model": "org/b-3B", "thinking": "1,024 tokens"}, 5),
        ({"model": "org/b-3B", "effort": 0}, 4),
        ({"model": "org/b-3B", "thinking": 1024.0}, 5),
        ({"model": "org/b-3B", "thinking_budget": 1024}, 5),
        ({"model": "org/b-3B"}, 7),
        ({"model": "plain-7B", "thinking": "off"}, 6),
        ({"model": "plain-7B", "thinking": None}, 6),
        ({"model": "8b", "thinking": "low"}, 1),
        ({"model": "8B/low"}, 1),
        ({"model": "8B (high)"}, 2),
    ],
)
def test_efforts_are_read_in_any_form(fields, choice):
    """As part of the name, in a field of its own, in words or in tokens."""
    item = {"allocation": {"answer": {**fields, "samples": 2}}}
    (proposal,) = read_plan(reply_of(item), THINKING, ()).proposals
    assert THINKING.read(proposal.params) == ((choice, 2),)


@pytest.mark.parametrize(
    ("fields", "kind", "named"),
    [
        ({"model": "Qwen/Qwen3-8B", "thinking": "medium"}, "unknown model", CHOICES[0]),
        ({"model": "org/b-3B", "thinking": 2048}, "unknown model", "2048"),
        ({"model": "Qwen/Qwen3-8B"}, "no thinking effort", CHOICES[2]),
        ({"model": "Qwen/Qwen3-8B, low thinking", "effort": "high"}, "unknown model", "high"),
        ({"model": "Qwen/Qwen3-8B-Instruct"}, "unknown model", CHOICES[6]),
        ({"model": "Qwen/Qwen3-8B0"}, "unknown model", CHOICES[0]),
        ({"model": 3, "thinking": {}}, "unknown model", CHOICES[0]),
    ],
)
def test_unknown_efforts_are_named_back(fields, kind, named):
    """The repair request has what was named, and the choices."""
    item = {"allocation": {"answer": {**fields, "samples": 2}}}
    reply = read_plan(reply_of(item), THINKING, ())
    assert [problem.kind for problem in reply.problems] == [kind]
    assert named in reply.problems[0].text


def test_claims_of_a_model_are_claims_of_all_its_efforts():
    """Its efforts share its odds."""
    claims = [{"stage": "answer", "models": ["Qwen/Qwen3-8B", "plain-7B"], "samples": [1, 4]}]
    reply = read_plan(reply_of(claims=claims), THINKING, (), ("models", "samples"))
    assert reply.claims[0].models == (*CHOICES[:3], CHOICES[6])
    claims[0]["models"] = {"Qwen/Qwen3-8B": 0.6, "plain-7B": 0.1}
    reply = read_plan(reply_of(claims=claims), THINKING, (), ("models", "samples"))
    assert reply.claims[0].model_odds == pytest.approx((0.2, 0.2, 0.2, 0.1))
    claims[0]["models"] = [{"model": "Qwen/Qwen3-8B", "thinking": "low"}]
    reply = read_plan(reply_of(claims=claims), THINKING, (), ("models", "samples"))
    assert (reply.claims[0].models, reply.claims[0].samples) == ((CHOICES[1],), (1, 4))


def test_samples_are_reduced_to_fit_and_models_are_kept():
    """Samples over the budget are reduced; the models stay."""
    reply = read_plan(reply_of(item(("qwen-72B", 90), ("small-3B", 500))), TASK, ())
    (proposal,) = reply.proposals
    choices = TASK.read(proposal.params)
    assert [model for model, _ in choices] == [1, 0]
    assert TASK.feasible.fits(choices)


def test_duplicates_are_reported():
    """Allocations that were tried, are running, or repeat in the reply are duplicates."""
    taken = ((1, 1), (0, 3))
    reply = read_plan(
        reply_of(item(), item(answer=("small-3B", 4)), item(answer=("small-3B", 4))),
        TASK,
        {taken},
    )
    assert [TASK.read(proposal.params) for proposal in reply.proposals] == [((1, 1), (0, 4))]
    assert [problem.kind for problem in reply.problems] == ["duplicate", "duplicate"]


def test_texts_are_bounded_and_printable():
    """Guidelines and reasons are kept short, on one line, without control characters."""
    text = reply_of(
        item(reason="a\nb\x00\x1b[31m" + "c" * 10_000), guidelines=["x\n" * 900] * 9 + [3]
    )
    reply = read_plan(text, TASK, ())
    assert len(reply.guidelines) == 8
    assert all(len(line) <= 400 and line.isprintable() for line in reply.guidelines)
    assert len(reply.proposals[0].reason) <= 300
    assert reply.proposals[0].reason.isprintable()


SPACE = {
    "rate": FloatDistribution(1e-5, 0.1, log=True),
    "x": FloatDistribution(0, 1, step=0.25),
    "n": IntDistribution(2, 20, step=3),
    "kind": CategoricalDistribution(["a", None, True, 2, 2.5]),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "candidates",
                    "allocation",
                    "params",
                    "retrieval",
                    "answer",
                    "model",
                    "samples",
                    "n",
                    "x",
                    "rate",
                    "kind",
                    "reason",
                    "guidelines",
                ]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(st.text() | JSON.map(lambda value: json.dumps(value)))
def test_no_text_raises(text):
    """For any text, proposals are feasible and have exact types."""
    for proposal in read_plan(text, TASK, ()).proposals:
        assert TASK.feasible.fits(TASK.read(proposal.params))
    for proposal in read_params(text, SPACE, tuple(SPACE), ()).proposals:
        check(proposal.params)


@settings(max_examples=300)
@given(
    st.fixed_dictionaries({name: JSON | st.floats(-1, 21) | st.integers(0, 21) for name in SPACE})
)
def test_values_are_within_their_distributions(params):
    """Optuna accepts every accepted value, which has the distribution's type."""
    reply = read_params(json.dumps({"candidates": [{"params": params}]}), SPACE, (), ())
    assert len(reply.proposals) + len(reply.problems) == 1
    for proposal in reply.proposals:
        check(proposal.params)


def check(params):
    """Check that values lie in `SPACE` and have its types."""
    for name, value in params.items():
        distribution = SPACE[name]
        assert distribution._contains(distribution.to_internal_repr(value))
        if not isinstance(distribution, CategoricalDistribution):
            assert type(value) is (int if name == "n" else float)


@settings(max_examples=200)
@given(
    st.sampled_from(["qwen-7B", "qwen-72B"]),
    st.sampled_from(["small-3B", "large-70B"]),
    st.integers(-3, 10**8),
    st.integers(-3, 10**8),
)
def test_any_numbers_of_samples_end_within_the_budget(first, second, n, m):
    """Each reply yields either a proposal within the budget or a problem."""
    reply = read_plan(reply_of(item((first, n), (second, m))), TASK, ())
    assert len(reply.proposals) + len(reply.problems) == 1
    for proposal in reply.proposals:
        assert TASK.feasible.fits(TASK.read(proposal.params))
        assert all(type(proposal.params[f"{s.name}.samples"]) is int for s in TASK.stages)
