"""Run one instance through a pipeline, and record what each stage sent, received and computed."""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from optuna_agenttts import Task
from optuna_agenttts.llm import ChatRequest, Completion, Message, RetryPolicy
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts_integrations.calls.completions import Completions, Samples, request_text
from optuna_agenttts_integrations.calls.endpoints import Endpoint, Endpoints
from optuna_agenttts_integrations.calls.metering import Account, Meter
from optuna_agenttts_integrations.calls.store import CompletionStore, RequestKey
from optuna_agenttts_integrations.exceptions import StoreError
from optuna_agenttts_integrations.inspection.functions import (
    AWAITED,
    FunctionError,
    UserFunction,
    function_name,
    pipeline_functions,
    score_functions,
    stage_functions,
)
from optuna_agenttts_integrations.inspection.records import (
    InspectedReply,
    InspectedRequest,
    InspectedStage,
    Purpose,
    Status,
)
from optuna_agenttts_integrations.pipeline.aggregation import settled
from optuna_agenttts_integrations.pipeline.evaluation import InstanceResult
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion, most_frequent
from optuna_agenttts_integrations.pipeline.run import run_instances
from optuna_agenttts_integrations.pipeline.stage_calls import RunContext
from optuna_agenttts_integrations.pipeline.stages import (
    Pipeline,
    StageProgram,
    State,
    Step,
    always,
    no_result,
)

_POLICY = RetryPolicy(attempts=3, base=0.5, longest=5.0)
"""Retries of a check: outlasts a limit of the rate, but not a restart. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class _Call:
    """Samples of a request: those that the store had, and all that it has now."""

    request: ChatRequest
    count: int
    stored: Mapping[int, Completion]
    found: Mapping[int, Completion]


@dataclass(slots=True)
class _StageTrace:
    """Record of a stage so far."""

    stage: StageProgram | Step
    runs: bool | None = None
    calls: list[_Call] = field(default_factory=list)
    parsed: dict[str, Any] = field(default_factory=dict)
    """Samples by the text of the reply."""
    fusions: list[tuple[Message, ...]] = field(default_factory=list)
    """Prompts of fusions."""
    fallback: bool = False
    """True if the fallback of the fusion was used."""


class Trace:
    """Record of one instance's run, and the pipeline that writes it.

    Args:
        pipeline: The pipeline.
        allocation: Model and number of samples of each stage.
        offline: Whether only stored samples are used.
        strict: Whether values that cannot be used raise `FunctionError`, beside exceptions.
        limits: Range of the score, if it is declared.

    Attributes:
        pipeline: The pipeline with its functions wrapped.
        state: The last state that a function received.
        result: Result of the instance; None before the run, and after an error.
        error: The exception that ended the run: a `FunctionError` if a function of the pipeline
            failed.
        failures: Failed calls by cause.
        account: Spend of the calls.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        allocation: Allocation,
        *,
        offline: bool,
        strict: bool,
        limits: tuple[float, float] | None,
    ) -> None:
        self.allocation, self.limits, self.strict = allocation, limits, strict
        self.offline = offline
        # Predictions alone call `answer`.
        self._functions = [f for f in pipeline_functions(pipeline) if f.kind != "answer"]
        self._called: set[tuple[str, str]] = set()
        self._stages = {stage.name: _StageTrace(stage) for stage in pipeline.stages}
        score, *metrics = (_Wrapped(self, function) for function in score_functions(pipeline))
        self.pipeline = replace(
            pipeline,
            stages=[self._wrapped(stage) for stage in pipeline.stages],
            score=score,
            metrics=dict(zip(pipeline.metrics, metrics)),
        )
        self.state: State | None = None
        self.result: InstanceResult | None = None
        self.error: Exception | None = None
        self.failures: Mapping[str, int] = {}
        self.account = Account()
        self._current: _StageTrace | None = None

    def _wrapped(self, stage: StageProgram | Step) -> StageProgram | Step:
        wrapped: dict[str, Any] = {f.kind: _Wrapped(self, f) for f in stage_functions(stage)}
        if isinstance(stage, StageProgram) and isinstance(stage.aggregate, LLMFusion):
            parts = {kind: wrapped.pop(kind) for kind in ("messages", "fallback")}
            wrapped["aggregate"] = replace(stage.aggregate, **parts)
        return replace(stage, **wrapped)

    def before(self, function: UserFunction, arguments: tuple[Any, ...]) -> None:
        """Record that a function is called."""
        self._current = self._stages.get(function.stage)
        self._called.add((function.stage, function.kind))
        for value in arguments:
            if isinstance(value, State):
                self.state = value
        if self._current is not None and function.kind == "fallback":
            self._current.fallback = True

    def after(self, function: UserFunction, arguments: tuple[Any, ...], value: Any) -> None:
        """Record what a function returned."""
        found = self._stages.get(function.stage)
        if found is None:
            return
        if function.kind == "when":
            found.runs = bool(value)
        elif function.kind == "parse":
            found.parsed[arguments[0]] = value
        elif function.kind == "messages":
            found.fusions.append(tuple(value))

    def record(self, call: _Call) -> None:
        """Record a request of the current stage, or further samples of its last one."""
        if self._current is None:
            return
        calls = self._current.calls
        if calls and calls[0].request == call.request:
            stored = {i: c for i, c in call.stored.items() if i >= calls[0].count}
            calls[0] = replace(call, stored={**stored, **calls[0].stored})
        else:
            calls.append(call)

    def fails_on(self, function: UserFunction) -> tuple[type[Exception], ...]:
        """Return the exceptions of a function that fail the instance only."""
        found = self._stages.get(function.stage)
        step = None if found is None else found.stage
        return step.fails_on if isinstance(step, Step) and function.kind == "run" else ()

    def unused(self) -> list[UserFunction]:
        """Return the functions that were not called, without defaults."""
        return [
            function
            for function in self._functions
            if (function.stage, function.kind) not in self._called
            and function.function not in (always, no_result, most_frequent, settled())
        ]

    def stages(self) -> tuple[InspectedStage, ...]:
        """Return the stages as recorded."""
        results = {} if self.state is None else self.state.results
        return tuple(self._inspected(trace, results) for trace in self._stages.values())

    def _inspected(self, trace: _StageTrace, results: Mapping[str, Any]) -> InspectedStage:
        stage = trace.stage
        status: Status = "failed"
        if trace.runs is None:
            status = "not reached"
        elif stage.name in results:
            status = "ran" if trace.runs else "skipped"
        if not isinstance(stage, StageProgram):
            return InspectedStage(stage.name, status, result=results.get(stage.name))
        model, samples = self.allocation[stage.name]
        if isinstance(stage.aggregate, LLMFusion):
            joined_by = "LLMFusion"
            if trace.fallback:
                joined_by += f", fallback {function_name(stage.aggregate.fallback)}"
        else:
            joined_by = function_name(stage.aggregate)
        return InspectedStage(
            stage.name,
            status,
            model,
            samples,
            tuple(_inspected_call(trace, call) for call in trace.calls),
            results.get(stage.name),
            joined_by,
        )


def _inspected_call(trace: _StageTrace, call: _Call) -> InspectedRequest:
    replies = []
    for index in range(call.count):
        reply = call.found.get(index)
        if reply is None:
            replies.append(InspectedReply(index))
            continue
        replies.append(
            InspectedReply(
                index,
                reply.text,
                trace.parsed.get(reply.text),
                reply.finish_reason,
                reply.usage.prompt_tokens,
                reply.usage.completion_tokens,
                index in call.stored,
                reply.thoughts,
            )
        )
    messages = call.request.messages
    purpose: Purpose = "fusion" if messages in trace.fusions else "repair"
    if call is trace.calls[0]:
        purpose = "samples"
    return InspectedRequest(purpose, messages, tuple(replies))


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """Function of a pipeline that records its calls in a trace."""

    trace: Trace
    function: UserFunction

    def __call__(self, *arguments: Any) -> Any:
        self.trace.before(self.function, arguments)
        # Rules know votes by their identity.
        arguments = tuple(a.function.function if isinstance(a, _Wrapped) else a for a in arguments)
        with self._named_errors():
            value = self.function.function(*arguments)
        if self.function.kind in AWAITED and inspect.isawaitable(value):
            return self._awaited(value, arguments)
        return self._returned(value, arguments)

    async def _awaited(self, awaitable: Awaitable[Any], arguments: tuple[Any, ...]) -> Any:
        with self._named_errors():
            value = await awaitable
        return self._returned(value, arguments)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Name the function in what it raises, unless that fails the instance only."""
        try:
            yield
        except self.trace.fails_on(self.function):
            raise
        except (Exception, SystemExit) as error:
            raise self.function.error(error) from error

    def _returned(self, value: Any, arguments: tuple[Any, ...]) -> Any:
        if self.trace.strict:
            problem = self.function.value_problem(value, self.trace.limits)
            if problem is not None:
                raise FunctionError(self.function, problem)
        self.trace.after(self.function, arguments, value)
        if self.function.kind == "enough" and not self.trace.offline:
            # A check shows as many samples as it announces.
            return arguments[-1]
        return value


class _TracedCompletions(Completions):
    """Source of samples that records them; offline, only stored ones."""

    def __init__(self, trace: Trace, **options: Any) -> None:
        super().__init__(**options)
        self._trace, self._offline = trace, trace.offline

    async def sample(
        self,
        request: ChatRequest,
        endpoint: Endpoint,
        count: int,
        meter: Meter | None = None,
        *,
        start: int = 0,
    ) -> Samples:
        """Return and record samples; see `Completions.sample`."""
        key = RequestKey(endpoint.identity, self._seed, request_text(request)).digest
        stored = self._store.get(key, count)
        samples = await super().sample(request, endpoint, count, meter, start=start)
        found = stored if self._offline else self._store.get(key, count)
        self._trace.record(_Call(request, count, stored, found))
        return samples

    async def _generate(self, *arguments: Any) -> dict[int, Completion]:
        return {} if self._offline else await super()._generate(*arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracer:
    """Runs single instances of an objective.

    Args:
        pipeline: The pipeline.
        instances: Instances by ID.
        task: The task.
        endpoints: Endpoint of each model, by name.
        store: Store of completions.
        seed: Seed of the samples.
    """

    pipeline: Pipeline
    instances: Mapping[str, Any]
    task: Task
    endpoints: Endpoints
    store: CompletionStore
    seed: int

    async def run(
        self, name: str, allocation: Allocation, *, offline: bool = True, strict: bool = False
    ) -> Trace:
        """Run an instance.

        Args:
            name: ID of the instance.
            allocation: Model and number of samples of each stage.
            offline: Whether to use stored samples only; missing ones count as failed calls.
            strict: Whether a returned value that cannot be used is an error, like an exception.

        Returns:
            The trace of the run, which has ended at the first function that failed.

        Raises:
            StoreError: The store cannot be read or written.
        """
        limits = self.task.metric_range
        trace = Trace(self.pipeline, allocation, offline=offline, strict=strict, limits=limits)
        completions = _TracedCompletions(
            trace,
            store=self.store,
            seed=self.seed,
            rng=random.Random(self.seed),
            policy=_POLICY,
        )
        try:
            results = await run_instances(
                trace.pipeline,
                {name: self.instances[name]},
                allocation,
                RunContext(self.task, completions, self.endpoints, trace.account),
                concurrency=1,
                on_result=lambda result: None,
            )
            trace.result = results[name]
        except StoreError:
            raise
        # Functions and chat models of users may raise anything.
        except Exception as error:
            trace.error = error
        trace.failures = completions.failures
        return trace
