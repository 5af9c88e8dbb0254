"""What would make a search fail, found before anything is spent on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna_agenttts import FlopsCost, HuggingFaceChat, Model, PriceCost, Task
from optuna_agenttts.llm import (
    ChatModel,
    ChatRequest,
    Finding,
    Report,
    RetryingChatModel,
    examine,
)
from optuna_agenttts_integrations.calls.endpoints import Endpoint, Endpoints, RenamedChatModel
from optuna_agenttts_integrations.calls.replicas import ReplicatedChatModel
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.calls.tokens import estimated_tokens
from optuna_agenttts_integrations.exceptions import StoreError
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import Pipeline, StageProgram, State

_REACHABLE = "reachable"
"""What `examine` calls the check of whether anybody is there."""

_START = "Start the server, and check again."

_FAR = 2.0
"""A declared prompt length that is off by more than this factor makes costs meaningless."""


def check_data(
    pipeline: Pipeline, instances: Mapping[str, Any], task: Task, store: CompletionStore
) -> Report:
    """Write every prompt that needs no model's reply, and something into the store.

    Plain steps before the first stage that asks a model are run, too.
    """
    return Report((_check_store(store), _check_prompts(pipeline, instances, task)))


def _check_store(store: CompletionStore) -> Finding:
    try:
        store.check()
        count = len(store)
    except StoreError as error:
        return Finding(
            "store", "writable", "error", str(error), "Give another file, or make room."
        )
    return Finding("store", "writable", "ok", f"{count} completions in {store.path}")


def _check_prompts(pipeline: Pipeline, instances: Mapping[str, Any], task: Task) -> Finding:
    program = pipeline.programs[0]
    tokens = []
    for name, instance in instances.items():
        try:
            state = pipeline.start(instance)
            if not program.when(state):
                continue
            texts = [message.content for message in program.messages(state)]
            length = sum(estimated_tokens(text) for text in texts if text.strip())
        # Prompts are the user's code; whatever it raises is what there is to say.
        except Exception as error:
            return Finding(
                program.name,
                "prompts",
                "error",
                f"the prompt of instance {name!r} cannot be written: {error!r}",
                "Check the instance's fields, or the function that writes prompts.",
            )
        if not length:
            return Finding(
                program.name,
                "prompts",
                "error",
                f"the prompt of instance {name!r} is empty",
                "Check the instance's fields, or the function that writes prompts.",
            )
        tokens.append(length)
    if not tokens:
        return Finding(
            program.name,
            "prompts",
            "warning",
            "no instance runs this stage",
            "Check `when`: its samples would be tuned without any effect.",
        )
    declared = next(s for s in task.stages if s.name == program.name).prompt_tokens
    mean = sum(tokens) / len(tokens)
    says = f"{len(tokens)} written, about {mean:.0f} tokens on average, {max(tokens):.0f} at most"
    if not declared / _FAR <= mean <= declared * _FAR:
        return Finding(
            program.name,
            "prompts",
            "warning",
            f"{says}, and {declared:g} are declared",
            "Declare the stage's `prompt_tokens` anew, or let the first trials measure them.",
        )
    return Finding(program.name, "prompts", "ok", says)


async def check_servers(
    pipeline: Pipeline, instances: Mapping[str, Any], task: Task, endpoints: Endpoints
) -> Report:
    """Examine each of the task's models once at each of its servers.

    It is sent the longest prompt that any stage can write for it. A server that is out of reach
    is not asked again, for any model.
    """
    findings: list[Finding] = []
    unreachable: dict[str, str] = {}
    for model, programs in _uses(pipeline, task):
        endpoint = endpoints[model.name]
        longest = _longest(pipeline, programs, list(instances.values()))
        schemas = _sound_schemas(programs, findings)
        servers = chats_of(model.name, endpoint)
        for subject, chat, name in servers:
            url = chat.base_url if isinstance(chat, HuggingFaceChat) else None
            if url in unreachable:
                says = f"not asked: out of reach, as {unreachable[url]} was there"
                findings.append(Finding(subject, _REACHABLE, "error", says, _START))
                continue
            found = await examine(
                chat,
                subject=subject,
                model=name,
                longest=None if longest is None else replace(longest, model=name),
                concurrency=-(-endpoint.concurrency // len(servers)),
                stop_strings=max(len(program.stop) for program in programs),
                schema=schemas[0] if schemas else None,
                parameters=model.parameters,
            )
            findings.append(_fact(task, model, subject))
            findings += [finding for finding in found if finding.check != "size"]
            if url and any(f.check == _REACHABLE and f.level == "error" for f in found):
                unreachable[url] = subject
            elif any(isinstance(program.aggregate, LLMFusion) for program in programs):
                context = await _context(chat, name)
                findings += [f for p in programs for f in _check_fusion(p, subject, context)]
    return Report(tuple(findings))


def _fact(task: Task, model: Model, subject: str) -> Finding:
    """What the task's cost model knows of a model; a task without it cannot be built."""
    if isinstance(task.cost_model, PriceCost):
        says = (
            f"{model.input_price:g} USD for a million tokens read, {model.output_price:g} written"
        )
        return Finding(subject, "price", "ok", says)
    if isinstance(task.cost_model, FlopsCost):
        return Finding(subject, "size", "ok", f"{model.parameters:.3g} parameters")
    return Finding(subject, "cost", "ok", f"in {task.cost_model.unit or 'units of the task'}")


def _uses(pipeline: Pipeline, task: Task) -> list[tuple[Model, list[StageProgram]]]:
    """Each model, and what asks it."""
    found: dict[str, tuple[Model, list[StageProgram]]] = {}
    for program, stage in zip(pipeline.programs, task.stages):
        for model in stage.models:
            found.setdefault(model.name, (model, []))[1].append(program)
    return list(found.values())


def _sound_schemas(programs: Sequence[StageProgram], findings: list[Finding]) -> list[str]:
    """The schemas that can be sent; what is wrong with the others is added to the findings."""
    sound = []
    for program in programs:
        try:
            if program.schema is None:
                continue
            if not isinstance(json.loads(program.schema), dict):
                raise ValueError("it is no object")
            sound.append(program.schema)
        except ValueError as error:
            finding = Finding(
                program.name,
                "schema",
                "error",
                f"`schema` is no JSON schema as JSON text: {error}",
                "Give a JSON object as text, such as `json.dumps(...)` writes.",
            )
            if finding not in findings:
                findings.append(finding)
    return sound


def chats_of(name: str, endpoint: Endpoint) -> list[tuple[str, ChatModel, str]]:
    """For each server of a model: what to call it, what answers, and the model's name there."""
    chat = endpoint.chat
    if isinstance(chat, ReplicatedChatModel):
        return [
            (f"{name} ({number} of {len(chat.replicas)})", *_renamed(replica, name))
            for number, replica in enumerate(chat.replicas, 1)
        ]
    return [(name, *_renamed(chat, name))]


def _renamed(chat: ChatModel, name: str) -> tuple[ChatModel, str]:
    if isinstance(chat, RetryingChatModel):
        return _renamed(chat._chat, name)
    return (chat.chat, chat.name) if isinstance(chat, RenamedChatModel) else (chat, name)


def _longest(
    pipeline: Pipeline, programs: Sequence[StageProgram], instances: Sequence[Any]
) -> ChatRequest | None:
    """The longest request, reply included, that can be written without replies, if any can."""
    found: tuple[float, ChatRequest | None] = (0.0, None)
    for program in programs:
        for instance in instances:
            try:
                begun = pipeline.start(instance).results
                request = program.request("", State(instance, _NoResults(begun)))
                prompt = sum(estimated_tokens(message.content) for message in request.messages)
            # Later stages' prompts may need what earlier ones found.
            except Exception:
                continue
            if prompt:
                found = max(found, (prompt + program.max_tokens, request), key=lambda f: f[0])
    return found[1]


class _NoResults(dict[str, Any]):
    """Results of stages of which none has run."""

    def __missing__(self, key: str) -> None:
        return None


async def _context(chat: ChatModel, name: str) -> int | None:
    """How many tokens of prompt and reply a server takes, if it says so."""
    if not isinstance(chat, HuggingFaceChat):
        return None
    context = (await chat.info()).get("max_total_tokens")
    if context is None:
        _, entries = await chat.listing()
        context = next((e.get("max_model_len") for e in entries if e.get("id") == name), None)
    return context if isinstance(context, int) else None


def _check_fusion(program: StageProgram, subject: str, context: int | None) -> list[Finding]:
    fusion = program.aggregate
    if not isinstance(fusion, LLMFusion) or context is None:
        return []
    needed = fusion.max_prompt_tokens + program.max_tokens
    if needed <= context:
        return []
    return [
        Finding(
            subject,
            "fusion",
            "warning",
            f"a fusion in {program.name!r} may take {needed} tokens, the server takes {context}",
            f"Give `LLMFusion(max_prompt_tokens={max(1, context - program.max_tokens)})`: more "
            "candidates are then fused in groups.",
        )
    ]
