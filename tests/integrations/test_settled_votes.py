"""Votes that stop when they are settled: same result, fewer samples."""

import random

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts import AgentTTSSampler, FlopsCost, Model, Stage, Task
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    LLMFusion,
    MultiStageObjective,
    Pipeline,
    StageProgram,
    id_vote,
    majority_vote,
    medoid,
    normalized_vote,
    settled,
    union,
)
from optuna_agenttts_integrations.tasks.selection import Selection, selection_vote


def drawn_by(rule, aggregate, replies):
    """Return the number of replies that a rule draws; malformed ones are None."""
    tried = 0
    while left := len(replies) - tried:
        readable = [reply for reply in replies[:tried] if reply is not None]
        more = rule(aggregate, readable, left)
        if readable and more == 0:
            break
        assert more <= left
        tried += max(1, more)
    return tried


def result(aggregate, replies):
    """Return the result of the readable replies; None if there is none."""
    readable = [reply for reply in replies if reply is not None]
    return aggregate(readable) if readable else None


@st.composite
def votes(draw):
    """Draw a vote and replies, some of them malformed."""
    ids = st.frozensets(st.integers(0, 4))
    threshold = draw(st.sampled_from([1e-9, 0.25, 0.5, 0.6, 1.0]))
    aggregate, reply = draw(
        st.sampled_from(
            [
                (majority_vote, st.sampled_from("ab")),
                (majority_vote, st.sampled_from("abcd")),
                (normalized_vote(str.lower), st.sampled_from("aAbBc")),
                (id_vote(threshold), ids),
                (selection_vote(threshold), ids.map(lambda x: Selection(tuple(sorted(x))))),
            ]
        )
    )
    return aggregate, draw(st.lists(st.one_of(reply, reply, reply, st.none()), max_size=24))


@given(votes())
def test_a_settled_vote_has_the_result_of_all_samples(vote):
    """Whatever the samples are, malformed ones included."""
    aggregate, replies = vote
    drawn = drawn_by(settled(), aggregate, replies)
    one, every = result(aggregate, replies[:drawn]), result(aggregate, replies)
    # Counts of malformed ids are sums over the samples that were drawn.
    assert getattr(one, "ids", one) == getattr(every, "ids", every)


@given(votes(), st.sampled_from([0.8, 0.95, 1.0]))
def test_no_sample_is_drawn_beyond_the_first_settled_number(vote, probability):
    """Asking after each single sample draws as many: what is drawn at once is needed anyway."""
    aggregate, replies = vote
    rule = settled(probability)

    def one_by_one(aggregate, samples, left):
        return min(1, rule(aggregate, samples, left))

    assert drawn_by(rule, aggregate, replies) == drawn_by(one_by_one, aggregate, replies)


@pytest.mark.parametrize(
    ("replies", "drawn"),
    [
        ("a" * 20, 10),  # A rival could at best tie, and the earliest value wins ties.
        ("b" + "a" * 19, 12),
        ("ab" * 10, 19),
        ("a", 1),
        ("ab", 1),
        ("abb", 3),
    ],
)
def test_certain_votes_need_a_lead_over_what_is_left(replies, drawn):
    """Reference values, by hand."""
    assert drawn_by(settled(), majority_vote, list(replies)) == drawn


def test_probable_winners_rarely_change():
    """Fewer samples than for certainty, and at most the stated share of other winners."""
    rng = random.Random(0)
    drawn = dict.fromkeys((0.9, 0.95, 1.0), 0)
    changed = dict.fromkeys(drawn, 0)
    searches = 2000
    for _ in range(searches):
        rate = rng.random()
        replies = [rng.random() < rate for _ in range(20)]
        for probability in drawn:
            count = drawn_by(settled(probability), majority_vote, replies)
            drawn[probability] += count
            changed[probability] += majority_vote(replies[:count]) != majority_vote(replies)
    assert changed[1.0] == 0
    assert changed[0.95] <= 0.05 * searches
    assert changed[0.9] <= 0.1 * searches
    assert drawn[0.9] < drawn[0.95] < drawn[1.0] < 20 * searches


@pytest.mark.parametrize("aggregate", [union, tuple, medoid(lambda one, other: 1.0)])
def test_other_aggregations_draw_all_samples(aggregate):
    """Nothing is known of what a further sample would change."""
    assert drawn_by(settled(0.9), aggregate, ["a"] * 7) == 7


@pytest.mark.parametrize("probability", [0.5, 0, 1.01, float("nan")])
def test_probabilities_out_of_range_are_refused(probability):
    """With the value."""
    with pytest.raises(ValueError, match=str(probability)):
        settled(probability)


class Counted:
    """Chat model that replies "a" or "b" by its seed, and counts its calls."""

    def __init__(self):
        self.calls = 0

    async def complete(self, request, *, seed):
        """Reply."""
        self.calls += 1
        return Completion("a" if seed % 10 < 7 else "b", Usage(100, 10))


def search(allocations, *, store=None, cost=None, **options):
    """Run trials of given numbers of samples; returns the study, the calls and the results."""
    task = Task(
        name="vote",
        stages=[
            Stage(
                "say",
                models=[Model("m", parameters=1e9)],
                prompt_tokens=100,
                generation_tokens=10,
                max_samples=40,
            )
        ],
        budget=1e9,
        cost=cost or FlopsCost(),
    )
    program = StageProgram(name="say", prompt=lambda state: state.instance["id"], **options)
    pipeline = Pipeline(stages=[program], score=lambda state: float(state["say"] == "a"))
    chat = Counted()
    objective = MultiStageObjective(
        pipeline,
        [{"id": f"q{number}"} for number in range(12)],
        task=task,
        endpoints={"m": Endpoint(chat=chat, identity="m")},
        store=store,
        progress=False,
        measure_after=None,
    )
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task, seed=0))
    with objective:
        for samples in allocations:
            study.enqueue_trial({"say.model": "m", "say.samples": samples})
        study.optimize(objective, n_trials=len(allocations))
        outcomes = objective.evaluate({"say": ("m", allocations[-1])})
    return study, chat.calls, outcomes


def test_a_stage_draws_what_is_enough():
    """Same outcomes for fewer calls; the trial, its spend and the evaluation say how many."""
    every, most, full = search([20], enough=None)
    study, calls, found = search([20])
    assert found.outcomes == full.outcomes
    assert most == 12 * 20
    assert calls < 0.75 * most
    drawn, allowed = found.drawn["say"]
    assert calls == round(12 * drawn)
    assert allowed == 20
    assert study.trials[0].user_attrs["drawn"] == f"say {drawn:.3g} of 20 samples"
    assert "drawn" not in every.trials[0].user_attrs
    assert study.trials[0].user_attrs["tokens"] == calls * 10
    spends = [study.trials[0].user_attrs["spend"], every.trials[0].user_attrs["spend"]]
    assert spends[0] < spends[1]


@pytest.mark.parametrize("enough", [settled(), settled(0.9)])
def test_samples_depend_on_the_number_allowed_alone(enough):
    """Not on what a store holds already: earlier trials of more samples change nothing."""
    alone = search([9], enough=enough)[2]
    later = search([30, 1, 9], enough=enough)[2]
    assert alone.outcomes == later.outcomes
    assert alone.drawn == later.drawn


def test_the_prompt_is_paid_once():
    """Samples that are drawn in parts share the cost of their prompt, as those drawn at once."""
    study, _calls, found = search([20])
    usage = found.results["q0"].stages["say"]
    task = Task.registered(study)
    spend = sum(
        task.cost({"say": ("m", result.stages["say"].drawn)}) for result in found.results.values()
    )
    assert study.trials[0].user_attrs["spend"] == pytest.approx(spend, rel=1e-3)
    assert usage.samples == 20
    assert usage.prompt_length == 100


def test_rules_of_users_decide():
    """A function of the samples so far: here, the first "b" is enough."""

    def first_b(aggregate, samples, left):
        return 0 if "b" in samples else 1

    _, calls, found = search([20], enough=first_b, aggregate=lambda samples: samples[-1])
    assert set(found.outcomes.values()) == {0.0}
    assert calls < 12 * 20


def test_fusions_draw_all_samples():
    """What a fusion makes of further samples is not known."""
    _, calls, found = search([6], aggregate=LLMFusion())
    assert found.drawn["say"] == (6, 6)
    assert calls >= 12 * 6


def test_a_store_serves_both_with_and_without_a_rule(tmp_path):
    """Samples are the same by index: what was drawn is reused, and only the rest is generated."""
    store = CompletionStore(str(tmp_path / "c.db"))
    _, some, _ = search([20], store=store)
    _, rest, full = search([20], store=store, enough=None)
    store.close()
    assert some + rest == 12 * 20
    assert full.drawn["say"] == (20, 20)
