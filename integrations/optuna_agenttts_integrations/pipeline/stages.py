"""Pipelines of model calls and plain code, with the score of their results.

A pipeline is a list of stages that run one after another on each instance. A `StageProgram` calls
a model; a search tunes which model and how many samples. A `Step` is plain code, for example a
lookup, a tool call or a clean-up. Both can be skipped for some instances.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutine, iscoroutinefunction
from typing import Any

from optuna_agenttts.llm import ChatRequest, Message
from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.aggregation import Aggregation, majority_vote
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion

TokenCounter = Callable[[str], float]
"""Function from a text to its number of tokens."""
Prompt = str | Sequence[Message]
"""Text of one user message, or messages."""


@dataclass(frozen=True, slots=True)
class State:
    """Intermediate state of an instance in a pipeline.

    Args:
        instance: The instance as the user passed it.
        results: Results of the stages so far, by name. None where every reply was malformed, or
            where the stage was skipped.
    """

    instance: Any
    results: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, stage: str) -> Any:
        """Return the result of an earlier stage."""
        return self.results[stage]

    def after(self, stage: str, result: Any) -> State:
        """Return the state with one more result."""
        return State(self.instance, {**self.results, stage: result})


def strip_reply(text: str, state: State) -> str | None:
    """Return a reply without thoughts and surrounding whitespace; None (malformed) if empty."""
    return split_thoughts(text)[0].strip() or None


def always(state: State) -> bool:
    """Return True: run the stage for every instance."""
    return True


def no_result(state: State) -> None:
    """Return None as the result of a skipped stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Plain code between model calls; it costs nothing and is not tuned.

    Args:
        name: Name of the step and of its result.
        run: Function or coroutine function that computes the result from the state. It should
            depend on the state alone: equal results lead to equal requests, which are reused.
        when: Predicate that decides whether the step runs for an instance. Default: always.
        otherwise: Function that computes the result if the step is skipped. Default: None.
        fails_on: Exceptions of `run` that fail the instance, such as those of an unavailable
            tool. Any other exception is a bug and fails the trial.
    """

    name: str
    run: Callable[[State], Any]
    when: Callable[[State], bool] = always
    otherwise: Callable[[State], Any] = no_result
    fails_on: tuple[type[Exception], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgram:
    """Stage that calls a model.

    Args:
        name: Name of the task's stage.
        prompt: Function that builds the prompt from the state: the text of one user message, or
            messages. It should depend on the state alone, so that equal requests are reused.
        parse: Function that converts a reply and the state to a sample, or to None if the reply
            is malformed; malformed replies are counted and left out. Default: the stripped text.
        aggregate: Aggregation of the samples into the stage's result: a function (see
            `aggregation`) or an `LLMFusion`. Default: majority vote.
        max_tokens: Maximum length of a reply, in tokens.
        temperature: Sampling temperature.
        stop: Strings that end a reply.
        schema: JSON schema, as JSON text, that constrains replies.
        required: Whether an instance without a readable reply fails. By default the result is
            None and the pipeline continues.
        repair: Function that builds a message, from the state and a malformed reply, which asks
            the model once to rewrite that reply. Default: malformed replies are left out.
        when: Predicate that decides whether the stage runs for an instance. Default: always.
        otherwise: Function that computes the result if the stage is skipped. Default: None.
    """

    name: str
    prompt: Callable[[State], Prompt]
    parse: Callable[[str, State], Any] = strip_reply
    aggregate: Aggregation | LLMFusion = majority_vote
    # Chosen by hand: a paragraph, and enough randomness for samples to differ.
    max_tokens: int = 256
    temperature: float = 0.7
    stop: tuple[str, ...] = ()
    schema: str | None = None
    required: bool = False
    repair: Callable[[State, str], str] | None = None
    when: Callable[[State], bool] = always
    otherwise: Callable[[State], Any] = no_result

    def messages(self, state: State) -> tuple[Message, ...]:
        """Build the messages of the prompt for an instance."""
        prompt = self.prompt(state)
        return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)

    def request(self, model: str, state: State) -> ChatRequest:
        """Build the request to a model for an instance."""
        return ChatRequest(
            model=model,
            messages=self.messages(state),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=self.stop,
            schema=self.schema,
        )


Score = Callable[[State], "float | Awaitable[float]"]


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

    Raises:
        PipelineError: There is no `StageProgram`, or two stages share a name.
    """

    stages: Sequence[StageProgram | Step]
    score: Score
    metrics: Mapping[str, Score] = field(default_factory=dict)
    metric_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check the stages."""
        names = [stage.name for stage in self.stages]
        if not self.programs or len(set(names)) < len(names):
            raise PipelineError(
                "`stages` must have at least one `StageProgram`, and unique names, got the names "
                f"{names!r}."
            )

    @property
    def programs(self) -> tuple[StageProgram, ...]:
        """Stages that call models."""
        return tuple(stage for stage in self.stages if isinstance(stage, StageProgram))

    def start(self, instance: Any) -> State:
        """Return the state before the first stage that calls a model.

        Steps before it are run, except coroutine functions, whose result is None. The result is
        also None for a step that raises one of its `fails_on`, or any exception after an earlier
        result was None.
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
