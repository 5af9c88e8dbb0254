"""Thinking efforts in searches: samples, servers, simulated models, checks."""

import asyncio
import http.client
import json
from dataclasses import replace
from functools import cache

import optuna
import pytest

from optuna_agenttts import HuggingFaceChat, Model, efforts
from optuna_agenttts.llm import ChatRequest, Completion, Message, Usage
from optuna_agenttts_integrations import LoopbackServer, connect_endpoints
from optuna_agenttts_integrations.calls.completions import request_text
from optuna_agenttts_integrations.cli import main
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.tasks import sample_path, two_wiki
from optuna_agenttts_integrations.testing.serving import ServerLimits
from optuna_agenttts_integrations.testing.simulated_thinking import SimulatedThinking
from optuna_agenttts_integrations.testing.simulation import simulated_models

URL = "http://host:8080"
REQUEST = ChatRequest(
    model="m", messages=(Message("user", "hello"),), max_tokens=5, temperature=0.7
)
DIALECTS = ("openai", "vllm", "provider")
LENGTHS = {"low": 20, "high": 160, "medium": 60, "on": 160}
THINKING = SimulatedThinking(
    gain={"retrieval": 0.9}, scale=40, spread=0.3, tokens={**LENGTHS, "minimal": 5}
)


@cache
def benchmark():
    thinker = efforts(Model("thinker-8B"), off=None, low=None, high=None, tokens=LENGTHS_GIVEN)
    return two_wiki(
        sample_path("two_wiki.json"),
        search=6,
        retrievers=thinker,
        answerers=[Model("sayer-3B")],
        fusion=False,
        budget=5000,
    )


LENGTHS_GIVEN = {"off": 0, "low": 20, "high": 160}


@cache
def models():
    competence = {
        "thinker-8B": {"retrieval": 0.3, "answer": 0.3},
        "sayer-3B": {"retrieval": 0.9, "answer": 0.9},
    }
    return simulated_models(benchmark(), competence, thinking=THINKING)


def prompt():
    """Return a request for the retrieval stage."""
    made = benchmark()
    state = made.pipeline.start(made.search[0])
    return replace(made.pipeline.programs[0].request("thinker-8B", state), max_tokens=2000)


def replies(dialect, *requests, seeds=range(1, 2), parameters=None):
    """Return the completions of a served model."""
    with LoopbackServer(models(), thinking=dialect) as server:
        chat = HuggingFaceChat(
            "thinker-8B", base_url=server.url, request_parameters=parameters or {}
        )

        async def run():
            try:
                calls = [chat.complete(r, seed=seed) for r in requests for seed in seeds]
                return await asyncio.gather(*calls)
            finally:
                await chat.aclose()

        return asyncio.run(run())


def test_samples_of_each_effort_have_a_key_of_their_own():
    given = [None, "off", 0, "low", 1024]
    keys = {request_text(replace(REQUEST, thinking=effort)) for effort in given}
    assert len(keys) == len(given)
    # Requests without an effort have the keys of earlier versions.
    assert "thinking" not in request_text(REQUEST)


def test_fields_that_carry_efforts_are_part_of_an_endpoint_if_they_are_given():
    def identity(form):
        parameters = {"thinking": form} if form else {}
        return connect_endpoints("m", URL, request_parameters=parameters)["m"].identity

    forms = [None, "reasoning_effort", "thinking", "reasoning_effort thinking"]
    assert len({identity(form) for form in forms}) == len(forms)
    assert identity("reasoning_effort, thinking") == identity("reasoning_effort thinking")


EFFORTS = {
    "openai": ("off", "low", "high"),
    # The template of Qwen3 knows no words: they are budgets.
    "vllm": ("off", 20, 1000),
    "provider": (0, 20, "high"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_served_models_think_as_much_as_the_effort_says(dialect):
    requests = [replace(prompt(), thinking=effort) for effort in EFFORTS[dialect]]
    found = [replies(dialect, request, seeds=range(1, 41)) for request in requests]
    none, few, many = (sum(c.thought_tokens for c in each) / len(each) for each in found)
    assert none == 0
    assert 10 < few < 30
    assert 100 < many < 250
    assert all(c.usage.completion_tokens > c.thought_tokens for each in found for c in each)
    # OpenAI counts thoughts, and does not send them.
    assert all(bool(c.thoughts) is (dialect != "openai") for c in found[2])
    right = [sum(c.text == benchmark_answer() for c in each) for each in found]
    assert right[0] < right[2] >= right[1]


def benchmark_answer():
    model = replace(models()["thinker-8B"], competence={"retrieval": 1.0, "answer": 1.0})
    return asyncio.run(model.complete(prompt(), seed=1)).text


@pytest.mark.parametrize("dialect", ["vllm", "provider"])
def test_budgets_end_thoughts(dialect):
    found = replies(dialect, replace(prompt(), thinking=7), seeds=range(1, 11))
    # Where thoughts are not counted, their number is estimated from their length.
    assert all(0 < c.thought_tokens <= 8 and c.text for c in found)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_thoughts_that_take_all_of_max_tokens_leave_no_answer(dialect):
    effort = EFFORTS[dialect][2]
    for found in replies(dialect, replace(prompt(), thinking=effort, max_tokens=30)):
        assert found.ended_in_thoughts
        assert found.finish_reason == "length"
        assert found.usage.completion_tokens == found.thought_tokens == 30


def test_models_without_an_effort_do_not_think():
    (found,) = replies(None, prompt())
    assert not found.thought_tokens
    (ignored,) = replies(None, replace(prompt(), thinking="high"))
    assert ignored == found


def test_gain_of_thinking_saturates():
    rates = [THINKING.improved(0.3, "retrieval", tokens) for tokens in (0, 40, 80, 10**6)]
    assert rates[0] == 0.3
    assert rates[1] - rates[0] > rates[2] - rates[1] > 0
    assert rates[3] == pytest.approx(0.3 + 0.7 * 0.9)
    assert THINKING.improved(0.3, "answer", 1000) == 0.3


def post(dialect, **fields):
    """Return status and body of a reply to fields that a client sends."""
    body = {"model": "thinker-8B", "max_tokens": 2000, "seed": 3, **fields}
    body["messages"] = [{"role": m.role, "content": m.content} for m in prompt().messages]
    with LoopbackServer(models(), thinking=dialect) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        reply = connection.getresponse()
        values = json.loads(reply.read())
        connection.close()
    return reply.status, values


@pytest.mark.parametrize(
    ("dialect", "fields", "thinks"),
    [
        ("openai", {}, False),
        ("openai", {"reasoning_effort": "low"}, True),
        ("openai", {"reasoning_effort": "none"}, False),
        ("vllm", {}, False),
        ("vllm", {"reasoning_effort": "low"}, True),
        ("vllm", {"thinking_token_budget": 9}, True),
        ("vllm", {"chat_template_kwargs": {"enable_thinking": False}}, False),
        ("vllm", {"reasoning_effort": "none"}, False),
        ("vllm", {"reasoning": {"effort": "none"}, "thinking": {"type": "enabled"}}, False),
        ("provider", {}, False),
        ("provider", {"reasoning": {"enabled": True}}, True),
        ("provider", {"reasoning": {"enabled": False}}, False),
        ("provider", {"reasoning": {"effort": "none"}}, False),
        ("provider", {"thinking": {"type": "disabled"}}, False),
        ("provider", {"thinking": {"type": "enabled", "budget_tokens": 9}}, True),
        ("provider", {"chat_template_kwargs": {"enable_thinking": True}}, False),
    ],
)
def test_servers_read_the_fields_of_their_dialect_only(dialect, fields, thinks):
    status, values = post(dialect, **fields)
    message = values["choices"][0]["message"]
    counts = values["usage"].get("completion_tokens_details", {})
    assert status == 200
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    assert bool(thoughts or counts.get("reasoning_tokens")) is thinks


@pytest.mark.parametrize(
    ("dialect", "fields", "words"),
    [
        ("openai", {"thinking": {"type": "enabled"}}, "Unrecognized request argument"),
        ("openai", {"reasoning_effort": "max"}, "Supported values are"),
        ("openai", {"reasoning_effort": 5}, "Supported values are"),
        ("vllm", {"thinking_token_budget": [5]}, "invalid thinking effort"),
        ("provider", {"reasoning": {}, "reasoning_effort": "low"}, "Only one of"),
    ],
)
def test_servers_refuse_what_those_of_their_dialect_refuse(dialect, fields, words):
    status, values = post(dialect, **fields)
    assert status == 400
    assert words in values["error"]


def test_invalid_arguments_are_named():
    with pytest.raises(PipelineError, match="`thinking` must be 'openai'"):
        LoopbackServer(models(), thinking="qwen")
    for values in ({"gain": 1.5}, {"scale": 0}, {"spread": -1}, {"tokens": {"low": -1}}):
        with pytest.raises(PipelineError, match=f"`{next(iter(values))}`"):
            SimulatedThinking(**values)


def levels(report):
    """Return levels of the findings about efforts by the subject."""
    found = {}
    for finding in report.findings:
        if finding.check == "thinking":
            found.setdefault(finding.subject, []).append(finding.level)
    return found


CHOICES = [f"thinker-8B, {effort} thinking" for effort in ("no", "low", "high")]


@pytest.mark.parametrize("dialect", ["openai", "provider"])
def test_check_shows_thoughts_at_each_effort(dialect):
    with (
        LoopbackServer(models(), thinking=dialect) as server,
        benchmark().objective(server.url) as objective,
    ):
        report = objective.check()
        requests = server.served["/v1/chat/completions"]
    assert report.ok, str(report)
    assert levels(report) == {choice: ["ok"] for choice in CHOICES}
    # The model is examined once, and not at each effort; then one instance runs.
    assert len([f for f in report.findings if f.check == "one token"]) == 2
    assert requests < 40
    assert any("0 tokens of thoughts" in f.message for f in report.findings)


def test_check_finds_a_server_that_ignores_efforts():
    with (
        LoopbackServer(models()) as server,
        benchmark().objective(server.url) as objective,
    ):
        report = objective.check()
    assert report.ok
    assert levels(report)[CHOICES[2]] == ["ok", "warning"]
    assert "no thoughts at any effort" in str(report).replace("\n", " ") or any(
        "no thoughts at any effort" in f.message for f in report.findings
    )


def test_check_does_not_run_an_effort_that_is_refused():
    made = two_wiki(
        sample_path("two_wiki.json"),
        search=6,
        retrievers=efforts(
            Model("thinker-8B"), max=None, high=None, tokens={"max": 1, "high": 160}
        ),
        answerers=[Model("sayer-3B")],
        fusion=False,
    )
    with (
        LoopbackServer(models(), thinking="openai") as server,
        made.objective(server.url) as objective,
    ):
        report = objective.check()
    (error,) = report.errors
    assert error.subject == "thinker-8B, max thinking"
    assert "does not support 'max' with this model" in error.message
    assert any(f.subject == "pipeline" and "high thinking" in str(f) for f in report.findings)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_searches_over_served_efforts_count_thoughts(dialect):
    task = benchmark().task
    with (
        LoopbackServer(models(), thinking=dialect) as server,
        benchmark().objective(server.url) as objective,
    ):
        study = optuna.create_study(direction="maximize")
        for choice in CHOICES:
            allocation = {"retrieval": (choice, 2), "answer": ("sayer-3B", 1)}
            study.enqueue_trial(task.params(allocation))
        study.optimize(objective, n_trials=3)
        more = server.served["/v1/chat/completions"]
        # The same allocation again is answered from the store.
        study.enqueue_trial(study.trials[2].params)
        study.optimize(objective, n_trials=1)
        assert server.served["/v1/chat/completions"] == more
    values = [trial.value for trial in study.trials]
    thoughts = [trial.user_attrs.get("thought_tokens", 0) for trial in study.trials]
    found = [trial.user_attrs["retrieval F1"] for trial in study.trials]
    assert thoughts[0] == 0 < min(thoughts[1:])
    # Words are budgets for Qwen3 on vLLM, which all of these thoughts are below.
    assert dialect == "vllm" or thoughts[1] < thoughts[2]
    assert values[3] == values[2]
    assert found[3] == found[2] > found[0]


class Anything:
    """Chat model that answers any prompt, after thoughts of effort "low" or "high"."""

    async def complete(self, request, *, seed):
        tokens = {"low": 50, "high": 300}.get(request.thinking, 0)
        count = sum(len(message.content) for message in request.messages) // 4
        if tokens >= request.max_tokens:
            return Completion("", Usage(count, request.max_tokens), "length", "so " * tokens)
        text = f"Answer {seed}"
        return Completion(text, Usage(count, tokens + 3, tokens), thoughts="so " * tokens)


@pytest.mark.parametrize("kind", ["tgi", "openai"])
def test_room_for_thoughts_beyond_the_context_is_found_before_a_search(capsys, kind):
    """`max_tokens` is that of the answer, and cannot be lowered by 16,384 tokens."""
    limits = ServerLimits(max_input_tokens=4096, max_total_tokens=8192)
    models = {"any-8B": Anything()}
    options = ["any-8B", "--prompt", "Is it?", "--max-tokens", "50", "--thinking"]
    with LoopbackServer(models, dialect=kind, thinking="vllm", limits=limits) as server:
        assert main(["doctor", server.url, *options, "high,off"]) == 1
        shown = " ".join(capsys.readouterr().out.split())
        assert "16384 of these tokens are room for thoughts at effort 'high'" in shown
        assert "lower `max_tokens` to" not in shown.lower()
        main(["doctor", server.url, *options, "off,4096"])
        assert "are room for thoughts" not in capsys.readouterr().out


@pytest.mark.parametrize("order", ["off,low,high", "HIGH, off,low"])
def test_doctor_compares_the_least_and_the_most_effort(capsys, order):
    with LoopbackServer({"any-8B": Anything()}, thinking="openai") as server:
        assert main(["doctor", server.url, "any-8B", "--thinking", order]) == 0
    assert "ignore" not in capsys.readouterr().out


def test_doctor_shows_efforts(capsys):
    with LoopbackServer({"any-8B": Anything()}, thinking="openai") as server:
        code = main(["doctor", server.url, "any-8B", "--thinking", "off, low, high"])
        # Where lines break depends on the digits of the port.
        shown = " ".join(capsys.readouterr().out.split())
        assert code == 0
        for tokens, effort in ((0, "off"), (50, "low"), (300, "high")):
            assert f"{tokens} tokens of thoughts on a question at effort '{effort}'" in shown
        code = main(["doctor", server.url, "any-8B", "--thinking", "huge,high"])
        shown = " ".join(capsys.readouterr().out.split())
    assert code == 1
    assert "a question at effort 'huge' fails" in shown
    assert "`thinking` differs at this server" in shown
    for wrong in ("low,", "low,low", ""):
        assert main(["doctor", "http://127.0.0.1:9", "m", "--thinking", wrong]) == 1
        assert "`--thinking` must be different words" in capsys.readouterr().err
