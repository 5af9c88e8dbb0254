"""Test-time compute-optimal scaling of multi-stage LLM pipelines, as an Optuna sampler."""

from optuna_agenttts.callbacks import StopAtSpend, StopWhenSettled
from optuna_agenttts.cost import CostModel, FlopsCost, LatencyCost, PriceCost
from optuna_agenttts.exceptions import (
    AgentTTSError,
    BudgetError,
    CheckError,
    MissingFactError,
    NoEvidenceError,
    NoTaskError,
    TaskError,
)
from optuna_agenttts.hub import Hub, describe_model
from optuna_agenttts.llm import HuggingFaceChat, ScriptedChatModel
from optuna_agenttts.planning.agreement import Verdict
from optuna_agenttts.planning.claims import Claim
from optuna_agenttts.recommendation import Recommendation, Tie, recommend
from optuna_agenttts.rounds import Round, guidelines
from optuna_agenttts.sampler import AgentTTSSampler
from optuna_agenttts.spend import Spend, spend
from optuna_agenttts.stage import Model, Stage
from optuna_agenttts.task import Allocation, StageAllocation, Task

__all__ = [
    "AgentTTSError",
    "AgentTTSSampler",
    "Allocation",
    "BudgetError",
    "CheckError",
    "Claim",
    "CostModel",
    "FlopsCost",
    "Hub",
    "HuggingFaceChat",
    "LatencyCost",
    "MissingFactError",
    "Model",
    "NoEvidenceError",
    "NoTaskError",
    "PriceCost",
    "Recommendation",
    "Round",
    "ScriptedChatModel",
    "Spend",
    "Stage",
    "StageAllocation",
    "StopAtSpend",
    "StopWhenSettled",
    "Task",
    "TaskError",
    "Tie",
    "Verdict",
    "describe_model",
    "guidelines",
    "recommend",
    "spend",
]
