"""Checks of what ruins a search without an error, and none of it at healthy servers."""

import asyncio
import json
from dataclasses import replace

import pytest
from doctor_support import (
    OPENAI,
    SCHEMA,
    at,
    checked,
    listing,
    tgi,
)
from llm_support import (
    AdversarialServer,
    Sampling,
    ask,
    body,
)

from optuna_agenttts.llm import (
    ChatRequest,
    Message,
    examine,
)

LONG = ask("many words of a question " * 60, max_tokens=40)
"""A request of 300 words; a word is a token, and the server's template adds ten."""
WITH_SYSTEM = ChatRequest(
    model="",
    messages=(Message("system", "Answer in one word."), *LONG.messages),
    max_tokens=40,
    temperature=0.7,
)

SILENT = {
    "cut": (Sampling(context=128), LONG, "whole prompt", "error", "128 tokens, and 128 for"),
    "cut to parts": (
        lambda exchange: cut_by_blocks(exchange),
        ask("many words of a question " * 240, max_tokens=40),
        "whole prompt",
        "error",
        "cuts prompts without an error",
    ),
    "cached tokens left out": (
        lambda exchange: Sampling(counts=50 if len(exchange.server.chats) > 1 else 310)(exchange),
        LONG,
        "whole prompt",
        "warning",
        "310 tokens, but 50 for",
    ),
    "no usage": (Sampling(counts=False), LONG, "usage", "warning", "no token counts"),
    "zeros": (Sampling(counts=0), LONG, "usage", "warning", "no token counts"),
    "replies not counted": (
        Sampling(counts_replies=False),
        LONG,
        "usage",
        "warning",
        "no count of generated tokens",
    ),
    "made-up usage": (Sampling(counts=11), LONG, "usage", "warning", "11 tokens for prompts of"),
    "system ignored": (
        Sampling(system="ignored"),
        WITH_SYSTEM,
        "system role",
        "error",
        "would not see the instructions",
    ),
    "system ignored, not needed": (
        Sampling(system="ignored"),
        None,
        "system role",
        "warning",
        "still has 13 tokens",
    ),
    "system breaks the template": (
        Sampling(system="broken"),
        None,
        "system role",
        "warning",
        "refuses the role (HTTP 500: Internal Server Error)",
    ),
    "system breaks the template, with a prompt": (
        Sampling(system="broken"),
        LONG,
        "system role",
        "warning",
        "refuses the role (HTTP 500: Internal Server Error)",
    ),
    "seeds ignored": (Sampling(seeds="ignored"), LONG, "seeds", "warning", "two different"),
    "seeds cached": (Sampling(seeds="cached"), LONG, "samples", "warning", "different seeds give"),
    "one text": (Sampling(text="I am fine"), None, "samples", "warning", "'I am fine'"),
    "endless thoughts": (
        Sampling(thoughts=99),
        LONG,
        "full length",
        "warning",
        "40 tokens of thoughts and no answer",
    ),
    "hidden endless thoughts": (
        Sampling(thoughts=5000, visible=False),
        None,
        "thoughts",
        "warning",
        "1024 tokens of thoughts and no answer",
    ),
    "special token": (
        Sampling(end="<|im_end|>\n<|im_start|>user"),
        LONG,
        "special tokens",
        "warning",
        "'<|im_",
    ),
    "end token": (Sampling(end="</s><unk>"), LONG, "special tokens", "warning", "'<unk>'"),
    "smaller model": (Sampling(name="qwen3-0.6b"), LONG, "model", "error", "by 'qwen3-0.6b'"),
    "other model": (Sampling(name="llama-4"), LONG, "model", "error", "by 'llama-4'"),
    "mini model": (Sampling(name="qwen3-8b-mini"), LONG, "model", "error", "qwen3-8b-mini'"),
}
"""Behavior, longest request, and the check, level and words of the finding."""


def cut_by_blocks(exchange):
    """Cut prompts of more than 256 tokens by whole blocks, as llama.cpp did: counts still grow."""
    words = sum(len(message["content"].split()) for message in exchange.request.body["messages"])
    left = words + 10
    while left > 256:
        left -= 128
    Sampling(counts=left)(exchange)


@pytest.mark.parametrize("name", sorted(SILENT))
def test_what_ruins_a_search_without_an_error_is_found(name):
    """One finding says what happens, what it does to a search, and the remedy."""
    behaviour, longest, check, level, words = SILENT[name]
    with AdversarialServer(behaviour, models="status_404", **OPENAI) as server:
        found = checked(at(server), model="qwen3-8b", longest=longest)
        calls = len(server.chats)
    wrong = {finding.check for finding in found.values() if finding.level != "ok"}
    # The server does not list its models.
    assert wrong - {"model"} == {check} - {"model"}
    assert found[check].level == level
    assert words in found[check].message
    assert "search" in found[check].message
    assert found[check].remedy
    assert calls <= 9
    # A server that closes a connection after an error may miss a request that was on its way.
    missed = "breaks" in name
    assert calls <= int(found["requests"].message.split()[0]) <= calls + missed


GEMMA = {"system": "refused"}
OPENAI_PRO = {"refused": ("max_tokens", "temperature", "seed"), "thoughts": 90, "visible": False}
HEALTHY = {
    "TGI": ({}, {"info": tgi(model_id="org/qwen3-8b")}),
    "TGI, Gemma": (GEMMA, {"info": tgi(model_id="org/qwen3-8b")}),
    "vLLM": ({"thoughts": 20}, {"models": listing({"id": "org/qwen3-8b", "max_model_len": 999})}),
    "SGLang": ({"thoughts": 9, "visible": False}, {"models": listing({"id": "org/qwen3-8b"})}),
    "llama.cpp": (
        {"name": "Qwen3-8B-Q4_K_M.gguf", "refuse": 900},
        {"models": listing({"id": "org/qwen3-8b", "owned_by": "llamacpp"})},
    ),
    "Ollama": (
        {"thoughts": 20},
        {"models": listing({"id": "org/qwen3-8b", "owned_by": "library"})},
    ),
    "LM Studio": ({"name": "qwen3-8b@q4_k_m"}, {"models": listing({"id": "qwen3-8b"})}),
    "LiteLLM": ({"name": "gpt-4o-2024-08-06"}, {"models": listing({"id": "org/qwen3-8b"})}),
    "HF router": ({"name": "accounts/fireworks/models/qwen3-8b"}, {"models": "status_401"}),
    "OpenAI": (OPENAI_PRO, {}),
    "OpenAI, unfinished": ({**OPENAI_PRO, "unfinished": True}, {}),
    "Mistral": ({"refused": ("seed",)}, {}),
    "OpenRouter": (
        {"thoughts": 20, "beyond": True, "name": "qwen/qwen3-8b:free"},
        {"models": listing({"id": "org/qwen3-8b", "context_length": 40960})},
    ),
    "Groq": (
        {"name": "qwen3-8b"},
        {"models": listing({"id": "qwen3-8b", "context_window": 9999})},
    ),
}


@pytest.mark.parametrize("longest", [None, LONG, WITH_SYSTEM], ids=["short", "long", "system"])
@pytest.mark.parametrize("name", sorted(HEALTHY))
def test_healthy_servers_of_each_dialect_raise_no_false_alarm(name, longest):
    """Only lost parameters and unlisted names are warnings; about seven requests are sent."""
    quirks, pages = HEALTHY[name]
    pages = {**OPENAI, "models": listing({"id": "org/qwen3-8b"}), **pages}
    longest = longest and replace(longest, max_tokens=120)

    async def examined(chat):
        try:
            return await examine(chat, subject="it", model="org/qwen3-8b", longest=longest)
        finally:
            await chat.aclose()

    with AdversarialServer(Sampling(**quirks), **pages) as server:
        found = asyncio.run(examined(at(server)))
        calls = len(server.chats)
    wrong = [f for f in found if f.level != "ok" and f.check not in ("size", "parameters")]
    if name in ("HF router", "LM Studio", "Groq"):
        wrong = [f for f in wrong if f.check != "model"]
    assert not wrong
    # Parameters are negotiated again if the first call with them fails.
    negotiated = len(quirks.get("refused", ())) * (1 + quirks.get("unfinished", False))
    assert calls <= 8 + negotiated


def test_a_search_with_system_messages_that_break_the_template_is_an_error():
    """Some servers reply with status 500 and no words, and close the connection."""
    with AdversarialServer(Sampling(system="broken"), **OPENAI) as server:
        found = checked(at(server), longest=WITH_SYSTEM)
        assert len(server.chats) == 2
    assert found["one token"].level == found["system role"].level == "error"
    assert "request_parameters={'system': None}" in found["system role"].remedy
    with AdversarialServer(Sampling(system="broken"), **OPENAI) as server:
        chat = at(server, request_parameters={"system": None})
        found = checked(chat, longest=WITH_SYSTEM)
    assert {finding.level for finding in found.values()} == {"ok"}


def test_a_connection_that_a_server_closes_after_an_error_is_opened_again():
    """The next call of the doctor is not lost."""

    def behave(exchange):
        number = len(exchange.server.chats)
        if number == 2:
            exchange.reply(500, "Internal Server Error")
        elif number == 3:
            exchange.hang_up()
        else:
            Sampling()(exchange)

    with AdversarialServer(behave, **OPENAI) as server:
        found = checked(at(server), longest=LONG)
    assert found["full length"].level == "ok"
    assert found["whole prompt"].level == "warning"


def test_a_prompt_that_is_refused_is_not_cut():
    """A server that refuses the longer prompt accepts the longest one."""
    with AdversarialServer(Sampling(refuse=311), **OPENAI) as server:
        found = checked(at(server), longest=LONG)
    assert found["whole prompt"].level == "ok"
    assert "refused instead of cut" in found["whole prompt"].message


def test_equal_replies_to_the_searchs_own_prompt_are_no_finding():
    """A model that refuses other prompts may have one answer to it."""

    def knows_one(exchange):
        if "many words" in exchange.request.body["messages"][-1]["content"]:
            Sampling(text="yes")(exchange)
        else:
            exchange.reply(422, {"error": "unknown words"})

    with AdversarialServer(knows_one, **OPENAI) as server:
        found = checked(at(server), longest=LONG)
    assert found["seeds"].level == "ok"
    assert "samples" not in found


def test_further_fields_are_sent_with_every_request():
    """Those of `Model.extra` may decide whether a model thinks, or whether it answers at all."""
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    with AdversarialServer(Sampling(), **OPENAI) as server:
        checked(at(server), longest=LONG, schema=SCHEMA, extra=json.dumps(extra))
        sent = [request.body for request in server.chats]
    assert len(sent) == 7
    assert all(body["reasoning_effort"] == "low" for body in sent)
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in sent)
    with AdversarialServer(Sampling(refused=("reasoning_effort",)), **OPENAI) as server:
        found = checked(at(server), longest=replace(LONG, extra=json.dumps(extra)))
    assert found["one token"].level == "error"
    assert "Remove 'reasoning_effort' from `Model(extra=...)`" in found["one token"].remedy


@pytest.mark.parametrize(
    ("owner", "page"),
    [
        ("llamacpp", {"default_generation_settings": {"n_ctx": 330}}),
        ("library", {"models": [{"name": "served", "context_length": 330}]}),
    ],
)
def test_the_context_of_a_loaded_model_is_compared(owner, page):
    """llama.cpp and Ollama list none, and generate beyond it without an error."""

    class Server(AdversarialServer):
        def _choose(self, path):
            return body(page) if path in ("/props", "/api/ps") else super()._choose(path)

    models = listing({"id": "served", "owned_by": owner})
    with Server(Sampling(), models=models, **OPENAI) as server:
        found = checked(at(server), longest=LONG)
    assert found["context"].level == "error"
    assert "310 tokens and the reply up to 40, 350 in total" in found["context"].message
    assert "cut without an error" in found["context"].message


def test_thoughts_beyond_max_tokens_need_room_in_the_context():
    """Servers that do not count thoughts as `max_tokens` need more than the sum."""
    entry = {"id": "served", "context_length": 400}
    behaviour = Sampling(thoughts=99, beyond=True)
    with AdversarialServer(behaviour, models=listing(entry), **OPENAI) as server:
        found = checked(at(server), longest=LONG)
    assert found["full length"].level == "ok"
    assert "99 of them thoughts" in found["full length"].message
    assert found["context"].level == "error"
    assert "thoughts beyond `max_tokens` included" in found["context"].message
