"""The error tree.

* `AgentTTSError`
    * `TaskError` (also a `ValueError`): a task, stage, model or allocation makes no sense.
        * `MissingFactError`: a cost needs a fact that a model does not state.
        * `BudgetError`: nothing, or not what was asked for, fits the budget.
    * `NoTaskError` (also a `ValueError`): a study does not say which task it tunes.
    * `NoEvidenceError` (also a `ValueError`): a study has nothing to recommend from.
    * `CheckError`: a check before a search found what would make it fail.

Every message names the argument, its value and the remedy.
"""

from __future__ import annotations


class AgentTTSError(Exception):
    """Base class of every error that this package raises on purpose."""


class TaskError(AgentTTSError, ValueError):
    """A task, stage, model or allocation makes no sense."""


class MissingFactError(TaskError):
    """A cost needs a fact (a size, a price, a speed) that a model does not state."""


class BudgetError(TaskError):
    """Nothing, or not what was asked for, fits the budget."""


class NoTaskError(AgentTTSError, ValueError):
    """A study does not say which task it tunes, and none was given."""


class NoEvidenceError(AgentTTSError, ValueError):
    """A study has no finished trial to recommend from."""


class CheckError(AgentTTSError):
    """A check before a search found what would make it fail."""
