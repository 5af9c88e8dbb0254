"""Pipelines over scripted models, and helpers of their tests."""

import asyncio
import socket
import threading
from collections import Counter

from optuna_agenttts import Model, PriceCost, Stage, Task
from optuna_agenttts.llm import ChatRefusedError, Completion, Usage
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    MultiStageObjective,
    Pipeline,
    StageProgram,
)

MODELS = ("small", "large")


class ScriptedModel:
    """Chat model that replies ``yes`` with a probability given by its name, and counts calls."""

    def __init__(self, name, refuse=()):
        self.name, self.refuse = name, set(refuse)
        self.calls = []
        self._lock = threading.Lock()

    def __getstate__(self):
        return {"name": self.name, "refuse": self.refuse, "calls": []}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._lock = threading.Lock()

    async def complete(self, request, *, seed):
        """Reply, or refuse instances named in `refuse`."""
        text = request.messages[-1].content
        with self._lock:
            self.calls.append((text, seed))
        if any(name in text for name in self.refuse):
            raise ChatRefusedError("unknown instance")
        share = 90 if self.name == "large" else 60
        reply = "yes" if (seed // 7) % 100 < share else "no"
        return Completion(reply, Usage(10, 3))


def make_task(max_samples=20):
    """Build a task of two stages with two models each."""
    models = [Model("small", parameters=1e9), Model("large", parameters=1e10)]
    return Task(
        name="two",
        stages=[
            Stage(
                name,
                models=models,
                prompt_tokens=1000,
                generation_tokens=300,
                max_samples=max_samples,
            )
            for name in ("find", "say")
        ],
        budget=1e6,
    )


def _find(state):
    return f"find {state.instance['id']}"


def _say(state):
    return f"say {state.instance['id']} {state['find']}"


def _score(state):
    return float(state["find"] == "yes" and state["say"] == "yes")


def make_pipeline():
    """Build a pipeline of two stages, whose outcome is 1 if both reply yes.

    Each draws all samples, so that calls can be counted.
    """
    return Pipeline(
        stages=[
            StageProgram(name="find", prompt=_find, enough=None),
            StageProgram(name="say", prompt=_say, enough=None),
        ],
        score=_score,
    )


def make_objective(count=20, refuse=(), chats=None, **options):
    """Build an objective over `count` instances; return it and its models."""
    chats = chats or {name: ScriptedModel(name, refuse) for name in MODELS}
    endpoints = {
        name: Endpoint(chat=chat, identity=f"scripted:{name}") for name, chat in chats.items()
    }
    options.setdefault("store", CompletionStore())
    objective = MultiStageObjective(
        make_pipeline(),
        [{"id": f"q{i}."} for i in range(count)],
        task=make_task(),
        endpoints=endpoints,
        progress=False,
        **options,
    )
    return objective, chats


def allocation(find=("large", 1), say=("small", 1)):
    """Build an allocation of both stages."""
    return {"find": find, "say": say}


def calls(chats):
    """Count the calls of all models."""
    return sum(len(chat.calls) for chat in chats.values())


class Replies:
    """Chat model that replies with a function of a request and the number of equal ones before.

    The function returns a text, or an error to raise. A word is a token.
    """

    def __init__(self, answer):
        self.answer, self.requests, self._counts = answer, [], Counter()

    async def complete(self, request, *, seed):
        """Answer, or fail."""
        number = self._counts[request]
        self._counts[request] += 1
        self.requests.append(request)
        text = self.answer(request, number)
        if isinstance(text, BaseException):
            raise text
        words = sum(len(message.content.split()) for message in request.messages)
        return Completion(text, Usage(words, len(text.split())))


class Slow(Replies):
    """Chat model that replies after a delay and counts concurrent calls."""

    def __init__(self, answer, seconds=0.01):
        super().__init__(answer)
        self.seconds, self.now, self.most = seconds, 0, 0

    async def complete(self, request, *, seed):
        """Answer, or fail."""
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        return await super().complete(request, seed=seed)


def objective_of(pipeline, chats, instances=("q",), **options):
    """Build an objective over a pipeline in which every stage has all the models.

    A token of a prompt costs 1, one of a reply 2.
    """
    prices = {"parameters": 1e9, "input_price": 1e6, "output_price": 2e6}
    prices["extra"] = options.pop("extra", None)
    prompt_tokens = options.pop("prompt_tokens", 20)
    task = Task(
        name="any",
        stages=[
            Stage(
                program.name,
                models=[Model(name, **prices) for name in chats],
                prompt_tokens=prompt_tokens,
                generation_tokens=10,
                max_samples=100,
            )
            for program in pipeline.programs
        ],
        budget=1e9,
        cost=PriceCost(),
    )
    places = {
        name: chat if isinstance(chat, Endpoint) else Endpoint(chat=chat, identity=name)
        for name, chat in chats.items()
    }
    options.setdefault("progress", False)
    return MultiStageObjective(pipeline, list(instances), task=task, endpoints=places, **options)


class Clock:
    """Clock that a test sets, in seconds."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def unused():
    """Return the URL of a port without a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def side_by_side(workers):
    """Start threads or processes, and wait until all have succeeded."""
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(getattr(worker, "exitcode", 0) == 0 for worker in workers)
