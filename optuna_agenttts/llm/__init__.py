"""Language models: the interface `ChatModel`, its implementations and pre-flight checks."""

from typing import TYPE_CHECKING

from optuna_agenttts.llm.factory import connect
from optuna_agenttts.llm.findings import Finding, Report
from optuna_agenttts.llm.port import (
    ChatError,
    ChatModel,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Message,
    Usage,
)
from optuna_agenttts.llm.retry import (
    CircuitBreaker,
    CircuitOpenError,
    RetryingChatModel,
    RetryPolicy,
)
from optuna_agenttts.llm.scripted import ScriptedChatModel
from optuna_agenttts.support.lazy import lazy_names

if TYPE_CHECKING:
    from optuna_agenttts.llm.doctor import examine
    from optuna_agenttts.llm.huggingface import HuggingFaceChat
else:
    __getattr__, __dir__ = lazy_names(
        __name__, {"HuggingFaceChat": "huggingface", "examine": "doctor"}
    )


__all__ = [
    "ChatError",
    "ChatModel",
    "ChatRefusedError",
    "ChatRequest",
    "ChatUnavailableError",
    "CircuitBreaker",
    "CircuitOpenError",
    "Completion",
    "Finding",
    "HuggingFaceChat",
    "Message",
    "Report",
    "RetryPolicy",
    "RetryingChatModel",
    "ScriptedChatModel",
    "Usage",
    "connect",
    "examine",
]
