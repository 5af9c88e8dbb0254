"""Pipelines run end to end: steps, skipped stages, repairs, scores, lengths, interruptions."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial

import optuna
import pytest
from optuna.trial import TrialState
from pipeline_support import Replies, Slow, objective_of

from optuna_agenttts.llm import ChatRefusedError, Message
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts.study.measured import with_lengths
from optuna_agenttts_integrations import (
    CompletionStore,
    Pipeline,
    PipelineError,
    StageProgram,
    StoreError,
    TooManyFailuresError,
)
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.pipeline.stages import Step
from optuna_agenttts_integrations.testing.serving import LoopbackServer


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def echo(request, number):
    """Reply with the last message."""
    return f"said {request.messages[-1].content}"


def asks(name, text=None, **options):
    """Build a stage whose prompt is its instance, or the result of the stage `text`."""

    def prompt(state):
        return str(state.instance) if text is None else str(state[text])

    # All samples are drawn, so that calls can be counted.
    return StageProgram(name=name, prompt=prompt, **{"enough": None, **options})


def run(stages, *, chat=None, instances=("q",), samples=1, score=None, metrics=None, **options):
    """Evaluate stages; return the evaluation, final states and the chat model."""
    states, chat = [], chat or Replies(echo)

    def keep(state):
        states.append(state)
        return 1.0

    pipeline = Pipeline(stages=stages, score=score or keep, metrics=metrics or {})
    with objective_of(pipeline, {"m": chat}, instances, max_failed=1, **options) as objective:
        evaluation = objective.evaluate({p.name: ("m", samples) for p in pipeline.programs})
    return evaluation, states, chat


class ToolError(Exception):
    """A tool is unavailable."""


# Repairs.


def yes(text, state):
    """Parse only the reply yes."""
    return text if text == "yes" else None


def again(state, text):
    """Build a message that asks for a reply again."""
    return f"{text!r} is not what {state.instance} asks for."


def test_a_malformed_reply_is_repaired_once_with_the_conversation_so_far():
    """A repaired reply is a sample like the others; one that is still malformed is left out."""
    joined = []

    def answer(request, number):
        if len(request.messages) == 1:
            return ["yes", "maybe", "perhaps"][number]
        return "yes" if "maybe" in request.messages[-1].content else "no idea"

    def join(samples):
        joined.append(samples)
        return samples[0]

    stage = asks("s", parse=yes, repair=again, aggregate=join)
    evaluation, _, chat = run([stage], chat=Replies(answer), samples=3)
    assert joined == [["yes", "yes"]]
    repairs = [request.messages for request in chat.requests if len(request.messages) > 1]
    assert sorted(repairs, key=str) == [
        (
            Message("user", "q"),
            Message("assistant", text),
            Message("user", f"{text!r} is not what q asks for."),
        )
        for text in ("maybe", "perhaps")
    ]
    used = evaluation.results["0"].stages["s"]
    # Two malformed replies and one malformed repair.
    assert (used.samples, used.calls, used.malformed) == (3, 5, 3)


def test_repairs_are_concurrent():
    """All malformed replies are repaired at the same time."""

    def answer(request, number):
        return f"bad {number}" if len(request.messages) == 1 else "yes"

    chat = Slow(answer, 0.05)
    stage = asks("s", parse=yes, repair=again, required=True)
    evaluation, states, _ = run([stage], chat=chat, samples=20)
    assert states[0]["s"] == "yes"
    assert chat.most == 20
    assert evaluation.results["0"].stages["s"].calls == 40


def test_a_refused_repair_leaves_the_reply_out():
    """The reply stays malformed, and the instance does not fail."""

    def answer(request, number):
        return ["yes", "bad"][number] if len(request.messages) == 1 else ChatRefusedError("no")

    evaluation, states, _ = run(
        [asks("s", parse=yes, repair=again)], chat=Replies(answer), samples=2
    )
    assert states[0]["s"] == "yes"
    assert (evaluation.failed, evaluation.malformed) == (0, 1)


@pytest.mark.parametrize("repair", [None, again])
def test_a_required_stage_without_a_readable_reply_fails_the_instance(repair):
    """If the stage is not required, its result is None."""
    for required in (True, False):
        stage = asks("s", parse=yes, required=required, repair=repair)
        evaluation, states, _ = run([stage], samples=2)
        assert evaluation.failed == required
        assert [state["s"] for state in states] == ([] if required else [None])
        assert evaluation.malformed == (4 if repair else 2)


def test_unreadable_instances_count_as_wrong_and_do_not_fail_the_trial():
    """A weak model gets a low score; `max_failed` is for failing servers."""
    evaluation, _, _ = run([asks("s", parse=lambda text, state: None, required=True)], samples=2)
    assert evaluation.failed == len(evaluation.results)
    assert evaluation.mean == 0
    assert all(result.unreadable for result in evaluation.results.values())


# Steps and stages that are skipped.


async def _measure(state):
    await asyncio.sleep(0)
    return len(state["first"])


def test_steps_pass_results_on():
    """Functions and coroutine functions run in order, and cost nothing."""
    stages = [
        Step(name="look", run=lambda state: f"about {state.instance}"),
        asks("first", "look"),
        Step(name="length", run=_measure),
        asks("last", "length"),
    ]
    evaluation, states, chat = run(stages)
    assert states[0].results == {
        "look": "about q",
        "first": "said about q",
        "length": 12,
        "last": "said 12",
    }
    assert set(evaluation.results["0"].stages) == {"first", "last"}
    assert len(chat.requests) == 2


def test_skipped_stages_have_the_result_of_otherwise():
    """`when` decides for each instance."""

    def odd(state):
        return state.instance % 2 == 1

    stages = [
        Step(name="tool", run=lambda state: "used", when=odd, otherwise=lambda state: "unused"),
        Step(name="bare", run=lambda state: 1 / 0, when=lambda state: False),
        asks("s", when=odd, otherwise=lambda state: f"{state['tool']} {state.instance}"),
        asks("t", "s"),
    ]
    evaluation, states, _ = run(stages, instances=range(4))
    by_instance = {state.instance: dict(state.results) for state in states}
    assert by_instance[1] == {"tool": "used", "bare": None, "s": "said 1", "t": "said said 1"}
    assert by_instance[2] == {
        "tool": "unused",
        "bare": None,
        "s": "unused 2",
        "t": "said unused 2",
    }
    assert {name: set(result.stages) for name, result in evaluation.results.items()} == {
        "0": {"t"},
        "1": {"s", "t"},
        "2": {"t"},
        "3": {"s", "t"},
    }


def test_skipped_stages_count_as_zero_tokens():
    """A stage that runs for a quarter of the instances has a quarter of its length and cost."""
    stages = [
        asks("s", when=lambda state: state.instance == 0),
        StageProgram(name="t", prompt=lambda state: f"then {state.instance}", enough=None),
    ]
    chat = Replies(lambda request, number: "one two three four")
    pipeline = Pipeline(stages=stages, score=lambda state: 1.0)
    study = optuna.create_study(direction="maximize")
    with objective_of(pipeline, {"m": chat}, range(4)) as objective:
        study.enqueue_trial(objective.task.params({"s": ("m", 2), "t": ("m", 2)}))
        study.optimize(objective, n_trials=1)
    attributes = study.trials[0].user_attrs
    lengths = study.trials[0].system_attrs["agenttts:lengths"]
    assert lengths == {"s": [0.25, 1.0], "t": [2.0, 4.0]}
    # Two samples of s in one instance, and of t in four.
    assert attributes["tokens"] == 2 * 4 + 4 * 2 * 4
    assert attributes["spend"] == pytest.approx((2 + 4 * 2 * 2) + 2 * (2 * 4 + 4 * 2 * 4))
    measured = with_lengths(objective.task, lengths)
    allocation = measured.allocation(measured.choices({"s": ("m", 2), "t": ("m", 2)}))
    assert 4 * measured.cost(allocation) == pytest.approx(attributes["spend"])


# Failures.


def test_an_unavailable_tool_fails_only_its_instance(caplog):
    """The cause is counted and logged; metrics of the failed instance are 0."""

    def tool(state):
        if state.instance == 2:
            raise ToolError("no such page")
        return f"page {state.instance}"

    stages = [asks("s"), Step(name="tool", run=tool, fails_on=(ToolError,)), asks("t", "tool")]
    evaluation, states, chat = run(
        stages, instances=range(4), metrics={"two": lambda state: 2.0, "one": lambda state: 1}
    )
    failed = evaluation.results["2"]
    assert (failed.failed, failed.outcome, failed.metrics) == (True, 0.0, {"two": 0.0, "one": 0.0})
    assert set(failed.stages) == {"s"}
    assert failed.total("spend") > 0
    assert evaluation.failed == 1
    assert evaluation.mean == 0.75
    assert evaluation.metrics == {"two": 1.5, "one": 0.75}
    assert "1 x tool: ToolError: no such page" in caplog.text
    assert len(states) == 3
    assert len(chat.requests) == 4 + 3


def test_too_many_tool_failures_fail_the_trial():
    """The error has the cause."""

    async def tool(state):
        raise ToolError("the site is down")

    pipeline = Pipeline(
        stages=[Step(name="tool", run=tool, fails_on=(ToolError, OSError)), asks("s")],
        score=lambda state: 1.0,
    )
    with (
        objective_of(pipeline, {"m": Replies(echo)}) as objective,
        pytest.raises(TooManyFailuresError, match="tool: ToolError: the site is down"),
    ):
        objective.evaluate({"s": ("m", 1)})


@pytest.mark.parametrize("place", ["step", "prompt", "parse", "score", "metric", "when"])
def test_a_bug_fails_the_trial_and_keeps_completions(place):
    """An exception that is not in `fails_on` is raised unchanged."""

    def bug(*_):
        raise ToolError(f"bug in {place}")

    def at(name, otherwise):
        return bug if place == name else otherwise

    stages = [
        asks("s"),
        Step(name="tool", run=at("step", lambda state: 1), fails_on=(OSError,)),
        StageProgram(
            name="t",
            prompt=at("prompt", lambda state: "t"),
            parse=at("parse", lambda text, state: text),
            when=at("when", lambda state: True),
            enough=None,
        ),
    ]
    pipeline = Pipeline(
        stages=stages,
        score=at("score", lambda state: 1.0),
        metrics={"more": at("metric", lambda state: 1.0)},
    )
    chat = Replies(echo)
    study = optuna.create_study(direction="maximize")
    with objective_of(pipeline, {"m": chat}) as objective:
        study.enqueue_trial(objective.task.params({"s": ("m", 3), "t": ("m", 2)}))
        with pytest.raises(ToolError, match=f"bug in {place}"):
            study.optimize(objective, n_trials=1)
        assert study.trials[0].state == TrialState.FAIL
        assert len(objective.store) == len(chat.requests) >= 3


class Hanging(Replies):
    """Chat model that never answers some requests, and counts those that are not cancelled."""

    hanging = 0

    async def complete(self, request, *, seed):
        if self.hangs(request):
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1
        return await super().complete(request, seed=seed)


def test_an_exception_stops_the_other_instances():
    """Nothing more is generated for a trial that has ended."""

    class Slow(Hanging):
        def hangs(self, request):
            return request.messages[-1].content != "0"

    def bug(text, state):
        raise ToolError("bug")

    pipeline = Pipeline(stages=[asks("s", parse=bug)], score=lambda state: 1.0)
    chat = Slow(echo)
    with objective_of(pipeline, {"m": chat}, range(10)) as objective:
        with pytest.raises(ToolError):
            objective.evaluate({"s": ("m", 2)})
        assert chat.hanging == 0
        assert [request.messages[-1].content for request in chat.requests] == ["0", "0"]


def test_an_exception_stops_the_other_repairs():
    """Nothing more is generated for the instance either."""

    class Slow(Hanging):
        def hangs(self, request):
            return len(request.messages) > 1 and "bad 0" not in request.messages[1].content

    def parse(text, state):
        if text == "bug":
            raise ToolError("bug")

    def answer(request, number):
        return f"bad {number}" if len(request.messages) == 1 else "bug"

    pipeline = Pipeline(stages=[asks("s", parse=parse, repair=again)], score=lambda state: 1.0)
    chat = Slow(answer)
    with objective_of(pipeline, {"m": chat}) as objective:
        with pytest.raises(ToolError):
            objective.evaluate({"s": ("m", 8)})
        assert chat.hanging == 0
    assert len(chat.requests) == 8 + 1


def test_failed_samples_do_not_count_as_reused():
    """Reuse is a fraction of successful calls."""

    def answer(request, number):
        return ChatRefusedError("no") if number % 2 else "fine"

    evaluation, _, chat = run([asks("s")], chat=Replies(answer), samples=4)
    assert len(chat.requests) == 4
    assert evaluation.failed == 0
    assert evaluation.reused == 0
    assert evaluation.results["0"].stages["s"].samples == 4


# Scores.


async def _score(state):
    await asyncio.sleep(0)
    return len(state["s"]) > 6


def test_scores_and_metrics_may_be_coroutine_functions():
    """The score is the trial's value; means of metrics are its user attributes."""
    pipeline = Pipeline(
        stages=[asks("s")],
        score=_score,
        metrics={"length": lambda state: len(state["s"]), "again": _score},
    )
    study = optuna.create_study(direction="maximize")
    with objective_of(pipeline, {"m": Replies(echo)}, ["a", "bc"]) as objective:
        study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.value == trial.user_attrs["again"] == 0.5
    assert trial.user_attrs["length"] == 6.5
    with pytest.raises(PipelineError, match="'spend'"):
        run([asks("s")], metrics={"spend": _score})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("a\ud800", "unpaired surrogate"),
        ("a\0", "character NUL"),
        ("x" * 10_000, "at most 512 characters, got 10000"),
        (5, "string"),
    ],
)
def test_names_that_cannot_be_stored_are_refused(wrong, reason):
    """Metrics are attributes of trials."""
    stages = [StageProgram(name="s", prompt=str)]
    with pytest.raises(PipelineError, match=f"`metrics` .*{reason}"):
        Pipeline(stages=stages, score=len, metrics={wrong: len})
    with pytest.raises(PipelineError, match=f"`stages` .*{reason}"):
        Pipeline(stages=[*stages, Step(name=wrong, run=len)], score=len)


def test_a_pipeline_needs_a_model_and_unique_names():
    """Other pipelines are rejected at construction."""
    step = Step(name="s", run=str)
    for stages in ([], [step], [asks("s"), step], [asks("s"), asks("s")]):
        with pytest.raises(PipelineError, match="unique names"):
            Pipeline(stages=stages, score=_score)


# Lengths.


def test_lengths_of_the_first_stage_are_those_of_the_data():
    """Prompts are built and counted; a reply is half of `max_tokens`."""
    pipeline = Pipeline(stages=[asks("s", max_tokens=100)], score=_score)
    assert pipeline.lengths(["a" * 40, "b" * 80]) == {"s": (15.0, 50.0)}
    assert pipeline.lengths(["a b c", "d"], count=lambda text: len(text.split())) == {
        "s": (2.0, 50.0)
    }
    assert pipeline.lengths([""])["s"][0] == 1
    with pytest.raises(PipelineError, match="`instances` must not be empty"):
        pipeline.lengths([])


def test_lengths_of_later_stages_are_estimated():
    """Half of each earlier `max_tokens` is added; prompts that need results do not raise."""

    def needs(state):
        return "x" * 40 + state["s"].upper()

    stages = [
        asks("s", max_tokens=100),
        Step(name="tool", run=lambda state: 1 / 0),
        asks("t", "tool", max_tokens=60),
        StageProgram(name="u", prompt=needs, max_tokens=10),
    ]
    lengths = Pipeline(stages=stages, score=_score).lengths(["a" * 40])
    assert lengths["s"] == (10, 50)
    assert lengths["t"] == (estimated_tokens("None") + 50, 30)
    assert lengths["u"] == (1 + 50 + 30, 5)


def test_exceptions_of_a_token_counter_are_raised():
    """They are not mistaken for a prompt that needs missing results."""

    def count(text):
        raise ToolError("no vocabulary")

    with pytest.raises(ToolError):
        Pipeline(stages=[asks("s")], score=_score).lengths(["a"], count=count)


# Interruptions.


@pytest.mark.slow
def test_a_server_that_is_down_for_seconds_costs_no_instance():
    """Instances wait for it, and their scores are unchanged."""
    server = LoopbackServer({"m": Replies(lambda *_: "fine")})
    server.start()
    server.stop()
    pipeline = Pipeline(stages=[asks("s")], score=lambda state: float(state["s"] == "fine"))
    endpoint = connect_endpoints(["m"], server.url, starting=True)["m"]
    late = threading.Timer(0.8, server.start)
    late.start()
    try:
        with objective_of(pipeline, {"m": endpoint}, range(20)) as objective:
            evaluation = objective.evaluate({"s": ("m", 2)})
    finally:
        late.join()
        server.__exit__()
    assert (evaluation.failed, evaluation.mean) == (0, 1.0)
    assert server.served["/v1/chat/completions"] == 40


def test_an_unwritable_store_fails_the_trial():
    """A full disk is not a failure of an instance."""
    store = CompletionStore()
    (pages,) = store._database.connection.execute("PRAGMA page_count").fetchone()
    store._database.connection.execute(f"PRAGMA max_page_count={pages + 2}")
    pipeline = Pipeline(stages=[asks("s")], score=_score)
    chat = Replies(lambda request, number: "word " * 1000)
    with (
        objective_of(pipeline, {"m": chat}, range(4), store=store) as objective,
        pytest.raises(StoreError, match="full"),
    ):
        objective.evaluate({"s": ("m", 3)})


SEARCH = """
import sys

import optuna

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts_integrations import (
    CompletionStore, MultiStageObjective, Pipeline, StageProgram,
)
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints

url, folder = sys.argv[1:]
task = Task(
    name="t",
    stages=[Stage("s", models=[Model("m", parameters=1e9)], prompt_tokens=9,
                  generation_tokens=9, max_samples=50)],
    budget=1e9,
)
objective = MultiStageObjective(
    Pipeline(
        stages=[
            StageProgram(
                name="s", prompt=lambda state: f"question {state.instance}", enough=None
            )
        ],
        score=lambda state: float(state["s"] == "fine"),
    ),
    list(range(10)),
    task=task,
    endpoints=connect_endpoints(task, url, concurrency=8),
    store=CompletionStore(folder + "/store.db"),
    progress=False,
)
study = optuna.create_study(
    study_name="search", storage=f"sqlite:///{folder}/study.db", load_if_exists=True,
    direction="maximize",
)
study.enqueue_trial(task.params({"s": ("m", 20)}))
study.optimize(objective, n_trials=1)
print("done", study.trials[-1].user_attrs["reused"])
"""


@pytest.mark.slow
def test_an_interrupted_search_exits_at_once_and_can_be_resumed(tmp_path):
    """After Ctrl-C during a trial, completions are not generated again."""
    script = tmp_path / "search.py"
    script.write_text(textwrap.dedent(SEARCH))
    enough = threading.Event()
    pause = 0.01

    class Slow(Replies):
        async def complete(self, request, *, seed):
            # Later replies do not come before the interruption, however late that is.
            await asyncio.sleep(600 if pause and enough.is_set() else pause)
            completion = await super().complete(request, seed=seed)
            if len(self.requests) >= 50:
                enough.set()
            return completion

    chat = Slow(lambda request, number: "fine")
    with LoopbackServer({"m": chat}) as server:
        command = [sys.executable, str(script), server.url, str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        first = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Background jobs of a shell ignore SIGINT.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert enough.wait(120), first.communicate(timeout=5)
            first.send_signal(signal.SIGINT)
            # The timeout fails the test if the program waits for anything before it ends.
            output, errors = first.communicate(timeout=60)
        finally:
            first.kill()
        assert "KeyboardInterrupt" in errors
        assert first.returncode != 0
        assert "done" not in output

        store = CompletionStore(tmp_path / "store.db")
        kept, asked = len(store), len(chat.requests)
        # All replies but those in flight.
        assert asked - 8 <= kept <= asked < 200
        pause = 0.0
        second = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=True
        )
        assert len(store) == 200
        store.close()
        assert len(chat.requests) - asked == 200 - kept
    assert float(second.stdout.split()[-1]) == pytest.approx(kept / 200, abs=1e-3)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/study.db")
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.best_value == 1.0
