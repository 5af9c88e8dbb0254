"""What tests of the doctor share: servers, and findings by check."""

import asyncio
import json

from llm_support import (
    Sampling,
    body,
    chat_reply,
)

from optuna_agenttts.llm import (
    HuggingFaceChat,
    examine,
)

KEY = "a-key.of-my_own/server+77"
SMALL, MIDDLE = "answerer-13k", "answerer-22k"
SCHEMA = json.dumps({"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]})
WORDS = "a = 4 ; b = 3 + 2 ; a ?"
"""A prompt whose words the playground's answering models know; a word is a token."""
OPENAI = {"info": "status_404"}
"""Answers of a server that is not TGI."""


def checked(chat, *, model="served", parameters=8e9, **options):
    """Examine a chat model in an event loop of its own; returns findings by check."""

    async def work():
        try:
            return await examine(chat, subject="it", model=model, parameters=parameters, **options)
        finally:
            if isinstance(chat, HuggingFaceChat):
                await chat.aclose()

    findings = asyncio.run(work())
    assert all(finding.subject == "it" for finding in findings)
    by_check = {finding.check: finding for finding in findings}
    assert len(by_check) == len(findings)
    return by_check


def levels(found):
    """Return the level of each check."""
    return {check: finding.level for check, finding in found.items()}


def at(server, **options):
    """Connect a chat model to a server."""
    return HuggingFaceChat(base_url=server.url, **{"timeout": 10.0, **options})


def tgi(**changes):
    """TGI's page about itself."""
    values = {
        "model_id": "served",
        "max_concurrent_requests": 128,
        "max_stop_sequences": 4,
        "max_input_tokens": 4095,
        "max_total_tokens": 4096,
        "version": "3.3.6",
    }
    return body({**values, **changes})


def listing(*entries):
    """Build a response that lists models."""
    return body({"object": "list", "data": list(entries)})


def constrained(exchange):
    """Read the `response_format` of TGI; refuse others."""
    response_format = exchange.request.body.get("response_format")
    if response_format is not None and "value" not in response_format:
        exchange.reply(422, "response_format: missing field `value`")
    else:
        Sampling()(exchange)


def counting(exchange):
    """Answer differently each time."""
    exchange.reply(200, chat_reply(f"reply {len(exchange.server.requests)}"))
