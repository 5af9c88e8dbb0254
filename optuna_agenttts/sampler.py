"""The sampler: the adapter between Optuna and the planner and agent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.agent.advice import contains
from optuna_agenttts.agent.any_space_candidates import Advice
from optuna_agenttts.agent.arguments import check_agent
from optuna_agenttts.agent.ask import Subject
from optuna_agenttts.agent.candidates import Candidates
from optuna_agenttts.agent.prompts import TABLES, describe_experience
from optuna_agenttts.agent.scheduler import RoundScheduler
from optuna_agenttts.agent.subjects import When, space_subject, task_subject
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.explanation.explaining import Explain
from optuna_agenttts.explanation.note import save_guidelines
from optuna_agenttts.llm import ChatModel, connect
from optuna_agenttts.study.archive import is_maximized
from optuna_agenttts.study.experience import read_experience
from optuna_agenttts.study.independent import TPEOptions, make_independent, sample_jointly
from optuna_agenttts.study.objectives import check_bounds, check_direction
from optuna_agenttts.study.planners import Opening, Planners
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.study.spending import read_limit
from optuna_agenttts.study.tasks import StudyTasks
from optuna_agenttts.support.experimental import warn_experimental_argument
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts.support.logs import log_once
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.parameters import parameters_of
from optuna_agenttts.task.recognition import Recognise, check_recognise
from optuna_agenttts.task.resuming import check_choices
from optuna_agenttts.task.task import Task

if TYPE_CHECKING:
    from typing_extensions import Unpack

_logger = logging.getLogger(__name__)

_warn_once = partial(log_once, _logger, logging.WARNING)


class AgentTTSSampler(Resetting, BaseSampler):
    """Sampler for the models and the numbers of samples of a multi-stage pipeline.

    A drop-in replacement for `optuna.samplers.TPESampler`:

    * With a task, it proposes allocations within the task's budget. An opening tries every model
      of every stage. Then each trial takes the allocation that is expected to improve the
      recommendation most, under a prior of the paper's insights (arXiv 2508.00890): stages prefer
      different models, samples saturate, and earlier stages move the optima of later ones.
    * Without a task, it takes the one that the objective registers (`Task.suggest` does), or
      recognizes stages by the names of parameters, ``<stage>.model`` and ``<stage>.samples``.
    * Studies may have two objectives, a score and then a cost to minimize: the task's cost of the
      allocation, or a measured latency or price. Then it searches for good scores at every cost.
    * Other parameters, and all parameters of studies without stages or with other objectives, are
      sampled by `independent_sampler`.

    The state of a search is in the study's storage: a search can be resumed, and workers in other
    processes see each other's running trials. It can be pickled, copied and shared by threads.

    Args:
        task: Task to tune. Default: see above.
        llm: Language model that plans rounds: a model id of the Hub, the URL of a TGI or
            OpenAI-compatible server (followed by ``#`` and the model if it serves several), or a
            `ChatModel`. Default: the one named by the environment variable
            ``OPTUNA_AGENTTTS_LLM``, else none. Model errors and unusable replies never fail a
            trial.
        search_space: Distributions of parameters outside the task, to sample them jointly from
            the first trial on. Default: inferred from the trials.
        seed: Seed of the default `independent_sampler`. Allocations are a function of the task and
            the trials alone.
        insights: Insights of the paper that the agent is given, some of 1, 2, 3, for ablations.
        prior_insights: Insights that the numerical planner's prior and opening use, for ablations.
        opening: First trials: ``"joint"`` compares the models of all stages at once, ``"paper"``
            of one stage at a time, at equal costs (Eq. 5 of the paper), which takes more trials.
        at_least: Score to reach at the lowest cost, in studies that maximize. Default: the search
            is for the best score.
        at_most: The same in studies that minimize.
        independent_sampler: Sampler of parameters outside the task. Default: a `TPESampler`; it
            must not sample more than one study.
        guidelines: Whether the agent writes guidelines and sees its earlier ones, for ablations.
        tables: Tables of computed evidence that the agent sees, for ablations: ``"noise"``,
            ``"effects"`` (of models), ``"models"`` (gaps between them), ``"stages"`` (what the
            stages of a pipeline did, and transcripts), ``"gains"`` (of samples; needs Insight 2),
            and ``"next"`` (the planner's next allocations).
        transcripts: Whether the agent sees transcripts: inputs, outputs and replies of a few
            instances, shortened, if the objective records them. They are sent to the server of
            `llm`, and stored with the study.
        experience: Earlier studies of similar tasks, as evidence for agent and planner. They are
            read once, by this constructor. Experimental.
        description: Description of the objective, for the agent in studies without a task.
        llm_timeout: Timeout for planning a round, in seconds; at most one trial, the seventh or a
            later one, waits that long for the first round.
        llm_when: ``"always"`` asks the agent for every round, ``"auto"`` in the opening and on
            alarms: raw means or kernels disagree with the recommendation about a stage's model,
            or the planner's last six trials all scored below what was expected. Studies without a
            task: always.
        n_trials: Number of trials that the study will have in the end, for the agent: no round
            is planned that the search does not reach, and the last one has as many candidates as
            trials are left. `StopAtSpend` limits rounds without it.
        llm_facts: Size and prices of the planning model, for its spend, and `extra` fields of its
            requests. Default: size and prices of the task's model of the same name, else the
            size in its name.
        recognise: Whether to recognize stages by names of parameters in studies without a task:
            ``<stage>.model``, whose choices are names of language models, with
            ``<stage>.samples``; also after dots, and joined by ``/``, ``__`` or ``:``. For other
            names, two patterns such as ``("{stage}_llm", "n_{stage}")``, or a dict of two names by
            stage. False leaves all parameters to `independent_sampler`.
        explain: Whether to write task, recommendation, figures and notes to the study while it
            runs, for optuna-dashboard; an `Explain` has options. Proposals do not depend on it.
        **tpe_options: Arguments of `TPESampler`, such as ``n_startup_trials`` or
            ``constraints_func``, for the default `independent_sampler`.

    Raises:
        TaskError: An argument is invalid, or one of TPE's is given together with
            `independent_sampler`.
        TypeError: Neither this class nor the installed `TPESampler` has an argument.
        AgentTTSError: `llm` is not a model id, URL or `ChatModel`.
    """

    _unpickled = ("_lock", "_tasks", "_candidates", "_advice", "_scheduler")

    def __init__(
        self,
        task: Task | None = None,
        *,
        llm: str | ChatModel | None = None,
        search_space: Mapping[str, BaseDistribution] | None = None,
        seed: int | None = None,
        insights: Collection[int] = (1, 2, 3),
        prior_insights: Collection[int] = (1, 2, 3),
        opening: Opening = "joint",
        at_least: float | None = None,
        at_most: float | None = None,
        independent_sampler: BaseSampler | None = None,
        guidelines: bool = True,
        tables: Collection[str] = TABLES,
        transcripts: bool = True,
        experience: Sequence[Study] = (),
        description: str = "",
        llm_timeout: float = 120.0,
        n_trials: int | None = None,
        llm_when: When = "always",
        llm_facts: Model | None = None,
        recognise: Recognise = True,
        explain: bool | Explain = True,
        **tpe_options: Unpack[TPEOptions],
    ) -> None:
        """See the class."""
        if task is not None and not isinstance(task, Task):
            raise TaskError(f"AgentTTSSampler: `task` must be a `Task` or None, got {task!r}.")
        for name, given in (("insights", insights), ("prior_insights", prior_insights)):
            if not set(given) <= {1, 2, 3}:
                raise TaskError(
                    f"AgentTTSSampler: `{name}` must be some of 1, 2, 3, got {given!r}."
                )
        # A string is a collection too, of letters.
        if isinstance(tables, str) or not set(tables) <= set(TABLES):
            raise TaskError(
                f"AgentTTSSampler: `tables` must be a tuple or list of some of "
                f"{', '.join(map(repr, TABLES))}, got {tables!r}."
            )
        check_agent(llm_timeout, n_trials, llm_when, llm_facts)
        if opening not in ("joint", "paper"):
            raise TaskError(
                f"AgentTTSSampler: `opening` must be 'joint' or 'paper', got {opening!r}."
            )
        if experience:
            warn_experimental_argument("experience")
        if not isinstance(explain, (bool, Explain)):
            raise TaskError(
                f"AgentTTSSampler: `explain` must be a bool or an `Explain`, got {explain!r}."
            )
        self._explain = Explain(task=task) if explain is True else explain or None
        self._recognise = check_recognise(recognise)
        self._chat = connect(llm)
        self._guidelines, self._description = guidelines, description
        self._llm_timeout, self._llm_facts = llm_timeout, llm_facts
        self._n_trials, self._llm_when, self._transcripts = n_trials, llm_when, transcripts
        self._experience = read_experience(experience)
        self._task = task
        self._search_space = dict(search_space or {})
        self._insights = tuple(sorted(set(insights)))
        self._prior_insights, self._opening = tuple(sorted(set(prior_insights))), opening
        self._at_least, self._at_most = check_bounds(at_least, at_most)
        self._tables = tuple(name for name in TABLES if name in tables)
        self._independent = make_independent(independent_sampler, seed, tpe_options, type(self))
        self._reset()

    def _reset(self) -> None:
        """Create empty caches; everything in them can be computed again."""
        self._lock = threading.RLock()
        self._tasks = StudyTasks(self._task, self._recognise)
        self._scheduler = (
            None
            if self._chat is None
            else RoundScheduler(
                self._chat,
                timeout=self._llm_timeout,
                facts=self._llm_facts,
                on_round_written=save_guidelines if self._explain else None,
            )
        )
        self._advice = Advice(self._scheduler, self._tasks)
        self._candidates = Candidates(
            self._scheduler,
            insights=self._prior_insights,
            experience=self._experience,
            opening=self._opening,
            floor=self._at_most if self._at_least is None else self._at_least,
        )
        # A forked process must not wait for locks or rounds of its parent's threads.
        on_fork(self, AgentTTSSampler._reset)

    @property
    def _planners(self) -> Planners:
        """Numerical planners with this sampler's insights and experience, for callbacks."""
        return self._candidates.planners

    @property
    def reads_transcripts(self) -> bool:
        """True if objectives should record transcripts of instances for the agent."""
        return self._chat is not None and self._transcripts and "stages" in self._tables

    def reseed_rng(self) -> None:
        """Reseed the independent sampler."""
        self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Prepare the independent sampler, and plan the agent's next round in the background."""
        self._independent.before_trial(study, trial)
        task, bounded = None, self._at_least is not None or self._at_most is not None
        if len(study.directions) > 1 or bounded or self._task is not None:
            try:
                check_direction(study, self._at_least, self._at_most)
                task = self._tasks.get(study, trial.number)  # Warns before the first trial.
            except TaskError:
                storage.fail_trial(study, trial)
                raise
        if self._scheduler is None:
            return
        if len(study.directions) > 1 and task is None:
            # Stages may be recognized from the first complete trial.
            if any(each.state == TrialState.COMPLETE for each in storage.read_trials(study)):
                _warn_once(
                    study,
                    "several objectives",
                    "Study %r has %d objectives and no stages: no agent is asked. It plans such "
                    "searches with one objective.",
                    *(study.study_name, len(study.directions)),
                )
            return
        try:
            self._scheduler.plan_ahead(study, trial.number, partial(self._subject, study, trial))
        # An error here would leave the trial running forever, since Optuna calls this in `ask`.
        except Exception as error:
            _warn_once(
                study,
                f"planning not started: {error!r}",
                "Study %r: planning of the agent's next round could not be started (%r). Trials "
                "continue without it.",
                *(study.study_name, error),
            )

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Update the independent sampler, and explain the study."""
        self._independent.after_trial(study, trial, state, values)
        if state == TrialState.COMPLETE:
            agent = "" if self._scheduler is None else "the agent and "
            self._tasks.check_names(study, trial, agent + type(self._independent).__name__)
        if self._explain is not None:
            self._explain.after_trial(study, trial, state, values)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the parameters outside the task, for the independent sampler."""
        # TPE's `group` option keeps what it infers, also if `search_space` is given.
        inferred = self._independent.infer_relative_search_space(study, trial)
        space = self._search_space or inferred
        task = self._tasks.get(study, trial.number)
        ours = parameters_of(task) if task is not None else {}
        return {name: value for name, value in space.items() if name not in ours}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample parameters outside the task with the agent or the independent sampler.

        Without task, `search_space` and agent, trials equal those of the independent sampler.
        """
        if not (self._search_space or self._scheduler or self._tasks.get(study, trial.number)):
            return self._independent.sample_relative(study, trial, search_space)
        if not search_space:
            return {}
        advice = self._advice.params(study, trial)
        if advice is not None and all(
            name in advice and contains(distribution, advice[name])
            for name, distribution in search_space.items()
        ):
            return {name: advice[name] for name in search_space}
        return sample_jointly(self._independent, study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return one parameter of the trial's allocation.

        Allocations are returned here and not in `sample_relative` because only this method
        receives the requested distribution: a pipeline may use its own ranges, log scales or
        bounds that depend on earlier suggestions.
        """
        task = self._tasks.get(study, trial.number)
        if task is not None and param_name in parameters_of(task):
            if isinstance(param_distribution, CategoricalDistribution):
                check_choices(study, param_name, param_distribution)
            value = self._candidates.value(study, trial, task, param_name, param_distribution)
            if value is not None:
                return value
        advice = self._advice.params(study, trial)
        if (
            advice is not None
            and param_name in advice
            and contains(param_distribution, advice[param_name])
        ):
            return advice[param_name]
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _subject(
        self, study: Study, trial: FrozenTrial, start: int, rounds: Sequence[Round]
    ) -> Subject | Round | None:
        """Return the subject of the agent's next round; None if it is too early or too late."""
        task = self._tasks.get(study, trial.number)
        trials = storage.read_trials(study)
        if task is None:
            return space_subject(
                trials,
                self._search_space,
                maximize=is_maximized(study.directions),
                description=self._description,
                guidelines=self._guidelines,
                rounds=rounds,
                start=start,
                n_trials=self._n_trials,
            )
        evidence, planner = self._candidates.planned_from(study, task, trial.number)
        return task_subject(
            planner,
            evidence,
            trials,
            insights=self._insights,
            guidelines=self._guidelines,
            tables=self._tables,
            transcripts=self._transcripts,
            study=study,
            experience=describe_experience(self._experience),
            limit=read_limit(storage.attributes_of(study)),
            rounds=rounds,
            start=start,
            n_trials=self._n_trials,
            when=self._llm_when,
        )
