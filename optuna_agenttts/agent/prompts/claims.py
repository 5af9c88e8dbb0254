"""Parts of the prompt and of the reply schema about claims: odds of models and of samples.

Claims about models belong to Insights 1 and 2, and claims about samples to Insight 2. They are
requested only with these insights, so that the request does not reveal an ablated insight.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from optuna_agenttts.agent.prompts.data import block, quote
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.task.efforts import efforts_by_model
from optuna_agenttts.task.task import Task

_WEIGHED = (
    "Odds weigh what is tried next: state them as they are, 1 is certain. They are compared with "
    "a statistical fit to all trials, and lose their weight where it contradicts them."
)
_COMPARED = (
    "Odds are about the best value within the whole budget: state them as they are, 1 is certain. "
    "They are compared with a statistical fit to all trials."
)


def claim_fields(insights: Collection[int], *, guidelines: bool) -> tuple[str, ...]:
    """Return the fields of a claim to request besides its stage.

    Args:
        insights: Numbers of the paper's insights in use.
        guidelines: Whether guidelines are requested; there are no claims without them.

    Returns:
        ``("models", "samples")``, ``("models",)`` or ``()``.
    """
    if not guidelines or not {1, 2} & set(insights):
        return ()
    return ("models", "samples") if 2 in insights else ("models",)


def claims_instruction(
    fields: Collection[str], *, thinking: bool = False, weighed: bool = True
) -> str:
    """Return the instruction for claims; empty if none are requested.

    Args:
        fields: The fields; see `claim_fields`.
        thinking: Whether models have thinking efforts.
        weighed: Whether odds weigh what is tried next.
    """
    if not fields:
        return ""
    samples = (
        "; `samples`: a range that probably holds its best number of samples, and `samples_odds`, "
        "how probable that is"
        if "samples" in fields
        else ""
    )
    models = " (a model's name without an effort means all of its efforts)" if thinking else ""
    return (
        "Sum the guidelines up as claims, one for each stage. `models`: those that may be the "
        f"stage's best, each with `odds`, the probability that it is{models}; models left out "
        f"share the rest{samples}. {_WEIGHED if weighed else _COMPARED}"
    )


def claims_example(task: Task, fields: Collection[str]) -> str:
    """Return the claims in the example of a reply, with a trailing comma."""
    if not fields:
        return ""
    stage = task.stages[0]
    most = min(4, stage.max_samples)
    samples = f', "samples": [1, {most}], "samples_odds": 0.6' if "samples" in fields else ""
    models = f'[{{"model": {quote(stage.models[0].name)}, "odds": 0.7}}]'
    return f'"claims": [{{"stage": {quote(stage.name)}, "models": {models}{samples}}}], '


def claims_schema(task: Task, fields: Collection[str]) -> dict[str, Any] | None:
    """Return the JSON schema of the claims; None if none are requested."""
    if not fields:
        return None
    models = dict.fromkeys(model.name for stage in task.stages for model in stage.models)
    models |= dict.fromkeys(n for stage in task.stages for n in efforts_by_model(stage.models))
    samples = {"type": "integer", "minimum": 1, "maximum": max(s.max_samples for s in task.stages)}
    odds = {"type": "number", "minimum": 0, "maximum": 1}
    model = _object({"model": {"type": "string", "enum": list(models)}, "odds": odds})
    properties: dict[str, Any] = {
        "stage": {"type": "string", "enum": [stage.name for stage in task.stages]},
        "models": {
            "type": "array",
            "items": model,
            "minItems": 1,
            "maxItems": max(len(stage.models) for stage in task.stages),
        },
    }
    if "samples" in fields:
        properties["samples"] = {
            "type": "array",
            "items": samples,
            "minItems": 2,
            "maxItems": 2,
        }
        properties["samples_odds"] = odds
    return {"type": "array", "items": _object(properties), "maxItems": len(task.stages)}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def contradicted_block(data: PromptData) -> str:
    """Return the block of the latest claims that the fit contradicts; empty if there are none."""
    if not data.contradicted or not data.guidelines:
        return ""
    note = "Of your latest odds, the fit contradicts by now:"
    return block("contradicted", [note, *(quote(sentence) for sentence in data.contradicted)])
