"""Multi-stage objectives for optuna-agenttts: pipelines of model calls, run and scored."""

from optuna_agenttts_integrations.aggregation import (
    best_of,
    id_vote,
    majority_vote,
    normalized_vote,
    union,
)
from optuna_agenttts_integrations.endpoints import BatchingChatModel, Endpoint
from optuna_agenttts_integrations.evaluation import Evaluation, InstanceResult
from optuna_agenttts_integrations.exceptions import (
    PipelineError,
    StoreError,
    TooManyFailuresError,
)
from optuna_agenttts_integrations.objective import MultiStageObjective
from optuna_agenttts_integrations.pipeline import Pipeline, StageProgram, State
from optuna_agenttts_integrations.store import CompletionStore

__all__ = [
    "BatchingChatModel",
    "CompletionStore",
    "Endpoint",
    "Evaluation",
    "InstanceResult",
    "MultiStageObjective",
    "Pipeline",
    "PipelineError",
    "StageProgram",
    "State",
    "StoreError",
    "TooManyFailuresError",
    "best_of",
    "id_vote",
    "majority_vote",
    "normalized_vote",
    "union",
]
