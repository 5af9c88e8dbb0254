"""``agenttts doctor``: check servers or an objective before a search."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from operator import attrgetter
from pathlib import Path

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm import ChatRequest, Finding, Message, Report, examine
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.check import chats_of
from optuna_agenttts_integrations.cli.parser import Commands, add_command
from optuna_agenttts_integrations.objective import MultiStageObjective, close_chats


def add_doctor(commands: Commands) -> None:
    """Add ``agenttts doctor`` to the command line."""
    doctor = add_command(
        commands,
        "doctor",
        "check servers, or an objective, before any money is spent",
        "Each model is asked a\nhandful of requests for a token or a few each. A table says what "
        "is wrong (FAIL), what may\nbe (WARN), and what to do.",
        epilog="examples:\n"
        "  agenttts doctor http://127.0.0.1:8080 Qwen/Qwen2.5-7B-Instruct\n"
        "  agenttts doctor hf:groq meta-llama/Llama-3.1-8B-Instruct\n"
        "  agenttts doctor my_module:objective\n\n"
        "my_module is imported, from this folder too: a search that it starts should be under\n"
        "`if __name__ == '__main__':`, or it starts now.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument(
        "what",
        help="where models live: the URL of a server, 'hf' for Hugging Face Inference Providers "
        "or 'hf:groq' for one of them; or 'module:name' of a MultiStageObjective, or of a "
        "function without arguments that returns one",
    )
    doctor.add_argument("models", nargs="*", help="names of models; not with 'module:name'")
    servers = doctor.add_argument_group("for servers (an objective has its own)")
    servers.add_argument(
        "--concurrency", type=int, metavar="N", help="requests under way at once in your search"
    )
    servers.add_argument(
        "--prompt", metavar="TEXT", help="what to ask, such as your longest; default: a short one"
    )
    servers.add_argument("--timeout", type=float, metavar="SECONDS", help="default: 300")
    servers.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable that holds the servers' key; default: your Hugging Face "
        "token, for Hugging Face only",
    )
    servers.add_argument("--bill-to", metavar="ORG", help="organization of the Hub that pays")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    if options.models or "://" in options.what or options.what.split(":")[0] == "hf":
        report = _check_servers(options)
    else:
        for option in ("concurrency", "prompt", "timeout", "api_key_env", "bill_to"):
            if getattr(options, option) is not None:
                raise AgentTTSError(
                    f"`--{option.replace('_', '-')}` is for servers and {options.what!r} names "
                    "none: an objective's endpoints have their own."
                )
        with _objective(options.what) as objective:
            report = objective.check()
    print(report)
    return 0 if report.ok else 1


def _check_servers(options: argparse.Namespace) -> Report:
    if not options.models or not all(options.models):
        raise AgentTTSError("`what` says where models live: name the models to check, too.")
    more = {} if options.timeout is None else {"timeout": options.timeout}
    endpoints = connect_endpoints(
        options.models,
        options.what,
        concurrency=options.concurrency,
        api_key=_key(options.api_key_env),
        bill_to=options.bill_to,
        **more,
    )
    longest = None
    if options.prompt is not None:
        asked = (Message("user", options.prompt),)
        longest = ChatRequest(model="", messages=asked, max_tokens=16, temperature=0.0)
    findings: list[Finding] = []
    with closing(LoopThread(lambda: close_chats(endpoints))) as loop:
        for name, endpoint in endpoints.items():
            for subject, chat, there in chats_of(name, endpoint):
                dead = [f for f in findings if f.check == "reachable" and f.level == "error"]
                if dead:
                    # All of them live at one place.
                    says = f"not asked: out of reach, as {dead[0].subject} was there"
                    findings.append(Finding(subject, "reachable", "error", says, dead[0].remedy))
                    continue
                found = examine(
                    chat,
                    subject=subject,
                    model=there,
                    longest=longest,
                    concurrency=endpoint.concurrency,
                )
                # What a task would be told of sizes is not known here.
                findings += [finding for finding in loop.run(found) if finding.check != "size"]
    return Report(tuple(findings))


def _key(variable: str | None) -> str | None:
    if variable is not None and not os.environ.get(variable):
        # Whoever gives the key itself does not want to see it here.
        raise AgentTTSError(
            "`--api-key-env` names no environment variable, or an empty one: give the name of "
            "one that holds the key, not the key."
        )
    return None if variable is None else os.environ[variable]


@contextmanager
def _objective(name: str) -> Iterator[MultiStageObjective]:
    """The objective of that name; this folder's modules can be imported while it is used.

    Raises:
        AgentTTSError: There is none.
    """
    module, _, attribute = name.partition(":")
    parts = f"{module}.{attribute}".split(".")
    if module.endswith(".py") or not all(part.isidentifier() for part in parts):
        raise AgentTTSError(
            f"{name!r} is neither a place ('hf', or a URL such as 'http://127.0.0.1:8080') nor "
            "'module:name' of an objective, where the module is as `import` takes it: without "
            "'.py', with dots between folders."
        )
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        with _reported(f"importing {module!r}"):
            imported = importlib.import_module(module)
        try:
            found = attrgetter(attribute)(imported)
        except AttributeError as error:
            raise AgentTTSError(f"{name!r} cannot be had: {error}.") from error
        if callable(found) and not isinstance(found, MultiStageObjective):
            with _reported(f"calling {name!r} without arguments"):
                found = found()
        if not isinstance(found, MultiStageObjective):
            raise AgentTTSError(
                f"{name!r} is of type {type(found).__name__}: give a MultiStageObjective, or a "
                "function that returns one."
            )
        with found:
            yield found
    finally:
        sys.path[:] = before


@contextmanager
def _reported(doing: str) -> Iterator[None]:
    """Say in one line what somebody else's code raises, and where."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = [
            f" (in {frame.filename}, line {frame.lineno})"
            for frame in frames
            if not frame.filename.startswith((__file__, str(importlib.__file__), "<frozen"))
        ]
        raise AgentTTSError(
            f"{doing} raised {type(error).__name__}: {error}{where[-1] if where else ''}"
        ) from error
