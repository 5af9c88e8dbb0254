"""Callback that prints one line for each trial.

Colours are two escape sequences. `rich` would save no line here, and adds four packages to every
installation: tables of reports are aligned by `report/text.py`, also in logs and files.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TextIO

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from optuna_agenttts import storage
from optuna_agenttts.report.text import count_text, metric_text, score_text
from optuna_agenttts.report.ties import MARGIN
from optuna_agenttts.study.archive import is_maximized
from optuna_agenttts.study.objectives import has_cost
from optuna_agenttts.study.stopped import mean_outcome, measured_cost, outcomes_of
from optuna_agenttts.study.tasks import find_task
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts.task.task import Task
from optuna_agenttts.task.thinking import brief_choice

_WIDTH = 8
"""Width of a column of numbers, in characters. Chosen by hand."""
_UNLIMITED, _MAX_LINE = 10**6, 1000
"""Width of files, and maximum length of a list of parameters, in characters. Chosen by hand."""
_GREEN, _YELLOW, _END = "\033[1;32m", "\033[33m", "\033[0m"
"""Bold green for the best trial so far, yellow for stopped and failed ones, and their end."""
_REUSED = "reused"
"""User attribute of a trial: fraction of its calls that were reused."""

_printing: weakref.WeakSet[PrintTrials] = weakref.WeakSet()
"""Callbacks in use: Optuna's lines about trials are hidden as long as there is one."""


class PrintTrials(Resetting):
    """Callback that prints one line for each trial: score, cost, reuse and allocation.

    It replaces Optuna's lines about complete and pruned trials, which are hidden as long as the
    callback exists. The best trial so far has a star. Names of models are shortened to fit a
    terminal, and written in full elsewhere.

    Args:
        task: Task of the study. Default: the one registered on the study, else one recognized from
            the names of its parameters.
        file: Where to print. Default: standard output, above a progress bar if there is one.
        color: Whether to use colours. Default: only on a terminal, and not if the environment
            variable ``NO_COLOR`` is set.
    """

    _unpickled = ("_heads", "_lock")

    def __init__(
        self,
        *,
        task: Task | None = None,
        file: TextIO | None = None,
        color: bool | None = None,
    ) -> None:
        """See the class."""
        self._task, self._file, self._color = task, file, color
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments; another process has its own standard output."""
        return super().__getstate__() | {"_file": None}

    def _reset(self) -> None:
        self._heads: tuple[str, bool] | None = None
        self._lock = threading.Lock()
        _printing.add(self)
        for name in ("optuna.study.study", "optuna.study._optimize"):
            logging.getLogger(name).addFilter(_is_shown)

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Print the line of a trial, below the heads of the columns in the case of the first."""
        file = self._file or sys.stdout
        if file is None or getattr(file, "closed", False):
            # A program without a console, or one that closed it.
            return
        # A trial that failed reports no reuse, but its line has the columns of the others.
        # The lock keeps lines of other threads below the heads.
        with self._lock:
            self._print(study, trial, file)

    def _print(self, study: Study, trial: FrozenTrial, file: TextIO) -> None:
        terminal = hasattr(file, "isatty") and file.isatty()
        heads = (study.study_name, (study.study_name, True) == self._heads or _reuse(trial) != "-")
        columns = _Columns(
            find_task(study, self._task),
            is_maximized(study.directions)
            if len(study.directions) == 1 or has_cost(study)
            else None,
            heads[1],
            shutil.get_terminal_size().columns - 1 if terminal else _UNLIMITED,
        )
        best = _is_best(study, trial)
        line = columns.line(trial, best)
        color = self._color
        if color is None:
            color = terminal and not os.environ.get("NO_COLOR")
        if color and (best or trial.state in (TrialState.FAIL, TrialState.PRUNED)):
            line = f"{_GREEN if best else _YELLOW}{line}{_END}"
        lines = [line]
        if self._heads != heads:
            self._heads = heads
            lines = [*columns.head(), line]
        encoding = getattr(file, "encoding", None) or "utf-8"
        text = "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)
        # A closed pipe or file does not end the search, as it does not where Optuna logs.
        with suppress(OSError, ValueError):
            tqdm.write(text, file=file)


@dataclass(frozen=True)
class _Columns:
    """Columns of the lines.

    Args:
        task: The task; None if the study has none.
        maximize: Whether higher values are better; None with other objectives than a
            score, or a score and then a cost.
        reused: Whether trials report which part of their calls was reused.
        width: Width of a line, in characters.
    """

    task: Task | None
    maximize: bool | None
    reused: bool
    width: int

    def head(self) -> list[str]:
        """Return the heads of the columns."""
        if self.task is None:
            return ["  ".join(self._start()[:2])]
        scale = metric_text(self.task.metric, self.maximize is not False)
        unit = one_line(self.task.cost_model.unit) or "units of the task's cost"
        widths = self._widths(self._names)
        stages = [one_line(s.name).ljust(width) for s, width in zip(self.task.stages, widths)]
        heads = "  ".join([*self._start(), *stages]).rstrip()
        return [f"{scale}, cost in {unit} per instance", heads]

    def line(self, trial: FrozenTrial, best: bool) -> str:
        """Return the line of a trial."""
        cells = [f"{trial.number:>4}{'*' if best else ' '}", f"{self._score(trial):>{_WIDTH}}"]
        choices = None if self.task is None else self.task.read(trial.params)
        if self.task is None or choices is None:
            cells += ["-".rjust(_WIDTH)] * (len(self._start()) - 2 if self.task is not None else 0)
            listed = ", ".join(f"{name}={value}" for name, value in trial.params.items())
            return f"{'  '.join([*cells, one_line(listed, _MAX_LINE)]).rstrip()}{_remark(trial)}"
        cost = self.task.feasible.cost(choices)
        cells.append(f"{cost:>{_WIDTH}.4g}")
        if self.reused:
            cells.append(f"{_reuse(trial):>{_WIDTH}}")
        columns = zip(self.task.stages, choices, self._names, self._widths(self._names))
        for stage, (model, samples), names, width in columns:
            count = f"{samples:>{len(str(stage.max_samples))}} x "
            cells.append(f"{count}{names[model]}".ljust(width))
        return f"{'  '.join(cells).rstrip()}{_remark(trial, cost)}"

    @cached_property
    def _names(self) -> list[list[str]]:
        """Names of the models of each stage, the longest ones that fit, else the shortest."""
        assert self.task is not None
        full = [[one_line(model.name) for model in stage.models] for stage in self.task.stages]
        left = self.width - len("".join(self._start())) - 2 * len(self._start())
        bare = [_without_owners(names) for names in full]
        brief = [[brief_choice(name) for name in names] for names in bare]
        for names in (full, bare, brief, [_without_ends(names) for names in brief]):
            if sum(self._widths(names)) + 2 * len(names) <= left:
                break
        return names

    def _widths(self, names: Sequence[Sequence[str]]) -> list[int]:
        """Return the widths of the columns of the stages."""
        assert self.task is not None
        return [
            max(len(one_line(stage.name)), len(f"{stage.max_samples} x ") + max(map(len, shown)))
            for stage, shown in zip(self.task.stages, names)
        ]

    def _start(self) -> list[str]:
        """Return the heads of the columns before those of the stages."""
        numbers = ["score", "cost", _REUSED] if self.reused else ["score", "cost"]
        return ["trial", *(f"{head:>{_WIDTH}}" for head in numbers)]

    def _score(self, trial: FrozenTrial) -> str:
        values = trial.values or ()
        if trial.state == TrialState.PRUNED:
            values = [mean_outcome(outcomes_of(trial).values())]
        margin = 0.0
        if self.task is not None and self.task.metric_range is not None:
            margin = MARGIN * (self.task.metric_range[1] - self.task.metric_range[0])
        # The column of costs follows.
        values = values[: 1 if self.maximize is not None else None]
        texts = [score_text(value, margin) for value in values if math.isfinite(value)]
        return ", ".join(texts) or "-"


def _reuse(trial: FrozenTrial) -> str:
    """Return the share of a trial's calls that were reused, "-" if it is not known."""
    reused = trial.user_attrs.get(_REUSED)
    return f"{reused:.0%}" if isinstance(reused, (int, float)) and math.isfinite(reused) else "-"


def _without_owners(names: list[str]) -> list[str]:
    """Return names without the owners of Hub IDs, unless two would be equal."""
    short = [name.rpartition("/")[2] or name for name in names]
    return short if len(set(short)) == len(names) else names


def _without_ends(names: list[str]) -> list[str]:
    """Return names without owners, and without a last part that all have, such as "-Instruct"."""
    names = _without_owners(names)
    ends = {name.rpartition("-")[1:] for name in names}
    return [name.rpartition("-")[0] for name in names] if len(ends) == 1 else names


def _remark(trial: FrozenTrial, cost: float = math.nan) -> str:
    """Return what is special about a trial of a known cost, in brackets."""
    texts = []
    if trial.state == TrialState.PRUNED:
        texts.append(f"pruned after {count_text(len(outcomes_of(trial)), 'instance')}")
    if trial.state == TrialState.FAIL:
        texts.append("failed")
    if storage.confirmation_block(trial):
        texts.append("confirms")
    if abs((second := measured_cost(trial)) - cost) > 1e-6 * cost:
        texts.append(f"second value {second:.4g}")
    return f"  ({', '.join(texts)})" if texts else ""


def _is_best(study: Study, trial: FrozenTrial) -> bool:
    """Return whether a trial is the best so far."""
    if len(study.directions) > 1 or trial.state != TrialState.COMPLETE:
        return False
    try:
        return study.best_trial.number == trial.number
    except ValueError:
        # None meets the constraints.
        return False


def _is_shown(record: logging.LogRecord) -> bool:
    """Return False for Optuna's line about a complete or pruned trial if a callback prints it."""
    text = record.getMessage() if _printing else ""
    return not text.startswith("Trial ") or not (" and parameters: " in text or " pruned." in text)
