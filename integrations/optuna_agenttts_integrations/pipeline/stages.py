"""Pipelines of model calls and plain code, with the score of their results.

A pipeline is a list of stages that run one after another on each instance. A `StageProgram` calls
a model; a search tunes which model and how many samples. A `Step` is plain code, for example a
lookup, a tool call or a clean-up. Both can be skipped for some instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutine, iscoroutinefunction
from typing import Any

from optuna_agenttts import Task
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts.support.names import name_problem
from optuna_agenttts_integrations.calls.endpoints import Endpoints
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.prediction import PredictionAllocation, Predictions
from optuna_agenttts_integrations.pipeline.predictor import Predictor
from optuna_agenttts_integrations.pipeline.programs import Prompt as Prompt
from optuna_agenttts_integrations.pipeline.programs import Score as Score
from optuna_agenttts_integrations.pipeline.programs import StageCheck as StageCheck
from optuna_agenttts_integrations.pipeline.programs import StageProgram as StageProgram
from optuna_agenttts_integrations.pipeline.programs import State as State
from optuna_agenttts_integrations.pipeline.programs import Step as Step
from optuna_agenttts_integrations.pipeline.programs import always as always
from optuna_agenttts_integrations.pipeline.programs import no_result as no_result
from optuna_agenttts_integrations.pipeline.programs import strip_reply as strip_reply

TokenCounter = Callable[[str], float]
"""Function from a text to its number of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Stages that run one after another on each instance, and the score of the final state.

    Args:
        stages: Stages in order of execution, at least one of them a `StageProgram`.
        score: Function or coroutine function that computes an instance's outcome, usually from 0
            to 1, from its final state.
        metrics: Further scores by name, reported with the outcome.
        metric_range: Smallest and largest possible score, which `Task.from_pipeline` passes on to
            the task; see `Task`.
        answer: Function or coroutine function that returns the answer that `predict` gives, from
            the final state.
            Default: the result of the last stage or step that does not serve the score alone.

    Raises:
        PipelineError: There is no `StageProgram`, two stages share a name, or a name of a stage or
            metric cannot be stored.
    """

    stages: Sequence[StageProgram | Step]
    score: Score
    metrics: Mapping[str, Score] = field(default_factory=dict)
    metric_range: tuple[float, float] | None = None
    answer: Callable[[State], Any] | None = None

    def __post_init__(self) -> None:
        """Check the stages."""
        names = [stage.name for stage in self.stages]
        if not self.programs or len(set(names)) < len(names):
            raise PipelineError(
                "`stages` must have at least one `StageProgram`, and unique names, got the names "
                f"{names!r}."
            )
        for name in [*names, *self.metrics]:
            if (problem := name_problem(name)) is not None:
                what = "`stages`" if name in names else "`metrics`"
                raise PipelineError(f"Pipeline: a name in {what} {problem}.")

    @property
    def programs(self) -> tuple[StageProgram, ...]:
        """Stages that call models."""
        return tuple(stage for stage in self.stages if isinstance(stage, StageProgram))

    def predict(
        self,
        inputs: Iterable[Any],
        allocation: PredictionAllocation,
        *,
        task: Task,
        endpoints: Endpoints,
        store: CompletionStore | None = None,
        seed: int = 0,
        max_spend: float | None = None,
    ) -> Predictions:
        """Run the pipeline on inputs, without scoring them.

        This opens connections and closes them again. To keep them between calls, use a
        `Predictor`, or the search's objective, which has the same method.

        Args:
            inputs: See `Predictor.predict`.
            allocation: See `Predictor.predict`.
            task: See `Predictor`.
            endpoints: See `Predictor`.
            store: See `Predictor`.
            seed: See `Predictor`.
            max_spend: See `Predictor.predict`.

        Returns:
            The predictions, one for each input, in order.

        Raises:
            PipelineError: See `Predictor`.
            TaskError: The allocation does not match the task.
            StoreError: The store cannot be read or written.
        """
        with Predictor(self, task=task, endpoints=endpoints, store=store, seed=seed) as predictor:
            return predictor.predict(inputs, allocation, max_spend=max_spend)

    def start(self, instance: Any) -> State:
        """Return the state before the first stage that calls a model.

        Steps before it are run, except coroutine functions, whose result is None. The result is
        also None for a step that raises one of its `fails_on`, or any exception after an earlier
        result was None.

        Args:
            instance: The instance.
        """
        state, complete = State(instance), True
        for stage in self.stages:
            if isinstance(stage, StageProgram):
                break
            result = None
            try:
                if iscoroutinefunction(stage.run):
                    complete = False
                else:
                    result = stage.run(state) if stage.when(state) else stage.otherwise(state)
            except Exception as error:
                if complete and not isinstance(error, stage.fails_on):
                    raise
                complete = False
            if iscoroutine(result):
                # A plain callable that returned a coroutine, which has not started.
                result.close()
                result, complete = None, False
            state = state.after(stage.name, result)
        return state

    def lengths(
        self, instances: Sequence[Any], *, count: TokenCounter | None = None
    ) -> dict[str, tuple[float, float]]:
        """Estimate the token lengths of each stage that calls a model, from the data alone.

        Prompts of the first such stage are built and counted. Later prompts depend on unknown
        results: they are built as if all earlier stages were skipped, plus half of each earlier
        stage's `max_tokens`; a prompt that cannot be built that way counts only the latter. A
        reply is assumed to have half of `max_tokens`. A search replaces these estimates by
        measured lengths after its first trials.

        Args:
            instances: Instances of the data.
            count: Function that counts the tokens of a text. Default: four characters per token.

        Returns:
            Mean length of a prompt and of a sample, in tokens, by stage name.

        Raises:
            PipelineError: There are no instances.
        """
        if len(instances) == 0:
            raise PipelineError("`instances` must not be empty.")
        counted = count or estimated_tokens
        found: dict[str, tuple[float, float]] = {}
        states = [self.start(instance) for instance in instances]
        earlier = 0.0
        for stage in self.stages:
            if isinstance(stage, StageProgram):
                prompts = [_prompt_tokens(stage, state, counted) for state in states]
                known = [tokens for tokens in prompts if tokens is not None]
                mean = sum(known) / len(known) if known else 1.0
                found[stage.name] = (max(1.0, mean + earlier), max(1.0, stage.max_tokens / 2))
                earlier += stage.max_tokens / 2
            states = [
                state
                if stage.name in state.results
                else state.after(stage.name, _otherwise(stage, state))
                for state in states
            ]
        return found


def _otherwise(stage: StageProgram | Step, state: State) -> Any:
    """Return the result of a skipped stage; None if it needs missing results."""
    try:
        return stage.otherwise(state)
    # User code on an incomplete state may raise anything.
    except Exception:
        return None


def _prompt_tokens(program: StageProgram, state: State, count: TokenCounter) -> float | None:
    """Count the tokens of a prompt; None if it needs missing results."""
    try:
        texts = [message.content for message in program.messages(state)]
    # User code on an incomplete state may raise anything.
    except Exception:
        return None
    return sum(count(text) for text in texts)
