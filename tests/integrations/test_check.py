"""`MultiStageObjective.check` finds errors before a search spends money."""

import json
import pickle
import sqlite3
from dataclasses import replace

import pytest
from pipeline_support import Replies, objective_of, unused

from optuna_agenttts.exceptions import CheckError
from optuna_agenttts.llm import HuggingFaceChat, RetryingChatModel
from optuna_agenttts.llm.secrets import UnpickledKey
from optuna_agenttts_integrations import CompletionStore, Pipeline, StageProgram
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.pipeline.aggregation import majority_vote
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import Step
from optuna_agenttts_integrations.testing.serving import LoopbackServer, ServerLimits

INSTANCES = ["x" * 80, "y" * 120, "z" * 100]
"""Prompts of 25 tokens on average; 20 are declared."""
CHATS = "/v1/chat/completions"
SCHEMA = json.dumps({"type": "object", "properties": {"x": {}}, "required": ["x"]})


class Good(Replies):
    """Chat model whose reply depends on the seed."""

    async def complete(self, request, *, seed):
        """Reply."""
        completion = await super().complete(request, seed=seed)
        return replace(completion, text=f'{{"x": {seed}}}')


def good():
    """Return a model that follows the schema."""
    return Good(lambda request, number: "{}")


def stage(name="s", **options):
    """Return a stage that sends its instance."""
    options.setdefault("prompt", lambda state: f"{state.instance}{name}")
    options.setdefault("max_tokens", 10)
    return StageProgram(name=name, **options)


def checked(*stages, places=None, models=("m",), **options):
    """Check a pipeline; return findings by subject and check, and the report."""
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
    """Return the levels of findings that are not ok."""
    return {key: finding.level for key, finding in findings.items() if finding.level != "ok"}


# Healthy servers.


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
def test_healthy_servers_have_no_findings_and_get_few_requests(dialect):
    """A model of two stages is examined once, with nine requests, and run with four."""
    stages = [stage("s", schema=SCHEMA, stop=("\n\n",)), stage("t", schema=SCHEMA)]
    with LoopbackServer({"m": good()}, dialect=dialect) as server:
        findings, report = checked(*stages, places=server.url)
        assert sum(server.served.values()) <= 9 + 4
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
    """It is the longest that can be built without replies, including `max_tokens`."""
    chat = good()
    stages = [
        stage("s", max_tokens=40),
        stage("t", prompt=lambda state: f"{state['s']} " + "w" * 200, max_tokens=5),
        stage("u", prompt=lambda state: state["s"].upper() + "w" * 999),
    ]
    checked(*stages, places=chat)
    assert chat.requests[0].messages[0].content == "y" * 120 + "s"
    assert {request.model for request in chat.requests} == {"m"}


def test_further_fields_of_a_model_are_sent_with_each_request():
    """They may decide about thinking, and so about the reply."""
    sent = []

    class Server(LoopbackServer):
        async def _chat(self, values):
            sent.append(values)
            return await super()._chat(values)

    with Server({"m": good()}) as server:
        findings, _ = checked(places=server.url, extra={"reasoning_effort": "low"})
    assert not levels(findings)
    assert len(sent) == 8
    assert {values.get("reasoning_effort") for values in sent} == {"low"}


def test_replies_that_end_inside_thoughts_are_counted():
    """The finding has their number and the remedy."""

    class Thinking(Good):
        async def complete(self, request, *, seed):
            completion = await super().complete(request, seed=seed)
            whole = [each for each in self.requests if each.max_tokens == 10]
            # The longest request, and the two samples of the stage.
            if request.max_tokens != 10 or len(whole) != 2:
                return completion
            return replace(completion, text="<think>hm", finish_reason="length")

    findings, report = checked(places=Thinking(lambda request, number: ""))
    assert levels(findings) == {("s", "result"): "warning"}
    found = findings["s", "result"]
    assert "1 of them ended inside the model's thoughts" in found.message
    assert "max_tokens" in found.remedy
    assert report.ok


def test_models_of_one_server_are_examined_one_by_one():
    """Each pair of model and server is one subject."""
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
        assert sum(both.served.values()) <= 2 * 9 + 4
        assert sum(other.served.values()) <= 9
    assert {subject for subject, _ in findings} == {
        "store",
        "s",
        "t",
        "pipeline",
        "a",
        "b (1 of 2)",
        "b (2 of 2)",
    }
    # 64 of the two servers' 128 requests each.
    assert findings["b (2 of 2)", "concurrency"].level == "ok"
    assert findings["b (2 of 2)", "concurrency"].message.startswith("64 requests at once")


# Servers.


def test_an_unreachable_server_is_contacted_once():
    """Each of its models has an error, and only the first is examined."""
    url = unused()
    with LoopbackServer({"c": good()}) as alive:
        fused = stage("s", aggregate=LLMFusion())
        findings, report = checked(
            fused, models=("a", "b", "c"), places={"a": url, "b": url, "c": alive.url}
        )
    assert levels(findings) == {("a", "reachable"): "error", ("b", "reachable"): "error"}
    assert "unreachable for a" in findings["b", "reachable"].message
    assert [f.check for f in report.findings if f.subject == "b"] == ["reachable"]
    with pytest.raises(CheckError, match="2 checks failed"):
        report.raise_for_errors()


def test_a_server_that_closes_connections_is_not_contacted_again():
    """Three models on it cause one call and two pages."""
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


def test_one_unreachable_replica_is_identified():
    """The finding has its number and URL."""
    url = unused()
    with LoopbackServer({"m": good()}) as alive:
        findings, _ = checked(places=[alive.url, url])
    assert levels(findings) == {("m (2 of 2)", "reachable"): "error"}
    assert url.removeprefix("http://") in findings["m (2 of 2)", "reachable"].message


def test_the_wrong_model_is_an_error():
    """TGI answers to any name, so its info page is read."""
    with LoopbackServer({"other": good()}, dialect="tgi") as server:
        findings, report = checked(places=server.url)
        assert levels(findings) == {("m", "model"): "error"}
        assert "serves 'other', not 'm'" in str(report)
        assert checked(places=f"{server.url}#other")[1].ok
    with LoopbackServer({"other": good()}) as server:
        findings, _ = checked(places=server.url)
        assert set(levels(findings).values()) == {"error"}
        assert sum(server.served.values()) <= 7


def test_a_retrying_chat_model_is_unwrapped():
    """A check does not wait for retries."""
    retrying = RetryingChatModel(HuggingFaceChat("m", base_url=unused(), timeout=2))
    findings, _ = checked(places=retrying)
    assert levels(findings) == {("m", "reachable"): "error"}
    assert retrying.calls == 0


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
def test_a_fusion_beyond_the_context_is_a_warning(dialect):
    """The remedy is a limit that fits, for each stage that fuses."""
    limits = ServerLimits(max_input_tokens=900, max_total_tokens=1000)

    class Server(LoopbackServer):
        def _page(self, path):
            page = super()._page(path)
            if path == "/v1/models":
                # As vLLM reports it.
                page["data"][0]["max_model_len"] = 1000
            return page

    stages = [
        stage("s", aggregate=LLMFusion(max_prompt_tokens=990)),
        stage("t", aggregate=LLMFusion(max_prompt_tokens=991)),
        stage("u"),
    ]
    with Server({"m": good()}, dialect=dialect, limits=limits) as server:
        findings, report = checked(*stages, places=server.url)
        assert sum(server.served.values()) <= 11 + 6
    assert report.ok
    assert levels(findings) == {("m", "fusion"): "warning"}
    assert "in stage 't' may need 1001 tokens" in findings["m", "fusion"].message
    assert "LLMFusion(max_prompt_tokens=990)" in findings["m", "fusion"].remedy


# Data.


def test_a_prompt_that_raises_is_an_error():
    """The finding has the exception."""

    def prompt(state):
        return {"x": "fine"}[state.instance[0]]

    findings, report = checked(stage(prompt=prompt))
    assert levels(findings) == {("s", "prompts"): "error"}
    assert "KeyError('" in findings["s", "prompts"].message
    assert not report.ok


@pytest.mark.parametrize(
    "prompt", [lambda state: None, lambda state: 5, lambda state: ["no message"]]
)
def test_a_prompt_of_a_wrong_type_is_an_error(prompt):
    """A value that is neither text nor messages is reported, not raised."""
    findings, _ = checked(stage(prompt=prompt))
    assert levels(findings) == {("s", "prompts"): "error"}
    assert "building the prompt of instance" in findings["s", "prompts"].message


@pytest.mark.parametrize("prompt", [lambda state: "", lambda state: " \n", lambda state: []])
def test_an_empty_prompt_is_an_error(prompt):
    """Whitespace alone counts as empty."""
    findings, _ = checked(stage(prompt=prompt))
    assert levels(findings) == {("s", "prompts"): "error"}
    assert "is empty" in findings["s", "prompts"].message


def test_a_stage_that_no_instance_runs_is_a_warning():
    """Tuning it has no effect."""
    findings, report = checked(stage(when=lambda state: False))
    assert levels(findings) == {("s", "prompts"): "warning"}
    assert "no instance runs this stage" in str(report)
    # A stage that some instances run is checked with those.
    findings, _ = checked(stage(when=lambda state: state.instance[0] == "x"))
    assert not levels(findings)
    assert findings["s", "prompts"].message.startswith("1 built")


@pytest.mark.parametrize(
    ("declared", "level"), [(12, "warning"), (13, "ok"), (50, "ok"), (51, "warning")]
)
def test_lengths_that_are_far_off_are_a_warning(declared, level):
    """The limit is a factor of two."""
    findings, _ = checked(prompt_tokens=declared)
    assert findings["s", "prompts"].level == level
    if level == "warning":
        assert f"the task declares {declared}" in findings["s", "prompts"].message


def test_plain_steps_before_the_first_stage_are_run():
    """Prompts contain their results, and their exceptions are reported."""
    step = Step(name="look", run=lambda state: "seen " * 50)
    findings, report = checked(step, stage(prompt=lambda state: state["look"].upper()))
    assert report.ok
    assert "about 62 tokens" in findings["s", "prompts"].message
    broken = Step(name="look", run=lambda state: 1 / 0)
    findings, _ = checked(broken, stage(prompt=lambda state: state["look"].upper()))
    assert findings["s", "prompts"].level == "error"
    assert "ZeroDivisionError" in findings["s", "prompts"].message


def test_a_step_that_raises_is_told_without_secrets():
    """Its message may hold the key of a server."""

    def look_up(state):
        raise ValueError("refused: Bearer hf_abcdefghijklmnop")

    stages = [
        Step(name="facts", run=look_up),
        StageProgram(name="s", prompt=lambda state: state["facts"]),
    ]
    pipeline = Pipeline(stages=stages, score=lambda state: 0.0)
    with objective_of(pipeline, {"m": good()}) as objective:
        (found,) = objective.check().errors
    assert found.message.startswith(
        "a step before this stage raised ValueError('refused: [hidden]"
    )
    assert "abcdefghijklmnop" not in str(found)


def test_coroutine_steps_are_left_out_of_prompts_and_run_with_the_instance():
    """Their results are None where all prompts are built."""
    runs = []

    async def look(state):
        runs.append(state.instance)
        return "seen"

    findings, _ = checked(
        Step(name="look", run=look), stage(prompt=lambda state: f"{state['look']} and more")
    )
    assert findings["s", "prompts"].level != "error"
    assert len(runs) == 1
    assert findings["look", "result"].message == "returned 'seen'"


@pytest.mark.parametrize("schema", ["{", "[]", "null"])
def test_an_invalid_schema_is_an_error(schema):
    """The other checks still run."""
    findings, _ = checked(stage(schema=schema), models=("a", "b"), places=good())
    assert levels(findings) == {("s", "schema"): "error"}
    assert ("b", "seeds") in findings


# The store.


def test_a_writable_store_is_ok(tmp_path):
    """The check leaves the samples of one instance in it, which the search reuses."""
    store = CompletionStore(tmp_path / "store.db")
    findings, _ = checked(store=store)
    assert findings["store", "writable"].level == "ok"
    assert len(store) == 2
    store.close()


def test_a_full_disk_is_an_error():
    """SQLite's limit on the file has the same effect as a full disk."""
    store = CompletionStore()
    (pages,) = store._database.connection.execute("PRAGMA page_count").fetchone()
    store._database.connection.execute(f"PRAGMA max_page_count={pages + 1}")
    findings, report = checked(store=store)
    assert levels(findings) == {("store", "writable"): "error"}
    assert "full" in findings["store", "writable"].message
    assert "free disk space" in findings["store", "writable"].remedy
    with pytest.raises(CheckError, match="1 check failed"):
        report.raise_for_errors()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    """The connection is read-only, because root could write to any file."""
    store = CompletionStore(tmp_path / "store.db")
    writable = store._database.connection
    store._database.connection = sqlite3.connect(
        f"file:{store.path}?mode=ro", uri=True, check_same_thread=False
    )
    findings, _ = checked(store=store)
    assert levels(findings) == {("store", "writable"): "error"}
    assert "readonly" in findings["store", "writable"].message
    store.close()
    writable.close()


def test_a_closed_store_is_an_error():
    """It is reported, not raised."""
    store = CompletionStore()
    store.close()
    findings, _ = checked(store=store)
    assert levels(findings) == {("store", "writable"): "error"}


@pytest.mark.parametrize("aggregate", [LLMFusion(), majority_vote], ids=["fusion", "vote"])
@pytest.mark.parametrize(
    "key", ["line\nbreak", "caf\u00e9", lambda: 1 / 0, pickle.loads(pickle.dumps(UnpickledKey()))]
)
def test_an_invalid_key_is_an_error_with_any_aggregation(key, aggregate):
    """The finding is about the key, and no request is sent."""
    with LoopbackServer({"m": good()}) as server:
        places = connect_endpoints(["m"], server.url, api_key=key)
        findings, _ = checked(stage(aggregate=aggregate), places=places)
        assert levels(findings)["m", "key"] == "error"
        assert not server.served
