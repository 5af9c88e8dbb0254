"""One of the allocations whose outcomes must be equal is tried, and the cheapest is named."""

import itertools
import json
import logging
import pickle
import time
import zlib

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from optuna.trial import create_trial

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    ScriptedChatModel,
    Stage,
    StopWhenExhausted,
    Task,
    TaskError,
    recommend,
    storage,
)
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.task.equivalence import Equivalence, EquivalentAllocations

optuna.logging.set_verbosity(optuna.logging.WARNING)

GROUPS = ((), ((1, 2),), ((2, 3),), ((1, 2), (3, 4)))


def make_task(models=(2, 2), most=(4, 3), groups=((), ()), chooses=("", ""), budget=1e6):
    """Build a task of stages a, b, ... with equal samples and choices as given."""
    return Task(
        name="equal",
        stages=[
            Stage(
                name,
                models=[Model(f"{name}{i}", parameters=1e9 * (i + 1)) for i in range(count)],
                prompt_tokens=100,
                generation_tokens=100,
                max_samples=limit,
                equal_samples=equal,
                chooses_among=source,
            )
            for name, count, limit, equal, source in zip("abc", models, most, groups, chooses)
        ],
        budget=budget,
        metric_range=(0, 1),
    )


@st.composite
def tasks(draw):
    """Draw small tasks with anything declared."""
    count = draw(st.integers(1, 3))
    chooses = [""] * count
    if count > 1 and draw(st.booleans()):
        chooser, source = draw(st.permutations(range(count)))[:2]
        chooses[chooser] = "abc"[source]
    options = {
        "models": [draw(st.integers(1, 2)) for _ in range(count)],
        "most": [draw(st.integers(1, 4)) for _ in range(count)],
        "groups": [draw(st.sampled_from(GROUPS)) for _ in range(count)],
        "chooses": chooses,
    }
    everything = list(make_task(**options).allocations())
    most = make_task(**options).cost(draw(st.sampled_from(everything)))
    return make_task(**options, budget=most)


def outcome(task, choices):
    """Return what identifies an allocation's outcomes, from what the stages declare."""
    names = [stage.name for stage in task.stages]
    counted = [
        min(next((g for g in stage.equal_samples if samples in g), (samples,)))
        for stage, (_, samples) in zip(task.stages, choices)
    ]
    return tuple(
        None
        if stage.chooses_among and counted[names.index(stage.chooses_among)] == 1
        else (model, number)
        for stage, number, (model, _) in zip(task.stages, counted, choices)
    )


def classes(task):
    """Return the allocations within the budget by outcome."""
    found = {}
    for choices in task.feasible:
        found.setdefault(outcome(task, choices), []).append(choices)
    return found


@settings(max_examples=60)
@given(task=tasks(), data=st.data())
def test_a_set_contains_the_allocations_of_equal_outcomes(task, data):
    """No others, and unions keep it; the cheapest of them is found."""
    everything = list(task.feasible)
    equivalence = Equivalence.of(task.stages)
    half = data.draw(st.integers(0, 3))
    chosen = data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=4))
    parts = [
        EquivalentAllocations(part, equivalence, {}) for part in (chosen[:half], chosen[half:])
    ]
    known = parts[0] | parts[1]
    outcomes = {outcome(task, choices) for choices in chosen}
    assert set(known) == set(chosen)
    known = pickle.loads(pickle.dumps(known))
    for choices in everything:
        assert (choices in known) == (outcome(task, choices) in outcomes)
    others = list(known.others(task.feasible))
    assert len(set(others)) == len(others)
    assert set(others) == {c for c in everything if c in known} - set(chosen)
    for choices in chosen:
        cheapest = equivalence.cheapest(choices, known.pattern(choices), task.feasible)
        alike = classes(task)[outcome(task, choices)]
        assert cheapest in alike
        assert task.feasible.cost(cheapest) == min(map(task.feasible.cost, alike))


@settings(max_examples=30)
@given(task=tasks())
def test_the_pool_holds_the_cheapest_of_each(task):
    """One for each outcome."""
    pool = NumericalPlanner(task).pool(Evidence.empty(task))
    found = [outcome(task, choices) for choices in pool.keys]
    assert len(found) == len(set(found))
    expected = classes(task)
    assert set(found) == set(expected)
    for choices, name in zip(pool.keys, found):
        cheapest = min(map(task.feasible.cost, expected[name]))
        assert task.feasible.cost(choices) == pytest.approx(cheapest)


def test_a_pool_of_a_large_task_holds_the_cheapest_form_too():
    """Also where it is thinned, and the form itself was not drawn."""
    task = make_task(models=(3, 3), most=(100, 100), groups=(((1, 2, 3),), ((4, 5, 6, 7),)))
    keys = NumericalPlanner(task).pool(Evidence.empty(task)).keys
    assert len(keys) < task.count_allocations() / 10
    assert not any(a[1] in (2, 3) or b[1] in (5, 6, 7) for a, b in keys)
    assert len(set(keys)) == len(keys)


def run(study, task, reported=None, trials=200):
    """Run a search until everything was tried; return the allocations of its trials."""

    def objective(trial):
        choices = tuple(task.choices(task.suggest(trial)))
        seen.append(choices)
        digest = zlib.crc32(repr(outcome(task, choices)).encode())
        bits = [float((digest >> step) & 1) for step in range(3)]
        for step in range(3):
            trial.report(bits[step], step)
        if reported is not None:
            trial.set_user_attr("agenttts:equal", reported)
        return sum(bits) / 3

    seen = []
    study.optimize(objective, n_trials=trials, callbacks=[StopWhenExhausted()])
    return seen


@settings(max_examples=12)
@given(task=tasks())
def test_a_search_tries_each_outcome_once_and_stops(task):
    """Then everything is known."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    tried = run(study, task)
    found = [outcome(task, choices) for choices in tried]
    assert len(set(found)) == len(found)
    assert set(found) == set(classes(task))
    total = sum(map(len, classes(task).values()))
    assert recommend(study).known == total - len(tried)


def test_trials_report_what_had_no_effect():
    """They hold for their own allocation; equal ones are not tried, and the cheapest is named."""
    task = make_task()
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    for samples in (2, 4):
        study.enqueue_trial(task.params({"a": ("a0", samples), "b": ("b1", 2)}))
    run(study, task, trials=1, reported={"a": [1, 2], "b": "any", "elsewhere": [1]})
    found = recommend(study)
    assert found.allocation == {"a": ("a0", 1), "b": ("b0", 1)}
    assert found.params == task.params(found.allocation)
    assert found.cost == task.cost(found.allocation)
    assert found.known == 2 * 6 - 1
    assert "equal to tried ones: 11" in str(found)
    run(study, task, trials=1)
    rest = run(study, task)
    equal = {
        ((0, samples), (model, n)) for samples in (1, 2) for model in (0, 1) for n in (1, 2, 3)
    }
    assert not equal & set(rest)
    assert len(rest) == 8 * 6 - len(equal) - 1
    # Anything else that is stored there is ignored.
    run(study, task, trials=1, reported="broken")
    run(study, task, trials=1, reported={"a": 3, "b": {"any": 1}})
    assert recommend(study).known == 11


def test_equal_allocations_of_one_that_violates_a_constraint_are_tried():
    """Fewer votes are faster and cheaper, so a limit on time may hold for them."""
    task = make_task(models=(1,), most=(4,), groups=((),), chooses=("",))

    def objective(trial):
        samples = task.suggest(trial)["a"].samples
        trial.set_user_attr("agenttts:equal", {"a": [1, 2]} if samples < 3 else {})
        trial.set_user_attr("seconds", samples)
        return 1.0

    sampler = AgentTTSSampler(task, constraints_func=lambda t: [t.user_attrs["seconds"] - 1.5])
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for samples in (2, 3):
        study.enqueue_trial(task.params({"a": ("a0", samples)}))
    study.optimize(objective, n_trials=10, callbacks=[StopWhenExhausted()])
    assert sorted(trial.params["a.samples"] for trial in study.trials) == [1, 2, 3, 4]
    assert recommend(study).allocation == {"a": ("a0", 1)}

    # And the other way round: a trial that meets it is not hidden by an equal one.
    sampler = AgentTTSSampler(task, constraints_func=lambda t: [1.5 - t.user_attrs["seconds"]])
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for samples in (1, 2):
        study.enqueue_trial(task.params({"a": ("a0", samples)}))
    study.optimize(objective, n_trials=2)
    assert recommend(study).allocation == {"a": ("a0", 2)}


def test_enqueued_trials_of_equal_allocations_are_run():
    """Also where nothing else is left to try."""
    task = make_task(models=(1,), most=(2,), groups=(((1, 2),),), chooses=("",))
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    for samples in (2, 1, 2):
        study.enqueue_trial(task.params({"a": ("a0", samples)}))
    assert [a[1] for (a,) in run(study, task)] == [2, 1, 2]


def test_confirmations_leave_what_trials_of_the_search_reported():
    """They run on other instances, and report nothing."""
    task = make_task()
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    study.enqueue_trial(task.params({"a": ("a0", 1), "b": ("b0", 1)}))
    run(study, task, trials=1, reported={"b": "any"})
    known = recommend(study).known
    trial = study.trials[0]
    study.add_trial(
        create_trial(
            params=trial.params,
            distributions=trial.distributions,
            value=1.0,
            intermediate_values={1000: 1.0},
            system_attrs=storage.confirmation_marks(1),
        )
    )
    assert recommend(study).known == known == 5


def test_equal_allocations_beyond_counting_are_counted_to_a_limit():
    """In a moment, and the text says so."""
    task = make_task(models=(2, 9, 9), most=(100, 100, 100), groups=((),) * 3, chooses=("",) * 3)
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))
    seen = run(study, task, trials=40, reported={"b": "any", "c": "any"})
    start = time.process_time()
    found = recommend(study, task)
    assert time.process_time() - start < 5
    assert len(seen) == 40
    assert found.known == 100_000
    assert str(found).endswith("equal to tried ones: 100000 or more.")


def test_equal_allocations_beyond_the_budget_are_not_counted():
    """Few allocations within a small budget equal a cheap one."""
    task = make_task(models=(1, 3), most=(3, 1000), budget=60)
    known = EquivalentAllocations(
        [((0, 1), (0, 1))], Equivalence.of(task.stages), {((0, 1), (0, 1)): {1: "any"}}
    )
    others = list(known.others(task.feasible))
    assert known.count_others(task.feasible) == len(others) == len(set(others))
    expected = {choices for choices in task.feasible if choices[0] == (0, 1)}
    assert set(others) == expected - set(known)
    assert len(expected) < 1000


def test_an_agents_proposals_are_tried_in_their_cheapest_form():
    """Two samples of `a` are one; what equals a tried allocation is refused as a duplicate."""
    task = make_task(models=(1, 2), most=(6, 6), groups=(((1, 2),), ((1, 2),)))

    def reply(request):
        proposals = [
            {"a": {"model": "a0", "samples": 2}, "b": {"model": "b1", "samples": samples}}
            for samples in (2, 3, 4, 5, 6)
        ]
        return json.dumps({"candidates": [{"allocation": p, "reason": "r"} for p in proposals]})

    chat = ScriptedChatModel(reply)
    study = optuna.create_study(
        direction="maximize", sampler=AgentTTSSampler(task, llm=chat, llm_timeout=30)
    )
    tried = run(study, task, trials=14)
    assert chat.requests
    origins = [trial.user_attrs["agenttts:origin"] for trial in study.trials]
    assert "agent" in origins
    assert not any(samples == 2 for choices in tried for _, samples in choices)
    assert len(set(tried)) == len(tried)


def test_the_log_says_once_why_allocations_are_not_tried(caplog):
    """With their number and the reason, for each study."""
    task = make_task(groups=(((1, 2),), ()), chooses=("", "a"))
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    study.enqueue_trial(task.params({"a": ("a0", 1), "b": ("b1", 2)}))
    with caplog.at_level(logging.INFO, logger="optuna_agenttts"):
        run(study, task, trials=5)
    lines = [r.getMessage() for r in caplog.records if "are not tried" in r.getMessage()]
    assert len(lines) == 1
    assert "(11 now)" in lines[0]
    assert "1 and 2 samples of stage 'a' give the same result" in lines[0]
    assert "stage 'b' has no effect" in lines[0]


def test_ranges_without_the_cheapest_form_are_kept_to():
    """A study that suggests two samples and more is not told to use one."""
    task = make_task(models=(2,), most=(4,), groups=(((1, 2),),), chooses=("",))
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    seen = []

    def objective(trial):
        model = trial.suggest_categorical("a.model", ["a0", "a1"])
        seen.append((model, trial.suggest_int("a.samples", 2, 4)))
        trial.report(1.0 / seen[-1][1], 0)
        return 1.0 / seen[-1][1]

    study.optimize(objective, n_trials=6)
    assert sorted(seen) == sorted(itertools.product(("a0", "a1"), (2, 3, 4)))
    assert recommend(study).allocation["a"].samples == 2


def test_declarations_are_stored_and_tasks_without_them_are_stored_as_before():
    """Also by an earlier version, whose tasks are equal."""
    task = make_task(groups=([[2, 1]], ()), chooses=("", "a"))
    assert Task.from_dict(task.to_dict()) == task
    assert task.stages[0].equal_samples == ((1, 2),)
    assert task.differences(make_task()) == [
        "stages.a.equal_samples: [[1, 2]] -> None",
        "stages.b.chooses_among: 'a' -> None",
    ]
    values = make_task().to_dict()
    assert not {"equal_samples", "chooses_among"} & {key for s in values["stages"] for key in s}


@pytest.mark.parametrize(
    "groups", [3, [3], [(0, 1)], [(1, 3)], [(1, 2), (2, 3)], [()], [(1.5, 2)]]
)
def test_groups_are_consecutive_and_apart(groups):
    with pytest.raises(TaskError, match="`equal_samples` must be groups of consecutive"):
        make_task(groups=(groups, ()))


@pytest.mark.parametrize("chooses", [("", "c"), ("", "b"), ("b", "a")])
def test_a_stage_chooses_among_the_samples_of_another(chooses):
    with pytest.raises(TaskError, match="`chooses_among` of stage"):
        make_task(chooses=chooses)
