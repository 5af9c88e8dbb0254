"""Checks of a pipeline's functions, and of one instance run through all of its stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from itertools import islice, product

from optuna_agenttts import Task
from optuna_agenttts.llm import Finding, Report
from optuna_agenttts.llm.findings import Level
from optuna_agenttts.llm.port import without_retries
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.support.plain import listed
from optuna_agenttts.task.allocation import Allocation, StageAllocation
from optuna_agenttts_integrations.calls.endpoints import Endpoint
from optuna_agenttts_integrations.check import server_chats
from optuna_agenttts_integrations.exceptions import StoreError
from optuna_agenttts_integrations.inspection.functions import (
    FunctionError,
    pipeline_functions,
    short,
)
from optuna_agenttts_integrations.inspection.records import InspectedStage
from optuna_agenttts_integrations.inspection.tracing import Trace, Tracer
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import Pipeline

_SAMPLES = 2
"""Samples of each stage: the fewest that an aggregation has to join."""

_MAX_REPLAYS = 64
"""Allocations to look for in the store when replaying. Chosen by hand: some milliseconds each."""

_MAX_NAMES = 6
"""Models listed in a message. Chosen by hand, to keep it short."""


def check_functions(pipeline: Pipeline) -> Report:
    """Check that functions can be called with the arguments that they will get.

    Calls none of them.

    Args:
        pipeline: The pipeline.

    Returns:
        One finding for each function that cannot be called; none if all can.
    """
    findings = [
        Finding(function.stage, function.title, "error", problem, function.call_remedy)
        for function in pipeline_functions(pipeline)
        if (problem := function.call_problem()) is not None
    ]
    if findings:
        findings.append(_finding("coverage", "nothing else was checked, and no call was made"))
    return Report(tuple(findings))


async def check_run(tracer: Tracer, data: Report, servers: Report, *, replay: bool) -> Report:
    """Run one instance through all stages, and report what each of them returned.

    The samples are those that a search would draw, so they are stored for it. A stage takes its
    cheapest model without errors, and two samples if it allows them.

    Args:
        tracer: The objective's pipeline, instances and store.
        data: Findings about store, functions and prompts; nothing is run if they have errors.
        servers: Findings about servers; models with errors are not called.
        replay: Whether to use stored samples only.

    Returns:
        Findings about stages, score and metrics, the spend, and what was not examined.
    """
    broken = {finding.subject for finding in servers.errors}
    usable = [
        [name for name in names if _is_served(name, tracer.endpoints[name], broken)]
        for names in _models_by_cost(tracer.task)
    ]
    if not data.ok or not all(usable) or any(f.check == "schema" for f in servers.errors):
        return Report((_finding("coverage", "no stage was run: correct the errors first"),))
    name = next(
        (name for name in tracer.instances if _runs_first_stage(tracer, name)),
        next(iter(tracer.instances)),
    )
    try:
        if replay:
            trace = await _replay(tracer, name, usable)
        else:
            cheapest = _allocation(tracer.task, [names[0] for names in usable])
            trace = await _without_retries(tracer).run(name, cheapest, offline=False, strict=True)
    except StoreError as error:
        remedy = "Use another file, or free disk space."
        return Report((_finding("run", str(error), "error", remedy),))
    findings = _findings(tracer, name, trace)
    # Exceptions and replies are printed in logs, and may hold keys.
    return Report(tuple(replace(f, message=redact(f.message, ())) for f in findings))


def _finding(check: str, message: str, level: Level = "ok", remedy: str = "") -> Finding:
    return Finding("pipeline", check, level, message, remedy)


def _is_served(name: str, endpoint: Endpoint, broken: AbstractSet[str]) -> bool:
    """Return whether at least one server of a model has no errors."""
    return any(subject not in broken for subject, _, _ in server_chats(name, endpoint))


def _models_by_cost(task: Task) -> list[list[str]]:
    """Return the names of each stage's models, the cheapest first."""
    return [
        [stage.models[i].name for i in sorted(range(len(rows)), key=lambda i: rows[i][0])]
        for stage, rows in zip(task.stages, task.feasible.costs)
    ]


def _runs_first_stage(tracer: Tracer, name: str) -> bool:
    try:
        state = tracer.pipeline.start(tracer.instances[name])
        return bool(tracer.pipeline.programs[0].when(state))
    # The check of prompts has reported functions that raise.
    except Exception:
        return False


def _allocation(task: Task, models: Sequence[str]) -> Allocation:
    return Allocation(
        (stage.name, StageAllocation(model, min(_SAMPLES, stage.max_samples)))
        for stage, model in zip(task.stages, models)
    )


async def _replay(tracer: Tracer, name: str, usable: Sequence[Sequence[str]]) -> Trace:
    """Return the run of the cheapest allocation of which the store has most."""

    def missing(trace: Trace) -> tuple[int, int]:
        stages = trace.stages()
        unfinished = sum(stage.status in ("failed", "not reached") for stage in stages)
        return unfinished, sum(stage.missing for stage in stages)

    traces = [
        await tracer.run(name, _allocation(tracer.task, models), strict=True)
        for models in islice(product(*usable), _MAX_REPLAYS)
    ]
    return min(traces, key=missing)


def _without_retries(tracer: Tracer) -> Tracer:
    endpoints = {
        name: replace(endpoint, chat=without_retries(endpoint.chat))
        for name, endpoint in tracer.endpoints.items()
    }
    return replace(tracer, endpoints=endpoints)


def _findings(tracer: Tracer, name: str, trace: Trace) -> Iterator[Finding]:
    """Yield the findings about a run."""
    stages = [stage for stage in trace.stages() if stage.status != "not reached"]
    yield from (_stage_finding(stage, trace) for stage in stages if _has_result(stage, trace))
    error = trace.error or _fusion_error(trace)
    if isinstance(error, FunctionError):
        function = error.function
        yield Finding(function.stage, function.title, "error", str(error), function.remedy)
    elif error is not None:
        message = f"the run ended with {short(error)}"
        yield _finding("run", message, "error", "Correct the code that raised it.")
    if trace.result is not None and not trace.result.failed:
        yield _finding("score", f"{trace.result.outcome:g}")
        for metric, value in trace.result.metrics.items():
            yield _finding(f"metric {metric!r}", f"{value:g}")
    yield _finding("spend", _spend(tracer.task, trace, stages))
    yield _finding("coverage", _coverage(tracer, name, trace))


def _has_result(stage: InspectedStage, trace: Trace) -> bool:
    """Return whether there is something to report: a reply, or a step's result."""
    return bool(stage.requests) or stage.status in ("ran", "skipped") or trace.error is None


def _stage_finding(stage: InspectedStage, trace: Trace) -> Finding:
    """Report what a stage received and returned."""
    finding = partial(Finding, stage.name, "result")
    if stage.status == "skipped":
        return finding("ok", f"skipped by `when`; the result is {short(stage.result)}")
    causes = "; ".join(trace.failures)
    if stage.model is None:
        if stage.status == "ran":
            return finding("ok", f"returned {short(stage.result)}")
        return finding("warning", f"failed on this instance. {causes}".strip())
    first = stage.requests[0].replies
    replies = [reply for reply in first if reply.text is not None]
    message = f"{stage.model}: {len(replies)} of {len(first)} replies"
    if len(replies) < len(first):
        level: Level = "warning" if replies or trace.offline else "error"
        cause = "the store lacks the others" if trace.offline else causes
        return finding(level, f"{message}: {cause}", "Correct the cause, and check again.")
    message += f", the first {short(replies[0].text)}"
    if isinstance(trace.error, FunctionError) and trace.error.function.kind == "parse":
        return finding("ok", message)
    samples = [reply.value for reply in replies if reply.value is not None]
    lost = sum(reply.ended_in_thoughts for reply in replies)
    if lost:
        return finding(
            "warning",
            f"{message}; {lost} of them ended inside the model's thoughts, without an answer, "
            "which a search scores as wrong",
            "Raise `max_tokens`, or lower thinking, for example by `Model(extra=...)`. If the "
            "model has thinking efforts, raise `tokens=` of `efforts`, or leave this effort out.",
        )
    if not samples:
        return finding(
            "warning",
            f"{message}; none was readable: `parse` returned None",
            "Check `parse`, the prompt and `max_tokens`.",
        )
    message += f"; parsed: {', '.join(short(sample) for sample in samples)}"
    if stage.status == "ran":
        message += f"; {stage.joined_by} returned {short(stage.result)}"
    return finding("ok", message)


def _fusion_error(trace: Trace) -> FunctionError | None:
    """Call functions of fusions that the run did not need; return the first error."""
    programs = {program.name: program for program in trace.pipeline.programs}
    for stage in trace.stages():
        program = programs.get(stage.name)
        fusion = None if program is None else program.aggregate
        if stage.status != "ran" or not isinstance(fusion, LLMFusion) or not stage.requests:
            continue
        request = stage.requests[0]
        readable = [reply for reply in request.replies if reply.value is not None]
        texts = [reply.text or "" for reply in readable]
        try:
            if readable and not any(each.purpose == "fusion" for each in stage.requests):
                # Equal replies need no fusion: only its prompt is built.
                fusion.messages(request.messages, [*texts, *texts])
            if readable:
                fusion.fallback([reply.value for reply in readable])
        except FunctionError as error:
            return error
    return None


def _spend(task: Task, trace: Trace, stages: Sequence[InspectedStage]) -> str:
    """Return the cost of the calls, as text."""
    replies = [r for stage in stages for request in stage.requests for r in request.replies]
    calls = sum(reply.text is not None and not reply.stored for reply in replies)
    unit = task.cost_model.unit or "units of the task"
    return (
        f"{trace.account.spent:.4g} {unit} for {calls} calls with {trace.account.tokens} "
        "generated tokens, which the search reuses; requests to check servers are not included"
    )


def _coverage(tracer: Tracer, name: str, trace: Trace) -> str:
    """Return what was examined and what was not, as text."""

    def shown(model: str) -> str:
        return repr(model) if ", " in model else model  # As names of thinking efforts are.

    pairs = trace.allocation.items()
    chosen = ", ".join(f"{stage} {shown(m)} x {n}" for stage, (m, n) in pairs)
    left = [f"{len(tracer.instances) - 1} other instances", f"more than {_SAMPLES} samples"]
    models = {model.name for stage in tracer.task.stages for model in stage.models}
    others = sorted(models - {model for model, _ in trace.allocation.values()})
    if others:
        left.append(f"replies of {listed(list(map(shown, others)), _MAX_NAMES)}")
    unused = [f"`{f.title}` of {f.stage}" for f in trace.unused()]
    return f"ran instance {short(name)} with {chosen}; not examined: {', '.join(left + unused)}"
