"""A pipeline: what each stage asks, how replies are read and joined, how results are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna_agenttts.llm import ChatRequest, Message
from optuna_agenttts_integrations.aggregation import Aggregation, majority_vote
from optuna_agenttts_integrations.exceptions import PipelineError


@dataclass(frozen=True, slots=True)
class State:
    """How far an instance has come.

    Args:
        instance: The instance, as the user gave it.
        results: Results of the stages so far, by name; None where every sample was malformed.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgram:
    """What one stage does.

    Args:
        name: Name of the task's stage.
        prompt: Writes the prompt from the state: the text of a user's message, or messages.
        parse: Reads one reply: the sample, or None for a malformed reply, which is counted and
            left out. Default: the text.
        aggregate: Joins the samples into the stage's result; see `aggregation`. One sample is
            aggregated too. Default: majority vote.
        max_tokens: The longest reply, in tokens.
        temperature: Sampling temperature.
        stop: Strings that end a reply.
    """

    name: str
    prompt: Callable[[State], str | Sequence[Message]]
    parse: Callable[[str, State], Any] = stripped
    aggregate: Aggregation = majority_vote
    max_tokens: int = 256
    temperature: float = 0.7
    stop: tuple[str, ...] = ()

    def request(self, model: str, state: State) -> ChatRequest:
        """What to ask a model for an instance."""
        prompt = self.prompt(state)
        messages = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        return ChatRequest(
            model=model,
            messages=messages,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            stop=self.stop,
        )

    def result(self, replies: Sequence[str], state: State) -> tuple[Any, int]:
        """Read and join replies.

        Returns:
            The result, None if no reply could be read, and the number of malformed replies.
        """
        parsed = [self.parse(reply, state) for reply in replies]
        samples = [sample for sample in parsed if sample is not None]
        malformed = len(parsed) - len(samples)
        return (self.aggregate(samples) if samples else None), malformed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Stages that run one after another on each instance, and a score of what comes out.

    Args:
        stages: The stages, in the order in which they run.
        score: Scores an instance from its final state: its outcome, usually from 0 to 1.

    Raises:
        PipelineError: There are no stages, or two of one name.
    """

    stages: Sequence[StageProgram]
    score: Callable[[State], float]

    def __post_init__(self) -> None:
        """Check the stages."""
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise PipelineError(
                f"Pipeline: `stages` names {names!r}: give one or more, each once."
            )
