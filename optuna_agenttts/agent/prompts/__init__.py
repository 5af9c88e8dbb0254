"""Prompts of the agent: one render function per prompt, from plain values to messages."""

from optuna_agenttts.agent.prompts.claims import claim_fields
from optuna_agenttts.agent.prompts.experience import describe_experience
from optuna_agenttts.agent.prompts.fates import shown_fates
from optuna_agenttts.agent.prompts.generic import generic_schema, render_generic
from optuna_agenttts.agent.prompts.plan import plan_schema, render_plan
from optuna_agenttts.agent.prompts.prompt_data import TABLES, PromptBlock, PromptData
from optuna_agenttts.agent.prompts.repair import render_repair

__all__ = [
    "TABLES",
    "PromptBlock",
    "PromptData",
    "claim_fields",
    "describe_experience",
    "generic_schema",
    "plan_schema",
    "render_generic",
    "render_plan",
    "render_repair",
    "shown_fates",
]
