"""The playground behind servers of every dialect: scores, tokens and store of the process.

Each server sends completions in its own form and refuses the parameters that it refuses.
"""

import asyncio
import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))
from recorded_replies import DIALECTS, GENERATED, Dialect, chunk, events

from optuna_agenttts import AgentTTSSampler, HuggingFaceChat, spend, storage
from optuna_agenttts.llm import ChatRequest, Completion, Message, RetryPolicy
from optuna_agenttts_integrations import CompletionStore, MultiStageObjective
from optuna_agenttts_integrations.calls.batching import BatchingChatModel
from optuna_agenttts_integrations.calls.endpoints import Endpoint
from optuna_agenttts_integrations.playground import (
    make_objective,
    make_pipeline,
    make_problems,
    make_task,
)
from optuna_agenttts_integrations.playground.pipeline import (
    ANSWERERS,
    RETRIEVERS,
    TEMPERATURE,
    PlaygroundModel,
)
from optuna_agenttts_integrations.testing.serving_http import HttpServer

PROBLEMS = make_problems("search", 50)[:12]
TASK = make_task(budget=12)
"""A fifth of the usual budget, so that a search takes seconds."""
ALLOCATION = {"retrieval": ("retriever-28k", 3), "answer": ("answerer-13k", 4)}
THOUGHTS = "a = 9 ; 9"
"""A draft that would be graded, if it counted as the answer."""
FAST = RetryPolicy(attempts=8, base=0.001, longest=0.01, patience=600)
KEY = "k3y-0f-the-depl0yment"


def _openai(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param}}


Refusal = tuple[Callable[[dict[str, Any]], bool], int, Any]
MAX_TOKENS: Refusal = (
    lambda sent: "max_tokens" in sent,
    400,
    _openai("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
)
ONE_TEMPERATURE: Refusal = (
    lambda sent: "temperature" in sent,
    400,
    _openai("'temperature' does not support 0.9 with this model. Only the default is supported."),
)
SEED: Refusal = (
    lambda sent: "seed" in sent,
    422,
    {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "not permitted"}]},
)
WHOLE: Refusal = (
    lambda sent: not sent["stream"],
    400,
    _openai("This model only support stream mode, please enable the stream parameter."),
)


@dataclass(frozen=True)
class Served:
    """Differences of a server: its form, the parameters it refuses, and what it does to bodies."""

    dialect: Dialect
    root: str = "/v1"
    refusals: tuple[Refusal, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the client."""
    thinks: str = ""
    """Place of thoughts: a ``field``, the ``text``, or the text after a tag in the ``prompt``."""
    content: Callable[[str], Any] = str
    usage: Callable[[dict[str, int]], dict[str, Any]] = dict
    deliver: str = "whole"
    failing: tuple[int, Any] | None = None
    """Status and body of every fifth reply."""

    @property
    def cut_off(self) -> bool:
        """True if every fifth reply is cut off, and its tokens are counted."""
        return bool(self.failing and "choices" in self.failing[1])


def _xai(counts: dict[str, int]) -> dict[str, Any]:
    thoughts = counts["completion_tokens"] - 1
    details = {"reasoning_tokens": thoughts} if thoughts > 1 else {}
    return {
        **counts,
        "completion_tokens": 1,
        "completion_tokens_details": details,
    }


def _parts(text: str) -> Any:
    return [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]


_D = DIALECTS
SERVERS = {
    "TGI": Served(
        _D["TGI"], failing=(429, {"error": "Model is overloaded", "error_type": "overloaded"})
    ),
    "TGI before 2.2": Served(_D["TGI before 2.2"]),
    "vLLM": Served(_D["vLLM"], thinks="field", failing=(200, _D["vLLM"].reply("a =", "abort"))),
    "SGLang": Served(
        _D["SGLang"], thinks="field", failing=(200, _D["SGLang"].reply("a =", {"type": "abort"}))
    ),
    "llama.cpp": Served(_D["llama.cpp"], thinks="prompt", deliver="chunks"),
    "llama-cpp-python": Served(_D["llama-cpp-python"], content=lambda text: f"{text}<|im_end|>"),
    "Ollama": Served(_D["Ollama"], thinks="text"),
    "LM Studio": Served(
        _D["LM Studio"],
        content=lambda text: f"{text}</s>\n",
        failing=(200, {"error": "The model is loading, try again"}),
    ),
    "LiteLLM": Served(
        _D["LiteLLM"],
        thinks="field",
        refusals=((SEED[0], 400, _openai("litellm: x does not support parameters: ['seed']")),),
        options={"request_parameters": {"seed": "random_seed"}},
    ),
    "OpenAI": Served(_D["OpenAI"], refusals=(MAX_TOKENS, ONE_TEMPERATURE)),
    "Mistral": Served(
        _D["Mistral"],
        refusals=(SEED,),
        options={"request_parameters": {"seed": "random_seed"}},
        content=lambda text: [
            {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHTS}]},
            {"type": "text", "text": text},
        ],
    ),
    "xAI": Served(_D["xAI"], usage=_xai),
    "DeepSeek": Served(
        _D["DeepSeek"],
        thinks="field",
        deliver="spaces",
        failing=(200, _D["DeepSeek"].reply("a", "insufficient_system_resource")),
    ),
    "Gemini": Served(
        _D["Gemini behind a gateway"],
        root="/v1beta/openai",
        usage=lambda counts: {**counts, "completion_tokens": 1},
        failing=(429, [{"error": {"code": 429, "message": "Quota of requests per minute."}}]),
    ),
    "OpenRouter": Served(
        _D["OpenRouter"],
        root="/api/v1",
        thinks="field",
        deliver="comments",
        failing=(200, {"error": {"message": "Provider returned error", "code": 502}}),
    ),
    "Groq": Served(_D["Groq"], root="/openai/v1", thinks="field", deliver="gzip"),
    "Together": Served(_D["Together"], content=_parts),
    "Cerebras": Served(_D["Cerebras"], refusals=(MAX_TOKENS,), thinks="field"),
    "Azure": Served(
        _D["Azure"],
        root="/openai/deployments/d",
        options={"headers": {"api-key": KEY}},
        refusals=(MAX_TOKENS,),
        failing=(503, "<html>Service Unavailable</html>"),
    ),
    "DashScope": Served(
        _D["OpenAI"],
        root="/compatible-mode/v1",
        refusals=(WHOLE,),
        thinks="field",
        deliver="events",
    ),
    "Zhipu": Served(
        _D["OpenAI"],
        root="/api/paas/v4",
        usage=lambda counts: {name: str(count) for name, count in counts.items()},
        failing=(200, _D["OpenAI"].reply("", "network_error")),
    ),
}


class PlaygroundOf(HttpServer):
    """Server of the playground's models in the form of another one."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served, self.seen = served, Counter[str]()
        self._models = {
            name: BatchingChatModel(PlaygroundModel(name)) for name in (*RETRIEVERS, *ANSWERERS)
        }

    async def serve(self, request, writer):
        """Refuse, fail, or generate a completion and send it."""
        served = self.served
        assert request.path == f"{served.root}/chat/completions"
        if "headers" in served.options and request.headers.get("api-key") != KEY:
            return self._send(writer, 401, _openai("Access denied due to invalid key."))
        sent = json.loads(request.content)
        for refuses, status, error in served.refusals:
            if refuses(sent):
                self.seen["refused"] += 1
                return self._send(writer, status, error)
        self.seen["calls"] += 1
        if served.failing is not None and self.seen["calls"] % 5 == 0:
            return self._send(writer, *served.failing)
        return await self._deliver(writer, self._reply(await self._complete(sent)))

    async def _complete(self, sent: dict[str, Any]) -> Completion:
        name = sent["model"]
        asked = ChatRequest(
            model=name,
            messages=tuple(Message(m["role"], m["content"]) for m in sent["messages"]),
            max_tokens=sent.get("max_tokens") or sent["max_completion_tokens"],
            temperature=sent.get("temperature", TEMPERATURE),
        )
        seed = sent.get("seed") or sent["random_seed"]
        return await self._models[name].complete(asked, seed=seed)

    def _reply(self, completion: Completion) -> dict[str, Any]:
        served, dialect, text = self.served, self.served.dialect, completion.text
        if served.thinks in ("text", "prompt"):
            start = "<think>\n" if served.thinks == "text" else ""
            text = f"{start}{THOUGHTS}\n</think>\n\n{text}"
        usage = completion.usage
        counts = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return dialect.reply(
            served.content(text),
            dialect.length if completion.finish_reason == "length" else dialect.stop,
            message={dialect.thoughts: THOUGHTS} if served.thinks == "field" else None,
            usage=served.usage(counts),
        )

    def _send(self, writer, status: int, values: Any, **headers: str) -> bool:
        content = values if isinstance(values, bytes) else None
        if content is None:
            content = (values if isinstance(values, str) else json.dumps(values)).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        head = {"content-length": str(len(content)), **named}
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in head.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + content)
        return True

    async def _deliver(self, writer, reply: dict[str, Any]) -> bool:
        deliver, content = self.served.deliver, json.dumps(reply).encode()
        if deliver == "gzip":
            return self._send(writer, 200, gzip.compress(content), content_encoding="gzip")
        if deliver == "comments":
            return self._send(writer, 200, b": OPENROUTER PROCESSING\n\n" + content)
        if deliver == "spaces":
            return self._send(writer, 200, b"\n\n" + content + b"\n")
        if deliver == "events":
            choice = reply["choices"][0]
            thoughts, text = choice["message"]["reasoning_content"], choice["message"]["content"]
            pieces = [chunk(role="assistant", content=None, reasoning_content=thoughts)]
            pieces += [chunk(content=letter) for letter in text]
            pieces += [chunk(choice["finish_reason"]), {"choices": [], "usage": reply["usage"]}]
            body = events(*pieces, "[DONE]")
            return self._send(writer, 200, body, content_type="text/event-stream")
        if deliver == "chunks":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for start in range(0, len(content), 100):
                piece = content[start : start + 100]
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n")
            return True
        return self._send(writer, 200, content)


def stored(store):
    """Return the samples in a store, without their thoughts."""
    rows = store._database.connection.execute("SELECT key, sample, value FROM completions")
    return {(key, sample): json.loads(value)[:4] for key, sample, value in rows}


def through(server, store):
    """Create the objective over a server."""
    served = server.served
    endpoints = {
        name: Endpoint(
            chat=HuggingFaceChat(
                name, base_url=server.url + served.root, timeout=20, **served.options
            ),
            identity=f"playground:{name}",
            concurrency=16,
        )
        for name in (*RETRIEVERS, *ANSWERERS)
    }
    objective = MultiStageObjective(
        make_pipeline(),
        PROBLEMS,
        task=TASK,
        endpoints=endpoints,
        store=store,
        measure_after=None,
        progress=False,
    )
    objective._completions._policy = FAST
    return objective


def evaluated(objective, store):
    """Return outcomes and stored replies of one allocation, and its tokens."""
    with objective:
        results = objective.evaluate(ALLOCATION).results.values()
        outcomes = [(r.outcome, r.failed, r.total("malformed")) for r in results]
        return (outcomes, stored(store)), sum(r.total("generated_tokens") for r in results)


def searched(objective, store):
    """Return trials, spend and stored replies of a search of five trials."""
    with objective:
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler())
        study.optimize(objective, n_trials=5)
        names = ("tokens", "naive_tokens", "failed", "malformed", "spend")
        lengths = [storage.read_trial_fact(t, storage.LENGTHS) for t in study.trials]
        assert all(lengths)
        trials = [
            (t.state.name, t.params, t.value, *(t.user_attrs[name] for name in names))
            for t in study.trials
        ]
        return trials, lengths, spend(study), stored(store)


@pytest.fixture(scope="module")
def in_process():
    """Run a function on the objective in process, once."""
    known: dict[Any, Any] = {}

    def run(function):
        if function not in known:
            store = CompletionStore()
            known[function] = function(
                make_objective(problems=PROBLEMS, task=TASK, store=store), store
            )
        return known[function]

    return run


@pytest.mark.parametrize("name", SERVERS)
def test_an_allocation_scores_as_in_process(name, in_process):
    """Outcomes and stored replies are equal, and tokens but for those of replies cut off."""
    store, served = CompletionStore(), SERVERS[name]
    with PlaygroundOf(served) as server:
        found, tokens = evaluated(through(server, store), store)
        failures = server.seen["calls"] // 5 if served.failing else 0
        # Calls that are under way while the first refusal arrives are refused, too, and nothing
        # is remembered of calls that fail afterwards.
        assert server.seen["refused"] <= 2 * 16 * len(served.refusals) + failures
    expected, expected_tokens = in_process(evaluated)
    assert found == expected
    assert tokens - expected_tokens == failures * (GENERATED if served.cut_off else 0)
    thoughtful = store._database.connection.execute("SELECT value FROM completions").fetchall()
    thoughts = {(*json.loads(value), "")[4] for (value,) in thoughtful}
    assert thoughts == {THOUGHTS if served.thinks or name == "Mistral" else ""}


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_a_search_is_that_of_the_process(name, in_process):
    """Trials, spend and stored replies are equal."""
    store, served = CompletionStore(), SERVERS[name]
    if served.cut_off:
        # The tokens of such replies are spent.
        served = replace(served, failing=None)
    with PlaygroundOf(served) as server:
        assert searched(through(server, store), store) == in_process(searched)
