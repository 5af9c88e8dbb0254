"""Votes that stop when they are settled: same result, fewer samples."""

import pickle
import random
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_support import Replies, objective_of, side_by_side

from optuna_agenttts import (
    AgentTTSSampler,
    FlopsCost,
    Model,
    Stage,
    Task,
    recommend,
    storage,
    summarize,
)
from optuna_agenttts.llm import ChatRefusedError, Completion, Usage
from optuna_agenttts.study.drawn import ExpectedCosts, cost_of_drawn
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    LLMFusion,
    MultiStageObjective,
    Pipeline,
    PipelineError,
    SpendLimitError,
    StageProgram,
    id_vote,
    majority_vote,
    medoid,
    normalized_vote,
    settled,
    union,
)
from optuna_agenttts_integrations.pipeline.aggregation import changes_after_half
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


@given(votes())
def test_the_first_half_changes_as_of_all_samples(vote):
    """The half is that of the samples that were allowed."""
    aggregate, replies = vote
    replies = [reply for reply in replies if reply is not None]
    if replies:
        drawn = drawn_by(settled(), aggregate, replies)
        some, left = replies[:drawn], len(replies) - drawn
        changed = changes_after_half(aggregate, some, aggregate(some), left)
        assert changed == changes_after_half(aggregate, replies, aggregate(replies))


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


@pytest.mark.parametrize("probability", [0.5, 0, 1.01, float("nan"), "0.9", True, None])
def test_probabilities_out_of_range_are_refused(probability):
    """With the value."""
    with pytest.raises(ValueError, match=str(probability)):
        settled(probability)


def test_rules_are_values():
    """Equal ones compare equal, also after pickling, and numpy's numbers are numbers."""
    assert settled(0.9) == settled(np.float64(0.9)) == pickle.loads(pickle.dumps(settled(0.9)))
    assert settled() == settled(1) != settled(0.9)


@pytest.mark.parametrize("rule", [1, 0.95, "settled", settled])
def test_other_than_rules_are_refused(rule):
    """When the stage is built, with its name and the argument."""
    with pytest.raises(PipelineError, match=r"'say': `enough` must be a rule.* got .*settled|1|0"):
        StageProgram(name="say", prompt=str, enough=rule)


@pytest.mark.parametrize(
    "rule",
    [lambda samples: 1, lambda aggregate, samples: 1, lambda a, b, c, d: 1, lambda *, a, b, c: 1],
)
def test_rules_must_take_three_arguments(rule):
    """The error has the stage, the argument, what it takes, and what was given."""
    with pytest.raises(PipelineError, match=r"'say': `enough` must take three .* got .* with \("):
        StageProgram(name="say", prompt=str, enough=rule)


@pytest.mark.parametrize("value", [True, None, 0.5, "2"])
def test_rules_must_return_a_number(value):
    """Whether there are enough would be taken for a number of samples."""
    with pytest.raises(PipelineError, match=rf"'say': `enough` must return .* got {value!r}"):
        search([4], enough=lambda aggregate, samples, left: value)


class Counted:
    """Chat model that replies "a" or "b" by its seed, and counts its calls.

    Some calls are refused, and some replies cannot be read, by their seed.
    """

    def __init__(self, refused=0.0, unreadable=0.0):
        self.refused, self.unreadable = refused, unreadable
        self.calls, self.seen = 0, set()

    async def complete(self, request, *, seed):
        """Reply, or refuse to."""
        self.calls += 1
        self.seen.add((request.messages, seed))
        if (seed // 10) % 100 < 100 * self.refused:
            raise ChatRefusedError("no")
        readable = (seed // 1000) % 100 >= 100 * self.unreadable
        return Completion(("a" if seed % 10 < 7 else "b") if readable else "?", Usage(100, 10))


def vote_of(chat, *, store=None, max_spend=None, replay=False, **options):
    """Build an objective of one stage that votes."""
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
        cost=FlopsCost(),
    )
    program = StageProgram(name="say", prompt=lambda state: state.instance["id"], **options)
    pipeline = Pipeline(stages=[program], score=lambda state: float(state["say"] == "a"))
    return MultiStageObjective(
        pipeline,
        [{"id": f"q{number}"} for number in range(12)],
        task=task,
        endpoints={"m": Endpoint(chat=chat, identity="m")},
        store=store,
        progress=False,
        measure_after=None,
        max_spend=max_spend,
        replay=replay,
        max_failed=1.0,
    )


def search(allocations, *, chat=None, directions=("maximize",), **options):
    """Run trials of given numbers of samples; returns the study, the calls and the results."""
    chat = chat or Counted()
    with vote_of(chat, **options) as objective:
        sampler = AgentTTSSampler(objective.task, seed=0)
        study = optuna.create_study(directions=directions, sampler=sampler)
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


def test_costs_count_what_was_drawn():
    """Those of trials and what is expected of others; the budget covers all samples."""
    study, _, found = search([20, 8], enough=settled(0.9))
    task = Task.registered(study)
    cost, drawn = study.trials[1].user_attrs["cost"], {"say": found.drawn["say"][0]}
    assert cost == pytest.approx(cost_of_drawn(task, ((0, 8),), drawn), rel=1e-3)
    assert task.cost({"say": ("m", 1)}) < cost < task.cost({"say": ("m", 8)})
    expected = ExpectedCosts(task, study.trials)
    assert expected.of(((0, 8),)) == pytest.approx(cost, rel=1e-3)
    costs = [expected.of(((0, most),)) for most in range(1, 41)]
    assert costs == sorted(costs)
    assert all(cost <= task.cost({"say": ("m", n)}) for n, cost in enumerate(costs, 1))
    best = recommend(study)
    samples = best.allocation["say"].samples
    assert best.expected_cost == expected.of(((0, samples),)) < best.cost
    assert best.cost == task.cost(best.allocation)
    assert "Votes stop early" in str(best)
    text = str(summarize(study))
    assert "Votes stop early" in text[text.index("What to use") : text.index("As good for less")]
    assert text.count("Votes stop early") == 1
    alike = replace(best, expected_cost=best.cost * (1 - 1e-6))
    assert "Votes stop early" not in str(alike)
    both = search([20, 8], enough=settled(0.9), directions=["maximize", "minimize"])[0]
    found = recommend(both)
    assert "Votes stop early" in str(found)
    assert "Votes stop early" in found._repr_html_()
    assert "Votes stop early" in str(summarize(both))
    every = search([20, 8], enough=None)[0]
    assert every.trials[0].user_attrs["cost"] == pytest.approx(
        task.cost({"say": ("m", 20)}), rel=1e-3
    )
    assert recommend(every).expected_cost is None
    assert "Votes stop early" not in str(recommend(every))


@pytest.mark.parametrize("enough", [settled(), settled(0.9)])
def test_workers_and_resumed_studies_expect_the_same(tmp_path, enough):
    """Expected costs are those of the trials in the storage, whoever asks."""
    url, store = f"sqlite:///{tmp_path / 's.db'}", CompletionStore()
    found = []
    for number, (samples, replay) in enumerate([(20, False), (9, False), (20, True)]):
        with vote_of(Counted(), store=store, enough=enough, replay=replay) as objective:
            study = optuna.create_study(
                study_name="s", storage=url, load_if_exists=True, direction="maximize"
            )
            study.enqueue_trial({"say.model": "m", "say.samples": samples})
            study.optimize(objective, n_trials=1)
            again = optuna.load_study(study_name="s", storage=url)
            assert again.trials[number].user_attrs["cost"] < objective.task.cost(
                {"say": ("m", samples)}
            )
            found.append(ExpectedCosts(objective.task, again.trials).of(((0, 20),)))
            assert recommend(again).expected_cost == recommend(study).expected_cost
    assert found[0] == found[1] == found[2]


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


@pytest.mark.parametrize("convert", [iter, lambda ids: map(int, ids)])
def test_samples_may_be_iterators(convert):
    """A vote reads samples before they are complete, and the result once more."""

    def parse(text, state):
        return convert([1, 2] if text == "a" else [2])

    found = search([9], parse=parse, aggregate=id_vote(0.4))
    plain = search(
        [9], parse=lambda text, state: tuple(parse(text, state)), aggregate=id_vote(0.4)
    )
    assert found[2].results["q0"].outputs == plain[2].results["q0"].outputs


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


def readable(text, state):
    """Parse "a" and "b"."""
    return text if text in ("a", "b") else None


@pytest.mark.parametrize("most", [1, 2, 3, 8, 20])
@pytest.mark.parametrize(("refused", "unreadable"), [(0.5, 0.0), (0.0, 0.5), (0.4, 0.4), (1, 0)])
@pytest.mark.parametrize("repaired", [False, True])
def test_bad_replies_change_no_outcome(most, refused, unreadable, repaired):
    """An instance fails only if all samples that are allowed are refused."""

    def of(**options):
        return search(
            [most],
            chat=Counted(refused, unreadable),
            parse=readable,
            required=True,
            repair=(lambda state, text: "again") if repaired else None,
            **options,
        )[2]

    found, full = of(), of(enough=None)
    assert found.outcomes == full.outcomes
    assert [r.failed for r in found.results.values()] == [r.failed for r in full.results.values()]


def test_a_limit_of_the_spend_ends_within_a_vote():
    """What was drawn is stored, and a search with a larger limit goes on from there."""
    whole, _, full = search([20], max_tokens=10)
    limit, store, chat = 0.55 * whole.trials[0].user_attrs["spend"], CompletionStore(), Counted()
    with vote_of(chat, store=store, max_spend=limit, max_tokens=10) as objective:
        with pytest.raises(SpendLimitError):
            objective.evaluate({"say": ("m", 20)})
        counts = Counter(messages for messages, _ in chat.seen)
        spend = sum(objective.task.cost({"say": ("m", count)}) for count in counts.values())
        assert 0.9 * limit < spend <= limit
        assert chat.calls < full.results["q0"].stages["say"].drawn * 12
    _, more, found = search([20], store=store, max_tokens=10)
    assert found.outcomes == full.outcomes
    assert found.drawn == full.drawn
    drawn = sum(result.stages["say"].drawn for result in full.results.values())
    assert chat.calls + more == drawn


@pytest.mark.parametrize("enough", [settled(), settled(0.9)])
def test_workers_share_the_samples_of_votes(tmp_path, enough):
    """They draw different prefixes at once; no sample is generated twice."""
    numbers, found = [20, 9, 3, 31], {}
    alone = {most: search([most], enough=enough)[2] for most in numbers}
    chats = [Counted() for _ in numbers]

    def work(most, chat):
        with closing(CompletionStore(str(tmp_path / "c.db"))) as store:
            found[most] = search([most], store=store, chat=chat, enough=enough)[2]

    side_by_side([threading.Thread(target=partial(work, *each)) for each in zip(numbers, chats)])
    for most in numbers:
        assert found[most].outcomes == alone[most].outcomes
        assert found[most].drawn == alone[most].drawn
    assert sum(chat.calls for chat in chats) == len(set().union(*(chat.seen for chat in chats)))


def test_inspections_and_replays_show_what_was_drawn():
    """Samples that were not needed are not missing."""
    store = CompletionStore()
    _, _, found = search([20], store=store)
    with vote_of(Counted(), store=store, replay=True) as objective:
        assert objective.evaluate({"say": ("m", 20)}).outcomes == found.outcomes
        shown = objective.inspect({"say": ("m", 20)}, "q0")
        (stage,) = shown.stages
        (request,) = stage.requests
        assert len(request.replies) == found.results["q0"].stages["say"].drawn < 20
        assert all(reply.stored and reply.text for reply in request.replies)
        assert stage.samples == 20
        assert stage.missing == 0
        assert "not in the store" not in str(shown)


def test_checks_show_two_samples_unless_they_replay():
    """The second one of a vote of two is never needed, but shows how replies differ."""
    pipeline = Pipeline(stages=[StageProgram(name="s", prompt=str)], score=lambda state: 1.0)
    chats = {"m": Replies(lambda request, number: str(number))}
    with objective_of(pipeline, chats) as objective:
        assert "2 of 2 replies" in str(objective.check())
    store = CompletionStore()
    with objective_of(pipeline, chats, store=store) as objective:
        objective.evaluate({"s": ("m", 2)})
    with objective_of(pipeline, chats, store=store, replay=True) as objective:
        report = objective.check()
        assert report.ok
        assert "1 of 1 replies" in str(report)
        assert not [f for f in report.findings if f.check == "result" and f.level != "ok"]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (lambda aggregate, samples, left: 1 / 0, "raised ZeroDivisionError"),
        (lambda aggregate, samples, left: len(samples) > 1, "not a number of samples"),
    ],
)
def test_checks_name_wrong_rules(rule, problem):
    """Before samples are paid for."""
    stage = StageProgram(name="s", prompt=str, enough=rule)
    pipeline = Pipeline(stages=[stage], score=lambda state: 1.0)
    with objective_of(pipeline, {"m": Replies(lambda request, number: str(number))}) as objective:
        report = objective.check()
    (error,) = (finding for finding in report.findings if finding.level == "error")
    assert error.check == "enough"
    assert "`enough` (lambda in test_settled_votes.py" in error.message
    assert problem in error.message


def test_predictions_stop_too():
    """They give the result of all samples."""
    chats = Counted(), Counted()
    inputs = [{"id": f"q{number}"} for number in range(12)]
    found = []
    for chat, options in zip(chats, ({}, {"enough": None})):
        with vote_of(chat, **options) as objective:
            found.append(list(objective.predict(inputs, {"say": ("m", 20)})))
    assert [one.answer for one in found[0]] == [one.answer for one in found[1]]
    assert chats[0].calls < 0.75 * chats[1].calls


@pytest.mark.parametrize(
    ("enough", "equal"), [(settled(), [3, 4]), (None, [3, 4]), (settled(0.8), None)]
)
def test_numbers_are_equal_only_if_the_rule_stops_alike(enough, equal):
    """A probable winner of three may not be that of four."""
    study, _, _ = search([4], enough=enough, equal_samples=[(3, 4)])
    reported = storage.read_trial_fact(study.trials[0], storage.EQUAL) or {}
    assert reported.get("say") == equal


def test_skipped_votes_draw_nothing():
    """The means are those of the instances that ran."""
    _, calls, found = search([20], when=lambda state: state.instance["id"] == "q1")
    assert found.drawn == {"say": (calls, 20)}


def test_several_samples_of_a_call_stop_too():
    """Models that complete many samples at once get the requests of each round."""

    class Many(Counted):
        rounds = ()

        async def complete_many(self, request, seeds):
            self.rounds += (len(seeds),)
            return [await self.complete(request, seed=seed) for seed in seeds]

    chat = Many()
    _, calls, found = search([20], chat=chat)
    assert found.outcomes == search([20], enough=None)[2].outcomes
    assert sum(chat.rounds) == calls < 12 * 20
    assert max(chat.rounds) == 10
