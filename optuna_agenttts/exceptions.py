"""Exceptions.

* `AgentTTSError`
    * `TaskError` (also a `ValueError`): an argument is invalid.
        * `MissingFactError`: a cost model needs a fact that a model does not state.
        * `BudgetError`: no allocation, or not the requested one, fits the budget.
    * `NoTaskError` (also a `ValueError`): no task is registered on a study, and none was given.
    * `NoEvidenceError` (also a `ValueError`): a study has no finished trial.
    * `CheckError`: a check before a search found an error.

Every message names the argument, its value and the remedy.
"""

from __future__ import annotations


class AgentTTSError(Exception):
    """Base class of the errors that this package raises."""


class TaskError(AgentTTSError, ValueError):
    """An argument, such as a value of a task, stage, model or allocation, is invalid."""


class MissingFactError(TaskError):
    """A cost model needs a fact (a size, a price, a speed) that a model does not state."""


class BudgetError(TaskError):
    """No allocation, or not the requested one, fits the budget."""


class NoTaskError(AgentTTSError, ValueError):
    """No task is registered on a study, and none was given."""


class NoEvidenceError(AgentTTSError, ValueError):
    """A study has no finished trial to recommend from."""


class CheckError(AgentTTSError):
    """A check before a search found an error that would make it fail."""
