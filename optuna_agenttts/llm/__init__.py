"""Language models: the port, and what implements it."""

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

__all__ = [
    "ChatError",
    "ChatModel",
    "ChatRefusedError",
    "ChatRequest",
    "ChatUnavailableError",
    "Completion",
    "Message",
    "Usage",
]
