"""One instance's way through a pipeline under an allocation."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import fsum
from typing import Any, TypeVar

from optuna_agenttts import Task
from optuna_agenttts.llm import ChatRequest, Message
from optuna_agenttts.llm.loop import gather
from optuna_agenttts.study.spending import cost_of_samples
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts_integrations.calls.completions import Completions, Samples
from optuna_agenttts_integrations.calls.endpoints import Endpoint, Endpoints
from optuna_agenttts_integrations.calls.tokens import estimated_tokens
from optuna_agenttts_integrations.pipeline.evaluation import InstanceResult, StageUsage
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion, distinct
from optuna_agenttts_integrations.pipeline.stages import Pipeline, Score, StageProgram, State, Step

_T = TypeVar("_T")


class _FailedError(Exception):
    """The instance cannot be finished; whether that is for want of a reply that can be read."""

    def __init__(self, *, unreadable: bool = False) -> None:
        super().__init__()
        self.unreadable = unreadable


async def run_instance(
    pipeline: Pipeline,
    instance: Any,
    allocation: Allocation,
    *,
    task: Task,
    completions: Completions,
    endpoints: Endpoints,
) -> InstanceResult:
    """Run a pipeline on an instance and score it.

    Raises:
        StoreError: The store cannot be read or written.
    """
    state = State(instance)
    usage: dict[str, StageUsage] = {}
    for stage in pipeline.stages:
        if not stage.when(state):
            state = state.after(stage.name, stage.otherwise(state))
            continue
        try:
            if isinstance(stage, Step):
                result = await _step(stage, state, completions)
            else:
                model, samples = allocation[stage.name]
                call = _StageCall(stage, model, state, task, completions, endpoints[model])
                try:
                    result = await call.run(samples)
                finally:
                    usage[stage.name] = call.usage()
        except _FailedError as error:
            nought = dict.fromkeys(pipeline.metrics, 0.0)
            return InstanceResult(0.0, True, usage, nought, error.unreadable)
        state = state.after(stage.name, result)
    metrics = {name: await _scored(score, state) for name, score in pipeline.metrics.items()}
    return InstanceResult(await _scored(pipeline.score, state), False, usage, metrics)


async def _scored(score: Score, state: State) -> float:
    value = score(state)
    return float(await value if inspect.isawaitable(value) else value)


async def _step(step: Step, state: State, completions: Completions) -> Any:
    try:
        result = step.run(state)
        return await result if inspect.isawaitable(result) else result
    except step.fails_on as error:
        completions.count_failure(f"{step.name}: {type(error).__name__}", str(error))
        raise _FailedError from error


@dataclass(slots=True)
class _StageCall:
    """One stage's calls for one instance, and what they take."""

    program: StageProgram
    model: str
    state: State
    task: Task
    completions: Completions
    endpoint: Endpoint
    drawn: list[Samples] = field(default_factory=list)
    """What was drawn: the stage's samples first."""
    wanted: int = 0
    malformed: int = 0

    async def run(self, count: int) -> Any:
        request = self.program.request(self.model, self.state)
        self.wanted = count
        drawn = await self._draw(request, count)
        if not drawn.completions:
            raise _FailedError
        read = await gather([self._read(request, c.text) for c in drawn.completions])
        replies = [text for text, sample in read if sample is not None]
        samples = [sample for _, sample in read if sample is not None]
        if not samples:
            if self.program.required:
                raise _FailedError(unreadable=True)
            return None
        if isinstance(self.program.aggregate, LLMFusion):
            return await self._fuse(self.program.aggregate, request, replies, samples)
        return self.program.aggregate(samples)

    async def _draw(self, request: ChatRequest, count: int) -> Samples:
        drawn = await self.completions.sample(request, self.endpoint, count)
        self.drawn.append(drawn)
        return drawn

    def _parse(self, text: str) -> Any:
        sample = self.program.parse(text, self.state)
        self.malformed += sample is None
        return sample

    async def _read(self, request: ChatRequest, text: str) -> tuple[str, Any]:
        """Read a reply, and ask once to have it written again if it cannot be read."""
        sample = self._parse(text)
        if sample is not None or self.program.repair is None:
            return text, sample
        ask = Message("user", self.program.repair(self.state, text))
        again = replace(request, messages=(*request.messages, Message("assistant", text), ask))
        drawn = await self._draw(again, 1)
        if not drawn.completions:
            return text, None
        text = drawn.completions[0].text
        return text, self._parse(text)

    async def _fuse(
        self,
        fusion: LLMFusion,
        request: ChatRequest,
        replies: Sequence[str],
        samples: Sequence[Any],
    ) -> Any:
        candidates = distinct(replies, samples)
        while len(candidates) > 1:
            texts = [text for text, _ in candidates]
            groups = fusion.groups(request.messages, texts, estimated_tokens)
            if len(groups) == len(candidates):
                # No two of them fit into one prompt.
                return fusion.fallback(samples)
            rest = iter(candidates)
            parts = [list(islice(rest, len(group))) for group in groups]
            fused = await gather([self._fused(fusion, request, part) for part in parts])
            if any(sample is None for _, sample in fused):
                return fusion.fallback(samples)
            candidates = distinct(*zip(*fused))
        return candidates[0][1]

    async def _fused(
        self, fusion: LLMFusion, request: ChatRequest, group: Sequence[tuple[str, Any]]
    ) -> tuple[str, Any]:
        """The reply that the model writes in place of a group, and its sample; None for none."""
        if len(group) == 1:
            return group[0]
        asked = replace(
            request,
            messages=tuple(fusion.messages(request.messages, [text for text, _ in group])),
            temperature=fusion.temperature,
        )
        drawn = await self._draw(asked, 1)
        if not drawn.completions:
            return "", None
        text = drawn.completions[0].text
        return text, self._parse(text)

    def usage(self) -> StageUsage:
        """What the calls so far took."""
        if not self.drawn:
            return StageUsage()
        first = self.drawn[0]
        count = len(first.completions)
        return StageUsage(
            samples=self.wanted,
            # What failed was neither generated nor reused.
            calls=sum(len(drawn.completions) for drawn in self.drawn),
            generated=sum(drawn.generated for drawn in self.drawn),
            malformed=self.malformed,
            prompt_tokens=sum(drawn.prompt_tokens for drawn in self.drawn),
            generated_tokens=sum(drawn.generated_tokens for drawn in self.drawn),
            naive_tokens=sum(drawn.naive_tokens for drawn in self.drawn),
            prompt_length=first.prompt_length,
            sample_length=first.naive_tokens / count if count else 0.0,
            # Exact, as repairs end in any order.
            spend=fsum(self._spent(drawn) for drawn in self.drawn),
        )

    def _spent(self, drawn: Samples) -> float:
        if not drawn.generated:
            return 0.0
        return cost_of_samples(
            self.task,
            self.program.name,
            self.model,
            drawn.generated,
            prompt_tokens=drawn.prompt_tokens / drawn.generated,
            generation_tokens=drawn.generated_tokens / drawn.generated,
        )
