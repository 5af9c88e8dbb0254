"""Exceptions of the integrations; all derive from `optuna_agenttts.AgentTTSError`.

* `PipelineError` (also a `ValueError`): pipeline, instances and endpoints do not match.
* `StoreError`: a completion store cannot be read or written.
* `TooManyFailuresError`: too many instances of a trial failed, so that it has no valid score.
* `SpendLimitError`: a limit on the spend does not cover the next call.
* `DataError` (also a `ValueError`): records of a data set do not have the expected format.
* `SandboxError`: a program cannot be run in a sandbox on this machine.
"""

from __future__ import annotations

from optuna_agenttts import AgentTTSError


class PipelineError(AgentTTSError, ValueError):
    """A pipeline, its instances and its endpoints do not match, or an argument is invalid."""


class StoreError(AgentTTSError):
    """A completion store cannot be read or written."""


class TooManyFailuresError(AgentTTSError):
    """Too many instances of a trial failed, so that it has no valid score.

    Attributes:
        spend: Spend of an evaluation that failed, in units of the task's cost model.
    """

    spend: float = 0.0


class SpendLimitError(AgentTTSError):
    """A limit on the spend does not cover the next call, which was not made."""


class DataError(AgentTTSError, ValueError):
    """Records of a data set do not have the expected format."""


class SandboxError(AgentTTSError):
    """A program cannot be run in a sandbox on this machine, so it is not run at all."""
