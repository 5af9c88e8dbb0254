"""Test-time compute-optimal scaling of multi-stage LLM pipelines, as an Optuna sampler."""

from typing import TYPE_CHECKING

from optuna_agenttts.carrying import carry_over
from optuna_agenttts.confirmation.confirming import confirm
from optuna_agenttts.confirmation.result import Confirmation, SearchResult, Standing
from optuna_agenttts.confirmation.searching import search
from optuna_agenttts.exceptions import (
    AgentTTSError,
    BudgetError,
    CheckError,
    MissingFactError,
    NoEvidenceError,
    NoTaskError,
    TaskError,
)
from optuna_agenttts.explanation.explaining import Explain, explain
from optuna_agenttts.llm import ScriptedChatModel
from optuna_agenttts.report.budgets import frontier
from optuna_agenttts.report.callbacks import StopAtSpend, StopWhenExhausted, StopWhenSettled
from optuna_agenttts.report.dataframes import rounds_dataframe, trials_dataframe
from optuna_agenttts.report.points import Frontier, FrontierPoint
from optuna_agenttts.report.printing import PrintTrials
from optuna_agenttts.report.recommendation import Recommendation, recommend
from optuna_agenttts.report.saved import load_allocation, save_allocation
from optuna_agenttts.report.summary import Summary, summarize
from optuna_agenttts.report.ties import Tie, Undecided
from optuna_agenttts.sampler import AgentTTSSampler
from optuna_agenttts.study.claims import Claim, Verdict
from optuna_agenttts.study.fates import guidelines
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.study.spending import Spend, spend
from optuna_agenttts.study.stopped import report_outcomes
from optuna_agenttts.support.lazy import lazy_names
from optuna_agenttts.support.logs import show_logs
from optuna_agenttts.task.allocation import Allocation, StageAllocation
from optuna_agenttts.task.cost import CostModel, FlopsCost, LatencyCost, PriceCost
from optuna_agenttts.task.efforts import efforts
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.task import Task
from optuna_agenttts.task.thinking import Thinking

if TYPE_CHECKING:
    from optuna_agenttts.llm.huggingface import HuggingFaceChat
    from optuna_agenttts.models.hub import Hub, describe_model
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Hub": "models.hub",
            "HuggingFaceChat": "llm.huggingface",
            "describe_model": "models.hub",
        },
    )

__version__ = "0.1.0"

show_logs(__name__)

__all__ = [
    "AgentTTSError",
    "AgentTTSSampler",
    "Allocation",
    "BudgetError",
    "CheckError",
    "Claim",
    "Confirmation",
    "CostModel",
    "Explain",
    "FlopsCost",
    "Frontier",
    "FrontierPoint",
    "Hub",
    "HuggingFaceChat",
    "LatencyCost",
    "MissingFactError",
    "Model",
    "NoEvidenceError",
    "NoTaskError",
    "PriceCost",
    "PrintTrials",
    "Recommendation",
    "Round",
    "ScriptedChatModel",
    "SearchResult",
    "Spend",
    "Stage",
    "StageAllocation",
    "Standing",
    "StopAtSpend",
    "StopWhenExhausted",
    "StopWhenSettled",
    "Summary",
    "Task",
    "TaskError",
    "Thinking",
    "Tie",
    "Undecided",
    "Verdict",
    "__version__",
    "carry_over",
    "confirm",
    "describe_model",
    "efforts",
    "explain",
    "frontier",
    "guidelines",
    "load_allocation",
    "recommend",
    "report_outcomes",
    "rounds_dataframe",
    "save_allocation",
    "search",
    "spend",
    "summarize",
    "trials_dataframe",
]
