"""`MultiStageObjective.check`: what would make a search fail is found before it is spent on."""

import json
import sqlite3

import pytest
from pipeline_support import Replies, objective_of, unused

from optuna_agenttts.exceptions import CheckError
from optuna_agenttts.llm import HuggingFaceChat, RetryingChatModel
from optuna_agenttts_integrations import CompletionStore, Pipeline, StageProgram
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import Step
from optuna_agenttts_integrations.testing.serving import LoopbackServer, ServerLimits

INSTANCES = ["x" * 80, "y" * 120, "z" * 100]
"""Prompts of 25 tokens on average; 20 are declared."""
CHATS = "/v1/chat/completions"
SCHEMA = json.dumps({"type": "object", "properties": {"x": {}}, "required": ["x"]})


def good():
    """A model that always says the same."""
    return Replies(lambda request, number: '{"x": 1}')


def stage(name="s", **options):
    """A stage that sends its instance."""
    options.setdefault("prompt", lambda state: f"{state.instance}{name}")
    options.setdefault("max_tokens", 10)
    return StageProgram(name=name, **options)


def checked(*stages, places=None, models=("m",), **options):
    """Check a pipeline; returns findings by subject and check, and the report."""
    pipeline = Pipeline(stages=stages or (stage(),), score=lambda state: 1.0)
    found = connect_endpoints(models, good() if places is None else places)
    options.setdefault("instances", INSTANCES)
    with objective_of(pipeline, found, **options) as objective:
        report = objective.check()
    findings = {(f.subject, f.check): f for f in report.findings}
    assert len(findings) == len(report.findings)
    assert all(f.remedy for f in report.findings if f.level == "error")
    return findings, report


def levels(findings):
    """The findings that are not all right."""
    return {key: finding.level for key, finding in findings.items() if finding.level != "ok"}


# What is well.


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
def test_healthy_servers_are_well_and_asked_little(dialect):
    """A model of two stages is examined once, with some seven requests."""
    stages = [stage("s", schema=SCHEMA, stop=("\n\n",)), stage("t", schema=SCHEMA)]
    with LoopbackServer({"m": good()}, dialect=dialect) as server:
        findings, report = checked(*stages, places=server.url)
        assert sum(server.served.values()) <= 7
    assert report.ok
    assert not levels(findings)
    report.raise_for_errors()
    assert {check for subject, check in findings if subject == "m"} >= {
        "reachable",
        "model",
        "one token",
        "seeds",
        "structured output",
    }
    assert ("s", "prompts") in findings
    assert "about 25 tokens on average, 30 at most" in findings["s", "prompts"].message


def test_the_longest_request_of_all_stages_is_tried():
    """Of prompts that can be written without replies, with the reply that may follow."""
    chat = good()
    stages = [
        stage("s", max_tokens=40),
        stage("t", prompt=lambda state: f"{state['s']} " + "w" * 200, max_tokens=5),
        stage("u", prompt=lambda state: state["s"].upper() + "w" * 999),
    ]
    checked(*stages, places=chat)
    assert chat.requests[0].messages[0].content == "y" * 120 + "s"
    assert {request.model for request in chat.requests} == {"m"}


def test_models_of_one_server_are_examined_one_by_one():
    """Each model is one subject, each of several servers of a model another."""
    with (
        LoopbackServer({"a": good(), "b": good()}) as both,
        LoopbackServer({"there": good()}, dialect="tgi") as other,
    ):
        findings, report = checked(
            stage("s"),
            stage("t"),
            models=("a", "b"),
            places={"a": both.url, "b": [both.url, f"{other.url}#there"]},
        )
        assert report.ok
        assert sum(both.served.values()) <= 2 * 7
        assert sum(other.served.values()) <= 7
    assert {subject for subject, _ in findings} == {
        "store",
        "s",
        "a",
        "b (1 of 2)",
        "b (2 of 2)",
    }
    # 64 of the two servers' 128 requests each.
    assert findings["b (2 of 2)", "concurrency"].level == "ok"
    assert findings["b (2 of 2)", "concurrency"].message.startswith("64 requests at once")


# Servers.


def test_a_dead_server_is_not_asked_again():
    """Each of its models has an error, and so have both of its stages' models only once."""
    url = unused()
    with LoopbackServer({"c": good()}) as alive:
        fused = stage("s", aggregate=LLMFusion())
        findings, report = checked(
            fused, models=("a", "b", "c"), places={"a": url, "b": url, "c": alive.url}
        )
    assert levels(findings) == {("a", "reachable"): "error", ("b", "reachable"): "error"}
    assert "as a was there" in findings["b", "reachable"].message
    assert [f.check for f in report.findings if f.subject == "b"] == ["reachable"]
    with pytest.raises(CheckError, match="2 checks failed"):
        report.raise_for_errors()


def test_nothing_more_is_asked_of_a_server_that_hangs_up():
    """A connection that is accepted and closed: one call and the pages, for three models."""
    accepted = []

    class Deaf(LoopbackServer):
        def _accept(self, reader, writer):
            accepted.append(1)
            writer.transport.abort()

    with Deaf({"m": good()}) as server:
        fused = stage("s", aggregate=LLMFusion())
        _, report = checked(fused, stage("t"), models=("a", "b", "c"), places=server.url)
    assert len(report.errors) == 3
    assert len(accepted) == 3


def test_one_dead_replica_is_told_from_the_others():
    """Whoever is out of reach is named, and where."""
    url = unused()
    with LoopbackServer({"m": good()}) as alive:
        findings, _ = checked(places=[alive.url, url])
    assert levels(findings) == {("m (2 of 2)", "reachable"): "error"}
    assert url.removeprefix("http://") in findings["m (2 of 2)", "reachable"].message


def test_the_wrong_model_is_an_error():
    """TGI answers to any name: its own page tells."""
    with LoopbackServer({"other": good()}, dialect="tgi") as server:
        findings, report = checked(places=server.url)
        assert levels(findings) == {("m", "model"): "error"}
        assert "serves 'other', not 'm'" in str(report)
        assert checked(places=f"{server.url}#other")[1].ok
    with LoopbackServer({"other": good()}) as server:
        findings, _ = checked(places=server.url)
        assert set(levels(findings).values()) == {"error"}
        assert sum(server.served.values()) <= 7


def test_a_patient_chat_is_looked_behind():
    """A dead server behind one is not waited for."""
    retrying = RetryingChatModel(HuggingFaceChat("m", base_url=unused(), timeout=2))
    findings, _ = checked(places=retrying)
    assert levels(findings) == {("m", "reachable"): "error"}
    assert retrying.calls == 0


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
def test_a_fusion_beyond_the_context_is_a_warning(dialect):
    """The remedy is a bound that fits, for each stage that fuses."""
    limits = ServerLimits(max_input_tokens=900, max_total_tokens=1000)

    class Server(LoopbackServer):
        def _page(self, path):
            page = super()._page(path)
            if path == "/v1/models":
                # As vLLM says it.
                page["data"][0]["max_model_len"] = 1000
            return page

    stages = [
        stage("s", aggregate=LLMFusion(max_prompt_tokens=990)),
        stage("t", aggregate=LLMFusion(max_prompt_tokens=991)),
        stage("u"),
    ]
    with Server({"m": good()}, dialect=dialect, limits=limits) as server:
        findings, report = checked(*stages, places=server.url)
        assert sum(server.served.values()) <= 7
    assert report.ok
    assert levels(findings) == {("m", "fusion"): "warning"}
    assert "in 't' may take 1001 tokens" in findings["m", "fusion"].message
    assert "LLMFusion(max_prompt_tokens=990)" in findings["m", "fusion"].remedy


# Data.


def test_a_prompt_that_raises_is_an_error():
    """Instance and exception are named."""

    def prompt(state):
        return {"x": "fine"}[state.instance[0]]

    findings, report = checked(stage(prompt=prompt))
    assert levels(findings) == {("s", "prompts"): "error"}
    assert "KeyError('" in findings["s", "prompts"].message
    assert not report.ok


@pytest.mark.parametrize(
    "prompt", [lambda state: None, lambda state: 5, lambda state: ["no message"]]
)
def test_a_prompt_that_is_none_is_an_error(prompt):
    """What is neither text nor messages is found, not raised."""
    findings, _ = checked(stage(prompt=prompt))
    assert levels(findings) == {("s", "prompts"): "error"}
    assert "cannot be written" in findings["s", "prompts"].message


@pytest.mark.parametrize("prompt", [lambda state: "", lambda state: " \n", lambda state: []])
def test_an_empty_prompt_is_an_error(prompt):
    """White space alone asks nothing."""
    findings, _ = checked(stage(prompt=prompt))
    assert levels(findings) == {("s", "prompts"): "error"}
    assert "is empty" in findings["s", "prompts"].message


def test_a_stage_that_no_instance_runs_is_a_warning():
    """It would be tuned without any effect."""
    findings, report = checked(stage(when=lambda state: False))
    assert levels(findings) == {("s", "prompts"): "warning"}
    assert "no instance runs this stage" in str(report)
    # One that some instances run is judged by those.
    findings, _ = checked(stage(when=lambda state: state.instance[0] == "x"))
    assert not levels(findings)
    assert findings["s", "prompts"].message.startswith("1 written")


@pytest.mark.parametrize(
    ("declared", "level"), [(12, "warning"), (13, "ok"), (50, "ok"), (51, "warning")]
)
def test_lengths_that_are_far_off_are_a_warning(declared, level):
    """By more than a factor of two."""
    findings, _ = checked(prompt_tokens=declared)
    assert findings["s", "prompts"].level == level
    if level == "warning":
        assert f"{declared} are declared" in findings["s", "prompts"].message


def test_plain_steps_before_the_first_stage_are_run():
    """Their results are in the prompts, and what they raise is found before a search."""
    step = Step(name="look", run=lambda state: "seen " * 50)
    findings, report = checked(step, stage(prompt=lambda state: state["look"].upper()))
    assert report.ok
    assert "about 62 tokens" in findings["s", "prompts"].message
    broken = Step(name="look", run=lambda state: 1 / 0)
    findings, _ = checked(broken, stage(prompt=lambda state: state["look"].upper()))
    assert findings["s", "prompts"].level == "error"
    assert "ZeroDivisionError" in findings["s", "prompts"].message


def test_coroutine_steps_are_not_run():
    """What they find is not known before a search."""

    async def look(state):
        raise AssertionError

    findings, _ = checked(
        Step(name="look", run=look), stage(prompt=lambda state: f"{state['look']} and more")
    )
    assert findings["s", "prompts"].level != "error"


@pytest.mark.parametrize("schema", ["{", "[]", "null"])
def test_a_schema_that_is_none_is_an_error(schema):
    """The check says so, and goes on."""
    findings, _ = checked(stage(schema=schema), models=("a", "b"), places=good())
    assert levels(findings) == {("s", "schema"): "error"}
    assert ("b", "seeds") in findings


# The store.


def test_a_store_that_is_written_to_is_well(tmp_path):
    """What is written to try it is gone afterwards."""
    store = CompletionStore(tmp_path / "store.db")
    findings, _ = checked(store=store)
    assert findings["store", "writable"].level == "ok"
    assert len(store) == 0
    store.close()


def test_a_full_disk_is_an_error():
    """SQLite's own bound on the file stands in for the disk's."""
    store = CompletionStore()
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count={pages + 1}")
    findings, report = checked(store=store)
    assert levels(findings) == {("store", "writable"): "error"}
    assert "full" in findings["store", "writable"].message
    assert "make room" in findings["store", "writable"].remedy
    with pytest.raises(CheckError, match="1 check failed"):
        report.raise_for_errors()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    """A connection that may only read, as root may write to any file."""
    store = CompletionStore(tmp_path / "store.db")
    writable = store._connection
    store._connection = sqlite3.connect(
        f"file:{store.path}?mode=ro", uri=True, check_same_thread=False
    )
    findings, _ = checked(store=store)
    assert levels(findings) == {("store", "writable"): "error"}
    assert "readonly" in findings["store", "writable"].message
    store.close()
    writable.close()


def test_a_closed_store_is_an_error():
    """And no exception."""
    store = CompletionStore()
    store.close()
    findings, _ = checked(store=store)
    assert levels(findings) == {("store", "writable"): "error"}
