"""The sampler: Optuna's protocol, and nothing else."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.agent.advice import (
    advised_candidate,
    contains,
    generic_candidate_index,
    generic_job,
    task_job,
)
from optuna_agenttts.agent.ask import Job
from optuna_agenttts.agent.prompts import TABLES, describe_experience
from optuna_agenttts.agent.scheduler import ROUND_SIZE, RoundScheduler
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.llm import ChatModel, connect
from optuna_agenttts.planner.evidence import Candidate, Constraint, Evidence
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.report.dashboard import save_note
from optuna_agenttts.study.archive import Archive, announce, constraint_of, is_maximized
from optuna_agenttts.study.experience import read_experience, recall
from optuna_agenttts.study.measured import effective_task
from optuna_agenttts.study.rounds import Proposed, Round
from optuna_agenttts.study.spending import read_limit
from optuna_agenttts.task.parameters import nearest_in, order_of_suggestion, parameters_of
from optuna_agenttts.task.recognition import recognise_task
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)

_K = TypeVar("_K")
_V = TypeVar("_V")

_REMEMBERED = 64
_ATTEMPTS = 3


class AgentTTSSampler(BaseSampler):
    """Finds which model and how many samples each stage of a pipeline should get.

    A drop-in for `optuna.samplers.TPESampler`:

    * With a task, it proposes allocations within the task's budget: an opening that shows every
      model of every stage, then those that are expected to improve the recommendation most, as
      stages prefer models, samples saturate, and earlier stages move later ones (arXiv
      2508.00890, Insights 1 to 3).
    * Without one, it takes the task that the objective registers (`Task.suggest` does), or
      recognises stages by their parameters' names, ``<stage>.model`` and ``<stage>.samples``.
    * Every other parameter, and every parameter of a study without stages or with several
      objectives, is left to `independent_sampler`.

    Nothing that matters is kept in the process: a search resumes from the study's storage, and
    workers in other processes see what each other is trying. The sampler can be pickled, copied
    and shared between threads.

    Args:
        task: What to tune. Default: see above.
        llm: A language model that plans rounds: a model id of the Hub, the URL of a TGI or
            OpenAI-compatible server (with the model after ``#`` where it serves several), or a
            `ChatModel`. Default: what the environment variable ``OPTUNA_AGENTTTS_LLM`` names, or
            else none: the numerical planner alone. Whatever the model does or says, no trial
            fails of it.
        search_space: Distributions of parameters outside the task, so that they are sampled
            jointly from the first trial on. Default: learned from the trials.
        seed: Seed of the default `independent_sampler`. Allocations need none: they are a
            function of the task and the trials.
        insights: Which of the paper's insights to believe in, for ablations.
        independent_sampler: Samples everything outside the task. Default: a `TPESampler` with
            its current defaults, which refuses to sample a second study after the first.
        guidelines: Whether the agent writes guidelines and sees its earlier ones, for ablations.
        tables: Which tables of computed evidence the agent sees, for ablations: how far each
            model is behind, where samples saturate (not without Insight 2), and paired trials.
        experience: Earlier studies of similar tasks, as evidence for agent and planner. They are
            read once, here.
        description: What is optimized, in words, for the agent in studies without a task.
        llm_timeout: The most seconds for planning a round. Only the first round is waited for
            as long as that; see `agent/scheduler.py`.

    Raises:
        TaskError: An argument makes no sense.
        AgentTTSError: `llm` makes no sense.
    """

    def __init__(
        self,
        task: Task | None = None,
        *,
        llm: str | ChatModel | None = None,
        search_space: Mapping[str, BaseDistribution] | None = None,
        seed: int | None = None,
        insights: Collection[int] = (1, 2, 3),
        independent_sampler: BaseSampler | None = None,
        guidelines: bool = True,
        tables: Collection[str] = TABLES,
        experience: Sequence[Study] = (),
        description: str = "",
        llm_timeout: float = 120.0,
    ) -> None:
        """See the class."""
        if task is not None and not isinstance(task, Task):
            raise TaskError(f"AgentTTSSampler: `task` is {task!r}: give a `Task` or leave it out.")
        if not set(insights) <= {1, 2, 3}:
            raise TaskError(f"AgentTTSSampler: `insights` is {insights!r}: give some of 1, 2, 3.")
        # A string is a collection too, of letters.
        if isinstance(tables, str) or not set(tables) <= set(TABLES):
            raise TaskError(
                f"AgentTTSSampler: `tables` is {tables!r}: give some of "
                f"{', '.join(map(repr, TABLES))}, in a tuple or list."
            )
        if not llm_timeout > 0:
            raise TaskError(f"AgentTTSSampler: `llm_timeout` is {llm_timeout!r}: give seconds.")
        self._chat = connect(llm)
        self._guidelines, self._description = guidelines, description
        self._llm_timeout = llm_timeout
        self._experience = read_experience(experience)
        self._task = task
        self._search_space = dict(search_space or {})
        self._insights = tuple(sorted(set(insights)))
        self._tables = tuple(name for name in TABLES if name in tables)
        self._independent = independent_sampler or TPESampler(seed=seed)
        self._forget()

    def _forget(self) -> None:
        """Start without caches; everything in them can be worked out again."""
        self._lock = threading.RLock()
        self._tasks: WeakKeyDictionary[BaseStorage, dict[int, tuple[Any, Task]]] = (
            WeakKeyDictionary()
        )
        self._archives: WeakKeyDictionary[BaseStorage, dict[int, Archive]] = WeakKeyDictionary()
        self._planners: OrderedDict[Task, NumericalPlanner] = OrderedDict()
        self._given: WeakKeyDictionary[BaseStorage, OrderedDict[int, Candidate]] = (
            WeakKeyDictionary()
        )
        self._advice: WeakKeyDictionary[BaseStorage, OrderedDict[int, Proposed | None]] = (
            WeakKeyDictionary()
        )
        self._scheduler = (
            None
            if self._chat is None
            else RoundScheduler(self._chat, timeout=self._llm_timeout, on_round_written=save_note)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave locks and caches behind."""
        dropped = (
            "_lock",
            "_tasks",
            "_archives",
            "_planners",
            "_given",
            "_advice",
            "_scheduler",
        )
        return {key: value for key, value in self.__dict__.items() if key not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        self.__dict__.update(state)
        self._forget()

    def reseed_rng(self) -> None:
        """Reseed the independent sampler."""
        self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Let the independent sampler prepare, and the agent plan ahead."""
        self._independent.before_trial(study, trial)
        if self._scheduler is None or len(study.directions) > 1:
            return
        try:
            self._scheduler.plan_ahead(study, trial.number, lambda: self._job(study, trial))
        # What is raised here would leave the trial running for ever (Optuna calls this in `ask`).
        except Exception as error:
            _logger.warning("The agent's next round could not be prepared: %r", error)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Let the independent sampler learn."""
        self._independent.after_trial(study, trial, state, values)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that the independent sampler samples jointly: those outside the task."""
        space = self._search_space or self._independent.infer_relative_search_space(study, trial)
        task = self._task_of(study)
        ours = parameters_of(task) if task is not None else {}
        return {name: value for name, value in space.items() if name not in ours}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Leave parameters outside the task to the independent sampler.

        What it leaves out (TPE says nothing during its start-up trials) is filled in by its
        `sample_independent`, in the order in which an earlier trial suggested it: Optuna would
        do the same one by one, so the values are those of the independent sampler alone.
        """
        if not search_space:
            return {}
        advice = self._advised_params(study, trial)
        if advice is not None and all(
            name in advice and contains(distribution, advice[name])
            for name, distribution in search_space.items()
        ):
            return {name: advice[name] for name in search_space}
        values = self._independent.sample_relative(study, trial, search_space)
        fixed = trial.system_attrs.get("fixed_params", {})
        missing = [name for name in search_space if name not in values and name not in fixed]
        if missing:
            order = order_of_suggestion(study)
            for name in sorted(missing, key=lambda name: order.get(name, len(order))):
                values[name] = self._independent.sample_independent(
                    study, trial, name, search_space[name]
                )
        return values

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Hand out the trial's allocation, one parameter at a time.

        Allocations are handed out here rather than in `sample_relative` because only here does
        Optuna say which distribution was asked for: a pipeline may write its own ranges, log
        scales or bounds that follow from what it suggested before, and each is met exactly.
        """
        task = self._task_of(study)
        if task is not None and param_name in (parameters := parameters_of(task)):
            candidate = self._candidate(study, trial, task)
            stage, is_model = parameters[param_name]
            model, samples = candidate.choices[stage]
            wanted = task.stages[stage].models[model].name if is_model else samples
            value = nearest_in(wanted, param_distribution)
            if value is not None:
                return value
        advice = self._advised_params(study, trial)
        if (
            advice is not None
            and param_name in advice
            and contains(param_distribution, advice[param_name])
        ):
            return advice[param_name]
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _job(self, study: Study, trial: FrozenTrial) -> Job | None:
        """What the agent's next round is planned from; None where too little is known."""
        assert self._scheduler is not None
        task = self._task_of(study)
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        if task is None:
            return generic_job(
                trials,
                self._search_space,
                maximize=is_maximized(study.directions),
                description=self._description,
                guidelines=self._guidelines,
            )
        with self._lock:
            evidence = self._archive(study, task, trials).read(trials, trial.number)
            planner = self._planner(task)
        return task_job(
            planner,
            evidence,
            trials,
            agent=self._scheduler.name,
            insights=self._insights,
            guidelines=self._guidelines,
            tables=self._tables,
            experience=describe_experience(self._experience),
            limit=read_limit(study._storage.get_study_system_attrs(study._study_id)),
        )

    def _advised_params(self, study: Study, trial: FrozenTrial) -> Mapping[str, Any] | None:
        """What the agent proposes for a trial of a study without stages; None for nothing."""
        if self._scheduler is None or len(study.directions) > 1:
            return None
        with self._lock:
            given = self._advice.setdefault(study._storage, OrderedDict())
            if trial._trial_id in given:
                proposed = given[trial._trial_id]
                return None if proposed is None else proposed.params
        try:
            proposed = self._advised(study, trial)
        # A round that another version wrote, for example: no trial may fail of advice.
        except Exception as error:
            _logger.warning("Round %d cannot be used: %r", trial.number // ROUND_SIZE, error)
            proposed = None
        with self._lock:
            _remember(given, trial._trial_id, proposed)
        if proposed is None:
            return None
        storage.write_origin(study, trial._trial_id, "agent", proposed.reason)
        return proposed.params

    def _advised(self, study: Study, trial: FrozenTrial) -> Proposed | None:
        assert self._scheduler is not None
        if self._task_of(study) is not None:
            return None
        planned = self._scheduler.get_round(study, trial.number)
        if planned is None or not planned.candidates:
            return None
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        slot = generic_candidate_index(
            trials, trial.number, maximize=is_maximized(study.directions)
        )
        if slot is None or slot >= len(planned.candidates):
            return None
        return planned.candidates[slot]

    def _task_of(self, study: Study) -> Task | None:
        """The task that a study tunes, if it is one that can be planned for."""
        if len(study.directions) > 1:
            return None
        with self._lock:
            tasks = self._tasks.setdefault(study._storage, {})
            if self._task is not None:
                given = effective_task(study, self._task)
                if study._study_id not in tasks:
                    given.register(study)
                    tasks[study._study_id] = (None, given)
                return given
            described, task = tasks.get(study._study_id, (None, None))
            values = storage.registered(study)
            if values is None:
                trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
                return recognise_task(trials)
            if task is None or values != described:
                task = _readable(values)
                if task is not None:
                    tasks[study._study_id] = (values, task)
            return task

    def _candidate(self, study: Study, trial: FrozenTrial, task: Task) -> Candidate:
        """The candidate of a trial, planned anew where the trial has settled otherwise."""
        constraint = constraint_of(task, trial)
        planned = None
        if self._scheduler is not None and not constraint:
            # Outside the lock: other threads need not wait for an answer that is not theirs.
            planned = self._scheduler.get_round(study, trial.number)
        with self._lock:
            given = self._given.setdefault(study._storage, OrderedDict())
            candidate = given.get(trial._trial_id)
            if candidate is not None and constraint.met_by(candidate.choices):
                return candidate
            candidate = self._plan(study, trial, task, constraint, planned)
            _remember(given, trial._trial_id, candidate)
        _logger.debug("Trial %d, %s: %s", trial.number, candidate.origin, candidate.reason)
        return candidate

    def _plan(
        self,
        study: Study,
        trial: FrozenTrial,
        task: Task,
        constraint: Constraint,
        planned: Round | None,
    ) -> Candidate:
        """Propose and announce; and once more where another worker took the same meanwhile."""
        evidence = self._evidence(study, trial, task)
        candidate = None
        if self._scheduler is not None and not constraint and trial.number >= ROUND_SIZE:
            try:
                candidate = advised_candidate(self._planner(task), evidence, planned, trial.number)
            # A round that another version wrote, for example: no trial may fail of advice.
            except Exception as error:
                _logger.warning("Round %d cannot be used: %r", trial.number // ROUND_SIZE, error)
        if candidate is None:
            candidate = self._planner(task).propose(evidence, constraint)
        announce(study, trial._trial_id, task, candidate)
        for _ in range(_ATTEMPTS):
            if candidate.choices in evidence.visited or not (
                evidence.pending or evidence.unannounced
            ):
                break
            # Two workers that read at different moments can arrive at the same allocation. Both
            # announce before they look again, so at least one of them sees it, and makes way.
            evidence = self._evidence(study, trial, task)
            if candidate.choices not in evidence.visited:
                break
            candidate = self._planner(task).propose(evidence, constraint)
            announce(study, trial._trial_id, task, candidate)
        return candidate

    def _evidence(self, study: Study, trial: FrozenTrial, task: Task) -> Evidence:
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        return self._archive(study, task, trials).read(trials, trial.number)

    def _archive(self, study: Study, task: Task, trials: Sequence[FrozenTrial]) -> Archive:
        archives = self._archives.setdefault(study._storage, {})
        archive = archives.get(study._study_id)
        if archive is None or archive.task != task or archive.seen > len(trials):
            archive = Archive(task, maximize=is_maximized(study.directions))
            archives[study._study_id] = archive
        return archive

    def _planner(self, task: Task) -> NumericalPlanner:
        if task not in self._planners:
            planner = NumericalPlanner(
                task, insights=self._insights, experience=recall(self._experience, task)
            )
            _remember(self._planners, task, planner, most=2)
        return self._planners[task]


def _remember(known: OrderedDict[_K, _V], key: _K, value: _V, most: int = _REMEMBERED) -> None:
    """Keep a value, and drop the oldest of too many."""
    known[key] = value
    while len(known) > most:
        known.popitem(last=False)


def _readable(values: Mapping[str, Any]) -> Task | None:
    try:
        return Task.from_dict(values)
    except TaskError as error:
        _logger.warning(
            "The task registered on the study cannot be read (%s); its parameters are left to "
            "the independent sampler. Pass `task=` to AgentTTSSampler.",
            error,
        )
        return None
