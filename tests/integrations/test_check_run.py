"""`MultiStageObjective.check` runs one instance through every function of a pipeline."""

import asyncio
import math
from functools import partial

import pytest
from pipeline_support import Replies, allocation, calls, make_objective, objective_of, unused

from optuna_agenttts import FlopsCost, Model, Stage, Task
from optuna_agenttts.llm import ChatRefusedError, Message, RetryingChatModel
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    LLMFusion,
    MultiStageObjective,
    Pipeline,
    StageProgram,
    Step,
    connect_endpoints,
)


def read_number(text, state):
    """Return the number in a reply."""
    return int(text)


def checked(stage=None, *, steps=(), answer=lambda request, number: str(number), **options):
    """Check a pipeline of one stage; return findings by subject and check, and the model."""
    chat = Replies(answer)
    program = {"name": "s", "prompt": lambda state: f"question {state.instance}", **(stage or {})}
    score = options.pop("score", lambda state: 1.0)
    pipeline = Pipeline(
        stages=[*steps, StageProgram(**program)],
        score=score,
        metrics=options.pop("metrics", {}),
    )
    with objective_of(pipeline, {"m": chat}, **options) as objective:
        report = objective.check()
    return {(f.subject, f.check): f for f in report.findings}, chat


def errors(findings):
    """Return the keys of errors."""
    return {key for key, finding in findings.items() if finding.level == "error"}


# Signatures.


def one(only):
    """Take one argument."""


def two(first, second):
    """Take two arguments."""


def three(first, second, third):
    """Take three arguments."""


def named(*, state):
    """Take no positional argument."""


async def later(*arguments):
    """Return nothing, later."""


@pytest.mark.parametrize(
    "wrong", [one, three, named, later, "text", partial(two, 1), partial(one)]
)
def test_a_parse_of_a_wrong_signature_is_named_before_any_call(wrong):
    """The finding has the function, its stage, and how it is called."""
    findings, chat = checked({"parse": wrong})
    assert errors(findings) == {("s", "parse")}
    finding = findings["s", "parse"]
    name = wrong if isinstance(wrong, str) else getattr(wrong, "func", wrong).__name__
    assert name in finding.message
    assert "(text, state)" in finding.remedy
    assert chat.requests == []
    assert "no call was made" in findings["pipeline", "coverage"].message


@pytest.mark.parametrize(
    ("key", "options"),
    [
        (("s", "prompt"), {"stage": {"prompt": two}}),
        (("s", "aggregate"), {"stage": {"aggregate": two}}),
        (("s", "repair"), {"stage": {"repair": one}}),
        (("s", "when"), {"stage": {"when": lambda: True}}),
        (("s", "otherwise"), {"stage": {"otherwise": two}}),
        (("s", "messages"), {"stage": {"aggregate": LLMFusion(messages=one)}}),
        (("s", "fallback"), {"stage": {"aggregate": LLMFusion(fallback=two)}}),
        (("t", "run"), {"steps": [Step(name="t", run=two)]}),
        (("pipeline", "score"), {"score": two}),
        (("pipeline", "metric 'f1'"), {"metrics": {"f1": two}}),
    ],
)
def test_every_function_of_a_wrong_signature_is_found(key, options):
    """Each by its stage and the argument that it was passed as."""
    findings, chat = checked(**options)
    assert errors(findings) == {key}
    assert chat.requests == []


@pytest.mark.parametrize(
    "right", [read_number, lambda *a: "x", lambda text, state, more=1: "x", partial(three, "x")]
)
def test_functions_that_can_be_called_are_not_findings(right):
    """Defaults, variable arguments and partial functions count."""
    findings, _ = checked({"parse": right})
    assert not errors(findings)


# Functions that raise or return what cannot be used.


def broken(*arguments):
    """Raise."""
    raise KeyError("gone")


async def broken_later(*arguments):
    """Raise, later."""
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("key", "options"),
    [
        (("s", "parse"), {"stage": {"parse": broken}}),
        (("s", "aggregate"), {"stage": {"aggregate": broken}}),
        (("s", "repair"), {"stage": {"repair": broken, "parse": lambda text, state: None}}),
        (("s", "messages"), {"stage": {"aggregate": LLMFusion(messages=broken)}}),
        (("s", "fallback"), {"stage": {"aggregate": LLMFusion(fallback=broken)}}),
        (("s", "otherwise"), {"stage": {"when": lambda s: False, "otherwise": broken}}),
        (("pipeline", "score"), {"score": broken}),
        (("pipeline", "score"), {"score": broken_later}),
        (("pipeline", "metric 'f1'"), {"metrics": {"f1": broken}}),
    ],
)
def test_a_function_that_raises_is_named(key, options):
    """The search would end there, after samples were paid for."""
    findings, _ = checked(**options)
    assert errors(findings) == {key}
    assert "broken" in findings[key].message
    assert "KeyError('gone')" in findings[key].message


@pytest.mark.parametrize(
    "value", ["0.5", "good", None, math.nan, math.inf, 1j, [1.0], two, asyncio.Future]
)
@pytest.mark.parametrize("name", ["score", "metrics"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_score_must_be_a_finite_number(value, name, asynchronous):
    """Coroutine functions are awaited first."""

    async def compute(state):
        return value

    function = compute if asynchronous else lambda state: value
    findings, _ = checked(**{name: function if name == "score" else {"f1": function}})
    key = ("pipeline", "score" if name == "score" else "metric 'f1'")
    assert errors(findings) == {key}


@pytest.mark.parametrize("value", [1, 0.5, True, -3.0])
def test_numbers_are_scores(value):
    """Their value is shown."""
    findings, _ = checked(score=lambda state: value, metrics={"f1": lambda state: value})
    assert not errors(findings)
    assert findings["pipeline", "score"].message == f"{float(value):g}"
    assert findings["pipeline", "metric 'f1'"].message == f"{float(value):g}"


def test_a_score_outside_of_the_declared_range_is_an_error():
    """The metric's range is the task's."""
    program = StageProgram(name="s", prompt=lambda state: "ask")
    stage = Stage("s", models=[Model("m", parameters=1e9)], prompt_tokens=1, generation_tokens=8)
    for score, right in ((100.0, False), (0.0, True), (1.0, True), (-0.1, False)):
        pipeline = Pipeline(stages=[program], score=lambda state, score=score: score)
        task = Task(name="t", stages=[stage], cost=FlopsCost(), metric_range=(0, 1))
        endpoints = {"m": Endpoint(chat=Replies(lambda r, n: "x"), identity="m")}
        with MultiStageObjective(pipeline, ["q"], task=task, endpoints=endpoints) as objective:
            report = objective.check()
        assert [f.check for f in report.errors] == ([] if right else ["score"])


@pytest.mark.parametrize("kind", ["parse", "aggregate"])
def test_a_coroutine_that_is_not_awaited_is_an_error(kind):
    """It would become a sample, which no score can read."""
    findings, _ = checked({kind: lambda *arguments: later()})
    assert errors(findings) == {("s", kind)}
    assert "not awaited" in findings["s", kind].message


@pytest.mark.parametrize("messages", ["text", None, ["text"], []])
def test_a_fusion_prompt_must_be_messages(messages):
    """Also if the replies are equal, so that no fusion is needed."""
    fusion = LLMFusion(messages=lambda prompt, candidates: messages)
    for answer in (lambda request, number: "same", lambda request, number: str(number)):
        findings, _ = checked({"aggregate": fusion}, answer=answer)
        assert errors(findings) == {("s", "messages")}


@pytest.mark.parametrize("prompt", [None, 5, "", [], ["text"], [Message("user", " ")]])
def test_a_prompt_of_a_later_stage_must_be_text_or_messages(prompt):
    """It is known only when the earlier stages have run."""
    first = StageProgram(name="r", prompt=lambda state: "ask")
    second = StageProgram(name="s", prompt=lambda state: prompt)
    pipeline = Pipeline(stages=[first, second], score=lambda state: 1.0)
    with objective_of(pipeline, {"m": Replies(lambda r, n: "x")}) as objective:
        report = objective.check()
    assert [(f.subject, f.check) for f in report.errors] == [("s", "prompt")]


def test_exceptions_and_replies_are_shown_without_keys():
    """Reports of checks end up in logs."""
    key = "hf_" + "secret" * 5

    def parse(text, state):
        raise ValueError(f"{key} and {text}")

    findings, _ = checked({"parse": parse}, answer=lambda request, number: f"reply {key}")
    assert "reply" in findings["s", "result"].message
    assert not any(key in finding.message for finding in findings.values())


# What a healthy run shows.


def test_each_stage_shows_what_it_returned_on_one_line():
    """Replies and results are escaped and shortened."""
    long = "\x1b[31m" + "x" * 500 + "\n"
    findings, _ = checked(answer=lambda request, number: long)
    message = findings["s", "result"].message
    assert "\\x1b[31mxxx" in message
    assert message.isprintable()
    assert len(message) < 400
    assert "2 of 2 replies" in message
    assert "majority_vote returned" in message


def test_the_report_says_what_was_not_examined():
    """Other instances and models, more samples, and functions that were not needed."""
    objective, _ = make_objective(count=7)
    report = objective.check()
    message = next(f.message for f in report.findings if f.check == "coverage")
    assert "6 other instances" in message
    assert "replies of large" in message
    findings, _ = checked({"repair": lambda state, text: "again"})
    assert "`repair` of s" in findings["pipeline", "coverage"].message


def test_the_search_reuses_the_samples_and_the_spend_is_told():
    """An allocation of the check's models and samples then costs nothing for that instance."""
    objective, chats = make_objective(count=1)
    report = objective.check()
    spend = next(f.message for f in report.findings if f.check == "spend")
    assert "reference samples for 4 calls with 12 generated tokens" in spend
    before = calls(chats)
    evaluation = objective.evaluate(allocation(("small", 2), ("small", 2)))
    assert calls(chats) == before
    assert evaluation.spend == 0
    # A second check pays for nothing but its requests to servers.
    assert any("for 0 calls" in f.message for f in objective.check().findings)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_stage_takes_two_samples_if_it_allows_them(most):
    """An aggregation has something to join."""
    stage = Stage(
        "s",
        models=[Model("m", parameters=1e9)],
        prompt_tokens=1,
        generation_tokens=8,
        max_samples=most,
    )
    pipeline = Pipeline(
        stages=[StageProgram(name="s", prompt=lambda state: "ask")], score=lambda state: 1.0
    )
    store = CompletionStore()
    with MultiStageObjective(
        pipeline,
        ["q"],
        task=Task(name="t", stages=[stage]),
        endpoints={"m": Endpoint(chat=Replies(lambda r, n: str(n)), identity="m")},
        store=store,
    ) as objective:
        assert objective.check().ok
    assert len(store) == min(most, 2)


def test_the_cheapest_model_without_errors_is_run():
    """A model with errors is not called again."""
    dead = Replies(lambda request, number: ChatRefusedError("no such model", kind="HTTP 404"))
    alive = Replies(lambda request, number: "fine")
    pipeline = Pipeline(
        stages=[StageProgram(name="s", prompt=lambda state: "ask")], score=lambda state: 1.0
    )
    with objective_of(pipeline, {"dead": dead, "alive": alive}) as objective:
        report = objective.check()
    assert {f.subject for f in report.errors} == {"dead"}
    result = next(f for f in report.findings if f.check == "result")
    assert result.message.startswith("alive: 2 of 2")
    assert len(dead.requests) == 1


def test_without_a_model_that_answers_nothing_is_run():
    """The report says so."""
    findings, _ = checked(
        answer=lambda request, number: ChatRefusedError("no such model", kind="HTTP 404")
    )
    assert ("s", "result") not in findings
    assert "no stage was run" in findings["pipeline", "coverage"].message


def test_replies_that_no_parse_reads_are_a_warning():
    """The search would score zero."""
    findings, _ = checked({"parse": lambda text, state: None})
    assert findings["s", "result"].level == "warning"
    assert "none was readable" in findings["s", "result"].message
    assert "`aggregate` of s" in findings["pipeline", "coverage"].message


def test_a_step_that_fails_on_purpose_is_a_warning():
    """Its instance fails, and the search continues."""
    step = Step(name="tool", run=broken, fails_on=(KeyError,))
    findings, _ = checked(steps=[step])
    assert findings["tool", "result"].level == "warning"
    assert "gone" in findings["tool", "result"].message


def test_a_retrying_chat_model_is_called_once_per_sample():
    """A check does not wait as long as a search."""
    chat = RetryingChatModel(Replies(lambda request, number: "fine"))
    pipeline = Pipeline(
        stages=[StageProgram(name="s", prompt=lambda state: "ask")], score=lambda state: 1.0
    )
    with objective_of(pipeline, {"m": chat}) as objective:
        assert objective.check().ok
    assert chat.calls == 0
    assert chat.chat.requests


# Replay.


def test_a_replay_is_checked_without_any_call():
    """The cheapest stored allocation is run."""
    store = CompletionStore()
    objective, _ = make_objective(count=3, store=store)
    objective.evaluate(allocation(("large", 2), ("small", 2)))
    objective, chats = make_objective(count=3, store=store, replay=True)
    report = objective.check()
    assert report.ok
    assert calls(chats) == 0
    results = [f.message for f in report.findings if f.check == "result"]
    assert [message.partition(":")[0] for message in results] == ["large", "small"]
    assert all("2 of 2 replies" in message for message in results)


def test_a_replay_from_an_empty_store_is_a_warning():
    """The stored trials may have other models or samples."""
    objective, chats = make_objective(count=3, replay=True)
    report = objective.check()
    assert calls(chats) == 0
    assert [f.check for f in report.findings if f.level == "warning"] == ["prompts", "result"]
    assert "the store lacks the others" in str(report)


def test_a_replay_contacts_no_server():
    """Its servers may be gone."""
    objective, _ = make_objective(count=2, replay=True)
    url = unused()
    objective.endpoints = connect_endpoints(objective.task, url)
    assert not any(f.check == "reachable" for f in objective.check().findings)


@pytest.mark.parametrize("kind", ["score", "parse"])
def test_a_function_that_exits_is_named(kind):
    """It neither ends the program nor stops the event loop, which the check would wait for."""

    def leave(*arguments):
        raise SystemExit(3)

    stage = {"parse": leave} if kind == "parse" else {}
    options = {"score": leave} if kind == "score" else {}
    findings, _ = checked(stage, **options)
    (found,) = [findings[key] for key in errors(findings)]
    assert found.message == f"`{kind}` (leave) raised SystemExit(3)"
