"""Run the stages of a pipeline on one instance, without scoring it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from math import fsum
from typing import Any

from optuna_agenttts import Model, Task
from optuna_agenttts.llm import ChatRefusedError, ChatRequest, Completion, Message
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts.study.spending import cost_of_samples
from optuna_agenttts.support.plain import shortened
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts_integrations.calls.completions import Completions, Samples
from optuna_agenttts_integrations.calls.endpoints import Endpoints
from optuna_agenttts_integrations.calls.metering import Account, Meter, finish_all
from optuna_agenttts_integrations.calls.store import canonical_json
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.aggregation import changes_after_half, is_count
from optuna_agenttts_integrations.pipeline.evaluation import KEPT, StageUsage
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion, deduplicate
from optuna_agenttts_integrations.pipeline.programs import (
    StageProgram,
    State,
    Step,
)

_REFUSED = ("content_filter", "refusal")
"""Finish reasons of replies that were refused."""


class InstanceFailedError(Exception):
    """The instance cannot be finished.

    Args:
        cause: The reason.
        unreadable: Whether it is that no reply was readable.
    """

    def __init__(self, cause: Exception, *, unreadable: bool = False) -> None:
        super().__init__(str(cause))
        self.cause, self.unreadable = cause, unreadable


@dataclass(frozen=True, slots=True)
class RunContext:
    """Task, samples, endpoints and account of runs of a pipeline.

    Args:
        task: Task that prices the calls.
        completions: Source of samples.
        endpoints: Endpoint of each model, by name.
        account: Account of the calls' spend.
    """

    task: Task
    completions: Completions
    endpoints: Endpoints
    account: Account


async def run_stages(
    stages: Sequence[StageProgram | Step],
    instance: Any,
    allocation: Allocation,
    usage: dict[str, StageUsage],
    context: RunContext,
) -> State:
    """Run stages on an instance.

    Args:
        stages: The stages.
        instance: The instance.
        allocation: Model and number of samples of each stage.
        usage: Receives the usage of each stage that runs, also if a later one fails.
        context: What the stages call.

    Returns:
        The final state.

    Raises:
        InstanceFailedError: A stage got no sample, or a step failed.
        SpendLimitError: The limit does not cover the next call.
        StoreError: The store cannot be read or written.
    """
    state = State(instance)
    for stage in stages:
        if not stage.when(state):
            state = state.after(stage.name, stage.otherwise(state))
            continue
        if isinstance(stage, Step):
            result = await _run_step(stage, state, context.completions)
        else:
            model, samples = allocation[stage.name]
            call = _StageCall(stage, model, state, context)
            try:
                result = await call.run(samples)
            finally:
                usage[stage.name] = call.usage()
        state = state.after(stage.name, result)
    return state


async def _run_step(step: Step, state: State, completions: Completions) -> Any:
    try:
        result = step.run(state)
        return await result if inspect.isawaitable(result) else result
    except step.fails_on as error:
        completions.count_failure(f"{step.name}: {type(error).__name__}", str(error))
        raise InstanceFailedError(error) from error


@dataclass(slots=True)
class _StageCall:
    """Calls of one stage for one instance, and their usage."""

    program: StageProgram
    model: str
    state: State
    context: RunContext
    drawn: list[Samples] = field(default_factory=list)
    """Samples of each request, that of the stage itself first."""
    requested: int = 0
    tried: int = 0
    malformed: int = 0
    error: Exception | None = None
    """Error of the last call that failed."""
    changed: bool | None = None
    """See `StageUsage`."""

    async def run(self, count: int) -> Any:
        stage = next(s for s in self.context.task.stages if s.name == self.program.name)
        model = next(m for m in stage.models if m.name == self.model)
        request = for_choice(self.program.request(model.served_name, self.state), model)
        self.requested = count
        replies, samples = await self._replies(request, count)
        if not samples:
            if self.program.required:
                unreadable = PipelineError(
                    f"stage {self.program.name!r}: no reply of {self.model} could be parsed"
                )
                raise InstanceFailedError(unreadable, unreadable=True)
            return None
        if isinstance(self.program.aggregate, LLMFusion):
            return await self._fuse(self.program.aggregate, request, replies, samples)
        result = self.program.aggregate(samples)
        left = count - self.tried
        self.changed = changes_after_half(self.program.aggregate, samples, result, left)
        return result

    async def _replies(self, request: ChatRequest, count: int) -> tuple[list[str], list[Any]]:
        """Return readable replies and their samples, as many as are enough, at most `count`."""
        replies: list[str] = []
        samples: list[Any] = []
        # One meter, since samples of one prompt share the cost of reading it.
        meter = self._meter(request)
        while more := self._further(samples, count - self.tried):
            start = self.tried
            drawn = await self._sample(request, start + more, meter, start)
            self.tried += more
            self.drawn[:1] = [_joined(self.drawn[0], drawn) if start else drawn]
            parsed = await finish_all(
                self._parse_or_repair(request, completion) for completion in drawn.completions
            )
            replies += [text for text, sample in parsed if sample is not None]
            samples += [sample for _, sample in parsed if sample is not None]
        if not self.drawn[0].completions:
            missing = f"stage {self.program.name!r}: {self.model} returned no reply"
            raise InstanceFailedError(self.error or PipelineError(missing))
        return replies, samples

    def _further(self, samples: Sequence[Any], left: int) -> int:
        """Return how many further samples to draw before asking again."""
        program = self.program
        if left == 0 or program.enough is None or isinstance(program.aggregate, LLMFusion):
            return left
        if self.drawn and not self.drawn[0].completions:
            # Others may not be refused. Calls that failed despite retries have waited long enough.
            return left if isinstance(self.error, ChatRefusedError) else 0
        more = program.enough(program.aggregate, samples, left)
        # A rule that returns whether there are enough would be taken for a number.
        if not is_count(more):
            raise PipelineError(
                f"stage {program.name!r}: `enough` must return the number of further samples, "
                f"0 if there are enough, got {more!r}."
            )
        return max(int(not samples), min(int(more), left))

    def _meter(self, request: ChatRequest) -> Meter:
        price = partial(_price, self.context.task, self.program.name, self.model)
        return Meter(request, price, self.context.account)

    async def _sample(
        self, request: ChatRequest, count: int, meter: Meter, start: int = 0
    ) -> Samples:
        sample, endpoint = self.context.completions.sample, self.context.endpoints[self.model]
        drawn = await sample(request, endpoint, count, meter, start=start)
        self.error = meter.error or self.error
        return drawn

    def _parse(self, reply: Completion) -> Any:
        sample = None if reply.is_missing else self.program.parse(reply.text, self.state)
        if isinstance(sample, Iterator):
            # Votes read samples before they are complete, and again.
            sample = tuple(sample)
        self.malformed += sample is None
        return sample

    async def _draw_and_parse(self, request: ChatRequest) -> tuple[str, Any]:
        """Return the only reply to a request and its sample; None if there is none."""
        drawn = await self._sample(request, 1, self._meter(request))
        self.drawn.append(drawn)
        if not drawn.completions:
            return "", None
        reply = drawn.completions[0]
        return reply.text, self._parse(reply)

    async def _parse_or_repair(self, request: ChatRequest, reply: Completion) -> tuple[str, Any]:
        """Parse a reply; if it is malformed, ask the model once to rewrite it."""
        text, sample = reply.text, self._parse(reply)
        if sample is not None or self.program.repair is None or reply.is_missing:
            return text, sample
        ask = Message("user", self.program.repair(self.state, text))
        messages = (*request.messages, Message("assistant", text), ask)
        return await self._draw_and_parse(replace(request, messages=messages))

    async def _fuse(
        self,
        fusion: LLMFusion,
        request: ChatRequest,
        replies: Sequence[str],
        samples: Sequence[Any],
    ) -> Any:
        """Fuse candidates, group by group, until one is left."""
        candidates = deduplicate(replies, samples)
        while len(candidates) > 1:
            texts = [text for text, _ in candidates]
            groups = fusion.groups(request.messages, texts, estimated_tokens)
            if len(groups) == len(candidates):
                # No two candidates fit into one prompt.
                return fusion.fallback(samples)
            rest = iter(candidates)
            parts = [list(islice(rest, len(group))) for group in groups]
            fused = await finish_all(self._fuse_group(fusion, request, part) for part in parts)
            if any(sample is None for _, sample in fused):
                return fusion.fallback(samples)
            candidates = deduplicate(*zip(*fused))
        return candidates[0][1]

    async def _fuse_group(
        self, fusion: LLMFusion, request: ChatRequest, group: Sequence[tuple[str, Any]]
    ) -> tuple[str, Any]:
        """Return the fused reply and its sample; None if the fusion failed."""
        if len(group) == 1:
            return group[0]
        messages = tuple(fusion.messages(request.messages, [text for text, _ in group]))
        return await self._draw_and_parse(
            replace(request, messages=messages, temperature=fusion.temperature)
        )

    def usage(self) -> StageUsage:
        """Return the usage of the calls so far."""
        if not self.drawn:
            return StageUsage()
        first = self.drawn[0]
        replies = [completion for drawn in self.drawn for completion in drawn.completions]
        count = len(first.completions)
        return StageUsage(
            samples=self.requested,
            drawn=self.tried,
            # Failed calls were neither generated nor reused.
            calls=len(replies),
            generated=sum(drawn.generated for drawn in self.drawn),
            malformed=self.malformed,
            prompt_tokens=sum(drawn.prompt_tokens for drawn in self.drawn),
            generated_tokens=sum(drawn.generated_tokens for drawn in self.drawn),
            thought_tokens=sum(reply.thought_tokens for reply in replies),
            ended_in_thoughts=sum(reply.ended_in_thoughts for reply in replies),
            naive_tokens=sum(drawn.naive_tokens for drawn in self.drawn),
            prompt_length=first.prompt_length,
            sample_length=first.naive_tokens / count if count else 0.0,
            # An exact sum does not depend on the order in which repairs finish.
            spend=fsum(drawn.spend for drawn in self.drawn),
            failed=sum(drawn.failed for drawn in self.drawn),
            saved=fsum(map(self._saved, self.drawn)),
            thought_length=sum(r.thought_tokens for r in first.completions) / max(1, count),
            cut=sum(reply.finish_reason == "length" for reply in replies),
            refused=sum(reply.finish_reason in _REFUSED for reply in replies),
            changed=self.changed,
            reply=shortened(first.completions[0].text, KEPT) if count else "",
        )

    def _saved(self, drawn: Samples) -> float:
        """Return the cost that the reused ones among samples would have had."""
        count = len(drawn.completions)

        def cost(calls: int) -> float:
            if not calls:
                return 0.0
            prompt, generated = calls * drawn.prompt_length, calls * drawn.naive_tokens / count
            task, stage = self.context.task, self.program.name
            return _price(task, stage, self.model, calls, prompt, generated, 0)

        # Samples of one prompt share the cost of reading it.
        return 0.0 if drawn.generated == count else cost(count) - cost(drawn.generated)


def _joined(first: Samples, later: Samples) -> Samples:
    """Return samples of one request together, whose meter has counted both."""
    return replace(
        later,
        completions=first.completions + later.completions,
        generated=first.generated + later.generated,
        prompt_length=max(first.prompt_length, later.prompt_length),
        naive_tokens=first.naive_tokens + later.naive_tokens,
        failed=first.failed + later.failed,
    )


def taken(usage: Mapping[str, StageUsage]) -> float:
    """Return what the stages of an instance took, reused samples included."""
    return fsum(used.spend + used.saved for used in usage.values())


def for_choice(request: ChatRequest, model: Model) -> ChatRequest:
    """Return a stage's request with the fields of a choice of its model.

    Thoughts have room in addition to the answer's `max_tokens`.

    Args:
        request: The request.
        model: The choice.
    """
    thinking = model.thinking
    return replace(
        request,
        max_tokens=request.max_tokens + (0 if thinking is None else thinking.room),
        extra=canonical_json(dict(model.extra)) if model.extra else None,
        thinking=thinking.effort if thinking is not None and thinking.negotiated else None,
    )


def _price(
    task: Task,
    stage: str,
    model: str,
    calls: int,
    prompt_tokens: float,
    generated_tokens: float,
    cached_tokens: float,
) -> float:
    """Return the cost of calls with the same prompt, given their tokens in total."""
    return cost_of_samples(
        task,
        stage,
        model,
        calls,
        prompt_tokens=prompt_tokens / calls,
        generation_tokens=generated_tokens / calls,
        cached_tokens=cached_tokens / calls,
    )
