"""Arguments of the sampler about the agent."""

from __future__ import annotations

from typing import get_args

from optuna_agenttts.agent.subjects import When
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.task.model import Model


def check_agent(
    llm_timeout: float, n_trials: int | None, llm_when: str, llm_facts: Model | None
) -> None:
    """Raise an error if an argument about the agent is invalid."""
    if not llm_timeout > 0:
        raise TaskError(f"AgentTTSSampler: `llm_timeout` must be positive, got {llm_timeout!r}.")
    if not (n_trials is None or (isinstance(n_trials, int) and n_trials > 0)):
        raise TaskError(
            f"AgentTTSSampler: `n_trials` must be a positive integer or None, got {n_trials!r}."
        )
    if llm_when not in get_args(When):
        raise TaskError(
            f"AgentTTSSampler: `llm_when` must be 'auto' or 'always', got {llm_when!r}."
        )
    if not (llm_facts is None or isinstance(llm_facts, Model)):
        raise TaskError(
            f"AgentTTSSampler: `llm_facts` must be a `Model` or None, got {llm_facts!r}."
        )
    if llm_facts and llm_facts.thinking and llm_facts.thinking.negotiated:
        raise TaskError(
            f"AgentTTSSampler: give `llm_facts` the fields of its effort, got "
            f"{llm_facts.name!r} without: `Model(..., extra={{'reasoning_effort': 'low'}})`."
        )
