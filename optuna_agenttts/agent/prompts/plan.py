"""Prompt for the next round of a task: guidelines, claims and candidates in one reply."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from optuna_agenttts.agent.prompts.claims import claim_fields, claims_schema, contradicted_block
from optuna_agenttts.agent.prompts.costs import costs_block, spent_block, task_block
from optuna_agenttts.agent.prompts.data import sections
from optuna_agenttts.agent.prompts.diagnostics import stages_block, transcripts_block
from optuna_agenttts.agent.prompts.experience import experience_block
from optuna_agenttts.agent.prompts.fates import proposals_block, queue_block
from optuna_agenttts.agent.prompts.guidelines import guidelines_block
from optuna_agenttts.agent.prompts.history import history_block, running_block
from optuna_agenttts.agent.prompts.insights import insights_block
from optuna_agenttts.agent.prompts.instruction import SYSTEM, answer_form, instruction
from optuna_agenttts.agent.prompts.prompt_data import PromptBlock, PromptData, fitting_texts
from optuna_agenttts.agent.prompts.schema import reply_schema
from optuna_agenttts.agent.prompts.tables import (
    effects_block,
    front_block,
    gains_block,
    models_block,
    next_block,
    noise_block,
)
from optuna_agenttts.llm.port import Message
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts.task.task import Task

MAX_TOKENS = 3000
"""Maximum number of tokens of a prompt, as `estimated_tokens` counts them. Larger tasks exceed it
by their own descriptions."""

BLOCKS = (
    PromptBlock(task_block),
    PromptBlock(costs_block),
    PromptBlock(spent_block),
    PromptBlock(insights_block),
    PromptBlock(experience_block, 11),
    PromptBlock(history_block, (8, 2, 1)),
    PromptBlock(front_block, (8, 2)),
    PromptBlock(running_block, 1),
    PromptBlock(queue_block, 1),
    PromptBlock(proposals_block, 7),
    PromptBlock(noise_block, 2),
    PromptBlock(effects_block, 4),
    PromptBlock(models_block, 3),
    PromptBlock(stages_block, 4),
    PromptBlock(gains_block, 5),
    PromptBlock(next_block, (10, 6)),
    PromptBlock(transcripts_block, (10, 9, 5)),
    PromptBlock(guidelines_block, (8, 3)),
    PromptBlock(contradicted_block, 9),
    PromptBlock(instruction),
    PromptBlock(answer_form),
)
"""Parts of the prompt, in its order, each with its rank; see `PromptBlock`. Chosen by hand."""


def render_plan(data: PromptData) -> tuple[Message, ...]:
    """Render the prompt for a round of a task."""
    room = MAX_TOKENS - estimated_tokens(SYSTEM)
    return Message("system", SYSTEM), Message("user", sections(fitting_texts(BLOCKS, data, room)))


def plan_schema(
    task: Task,
    *,
    wanted: int,
    guidelines: bool,
    insights: Collection[int] = (1, 2, 3),
    repeats: bool = False,
) -> str:
    """Return the JSON schema of the reply, as JSON text.

    Args:
        task: The task.
        wanted: Maximum number of candidates.
        guidelines: Whether the reply includes guidelines.
        insights: Numbers of the paper's insights in use; they determine which claims are
            requested.
        repeats: Whether the reply includes trials to repeat.
    """
    claims = claims_schema(task, claim_fields(insights, guidelines=guidelines))
    stages = {
        stage.name: {
            "type": "object",
            "properties": {
                "model": {"type": "string", "enum": [model.name for model in stage.models]},
                "samples": _samples(stage.max_samples),
            },
            "required": ["model", "samples"],
            "additionalProperties": False,
        }
        for stage in task.stages
    }
    return reply_schema(
        stages,
        wanted=wanted,
        guidelines=guidelines,
        name="allocation",
        claims=claims,
        repeats=repeats,
    )


def _samples(most: int) -> dict[str, Any]:
    """Return the schema of a number of samples, or of as many as fit."""
    number = {"type": "integer", "minimum": 1, "maximum": most}
    return {"anyOf": [number, {"type": "string", "enum": ["max"]}]}
