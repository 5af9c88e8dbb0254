"""What trials record of their stages: figures by stage, and transcripts for an agent."""

import json
import logging

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import PartialFixedSampler
from optuna.trial import create_trial
from pipeline_support import Replies, make_task

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, storage
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts.study.diagnostics import output_changes, read_diagnostics
from optuna_agenttts_integrations import (
    Endpoint,
    MultiStageObjective,
    Pipeline,
    StageCheck,
    StageProgram,
    id_vote,
    majority_vote,
    medoid,
    union,
)
from optuna_agenttts_integrations.pipeline.aggregation import changes_after_half

INSTANCES = [{"id": f"q{i}.", "answer": str(i % 3), "secret": "sk-" + "a1" * 20} for i in range(9)]


def found(state):
    """Return whether the first stage found the answer."""
    return float(state["find"] == state.instance["answer"])


def make_objective(find, say, *, large=None, check=found, **options):
    """Return an objective whose stages reply by functions of the instance's number.

    The large model has another one for the first stage if `large` is given.
    """

    def answer(request, number):
        stage, name, *_ = request.messages[-1].content.split()
        first = large if large and request.model == "large" else find
        return (first if stage == "find" else say)(int(name[1:-1]), number)

    stages = [
        StageProgram(
            name="find",
            prompt=lambda state: f"find {state.instance['id']}",
            check=None if check is None else StageCheck("the answer is found", check),
            parse=lambda text, state: text if text.isdigit() else None,
            enough=None,
        ),
        StageProgram(
            name="say",
            prompt=lambda state: f"say {state.instance['id']} {state['find']}",
            enough=None,
        ),
    ]
    pipeline = Pipeline(
        stages=stages, score=lambda state: float(state["say"] == state.instance["answer"])
    )
    task = make_task()
    endpoints = {
        name: Endpoint(chat=Replies(answer), identity=name) for name in ("small", "large")
    }
    return MultiStageObjective(
        pipeline, INSTANCES, task=task, endpoints=endpoints, progress=False, **options
    )


def run(objective, allocations, sampler=None):
    """Run trials of allocations of both stages; return the study."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for find, say in allocations:
        study.enqueue_trial(objective.task.params({"find": find, "say": say}))
    study.optimize(objective, n_trials=len(allocations))
    return study


def right(number, _):
    """Reply with the answer."""
    return str(number % 3)


def test_a_trial_states_what_each_stage_does_with_what_it_gets():
    """A stage that works on a third of the instances alone is not blamed for the others."""
    # The first stage finds the answers 0 alone, and the second repeats what was found.
    objective = make_objective(lambda n, _: "0", lambda n, _: "0")
    with objective:
        study = run(objective, [(("small", 1), ("small", 1))])
    (trial,) = read_diagnostics(objective.task, study.trials)
    find, say = trial.stages[0], trial.stages[1]
    assert (find.passed, find.instances, find.check) == (3, 9, "the answer is found")
    assert (say.passed, say.instances) == (3, 9)
    assert (say.own, say.weight) == (3, 3)
    assert find.outcomes == (3, 3, 0, 6)


def test_replies_that_are_malformed_cut_and_refused_are_counted():
    """They are counted by stage, reused replies too."""
    reasons = {"1": "length", "2": "content_filter"}

    class Reasons(Replies):
        async def complete(self, request, *, seed):
            reply = await super().complete(request, seed=seed)
            return Completion(reply.text, Usage(1, 1), reasons.get(reply.text, "stop"))

    objective = make_objective(right, lambda n, _: "?")
    for endpoint in objective.endpoints.values():
        endpoint.chat.__class__ = Reasons
    with objective:
        study = run(objective, [(("small", 2), ("small", 1))] * 2)
    for trial in read_diagnostics(objective.task, study.trials):
        find = trial.stages[0]
        assert (find.replies, find.malformed, find.cut, find.refused) == (18, 0, 6, 6)


def test_unreadable_replies_fail_the_check_of_a_required_stage():
    """Also if the pipeline ends there, and nothing else is known."""
    objective = make_objective(lambda n, _: "?" if n else "0", right)
    program = objective.pipeline.stages[0]
    object.__setattr__(program, "required", True)
    with objective:
        study = run(objective, [(("small", 1), ("small", 1))])
    (trial,) = read_diagnostics(objective.task, study.trials)
    assert (trial.stages[0].passed, trial.stages[0].instances) == (1, 9)
    assert (trial.stages[1].own, trial.stages[1].weight) == (1, 1)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_unknown_checks_are_left_out(value):
    """Of none, nothing is said of the shares."""
    objective = make_objective(right, right, check=lambda state: value)
    with objective:
        study = run(objective, [(("small", 1), ("small", 1))])
    (trial,) = read_diagnostics(objective.task, study.trials)
    assert trial.stages[0].instances == trial.stages[0].weight == 0


def test_a_check_that_fails_changes_no_score(caplog):
    """It is logged once."""
    logging.getLogger("optuna_agenttts_integrations").propagate = True

    def broken(state):
        raise KeyError("gold of this test")

    scores = []
    for check in (found, broken):
        objective = make_objective(right, right, check=check)
        with objective:
            scores.append(run(objective, [(("small", 1), ("small", 1))]).best_value)
    assert scores == [1.0, 1.0]
    assert caplog.text.count("gold of this test") == 1


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(0, 2))
def test_votes_of_the_first_half_are_compared_with_all(samples, kind):
    """As a user would do by running both numbers of samples."""
    sets = [{sample} for sample in samples]
    aggregate, given_samples = [(majority_vote, samples), (union, sets), (id_vote(0.5), sets)][
        kind
    ]
    result = aggregate(given_samples)
    changed = changes_after_half(aggregate, given_samples, result)
    if len(samples) < 2:
        assert changed is None
    else:
        half = given_samples[: (len(samples) + 1) // 2]
        assert changed == (aggregate(half) != result)


def test_functions_of_users_are_not_called_again():
    """They may cost time, or count their calls."""
    calls = []
    assert changes_after_half(calls.append, [1, 2], 1) is None
    assert changes_after_half(medoid(lambda a, b: calls.append(a) or 0.0), [1, 2, 3], 1) is None
    assert not calls


def test_changes_of_outputs_compare_equal_inputs_only():
    """Outputs that differ because their inputs do are no changes of the stage's own."""
    objective = make_objective(
        lambda n, _: "0", lambda n, _: str(n % 2), large=lambda n, _: "1" if n < 3 else "0"
    )
    with objective:
        study = run(
            objective,
            [(("small", 1), ("small", 1)), (("large", 1), ("large", 1)), (("large", 3),) * 2],
        )
    first, second = output_changes(read_diagnostics(objective.task, study.trials), 2)
    assert first.models == pytest.approx(3 / 9)
    assert first.samples == 0.0
    assert second.models == 0.0


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("transcripts", [False, True])
def test_transcripts_are_recorded_for_an_agent_that_reads_them(wrapped, transcripts):
    """They are off by an argument, and without an agent."""
    objective = make_objective(lambda n, _: "0", lambda n, _: "0")
    chat = ScriptedChatModel(lambda request: '{"guidelines": [], "candidates": []}')
    with objective:
        for llm in (chat, None):
            sampler = AgentTTSSampler(objective.task, llm=llm, transcripts=transcripts)
            if wrapped:
                sampler = PartialFixedSampler({}, sampler)
            study = run(objective, [(("small", 1), ("small", 1))], sampler)
            written = storage.TRANSCRIPTS in study.trials[0].system_attrs
            assert written == (transcripts and llm is not None)


def test_transcripts_show_the_worst_instances_without_keys():
    """Those that failed in the stage where most failed come first; texts are short."""
    long = "sk-" + "b2" * 20 + " and a lot of text" * 100
    objective = make_objective(lambda n, _: "0", lambda n, _: f"{long} {n}" if n > 6 else "0")
    chat = ScriptedChatModel(lambda request: '{"guidelines": [], "candidates": []}')
    with objective:
        study = run(
            objective,
            [(("small", 1), ("small", 1))],
            AgentTTSSampler(objective.task, llm=chat),
        )
    written = study.trials[0].system_attrs[storage.TRANSCRIPTS]
    text = json.dumps(written)
    assert "a1a1" not in text
    assert "b2b2" not in text
    assert '\\"' not in text
    assert len(text) < 2000
    (trial,) = read_diagnostics(objective.task, study.trials)
    assert [entry.outcome for entry in trial.transcripts] == [0.0] * 3
    assert trial.transcripts[0].stages[0].passed == 0.0
    assert "answer: " in trial.transcripts[0].input


def test_no_transcripts_where_no_instance_is_worse():
    """A trial without a failure has none."""
    objective = make_objective(right, right)
    chat = ScriptedChatModel(lambda request: '{"guidelines": [], "candidates": []}')
    with objective:
        study = run(
            objective,
            [(("small", 1), ("small", 1))],
            AgentTTSSampler(objective.task, llm=chat),
        )
    assert study.trials[0].system_attrs[storage.TRANSCRIPTS] == []


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["find", "say", "stages", "passed", "own", "outputs", "input", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON)
def test_anything_else_in_a_storage_is_left_out(figures, texts):
    """Diagnostics of other code never raise."""
    task = make_task()
    params = task.params({"find": ("small", 1), "say": ("small", 1)})
    objective = optuna.create_study()
    objective.enqueue_trial(params)
    asked = objective.ask()
    task.suggest(asked)
    trial = create_trial(
        value=0.0,
        params=asked.params,
        distributions=asked.distributions,
        system_attrs={storage.DIAGNOSTICS: figures, storage.TRANSCRIPTS: texts},
    )
    read = read_diagnostics(task, [trial, trial])
    assert len(read) == (2 if isinstance(figures, dict) else 0)
    assert len(output_changes(read, 2)) == 2
