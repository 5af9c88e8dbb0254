"""``agenttts doctor``: check servers or an objective before a search."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from contextlib import closing

from optuna_agenttts import AgentTTSError, Model, TaskError
from optuna_agenttts.llm import ChatRequest, Finding, Message, Report, examine
from optuna_agenttts.llm.effort_checks import examine_efforts
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.llm.untrusted import decode_json
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.task.efforts import efforts_by_model, with_efforts
from optuna_agenttts_integrations.calls.endpoints import close_chats, connect_endpoints
from optuna_agenttts_integrations.check import (
    effort_cases,
    is_unreachable,
    name_room,
    server_chats,
    skipped_finding,
)
from optuna_agenttts_integrations.cli.objectives import IMPORT_NOTE, open_objective
from optuna_agenttts_integrations.cli.parser import Commands, add_command

_MAX_SHOWN = 80
"""Maximum length of an option in a message, in characters. Chosen by hand."""
_WIDTH = 100
"""Maximum width of the table in columns, also where the output is no terminal. Chosen by hand."""
_DETAILS = """\
It finds what
fails, and what ruins scores without an error: prompts that are cut, ignored
system messages, thoughts without an answer, ignored seeds, the wrong model.

Each model gets five to seven requests, and up to four more if something seems
wrong. Your longest prompt is sent two or three times, once for a whole reply;
the other requests take about 400 tokens in all, 2000 if the model thinks. The
table lists what was found and sent. With --thinking, each effort gets one or
two questions of up to 2048 tokens. FAIL: a search would be useless. WARN: it
might suffer. Each has a remedy.

Exit code: 0 without errors (FAIL), 1 with errors or if nothing could be
checked, 2 if options are unknown or malformed."""


def add_doctor(commands: Commands) -> None:
    """Add ``agenttts doctor`` to the command line."""
    doctor = add_command(
        commands,
        "doctor",
        _DETAILS,
        epilog="examples:\n"
        "  agenttts doctor http://127.0.0.1:8080 Qwen/Qwen2.5-7B-Instruct\n"
        "  agenttts doctor hf:groq meta-llama/Llama-3.1-8B-Instruct\n"
        "  agenttts doctor http://127.0.0.1:8000 Qwen/Qwen3-8B --thinking off,1024,8192\n"
        "  agenttts doctor my_module:objective\n\n" + IMPORT_NOTE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument(
        "target",
        help="the URL of a server, 'hf' for Hugging Face Inference Providers, or 'hf:groq' for "
        "one provider; or 'module:name' of a MultiStageObjective, or of a function without "
        "arguments that returns one",
    )
    doctor.add_argument("models", nargs="*", help="names of models (only with a server)")
    servers = doctor.add_argument_group("options for servers (an objective has its own settings)")
    servers.add_argument(
        "--concurrency", type=int, metavar="N", help="maximum concurrent requests of your search"
    )
    servers.add_argument(
        "--prompt",
        metavar="TEXT",
        help="prompt to send, for example your longest; default: a short one",
    )
    servers.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="maximum length of replies in your search; default: only the prompt is tested",
    )
    servers.add_argument(
        "--extra",
        metavar="JSON",
        help='further fields of each request, such as \'{"reasoning_effort": "low"}\'',
    )
    servers.add_argument(
        "--thinking",
        metavar="EFFORTS",
        help="thinking efforts of your search, from the least to the most, such as off,low,high "
        "or 0,1024,8192; requests are sent at the last one",
    )
    servers.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="per request; default: 300"
    )
    servers.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable with the servers' API key; default: your Hugging Face token, "
        "which is sent to Hugging Face only",
    )
    servers.add_argument("--bill-to", metavar="ORG", help="Hugging Face organization to bill")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    if options.models or "://" in options.target or options.target.split(":")[0] == "hf":
        report = _check_servers(options)
    else:
        for option, value in vars(options).items():
            if value is not None and option not in ("target", "models", "run"):
                raise AgentTTSError(
                    f"`--{option.replace('_', '-')}` applies to servers only, and "
                    f"{options.target!r} is an objective: configure its endpoints instead."
                )
        with open_objective(options.target) as objective:
            report = objective.check()
    # One column is left free, as some terminals wrap full lines.
    print(report.table(min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDTH) - 1))
    warnings = sum(finding.level == "warning" for finding in report.findings)
    print(f"\nErrors: {len(report.errors)}, warnings: {warnings}.")
    if options.models and options.prompt is None and report.ok:
        print("Pass your longest prompt as --prompt to find out whether servers cut it.")
    return 0 if report.ok else 1


def _check_servers(options: argparse.Namespace) -> Report:
    if not options.models or not all(options.models):
        raise AgentTTSError("`models` is missing: name the models to check after the server.")
    extra = _extra(options.extra)
    if options.max_tokens is not None and options.max_tokens < 1:
        raise AgentTTSError(f"`--max-tokens` must be at least 1, got {options.max_tokens}.")
    timeout = {} if options.timeout is None else {"timeout": options.timeout}
    endpoints = connect_endpoints(
        options.models,
        options.target,
        concurrency=options.concurrency,
        api_key=_api_key(options.api_key_env),
        bill_to=options.bill_to,
        **timeout,
    )
    choices = _choices(options.thinking, extra)
    room = max((m.thinking.room for m in choices if m.thinking), default=0)
    longest = None
    if options.prompt is not None:
        messages = (Message("user", options.prompt),)
        longest = ChatRequest(
            model="",
            messages=messages,
            max_tokens=(options.max_tokens or 1) + room,
            temperature=0.0,
        )
    findings: list[Finding] = []
    unreachable: str | None = None
    with closing(LoopThread(lambda: close_chats(endpoints))) as loop:
        for name, endpoint in endpoints.items():
            for subject, chat, served_name in server_chats(name, endpoint):
                if unreachable is not None:
                    # All models are on one server.
                    findings.append(skipped_finding(subject, unreachable))
                    continue
                cases = effort_cases(choices, [subject] * len(choices))
                found = loop.run(
                    examine(
                        chat,
                        subject=subject,
                        model=served_name,
                        longest=longest,
                        concurrency=endpoint.concurrency,
                        extra=extra,
                        thinking=cases[-1].thinking if cases else None,
                        prompt_only=options.max_tokens is None,
                    )
                )
                if is_unreachable(found):
                    unreachable = subject
                elif cases:
                    found = name_room(found, choices[-1])
                    asked = examine_efforts(chat, model=served_name, cases=cases, longest=longest)
                    found += loop.run(asked)
                # Without a task there is no declared size to compare with.
                findings += [finding for finding in found if finding.check != "size"]
    return Report(tuple(findings))


def _choices(efforts: str | None, extra: str | None) -> tuple[Model, ...]:
    """Return a model at each thinking effort of an option, from the least to the most."""
    if efforts is None:
        return ()
    try:
        model = Model("m", extra=json.loads(extra or "{}"))
        choices = with_efforts([model], efforts.split(","), "`--thinking`")
    except TaskError:
        raise AgentTTSError(
            "`--thinking` must be different words or numbers of tokens, separated by commas, such "
            f"as off,low,high: got {efforts!r}."
        ) from None
    return tuple(choices[position] for position in efforts_by_model(choices)["m"])


def _extra(text: str | None) -> str | None:
    """Return the further fields of requests, as JSON text of an object."""
    if text is None:
        return None
    values = decode_json(text)
    if not isinstance(values, dict):
        raise AgentTTSError(
            '`--extra` must be a JSON object, such as \'{"reasoning_effort": "low"}\', got '
            f"{one_line(text, _MAX_SHOWN)!r}."
        )
    # Checks that no field is one that requests have anyway.
    Model("m", extra=values)
    return text


def _api_key(variable: str | None) -> str | None:
    if variable is not None and not os.environ.get(variable):
        # Users may pass the key itself by mistake: do not print it.
        raise AgentTTSError(
            "`--api-key-env` must be the name of an environment variable that is set and not "
            "empty: pass the variable's name, not the key."
        )
    return None if variable is None else os.environ[variable]
