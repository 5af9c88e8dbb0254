"""Mistakes that a type checker must find: mypy reports each `ignore` that is not needed."""

import optuna

from optuna_agenttts import AgentTTSSampler, FlopsCost, Model, Stage, Task, recommend
from optuna_agenttts.llm import ChatModel, ChatRequest
from optuna_agenttts_integrations import Pipeline, StageProgram, State

stage = Stage("answer", models=[Model("small")], prompt_tokens=256, generation_tokens=64)
task = Task(name="qa", stages=[stage])

# Arguments are given by name.
AgentTTSSampler(task, "http://127.0.0.1:8080")  # type: ignore[call-arg]
Task("qa", [stage])  # type: ignore[call-arg]
# Values of the wrong kind.
Task(name="qa", stages=[stage], budget="900")  # type: ignore[arg-type]
Task(name="qa", stages=["answer"])  # type: ignore[list-item]
Model("small", thinking="low")  # type: ignore[arg-type]
AgentTTSSampler(task, llm=3)  # type: ignore[arg-type]
AgentTTSSampler(stage)  # type: ignore[arg-type]
recommend(task)  # type: ignore[arg-type]
task.cost({"answer": 3})  # type: ignore[dict-item]
# Scores alone have no interval.
low, high = recommend(optuna.create_study()).interval  # type: ignore[misc]
# Names that do not exist.
AgentTTSSampler(task, model="small")  # type: ignore[call-arg]
FlopsCost(prefix=True)  # type: ignore[call-arg]
# Values do not change.
Model("small").parameters = 3e9  # type: ignore[misc]


class Silent:
    """Lack `seed`, and so be no chat model."""

    async def complete(self, request: ChatRequest) -> str:
        """Return a bare text."""
        return ""


chat: ChatModel = Silent()  # type: ignore[assignment]


def prompt(state: State) -> int:
    """Return what is no prompt."""
    return 1


StageProgram(name="answer", prompt=prompt)  # type: ignore[arg-type]
Pipeline(stages=[stage], score=float)  # type: ignore[list-item, arg-type]
optuna.create_study(sampler=AgentTTSSampler)  # type: ignore[arg-type]
