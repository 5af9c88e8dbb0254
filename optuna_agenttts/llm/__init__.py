"""Language models: the interface `ChatModel`, its implementations and pre-flight checks."""

from optuna_agenttts.llm.doctor import examine
from optuna_agenttts.llm.factory import connect
from optuna_agenttts.llm.findings import Finding, Report
from optuna_agenttts.llm.huggingface import HuggingFaceChat
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
