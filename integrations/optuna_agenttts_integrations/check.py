"""Checks of data, store and servers before a search spends money."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from optuna_agenttts import FlopsCost, HuggingFaceChat, Model, PriceCost, Task
from optuna_agenttts.llm import (
    ChatError,
    ChatModel,
    ChatRequest,
    Finding,
    Report,
    examine,
)
from optuna_agenttts.llm.effort_checks import EffortCase, examine_efforts
from optuna_agenttts.llm.port import servers_behind
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.llm.server_facts import fetch_facts, with_loaded_context
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts_integrations.calls.endpoints import Endpoint, Endpoints
from optuna_agenttts_integrations.calls.store import CompletionStore, canonical_json
from optuna_agenttts_integrations.exceptions import StoreError
from optuna_agenttts_integrations.inspection.functions import (
    SHOWN_ERROR,
    FunctionError,
    UserFunction,
    short,
)
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stage_calls import for_choice
from optuna_agenttts_integrations.pipeline.stages import Pipeline, StageProgram, State

_REACHABLE = "reachable"
"""Name of the check of `examine` that contacts the server."""

_LENGTHS = ("context", "full length")
"""Names of the checks of `examine` that the longest reply has room."""

_LENGTH_FACTOR = 2.0
"""Factor between declared and estimated prompt length from which a warning is given. Chosen by
hand: estimates (four characters per token) are off by less for most texts."""


def check_data(
    pipeline: Pipeline, instances: Mapping[str, Any], task: Task, store: CompletionStore
) -> Report:
    """Check that the store is writable and that prompts can be built.

    Builds all prompts of the first stage that calls a model, after running the steps before it.

    Args:
        pipeline: The pipeline.
        instances: Instances by ID.
        task: The task, whose declared prompt length is compared with the prompts.
        store: Store for completions.

    Returns:
        One finding about the store and one about the prompts.
    """
    return Report((_check_store(store), _check_prompts(pipeline, instances, task)))


def _check_store(store: CompletionStore) -> Finding:
    try:
        store.check()
        count = len(store)
    except StoreError as error:
        return Finding(
            "store", "writable", "error", str(error), "Use another file, or free disk space."
        )
    return Finding("store", "writable", "ok", f"{count} completions in {store.path}")


def _check_prompts(pipeline: Pipeline, instances: Mapping[str, Any], task: Task) -> Finding:
    program = pipeline.programs[0]
    finding = partial(Finding, program.name, "prompts")
    remedy = "Check the fields of the instance and the stage's `prompt` function."
    when, prompt = (
        UserFunction(program.name, kind, getattr(program, kind)) for kind in ("when", "prompt")
    )
    tokens = []
    for name, instance in instances.items():
        try:
            state = pipeline.start(instance)
            if not when.call(state):
                continue
            built = prompt.call(state)
        except FunctionError as error:
            message = f"building the prompt of instance {name!r}: {error}"
            return finding("error", message, f"{error.function.remedy} {remedy}")
        # Steps may raise anything, also messages that hold the key of a server.
        except Exception as error:
            cause = redact(short(error, SHOWN_ERROR), ())
            message = f"a step before this stage raised {cause} on instance {name!r}"
            remedy = "Correct the step, or add the exception to its `fails_on`."
            return finding("error", message, remedy)
        texts = [built] if isinstance(built, str) else [message.content for message in built]
        tokens.append(sum(estimated_tokens(text) for text in texts))
    if not tokens:
        return finding(
            "warning",
            "no instance runs this stage",
            "Check the stage's `when`: tuning its samples has no effect.",
        )
    declared = next(s for s in task.stages if s.name == program.name).prompt_tokens
    mean = sum(tokens) / len(tokens)
    message = f"{len(tokens)} built, about {mean:.0f} tokens on average, {max(tokens):.0f} at most"
    if not declared / _LENGTH_FACTOR <= mean <= declared * _LENGTH_FACTOR:
        return finding(
            "warning",
            f"{message}, but the task declares {declared:g}",
            "Correct the stage's `prompt_tokens`, or let the first trials measure them.",
        )
    return finding("ok", message)


async def check_servers(
    pipeline: Pipeline, instances: Mapping[str, Any], task: Task, endpoints: Endpoints
) -> Report:
    """Check each of the task's models at each of its servers.

    Sends the longest prompt that the stages of a model can build without replies. A server that is
    unreachable for one model is skipped for the others.

    Args:
        pipeline: The pipeline.
        instances: Instances by ID.
        task: The task, whose models are checked.
        endpoints: Endpoint of each model, by name.

    Returns:
        Findings about schemas, models and servers.
    """
    findings: list[Finding] = []
    unreachable: dict[str, str] = {}
    for models, programs in _programs_by_model(pipeline, task, endpoints):
        model, endpoint = models[-1], endpoints[models[-1].name]
        longest = _longest_request(pipeline, programs, list(instances.values()), model)
        schemas = _valid_schemas(programs, findings)
        labels = [server_chats(each.name, endpoint, each.served_name) for each in models]
        for number, (subject, chat, name) in enumerate(labels[-1]):
            url = chat.base_url if isinstance(chat, HuggingFaceChat) else None
            subjects = [label[number][0] for label in labels]
            if url in unreachable:
                findings += [skipped_finding(each, unreachable[url]) for each in subjects]
                continue
            found = await examine(
                chat,
                subject=subject,
                model=name,
                longest=None if longest is None else replace(longest, model=name),
                concurrency=-(-endpoint.concurrency // len(labels[-1])),
                stop_strings=max(len(program.stop) for program in programs),
                schema=schemas[0] if schemas else None,
                parameters=model.parameters,
                extra=canonical_json(dict(model.extra)) if model.extra else None,
            )
            findings.append(_cost_finding(task, model, subject))
            findings += [f for f in name_room(found, model) if f.check != "size"]
            if url and is_unreachable(found):
                unreachable[url] = subject
                findings += [skipped_finding(each, subject) for each in subjects[:-1]]
                continue
            if model.thinking is not None:
                findings += await examine_efforts(
                    chat, model=name, cases=effort_cases(models, subjects), longest=longest
                )
            if any(isinstance(program.aggregate, LLMFusion) for program in programs):
                context = await _context_length(chat, name)
                findings += [
                    f for p in programs for f in _check_fusion(p, model, subject, context)
                ]
    return Report(tuple(findings))


def effort_cases(models: Sequence[Model], subjects: Sequence[str]) -> list[EffortCase]:
    """Return a model's thinking efforts as `examine_efforts` checks them."""
    blank = ChatRequest(model="", messages=(), max_tokens=1, temperature=0.0)
    return [
        EffortCase(
            subject=subject,
            effort=model.thinking.effort,
            thinking=for_choice(blank, model).thinking,
            extra=for_choice(blank, model).extra,
        )
        for model, subject in zip(models, subjects)
        if model.thinking is not None
    ]


def name_room(findings: Sequence[Finding], model: Model) -> tuple[Finding, ...]:
    """Return findings about a model, with a remedy if its room for thoughts is too large."""
    thinking = model.thinking
    if thinking is None or not thinking.room:
        return tuple(findings)
    remedy = (
        f"{thinking.room} of these tokens are room for thoughts at effort {thinking.effort!r}: "
        "leave this effort out, or give a smaller one, such as a number of tokens. Otherwise: "
    )
    return tuple(
        replace(found, remedy=remedy + found.remedy.rpartition("Otherwise: ")[2])
        if found.check in _LENGTHS and found.level != "ok"
        else found
        for found in findings
    )


def is_unreachable(findings: Sequence[Finding]) -> bool:
    """Return whether findings about a server include that it is unreachable."""
    return any(f.check == _REACHABLE and f.level == "error" for f in findings)


def skipped_finding(subject: str, earlier: str) -> Finding:
    """Report a model that was skipped because its server was unreachable for an earlier one."""
    return Finding(
        subject,
        _REACHABLE,
        "error",
        f"skipped: the server was unreachable for {earlier}",
        "Start the server, and check again.",
    )


def _cost_finding(task: Task, model: Model, subject: str) -> Finding:
    """Report the model facts that the task's cost model uses."""
    if isinstance(task.cost_model, PriceCost):
        message = (
            f"{model.input_price:g} USD per million prompt tokens, "
            f"{model.output_price:g} USD per million generated tokens"
        )
        return Finding(subject, "price", "ok", message)
    if isinstance(task.cost_model, FlopsCost):
        return Finding(subject, "size", "ok", f"{model.parameters:.3g} parameters")
    return Finding(subject, "cost", "ok", f"in {task.cost_model.unit or 'units of the task'}")


def _programs_by_model(
    pipeline: Pipeline, task: Task, endpoints: Endpoints
) -> list[tuple[list[Model], list[StageProgram]]]:
    """Pair each model with the stages that may call it.

    A model is its choices of several thinking efforts at one endpoint, from the least to the most.
    """
    choices: dict[tuple[str, int], dict[str, Model]] = {}
    programs: dict[tuple[str, int], list[StageProgram]] = {}
    for program, stage in zip(pipeline.programs, task.stages):
        for model in stage.models:
            shared = id(endpoints[model.name]) if model.thinking is not None else 0
            key = model.served_name, shared
            choices.setdefault(key, {}).setdefault(model.name, model)
            if program not in (callers := programs.setdefault(key, [])):
                callers.append(program)
    return [
        (sorted(found.values(), key=lambda m: m.thinking.tokens if m.thinking else 0.0), each)
        for found, each in zip(choices.values(), programs.values())
    ]


def _valid_schemas(programs: Sequence[StageProgram], findings: list[Finding]) -> list[str]:
    """Return the valid schemas; append a finding for each invalid one."""
    valid = []
    for program in programs:
        try:
            if program.schema is None:
                continue
            if not isinstance(json.loads(program.schema), dict):
                raise ValueError("it is not a JSON object")
            valid.append(program.schema)
        except ValueError as error:
            finding = Finding(
                program.name,
                "schema",
                "error",
                f"`schema` is not a valid JSON schema: {error}",
                "Pass a JSON object as text, for example with `json.dumps(...)`.",
            )
            if finding not in findings:
                findings.append(finding)
    return valid


def server_chats(
    name: str, endpoint: Endpoint, served_name: str = ""
) -> list[tuple[str, ChatModel, str]]:
    """List the servers of a model.

    Args:
        name: Name of the model in the task.
        endpoint: Endpoint of the model.
        served_name: Name of the model on its servers, as requests have it. Default: `name`.

    Returns:
        For each server: a label, the chat model that calls it without retries, and the model's
        name on that server.
    """
    servers = servers_behind(endpoint.chat)
    return [
        (
            name if len(servers) == 1 else f"{name} ({i} of {len(servers)})",
            chat,
            there or served_name or name,
        )
        for i, (chat, there) in enumerate(servers, 1)
    ]


def _longest_request(
    pipeline: Pipeline, programs: Sequence[StageProgram], instances: Sequence[Any], model: Model
) -> ChatRequest | None:
    """Return a model's longest request, reply included, that can be built without replies."""
    found: tuple[float, ChatRequest | None] = (0.0, None)
    for program in programs:
        for instance in instances:
            try:
                results = pipeline.start(instance).results
                request = program.request("", State(instance, _MissingResults(results)))
                prompt = sum(estimated_tokens(message.content) for message in request.messages)
            # Prompts of later stages may need results of earlier ones.
            except Exception:
                continue
            if prompt:
                found = max(found, (prompt + program.max_tokens, request), key=lambda f: f[0])
    return found[1] and for_choice(found[1], model)


class _MissingResults(dict[str, Any]):
    """Results that are None for stages that have not run."""

    def __missing__(self, key: str) -> None:
        return None


async def _context_length(chat: ChatModel, name: str) -> int | None:
    """Return the maximum number of prompt and reply tokens, if the server reports it."""
    if not isinstance(chat, HuggingFaceChat):
        return None
    try:
        return (await with_loaded_context(chat, await fetch_facts(chat, name), name)).max_total
    except ChatError:
        # The key is invalid, which `examine` has reported.
        return None


def _check_fusion(
    program: StageProgram, model: Model, subject: str, context: int | None
) -> list[Finding]:
    fusion = program.aggregate
    if not isinstance(fusion, LLMFusion) or context is None:
        return []
    reply = program.max_tokens + (0 if model.thinking is None else model.thinking.room)
    needed = fusion.max_prompt_tokens + reply
    if needed <= context:
        return []
    return [
        Finding(
            subject,
            "fusion",
            "warning",
            f"a fusion in stage {program.name!r} may need {needed} tokens, but the server's "
            f"context is {context} tokens",
            f"Use `LLMFusion(max_prompt_tokens={max(1, context - reply)})`, which "
            "fuses many candidates in groups.",
        )
    ]
