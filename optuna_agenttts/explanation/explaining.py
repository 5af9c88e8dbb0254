"""Explain a study in optuna-dashboard: at any time, and while it runs."""

from __future__ import annotations

import copy
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoTaskError, TaskError
from optuna_agenttts.explanation.attributes import facts_of
from optuna_agenttts.explanation.graphs import figure_names, save_graph
from optuna_agenttts.explanation.note import note, save_note
from optuna_agenttts.explanation.pace import SHARE, Pace, has_figures, has_note
from optuna_agenttts.explanation.trial_notes import Inspector, save_trial_notes
from optuna_agenttts.report.summary import Summary, summary_of
from optuna_agenttts.report.text import metric_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.constraints import constraints_of
from optuna_agenttts.study.measured import effective_task
from optuna_agenttts.study.objectives import has_cost
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts.support.logs import log_once
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)

_TIMEOUT = 60.0
"""Seconds after which a worker that explains is taken to have been killed. Chosen by hand."""
_WAIT = 5.0
"""Seconds that `explain` waits for a worker that explains. Chosen by hand."""
_LONG = 20.0
"""Seconds of a search at whose end figures are made, which takes two seconds. Chosen by hand."""


def explain(
    study: Study,
    task: Task | None = None,
    *,
    figures: bool = True,
    objective: Inspector | None = None,
) -> None:
    """Write what a study found where optuna-dashboard shows it.

    These are the name of the metric; the task and the recommendation as attributes of the study;
    a note; figures; and for up to 200 trials a note with their worst instances. What users wrote
    into notes stays, and earlier explanations are replaced.

    Args:
        study: The study, with any sampler, also while it runs.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.
        figures: Whether to add figures, if Plotly is installed
            (``pip install optuna-agenttts[plot]``).
        objective: A `MultiStageObjective`, to add what its models replied on the worst instances
            of each trial: prompts and replies are then in the study's storage, and shown to
            everyone who opens the dashboard. Default: no replies.

    Raises:
        NoTaskError: The study has no task.
    """
    view = StudyView(study, task)
    with _turn(study, _WAIT):
        _write(view)
        save_trial_notes(view, objective)
        for name in figure_names(view.task) if figures else ():
            save_graph(view, name)


class Explain(Resetting):
    """Callback that explains a study in optuna-dashboard while it runs; see `explain`.

    `AgentTTSSampler` does the same by itself: this is for studies with other samplers. The note is
    written after the first trial and then after every fifth, figures after 10, 20, 50,
    100, 200, ... trials, and several workers share the work. Explaining takes up to 2.5 s
    and then 1 % of the time of a search, so fast trials are explained less often: call `explain`
    at the end. Errors are logged and never fail a trial. Without a task, nothing is written.

    Args:
        task: Task that the study tunes. Default: the one registered on the study.
        figures: Whether to add figures; see `explain`.
        objective: Objective whose models' replies are shown; see `explain`.
        share: Share of the time of a search that explaining takes at most, above 0 and at most 1.
        clock: Monotonic clock, in seconds.

    Raises:
        TaskError: `share` is out of range.
    """

    _unpickled = ("_lock", "_paces")

    def __init__(
        self,
        *,
        task: Task | None = None,
        figures: bool = True,
        objective: Inspector | None = None,
        share: float = SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class."""
        if not 0 < share <= 1:
            raise TaskError(f"Explain: `share` must be above 0 and at most 1, got {share!r}.")
        self._task, self._figures, self._objective = task, figures, objective
        self._share, self._clock = share, clock
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._paces: WeakKeyDictionary[BaseStorage, dict[int, Pace]] = WeakKeyDictionary()
        # A forked process must not find the lock of its parent's threads.
        on_fork(self, Explain._reset)

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Explain the study after a trial, if it is this worker's turn and there is time."""
        with _never_raising(study):
            self._explain(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Do the same for a sampler, before the storage has the trial's state and values.

        Args:
            study: The study.
            trial: The trial that ends.
            state: Its state.
            values: Its values; None if it has none.
        """
        ended = copy.copy(trial)
        ended.state, ended.values = state, values
        self(study, ended)

    def finish(self, study: Study, task: Task) -> None:
        """Explain a study at the end of its search, with figures if that took long enough.

        Args:
            study: The study.
            task: Its task.
        """
        with _never_raising(study):
            view = StudyView(study, task)
            with _turn(study, _WAIT):
                summary = _write(view)
                save_trial_notes(view)
                if self._figures and (summary.seconds or 0) >= _LONG:
                    for name in figure_names(task):
                        save_graph(view, name)

    def _explain(self, study: Study, trial: FrozenTrial) -> None:
        paces = self._paces.setdefault(study._storage, {})
        if study._study_id not in paces:
            paces[study._study_id] = Pace(self._clock, self._share)
        pace = paces[study._study_id]
        count = trial.number + 1
        if self._figures and has_figures(count):
            pace.figures = figure_names()
        due = has_note(count) or bool(pace.figures)
        first = trial.number == 0
        # Other notes, and figures, leave time for those notes that go with figures, so that the
        # note of a short search is not an old one.
        spare = 0 if has_figures(count) else 1 if has_note(count) else 2
        if not (first or (due and pace.allows("note", spare))):
            return
        if not self._lock.acquire(blocking=False):
            # Another thread does.
            return
        try:
            self._write(study, trial, pace)
        finally:
            self._lock.release()

    def _write(self, study: Study, trial: FrozenTrial, pace: Pace) -> None:
        """Write attributes and note, and notes of trials and figures as far as there is time."""
        with pace.measured("reading"):
            trials = storage.read_trials(study)
        # The first trial may end last, if several run at a time.
        brief = trial.number == 0 and not any(each.state.is_finished() for each in trials[1:])
        if trial.number == 0 and not (brief or pace.allows("note")):
            return
        with ExitStack() as stack:
            with pace.measured("first note" if brief else "note"):
                trials = [trial if each.number == trial.number else each for each in trials]
                try:
                    view = StudyView(study, self._task_of(study), trials=trials)
                except NoTaskError:
                    return
                if not stack.enter_context(_turn(study)):
                    return
                _write(view, brief=brief)
            with pace.measured("trials"):
                save_trial_notes(view, self._objective, more_time=lambda: pace.allows("trial"))
            ours = figure_names(view.task)
            pace.figures = tuple(name for name in pace.figures if name in ours)
            for name in pace.figures:
                if not pace.allows(name, spare=1):
                    return
                with pace.measured(name):
                    save_graph(view, name)
                pace.figures = tuple(other for other in pace.figures if other != name)

    def _task_of(self, study: Study) -> Task | None:
        """Return the given task, with measured token lengths if the study has some."""
        return None if self._task is None else effective_task(study, self._task, fresh=True)


def explainer_of(sampler: BaseSampler) -> Explain | None:
    """Return what explains the studies of a sampler: its own, or a new one if it has none."""
    while hasattr(sampler, "_base_sampler"):
        sampler = sampler._base_sampler
    if not hasattr(sampler, "_explain"):
        return Explain()
    explainer: Explain | None = sampler._explain
    return explainer


@contextmanager
def _never_raising(study: Study) -> Iterator[None]:
    """Log errors: a search must not fail because of its explanation."""
    try:
        yield
    except Exception as error:
        message = (
            "Study %r could not be explained for optuna-dashboard (%r). The search is not "
            "affected, and `explain(study)` tries it again."
        )
        event = f"not explained: {type(error).__name__}"
        log_once(_logger, logging.WARNING, study, event, message, study.study_name, error)


@contextmanager
def _turn(study: Study, wait: float = 0.0) -> Iterator[bool]:
    """Wait for other workers to explain a study; yield whether it is this worker's turn."""
    worker, end = uuid.uuid4().hex, time.monotonic() + wait
    while not (ours := storage.begin_explaining(study, worker, time.time(), _TIMEOUT)):
        if time.monotonic() >= end:
            break
        time.sleep(0.1)
    try:
        yield ours
    finally:
        if ours:
            storage.end_explaining(study)


def _write(view: StudyView, *, brief: bool = False) -> Summary:
    """Write the attributes and the note of a study."""
    study, summary = view.study, summary_of(view, brief=brief)
    names = [metric_of(view.task), "cost"]
    if len(study.directions) == 1 or has_cost(study):
        storage.write_metric_names(study, names[: len(study.directions)])
    storage.write_facts(study, facts_of(summary))
    constrained = any(constraints_of(trial) for trial in view.trials)
    save_note(study, note(summary, graphs=bool(figure_names()), constrained=constrained))
    return summary
