"""A pipeline: what each stage asks, how replies are read and joined, how results are scored.

A pipeline is a list of stages that run one after another on each instance. A `StageProgram` asks a
model, and its model and samples are what a search tunes; a `Step` is plain code between them: it
looks something up, calls a tool, tidies a result. Either may be skipped for some instances.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutine, iscoroutinefunction
from typing import Any

from optuna_agenttts.llm import ChatRequest, Message
from optuna_agenttts_integrations.calls.tokens import TokenCounter, estimated_tokens
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.aggregation import Aggregation, majority_vote
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion

Prompt = str | Sequence[Message]
"""The text of a user's message, or messages."""


@dataclass(frozen=True, slots=True)
class State:
    """How far an instance has come.

    Args:
        instance: The instance, as the user gave it.
        results: Results of the stages so far, by name; None where every sample was malformed, or
            where the stage was skipped.
    """

    instance: Any
    results: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, stage: str) -> Any:
        """The result of an earlier stage."""
        return self.results[stage]

    def after(self, stage: str, result: Any) -> State:
        """The state with one result more."""
        return State(self.instance, {**self.results, stage: result})


def stripped(text: str, state: State) -> str | None:
    """Read a reply as it is, without white space around it; an empty one is malformed."""
    return text.strip() or None


def always(state: State) -> bool:
    """Run for every instance."""
    return True


def nothing(state: State) -> None:
    """No result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Plain code between the stages that ask models: it costs nothing and is not tuned.

    Args:
        name: Name of its result.
        run: Makes the result from the state; it may be a coroutine function. Like prompts, it
            should be a function of the state alone: the requests that follow depend on it, and
            equal requests are not paid twice.
        when: Whether to run for an instance. Default: always.
        otherwise: The result where it does not run. Default: None.
        fails_on: Exceptions of `run` that mean that the instance failed, such as those of a tool
            that is out of order. Any other one is a bug, and ends the trial.
    """

    name: str
    run: Callable[[State], Any]
    when: Callable[[State], bool] = always
    otherwise: Callable[[State], Any] = nothing
    fails_on: tuple[type[Exception], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgram:
    """What a stage that asks a model does.

    Args:
        name: Name of the task's stage.
        prompt: Writes the prompt from the state: the text of a user's message, or messages.
        parse: Reads one reply: the sample, or None for a malformed reply, which is counted and
            left out. Default: the text.
        aggregate: Joins the samples into the stage's result: a function of them (see
            `aggregation`), or an `LLMFusion`. Default: majority vote.
        max_tokens: The longest reply, in tokens.
        temperature: Sampling temperature.
        stop: Strings that end a reply.
        schema: A JSON schema, as JSON text, that replies should follow.
        required: Whether the instance fails where no reply can be read. Default: the stage's
            result is None then, and the next stages make of it what they can.
        repair: Writes a message that asks the model to write a malformed reply again, from the
            state and that reply; it is asked once for each. Default: malformed replies are left
            out.
        when: Whether the stage runs for an instance. Default: always.
        otherwise: The stage's result where it does not run. Default: None.
    """

    name: str
    prompt: Callable[[State], Prompt]
    parse: Callable[[str, State], Any] = stripped
    aggregate: Aggregation | LLMFusion = majority_vote
    max_tokens: int = 256
    temperature: float = 0.7
    stop: tuple[str, ...] = ()
    schema: str | None = None
    required: bool = False
    repair: Callable[[State, str], str] | None = None
    when: Callable[[State], bool] = always
    otherwise: Callable[[State], Any] = nothing

    def messages(self, state: State) -> tuple[Message, ...]:
        """The messages of the prompt for an instance."""
        prompt = self.prompt(state)
        return (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)

    def request(self, model: str, state: State) -> ChatRequest:
        """What to ask a model for an instance."""
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
    """Stages that run one after another on each instance, and a score of what comes out.

    Args:
        stages: The stages, in the order in which they run; at least one asks a model.
        score: Scores an instance from its final state: its outcome, usually from 0 to 1. It may be
            a coroutine function.
        metrics: More scores by name, to be reported beside the outcome.

    Raises:
        PipelineError: No stage asks a model, or two stages have one name.
    """

    stages: Sequence[StageProgram | Step]
    score: Score
    metrics: Mapping[str, Score] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the stages."""
        names = [stage.name for stage in self.stages]
        if not self.programs or len(set(names)) < len(names):
            raise PipelineError(
                f"Pipeline: `stages` names {names!r}: give one `StageProgram` or more, each name "
                "once."
            )

    @property
    def programs(self) -> tuple[StageProgram, ...]:
        """The stages that ask models."""
        return tuple(stage for stage in self.stages if isinstance(stage, StageProgram))

    def start(self, instance: Any) -> State:
        """The state before the first stage that asks a model.

        Plain steps before it are run; coroutine functions are not, and leave None. So do steps
        that fail as their `fails_on` expects, and those that raise after such a None.
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
                # Of a callable that only calls a coroutine function: it has not begun.
                result.close()
                result, complete = None, False
            state = state.after(stage.name, result)
        return state

    def lengths(
        self, instances: Sequence[Any], *, count: TokenCounter | None = None
    ) -> dict[str, tuple[float, float]]:
        """Token lengths of each stage that asks a model, as far as data alone can tell.

        Prompts of the first such stage are written and counted. Later ones depend on results that
        nobody has yet: they are written as if all stages had been skipped, and half of
        each earlier stage's longest reply is added; one that cannot be written like that adds
        nothing of its own. A reply is taken to be half as long as it may be. A search replaces
        all of these by what it measures in its first trials.

        Args:
            instances: Instances of the data.
            count: Counts the tokens of a text. Default: a token is four characters.

        Returns:
            For each stage's name, the mean length of a prompt and of a sample, in tokens.

        Raises:
            PipelineError: There are no instances.
        """
        if len(instances) == 0:
            raise PipelineError("`instances` is empty: give one instance or more.")
        counted = count or estimated_tokens
        found: dict[str, tuple[float, float]] = {}
        states = [self.start(instance) for instance in instances]
        earlier = 0.0
        for stage in self.stages:
            if isinstance(stage, StageProgram):
                prompts = [_written(stage, state, counted) for state in states]
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
    """The result of a stage that is skipped; None where that needs earlier results."""
    try:
        return stage.otherwise(state)
    # The user's code, whose input is made up here.
    except Exception:
        return None


def _written(program: StageProgram, state: State, count: TokenCounter) -> float | None:
    """The tokens of a prompt, or None where it cannot be written without earlier results."""
    try:
        texts = [message.content for message in program.messages(state)]
    # The prompt is the user's code, and its input is made up here: whatever it raises, nothing
    # can be counted.
    except Exception:
        return None
    return sum(count(text) for text in texts)
