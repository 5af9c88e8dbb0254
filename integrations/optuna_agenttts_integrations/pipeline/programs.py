"""Stages of a pipeline: calls of a model, and plain code between them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna_agenttts.llm import ChatRequest, Message
from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts.task.stage import checked_groups
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.aggregation import (
    Aggregation,
    Enough,
    majority_vote,
    settled,
)
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion

_CERTAIN = settled()

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
        """Return the state with one more result.

        Args:
            stage: Name of the stage.
            result: Its result.
        """
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
        scoring: Whether the result serves the score alone, so that `Pipeline.predict` leaves the
            step out.
    """

    name: str
    run: Callable[[State], Any]
    when: Callable[[State], bool] = always
    otherwise: Callable[[State], Any] = no_result
    fails_on: tuple[type[Exception], ...] = ()
    scoring: bool = False


@dataclass(frozen=True, slots=True)
class StageCheck:
    """Test of a stage's result, which shows whether the stage did its part.

    The outcome of an instance does not show which stage failed. Checks compare the result of one
    stage with what is known of the instance. They change no score: they are recorded with each
    trial, and shown to the agent that plans the search. A check that raises an exception is
    logged, and counts as unknown.

    Args:
        text: What passes, in a few words, such as ``"every relevant passage is chosen"``.
        passed: Function from the state after the pipeline to the share of the check that is
            passed: 1 or True if all of it is, 0 or False if nothing is, None if the instance does
            not tell.
    """

    text: str
    passed: Callable[[State], float | None]


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
        equal_samples: Groups of consecutive numbers of samples for which `aggregate` returns the
            same result, if it is given the first so many of the same samples. A search tries
            only one of each, unless replies are malformed. Default: ``[(1, 2)]`` for the votes of
            this package and `medoid`, none for others.
        check: Test of the stage's result, for diagnostics. Default: none.
        enough: Rule that decides after how many samples the stage may stop, such as
            ``settled(0.95)``; the number of an allocation is then the most. It should depend on
            its arguments alone. Default: votes stop when the samples that are left cannot change
            their result. None draws all samples.

    Raises:
        TaskError: `equal_samples` are not such groups.
        PipelineError: `enough` is not a rule, or takes other arguments.
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
    equal_samples: Sequence[Sequence[int]] | None = None
    check: StageCheck | None = None
    enough: Enough | None = _CERTAIN

    def __post_init__(self) -> None:
        """Check the groups of equal samples, and the rule."""
        rule: object = self.enough
        if rule is settled or not (rule is None or callable(rule)):
            raise PipelineError(
                f"StageProgram {self.name!r}: `enough` must be a rule, such as settled(0.95), or "
                f"None for all samples, got {self.enough!r}."
            )
        if callable(rule):
            self._check_arguments(rule)
        if self.equal_samples is not None:
            checked_groups(f"StageProgram {self.name!r}", self.equal_samples)

    def _check_arguments(self, rule: Callable[..., object]) -> None:
        """Raise an error if a rule does not take what it is given."""
        try:
            signature = inspect.signature(rule)
        except ValueError:
            # As of some built-in callables.
            return
        try:
            signature.bind(self.aggregate, (), 1)
        except TypeError as error:
            raise PipelineError(
                f"StageProgram {self.name!r}: `enough` must take three arguments, the "
                "aggregation, the samples so far and the number of those left, and return how "
                f"many further samples to draw, got {rule!r} with {signature}."
            ) from error

    @property
    def stops_early(self) -> bool:
        """Whether the stage follows a rule that may stop before all samples are drawn."""
        return self.enough is not None and not isinstance(self.aggregate, LLMFusion)

    def messages(self, state: State) -> tuple[Message, ...]:
        """Build the messages of the prompt for an instance.

        Args:
            state: The instance, and the results of earlier stages.
        """
        prompt = self.prompt(state)
        return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)

    def request(self, model: str, state: State) -> ChatRequest:
        """Build the request to a model for an instance.

        Args:
            model: Name of the model on its server.
            state: The instance, and the results of earlier stages.
        """
        return ChatRequest(
            model=model,
            messages=self.messages(state),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=self.stop,
            schema=self.schema,
        )


Score = Callable[[State], "float | Awaitable[float]"]
