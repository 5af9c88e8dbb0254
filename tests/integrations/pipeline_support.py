"""A two-stage pipeline over a scripted model that is a function of request and seed."""

import threading

from optuna_agenttts import Model, Stage, Task
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
    """Says ``yes`` with a probability that its name decides; counts its calls."""

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
        """Answer, or refuse instances that are named in `refuse`."""
        text = request.messages[-1].content
        with self._lock:
            self.calls.append((text, seed))
        if any(name in text for name in self.refuse):
            raise ChatRefusedError("unknown instance")
        share = 90 if self.name == "large" else 60
        reply = "yes" if (seed // 7) % 100 < share else "no"
        return Completion(reply, Usage(10, 3))


def make_task(max_samples=20):
    """Two stages of two models."""
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
    """Find, then say; right if both say yes."""
    return Pipeline(
        stages=[StageProgram(name="find", prompt=_find), StageProgram(name="say", prompt=_say)],
        score=_score,
    )


def make_objective(count=20, refuse=(), chats=None, **options):
    """An objective over `count` instances, and its models."""
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
    """An allocation of both stages."""
    return {"find": find, "say": say}


def calls(chats):
    """How many calls all models have seen."""
    return sum(len(chat.calls) for chat in chats.values())
