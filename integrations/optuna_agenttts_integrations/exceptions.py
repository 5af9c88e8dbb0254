"""Errors of the integrations, all of them `optuna_agenttts.AgentTTSError`.

* `PipelineError` (also a `ValueError`): pipeline, instances and endpoints do not fit together.
* `StoreError`: a completion store cannot be read or written.
* `TooManyFailuresError`: too many instances of a trial failed for its score to mean anything.
"""

from __future__ import annotations

from optuna_agenttts import AgentTTSError


class PipelineError(AgentTTSError, ValueError):
    """A pipeline, its instances or its endpoints do not fit together."""


class StoreError(AgentTTSError):
    """A completion store cannot be read or written."""


class TooManyFailuresError(AgentTTSError):
    """Too many instances of a trial failed for its score to mean anything."""
