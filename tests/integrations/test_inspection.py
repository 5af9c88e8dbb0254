"""`MultiStageObjective.inspect` shows what models replied, from the store alone."""

import json

import optuna
import pytest
from optuna.storages import InMemoryStorage
from pipeline_support import (
    Replies,
    ScriptedModel,
    allocation,
    calls,
    make_objective,
    objective_of,
)

from optuna_agenttts import TaskError
from optuna_agenttts_integrations import (
    CompletionStore,
    LLMFusion,
    Pipeline,
    PipelineError,
    StageProgram,
    Step,
    StoreError,
)


def searched(objective, *allocations, direction="maximize"):
    """Run trials with given allocations; return the study."""
    study = optuna.create_study(direction=direction, storage=InMemoryStorage())
    for each in allocations:
        study.enqueue_trial(objective.task.params(each))
    study.optimize(objective, n_trials=len(allocations), catch=(Exception,))
    return study


def stages_of(answer, instances=("q",), score=lambda state: 1.0, **program):
    """Build an objective of one stage."""
    stage = StageProgram(
        **{
            "name": "s",
            "prompt": lambda state: f"ask {state.instance}",
            "enough": None,
            **program,
        }
    )
    pipeline = Pipeline(
        stages=[stage], score=score, metrics={"length": lambda state: len(str(state["s"]))}
    )
    return objective_of(pipeline, {"m": Replies(answer)}, instances=instances)


# Instances.


@pytest.mark.parametrize("replay", [False, True])
def test_an_instance_of_a_trial_is_shown_without_a_call(replay):
    """Prompts, replies, parsed values, results and the score are those of the trial."""
    store = CompletionStore()
    objective, _ = make_objective(store=store)
    study = searched(objective, allocation(("small", 3), ("large", 2)))
    objective, chats = make_objective(store=store, replay=replay)
    (trial,) = study.trials
    for name in objective.instances:
        shown = objective.inspect(trial, name)
        find, say = shown.stages
        assert (find.model, find.samples, say.model, say.samples) == ("small", 3, "large", 2)
        assert find.requests[0].messages[0].content == f"find {name}"
        replies = find.requests[0].replies
        assert [reply.index for reply in replies] == [0, 1, 2]
        assert all(reply.stored and reply.finish_reason == "stop" for reply in replies)
        values = [reply.value for reply in replies]
        assert values == [reply.text for reply in replies]
        assert find.result == max(values, key=values.count)
        assert say.requests[0].messages[0].content == f"say {name} {find.result}"
        assert shown.outcome == shown.recorded == shown.computed
        assert shown.outcome == float(find.result == say.result == "yes")
        assert not shown.notes
    assert calls(chats) == 0


def test_a_trial_is_named_by_itself_its_number_or_its_allocation():
    """An allocation has no recorded outcome."""
    objective, _ = make_objective()
    chosen = allocation(("small", 3), ("large", 2))
    study = searched(objective, chosen)
    by_trial = objective.inspect(study.trials[0], "q1.")
    assert objective.inspect(0, "q1.", study=study) == by_trial
    by_allocation = objective.inspect(chosen, "q1.")
    assert by_allocation.stages == by_trial.stages
    assert by_allocation.outcome == by_trial.outcome
    assert by_allocation.recorded is None


def test_instances_are_named_by_id_or_step():
    """Numbers are IDs where instances have none."""
    objective = stages_of(lambda request, number: "x", instances=["a", "b", "c"])
    study = searched(objective, {"s": ("m", 1)})
    for step, name in enumerate(objective.instances):
        shown = objective.inspect(study.trials[0], int(name))
        assert shown.instance == name
        assert objective.inspect(study.trials[0], f"step:{step}") == shown


def test_repairs_and_malformed_replies_are_shown():
    """A malformed reply has no value, and the repaired one has a request of its own."""

    def answer(request, number):
        return "7" if len(request.messages) > 1 else ["bad", "5"][number]

    def parse(text, state):
        return int(text) if text.isdigit() else None

    objective = stages_of(answer, parse=parse, repair=lambda state, text: f"not {text}")
    objective.evaluate({"s": ("m", 2)})
    shown = objective.inspect({"s": ("m", 2)}, 0)
    own, repair = shown.stages[0].requests
    assert [(r.text, r.value) for r in own.replies] == [("bad", None), ("5", 5)]
    assert repair.purpose == "repair"
    assert repair.messages[-1].content == "not bad"
    assert [(r.text, r.value) for r in repair.replies] == [("7", 7)]
    assert "malformed" in str(shown)
    assert shown.metrics == {"length": 1.0}


def test_thoughts_are_shown_apart_from_the_reply():
    """Which is what was parsed."""
    objective = stages_of(lambda request, number: "<think>London?</think>Paris")
    objective.evaluate({"s": ("m", 1)})
    shown = objective.inspect({"s": ("m", 1)}, 0)
    (reply,) = shown.stages[0].requests[0].replies
    assert "thoughts: 'London?'" in str(shown)
    assert (reply.text, reply.value, reply.thoughts) == ("Paris", "Paris", "London?")


def test_fusions_are_shown():
    """Their prompt holds the candidates."""

    def answer(request, number):
        return "fused" if "candidate" in request.messages[-1].content else f"draft {number}"

    objective = stages_of(answer, aggregate=LLMFusion())
    objective.evaluate({"s": ("m", 3)})
    (stage,) = objective.inspect({"s": ("m", 3)}, 0).stages
    own, fusion = stage.requests
    assert fusion.purpose == "fusion"
    assert all(reply.text in fusion.messages[-1].content for reply in own.replies)
    assert stage.result == "fused"
    assert stage.joined_by == "LLMFusion"


def test_steps_and_skipped_stages_have_a_status():
    """A skipped stage has the result of `otherwise`."""
    stages = [
        Step(name="look", run=lambda state: "seen"),
        StageProgram(name="s", prompt=lambda state: state["look"]),
        StageProgram(
            name="t", prompt=lambda state: "", when=lambda s: False, otherwise=lambda s: 3
        ),
    ]
    pipeline = Pipeline(stages=stages, score=lambda state: state["t"])
    objective = objective_of(pipeline, {"m": Replies(lambda r, n: "x")})
    chosen = {"s": ("m", 1), "t": ("m", 1)}
    objective.evaluate(chosen)
    shown = objective.inspect(chosen, 0)
    assert [(s.name, s.status, s.result) for s in shown.stages] == [
        ("look", "ran", "seen"),
        ("s", "ran", "x"),
        ("t", "skipped", 3),
    ]
    assert shown.outcome == 3


# What is missing.


def test_a_lost_store_leaves_the_recorded_outcome():
    """Missing replies are told, not raised."""
    objective, _ = make_objective()
    study = searched(objective, allocation(("small", 3), ("large", 2)))
    objective, chats = make_objective(store=CompletionStore())
    shown = objective.inspect(study.trials[0], "q1.")
    assert shown.outcome == shown.recorded is not None
    assert shown.computed is None
    assert shown.stages[0].missing == 3
    assert [stage.status for stage in shown.stages] == ["failed", "not reached"]
    assert "3 of 3 replies are not in the store" in str(shown)
    assert calls(chats) == 0


def test_a_failed_call_is_a_missing_reply():
    """The instance failed, and its outcome is zero."""
    objective, _ = make_objective(refuse=["q1."], max_failed=1.0)
    study = searched(objective, allocation())
    shown = objective.inspect(study.trials[0], "q1.")
    assert shown.outcome == 0
    assert "these calls failed" in str(shown)
    assert objective.inspect(study.trials[0], "q2.").notes == ()


def test_a_trial_that_failed_shows_what_it_had():
    """Its score raised, so it has replies, and no outcome."""

    def score(state):
        raise ValueError("no score")

    objective = stages_of(lambda request, number: "x", score=score)
    study = searched(objective, {"s": ("m", 2)})
    assert study.trials[0].state == optuna.trial.TrialState.FAIL
    shown = objective.inspect(study.trials[0], 0)
    assert shown.outcome is None
    assert [reply.text for reply in shown.stages[0].requests[0].replies] == ["x", "x"]
    assert "no score" in str(shown)
    assert "no outcome" in str(shown)


def test_a_pruned_trial_lists_the_instances_that_it_saw():
    """The others are counted."""
    objective, _ = make_objective(count=20)
    study = searched(objective, allocation())
    (trial,) = study.trials
    seen = dict(list(trial.intermediate_values.items())[:5])
    pruned = optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=seen,
    )
    store = CompletionStore()
    other, _ = make_objective(count=20, store=store)
    listed = other.inspect(pruned)
    assert len(listed) == 5
    assert {each.instance for each in listed} == set(list(other.instances)[:5])
    assert "15 of 20 instances" in str(listed)
    with pytest.raises(StoreError, match="Nothing is known about instance"):
        other.inspect(pruned, list(other.instances)[7])
    # The replies of instances after it are in the store of the search, from another trial.
    shown = objective.inspect(pruned, list(objective.instances)[7])
    assert shown.recorded is None
    assert shown.outcome == shown.computed
    assert "stopped before" in str(shown)


def test_an_outcome_that_the_replies_contradict_is_told():
    """The score has changed since."""
    first = stages_of(lambda request, number: "x", score=lambda state: 1.0)
    study = searched(first, {"s": ("m", 1)})
    later = stages_of(lambda request, number: "x", score=lambda state: 0.25)
    later.store = first.store
    shown = later.inspect(study.trials[0], 0)
    assert (shown.outcome, shown.recorded, shown.computed) == (1.0, 1.0, 0.25)
    assert "changed since" in shown.text(200)


def test_nothing_known_is_an_error():
    """The message says what to use."""
    objective, _ = make_objective()
    with pytest.raises(StoreError, match="Use the store, instances, seed and endpoints"):
        objective.inspect(allocation(), "q1.")
    with pytest.raises(StoreError, match="Nothing is known"):
        objective.inspect(allocation())


@pytest.mark.parametrize("name", ["q99.", "", "step:20", 5])
def test_an_unknown_instance_is_an_error(name):
    """The message has IDs that exist."""
    objective, _ = make_objective()
    with pytest.raises(PipelineError, match=r"20 instances, such as 'q\d+\.'"):
        objective.inspect(allocation(), name)


def test_trials_that_cannot_be_inspected_are_errors():
    """Numbers need a study, and parameters the task's names."""
    objective, _ = make_objective()
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=1.0))
    for trial, options, message in (
        (3, {}, "pass `study=study`"),
        (3, {"study": study}, "has 1 trials"),
        (-1, {"study": study}, "has 1 trials"),
        (0, {"study": study}, "no allocation of task 'two'"),
        ("best", {}, "must be a trial, its number"),
        (None, {}, "must be a trial, its number"),
    ):
        with pytest.raises(PipelineError, match=message):
            objective.inspect(trial, "q1.", **options)
    with pytest.raises(TaskError):
        objective.inspect({"find": ("huge", 1), "say": ("small", 1)}, "q1.")


# Lists.


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_worst_outcomes_come_first(direction):
    """What is bad depends on the study's direction."""
    objective = stages_of(
        lambda request, number: request.messages[0].content[-1],
        instances=[{"id": f"i{n}", "n": n} for n in (3, 1, 2)],
        prompt=lambda state: f"ask {state.instance['n']}",
        score=lambda state: float(state["s"]),
    )
    study = searched(objective, {"s": ("m", 1)}, direction=direction)
    listed = objective.inspect(0, study=study)
    worst = ["i1", "i2", "i3"] if direction == "maximize" else ["i3", "i2", "i1"]
    assert [each.instance for each in listed] == worst
    assert listed[0].instance == worst[0]
    assert [line.split()[0] for line in str(listed).splitlines()[5:]] == worst
    assert "mean outcome 2 on 3 instances" in str(listed)


def test_two_allocations_are_shown_where_they_differ():
    """The largest loss comes first, and both sides hold the same instance."""
    objective, _ = make_objective()
    chosen = (allocation(("small", 1), ("small", 1)), allocation(("large", 9), ("large", 9)))
    study = searched(objective, *chosen)
    for one, other in (chosen, study.trials):
        listed = objective.inspect(one, baseline=other)
        left, right = objective.inspect(one), objective.inspect(other)
        outcomes = [{each.instance: each.outcome for each in side} for side in (left, right)]
        differing = {n for n in outcomes[0] if outcomes[0][n] != outcomes[1][n]}
        assert differing
        assert {each.instance for each in listed} == differing
        assert f"differ on {len(differing)} of 20" in str(listed)
        gaps = [each.outcome - each.baseline.outcome for each in listed]
        assert gaps == sorted(gaps)
        assert all(each.instance == each.baseline.instance for each in listed)
    pair = objective.inspect(study.trials[0], listed[0].instance, baseline=study.trials[1])
    assert pair == listed[0]
    lines = str(pair).splitlines()
    assert all(" | " in line or line.endswith(" |") for line in lines[1:])
    assert any(line.count("== find: ") == 2 for line in lines)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_differences_do_not_depend_on_the_unit_of_the_score(scale):
    """NaN counts as worst, and differs from numbers only."""
    nan = float("nan")
    tables = ({"a": 1.0, "b": nan, "c": nan, "d": 3.0}, {"a": 2.0, "b": nan, "c": 1.0, "d": 3.0})
    objective = stages_of(
        lambda request, number: request.messages[0].content[-1],
        instances=[{"id": name} for name in tables[0]],
        prompt=lambda state: f"ask {state.instance['id']}",
    )
    trials = [
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED,
            params=objective.task.params({"s": ("m", 1)}),
            distributions=searched(objective, {"s": ("m", 1)}).trials[0].distributions,
            intermediate_values={
                step: scale * table[name] for step, name in enumerate(objective.instances)
            },
        )
        for table in tables
    ]
    assert [each.instance for each in objective.inspect(trials[0])][-2:] == ["a", "d"]
    listed = objective.inspect(trials[0], baseline=trials[1])
    assert [each.instance for each in listed] == ["c", "a"]


# Text and JSON.


def test_replies_are_escaped_and_wrapped():
    """No reply can change the terminal, and no line is wider than asked for."""
    text = "\x1b[2J\x07 " + "word " * 80 + "\nlast \x9b line" + "y" * 300
    objective = stages_of(lambda request, number: text, parse=lambda text, state: text)
    objective.evaluate({"s": ("m", 2)})
    shown = objective.inspect({"s": ("m", 2)}, 0)
    pair = objective.inspect({"s": ("m", 2)}, 0, baseline={"s": ("m", 1)})
    for each in (shown, pair, objective.inspect({"s": ("m", 2)})):
        for width in (40, 79, 120):
            printed = each.text(width)
            assert all(line.isprintable() for line in printed.splitlines())
            assert max(map(len, printed.splitlines())) <= width
    assert "\\x1b[2J" in str(shown)
    # The record itself has the text as it was.
    assert shown.stages[0].requests[0].replies[0].text == text


def test_records_are_json():
    """Whatever `parse` returns."""

    class Odd:
        def __repr__(self):
            return "<odd>"

    values = [{1, 2}, (3, float("nan")), {"a": [Odd()]}, b"x"]
    objective = stages_of(
        lambda request, number: str(number),
        parse=lambda text, state: values[int(text)],
        aggregate=list,
    )
    objective.evaluate({"s": ("m", 4)})
    for each in (
        objective.inspect({"s": ("m", 4)}, 0, baseline={"s": ("m", 1)}),
        objective.inspect({"s": ("m", 4)}),
    ):
        text = json.dumps(each.to_dict(), allow_nan=False)
        assert json.loads(text) == each.to_dict()
    shown = objective.inspect({"s": ("m", 4)}, 0).to_dict()
    found = [reply["value"] for reply in shown["stages"][0]["requests"][0]["replies"]]
    assert found == [[1, 2], [3, "nan"], {"a": ["<odd>"]}, "b'x'"]


def test_an_inspection_does_not_disturb_a_search():
    """Store, counters of failures and the next trial stay as they are."""
    objective, chats = make_objective(refuse=["q1."], max_failed=1.0)
    study = searched(objective, allocation())
    before = (len(objective.store), dict(objective._completions.failures), calls(chats))
    objective.inspect(study.trials[0])
    assert before == (
        len(objective.store),
        dict(objective._completions.failures),
        calls(chats),
    )
    assert isinstance(chats["large"], ScriptedModel)
