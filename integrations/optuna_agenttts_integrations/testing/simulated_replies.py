"""Replies of simulated models to the prompts of the task families, by the type of the instance.

Register further instance types with ``simulated_reply.register`` and ``quoted_text.register``, or
pass functions of your own to `simulated_models`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.tasks.kg_qa import TripleQuestion
from optuna_agenttts_integrations.tasks.passages import PassageQuestion
from optuna_agenttts_integrations.tasks.programs import UNCHANGED, Program, format_program
from optuna_agenttts_integrations.tasks.requirements import Software
from optuna_agenttts_integrations.tasks.software_development import PROGRAM_HEADING
from optuna_agenttts_integrations.tasks.tool_requests import ToolRequest

_ANSWERABLE_WITHOUT_PASSAGES = 0.3
"""Probability that a passage question can be answered closed-book; chosen by hand."""
_GOLD_KEPT = 0.4
"""Probability that a wrong selection keeps a given gold candidate; chosen by hand."""


@singledispatch
def quoted_text(instance: Any) -> str:
    """Return the text by which every prompt about an instance can be recognized.

    Args:
        instance: An instance of a task family.

    Raises:
        PipelineError: The type of the instance is not registered.
    """
    raise _unregistered("quoted_text", instance)


@quoted_text.register(PassageQuestion)
@quoted_text.register(TripleQuestion)
def _(instance: PassageQuestion | TripleQuestion) -> str:
    return f"Question: {instance.question}"


@quoted_text.register
def _(instance: ToolRequest) -> str:
    return f"Request: {instance.request}"


@quoted_text.register
def _(instance: Software) -> str:
    return f"Requirement: {instance.description}"


@singledispatch
def simulated_reply(
    instance: Any, *, stage: str, prompt: str, right: bool, rng: random.Random
) -> str:
    """Write the reply of a simulated model.

    Args:
        instance: An instance of a task family.
        stage: The name of the stage.
        prompt: The prompt, all messages joined.
        right: Whether the reply should be right. It can still be wrong where the prompt lacks
            what a right reply needs.
        rng: Source of randomness; right replies do not draw from it where the prompt suffices.

    Raises:
        PipelineError: The type of the instance is not registered.
    """
    raise _unregistered("simulated_reply", instance)


@simulated_reply.register(PassageQuestion)
@simulated_reply.register(TripleQuestion)
def _(
    instance: PassageQuestion | TripleQuestion,
    *,
    stage: str,
    prompt: str,
    right: bool,
    rng: random.Random,
) -> str:
    candidates, closed_book = _candidates(instance)
    if stage == "retrieval":
        return simulated_selection(instance.gold, len(candidates), right, rng)
    shown = all(candidates[number - 1] in prompt for number in instance.gold)
    if right and (shown or closed_book):
        if "lists all answers" in prompt and isinstance(instance, TripleQuestion):
            return f"Answer: {'; '.join(names[0] for names in instance.gold_sets[0])}"
        return f"Answer: {instance.answers[0]}"
    return f"Answer: nobody knows {rng.randint(1, 4)}"


def _candidates(question: PassageQuestion | TripleQuestion) -> tuple[Sequence[str], bool]:
    """Return the candidates, and whether the question can be answered without them."""
    if isinstance(question, TripleQuestion):
        return question.triples, False
    draw = random.Random(question.question).random()
    return question.passages, draw < _ANSWERABLE_WITHOUT_PASSAGES


def simulated_selection(gold: Sequence[int], count: int, right: bool, rng: random.Random) -> str:
    """Write a selection: the gold candidates, or some of them and one to three others.

    Args:
        gold: Numbers of the gold candidates, from 1.
        count: The number of candidates.
        right: Whether to select exactly the gold candidates.
        rng: Source of randomness.
    """
    if right:
        return selection_answer(gold)
    others = [number for number in range(1, count + 1) if number not in gold]
    kept = [number for number in gold if rng.random() < _GOLD_KEPT]
    wrong = rng.sample(others, min(len(others), rng.randint(1, 3)))
    if not wrong:
        # All candidates are gold: a wrong selection has to miss one.
        kept = kept[: len(gold) - 1]
    return selection_answer(sorted(kept + wrong))


def selection_answer(ids: Sequence[int]) -> str:
    """Return the answer line that selects candidates."""
    return f"Answer: [{', '.join(map(str, ids))}]" if ids else "Answer: none"


@simulated_reply.register
def _(instance: ToolRequest, *, stage: str, prompt: str, right: bool, rng: random.Random) -> str:
    if stage == "decomposition":
        steps = list(instance.steps)
        if not right:
            steps[rng.randrange(len(steps))] = f"Ask somebody else {rng.randint(1, 4)}"
            steps = steps[1:] if len(steps) > 1 and rng.random() < 0.5 else steps
        return json.dumps({"steps": steps})
    if stage == "selection":
        names = list(dict.fromkeys(call.tool for call in instance.calls))
        if not right:
            others = [tool.name for tool in instance.tools if tool.name not in names]
            names[rng.randrange(len(names))] = rng.choice(others or ["no such tool"])
        return json.dumps({"tools": names})
    return json.dumps({"calls": _simulated_calls(instance, prompt, right, rng)})


def _simulated_calls(
    request: ToolRequest, prompt: str, right: bool, rng: random.Random
) -> list[dict[str, Any]]:
    """Write the gold calls; change one if the reply is wrong or the prompt lacks its tool."""
    # Only tools whose arguments have no names declare input and output types.
    named = not any(tool.inputs or tool.outputs for tool in request.tools)
    calls: list[dict[str, Any]] = [
        {
            "tool": call.tool,
            "arguments": dict(call.arguments) if named else [value for _, value in call.arguments],
        }
        for call in request.calls
    ]
    unseen = [call for call in calls if f"- {call['tool']}:" not in prompt]
    if unseen or not right:
        call = rng.choice(unseen or calls)
        call["tool"] = "no such tool" if unseen or not call["arguments"] else call["tool"]
        keys = list(call["arguments"]) if named else list(range(len(call["arguments"])))
        if keys:
            call["arguments"][rng.choice(keys)] = f"who knows {rng.randint(1, 4)}"
    return calls


@simulated_reply.register
def _(instance: Software, *, stage: str, prompt: str, right: bool, rng: random.Random) -> str:
    finished = _finished_program(instance)
    if right:
        kept = stage != "coding" and f"{PROGRAM_HEADING}{finished}\n" in prompt
        return UNCHANGED if kept else finished
    if stage != "coding" and rng.random() < 0.5:
        return UNCHANGED
    draft = rng.randint(1, 6)
    placeholder = f"def main():\n    # TODO: draft {draft}\n    pass\n\n\nmain()\n"
    broken = f"def main(:\n    print('draft {draft}')\n\n\nmain()\n"
    return format_program(Program.from_files({"main.py": rng.choice((placeholder, broken))}))


def _finished_program(software: Software) -> str:
    """Write a complete program that uses the words of the description."""
    words = sorted(set(re.findall(r"[a-z]{4,}", software.description.lower())))
    main = (
        "from features import lengths\n\n\ndef main():\n"
        "    for feature, length in lengths().items():\n        print(feature, length)\n\n\n"
        'if __name__ == "__main__":\n    main()\n'
    )
    features = (
        f"FEATURES = {words!r}\n\n\ndef lengths():\n"
        "    return {feature: len(feature) for feature in FEATURES}\n"
    )
    return format_program(Program.from_files({"main.py": main, "features.py": features}))


def _unregistered(function: str, instance: Any) -> PipelineError:
    name = type(instance).__name__
    return PipelineError(
        f"`{function}` has no implementation for instances of type {name}: register one with "
        f"`{function}.register({name}, ...)`, or pass a function to `simulated_models`."
    )
