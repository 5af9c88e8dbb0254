"""What a search was spent on: stages, models, confirmation, agent, and what reuse saved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expense:
    """Spend on one model of one stage, over all trials.

    Args:
        stage: Name of the stage.
        model: Name of the model.
        spend: Spend, in units of the task's cost model.
        saved: What reused samples would have cost, in the same units; 0 if it is not known.
        trials: Number of trials with this model in this stage.
    """

    stage: str
    model: str
    spend: float
    saved: float
    trials: int


@dataclass(frozen=True, slots=True)
class Expenditure:
    """What a search was spent on, in units of the task's cost model.

    Args:
        expenses: Spend by stage and model, in order of the task.
        measured: Whether trials reported the spend of each stage. If not, the spend of a trial is
            divided among stages in proportion to the costs of its allocation.
        total: Spend of all trials.
        confirmation: The part of `total` that confirms allocations on fresh instances.
        agent: Spend of the agent, as far as it is priced.
        agent_tokens: Tokens of the agent.
        whole: Whether spends cover all instances; see `Spend.whole`.
        unit: Unit of the cost model.
        by_trial: For each finished trial its number and spend.
    """

    expenses: tuple[Expense, ...]
    measured: bool
    total: float
    confirmation: float
    agent: float
    agent_tokens: int
    whole: bool
    unit: str
    by_trial: tuple[tuple[int, float], ...]
