"""Language models: the port, and what implements it."""

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
from optuna_agenttts.llm.retry import CircuitBreaker, PatientChat, RetryPolicy
from optuna_agenttts.llm.scripted import ScriptedChatModel

__all__ = [
    "ChatError",
    "ChatModel",
    "ChatRefusedError",
    "ChatRequest",
    "ChatUnavailableError",
    "CircuitBreaker",
    "Completion",
    "Finding",
    "HuggingFaceChat",
    "Message",
    "PatientChat",
    "Report",
    "RetryPolicy",
    "ScriptedChatModel",
    "Usage",
    "connect",
    "examine",
]
