"""The claims that sum guidelines up: how they are asked for, and what comes back of them.

Claims on models belong to Insight 1 or 2, and those on samples to Insight 2, so that nothing of
an insight that is off is told by asking.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from optuna_agenttts.agent.prompts.data import block, quote
from optuna_agenttts.task.task import Task


def claim_fields(insights: Collection[int], *, guidelines: bool) -> tuple[str, ...]:
    """What claims are to say beside their stage: ``"models"``, and ``"samples"``, or nothing."""
    if not guidelines or not {1, 2} & set(insights):
        return ()
    return ("models", "samples") if 2 in insights else ("models",)


def claims_instruction(asked: Collection[str]) -> str:
    """What the instruction says of claims."""
    if not asked:
        return ""
    samples = (
        "; `samples`: from how many to how many the first of them saturates"
        if "samples" in asked
        else ""
    )
    return (
        "Sum the guidelines up as claims, one for each stage. `models`: those one of which is the "
        f"stage's best, most likely first, as few as the evidence allows{samples}. Claims are "
        "compared with a statistical fit to all trials, to find guidelines that it contradicts."
    )


def claims_example(task: Task, asked: Collection[str]) -> str:
    """Claims in the form of the answer, with the comma that follows them."""
    if not asked:
        return ""
    stage = task.stages[0]
    samples = f', "samples": [1, {min(4, stage.max_samples)}]' if "samples" in asked else ""
    model = quote(stage.models[0].name)
    return f'"claims": [{{"stage": {quote(stage.name)}, "models": [{model}]{samples}}}], '


def claims_schema(task: Task, asked: Collection[str]) -> dict[str, Any] | None:
    """The JSON schema of the claims; None where none are asked for."""
    if not asked:
        return None
    models = dict.fromkeys(model.name for stage in task.stages for model in stage.models)
    samples = {"type": "integer", "minimum": 1, "maximum": max(s.max_samples for s in task.stages)}
    properties: dict[str, Any] = {
        "stage": {"type": "string", "enum": [stage.name for stage in task.stages]},
        "models": {
            "type": "array",
            "items": {"type": "string", "enum": list(models)},
            "minItems": 1,
            "maxItems": max(len(stage.models) for stage in task.stages),
        },
    }
    if "samples" in asked:
        properties["samples"] = {
            "type": "array",
            "items": samples,
            "minItems": 2,
            "maxItems": 2,
        }
    claim = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "array", "items": claim, "maxItems": len(task.stages)}


def contradicted_block(sentences: Sequence[str]) -> str:
    """Which of the agent's latest claims the fit contradicts by now."""
    if not sentences:
        return ""
    note = "Of your latest claims, the fit contradicts by now:"
    return block("contradicted", [note, *(quote(sentence) for sentence in sentences)])
