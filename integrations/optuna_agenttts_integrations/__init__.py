"""Multi-stage objectives for optuna-agenttts: run and score pipelines of model calls."""

from optuna_agenttts import __version__
from optuna_agenttts.support.logs import show_logs
from optuna_agenttts_integrations.calls.batching import BatchingChatModel
from optuna_agenttts_integrations.calls.endpoints import (
    Endpoint,
    connect_endpoints,
)
from optuna_agenttts_integrations.calls.replicas import ReplicatedChatModel
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.exceptions import (
    DataError,
    PipelineError,
    SandboxError,
    SpendLimitError,
    StoreError,
    TooManyFailuresError,
)
from optuna_agenttts_integrations.inspection.views import InstanceInspection, TrialInspection
from optuna_agenttts_integrations.objective import MultiStageObjective
from optuna_agenttts_integrations.pipeline.aggregation import (
    best_of,
    id_vote,
    majority_vote,
    medoid,
    normalized_vote,
    settled,
    union,
)
from optuna_agenttts_integrations.pipeline.evaluation import (
    Comparison,
    Evaluation,
    InstanceResult,
    StageUsage,
)
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.prediction import Prediction, Predictions
from optuna_agenttts_integrations.pipeline.predictor import Predictor
from optuna_agenttts_integrations.pipeline.stages import (
    Pipeline,
    StageCheck,
    StageProgram,
    State,
    Step,
)
from optuna_agenttts_integrations.testing.serving import LoopbackServer

show_logs(__name__)

__all__ = [
    "BatchingChatModel",
    "Comparison",
    "CompletionStore",
    "DataError",
    "Endpoint",
    "Evaluation",
    "InstanceInspection",
    "InstanceResult",
    "LLMFusion",
    "LoopbackServer",
    "MultiStageObjective",
    "Pipeline",
    "PipelineError",
    "Prediction",
    "Predictions",
    "Predictor",
    "ReplicatedChatModel",
    "SandboxError",
    "SpendLimitError",
    "StageCheck",
    "StageProgram",
    "StageUsage",
    "State",
    "Step",
    "StoreError",
    "TooManyFailuresError",
    "TrialInspection",
    "__version__",
    "best_of",
    "connect_endpoints",
    "id_vote",
    "majority_vote",
    "medoid",
    "normalized_vote",
    "settled",
    "union",
]
