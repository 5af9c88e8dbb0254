"""Errors of the integrations, all of them `optuna_agenttts.AgentTTSError`.

* `PipelineError` (also a `ValueError`): pipeline, instances and endpoints do not fit together.
* `StoreError`: a completion store cannot be read or written.
* `TooManyFailuresError`: too many instances of a trial failed for its score to mean anything.
* `DataError` (also a `ValueError`): records of a data set are not what a loader expects.
* `SandboxError`: code cannot be run inside a sandbox here.
"""

from __future__ import annotations

from optuna_agenttts import AgentTTSError


class PipelineError(AgentTTSError, ValueError):
    """A pipeline, its instances or its endpoints do not fit together."""


class StoreError(AgentTTSError):
    """A completion store cannot be read or written."""


class TooManyFailuresError(AgentTTSError):
    """Too many instances of a trial failed for its score to mean anything."""


class DataError(AgentTTSError, ValueError):
    """Records of a data set are not what a loader expects."""


class SandboxError(AgentTTSError):
    """Code cannot be run inside a sandbox here, so it is not run at all."""
