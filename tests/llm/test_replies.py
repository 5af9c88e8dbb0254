"""What replies of servers mean: one recorded reply for each server and situation."""

import json

import pytest
from llm_support import AdversarialServer, ask, body
from test_huggingface import run

from optuna_agenttts import HuggingFaceChat
from optuna_agenttts.llm import ChatError, ChatRefusedError, ChatUnavailableError, Completion
from optuna_agenttts.llm.replies import completion_from_json, parse_completion

USAGE = {"prompt_tokens": 12, "completion_tokens": 64, "total_tokens": 76}


def reply(content="Paris", finish="stop", usage=USAGE, message=None, choice=None, **more):
    """Return the body of a reply in OpenAI's format."""
    message = {"role": "assistant", "content": content, **(message or {})}
    choice = {"index": 0, "message": message, "finish_reason": finish, **(choice or {})}
    return {"object": "chat.completion", "choices": [choice], "usage": usage, **more}


def read(values):
    """Return what a body becomes, as the URL path reads it."""
    content = values if isinstance(values, bytes) else json.dumps(values).encode()
    return parse_completion(content, ask("x" * 40, max_tokens=64), "m at s")


# Server and situation: body, text, thoughts, finish reason, tokens generated, tokens of thoughts.
COMPLETIONS = {
    "TGI": (reply(finish="eos_token"), "Paris", "", "eos_token", 64, 0),
    "vLLM, parser": (
        reply(message={"reasoning": "hm", "reasoning_content": None}),
        *("Paris", "hm", "stop", 64, 18),
    ),
    "vLLM, all thoughts": (reply(None, "length"), "", "", "length", 64, 64),
    "SGLang, all thoughts": (
        reply("", "length", message={"reasoning_content": "hm"}),
        *("", "hm", "length", 64, 64),
    ),
    "llama.cpp, template with the opening tag": (
        reply("so it is\n</think>\n\nParis"),
        *("Paris", "so it is", "stop", 64, 39),
    ),
    "Ollama, no parser": (
        reply("<think>\nhm\n</think>\nParis"),
        *("Paris", "hm", "stop", 64, 18),
    ),
    "Ollama, cut off": (
        reply("<think>\nAnswer: Rome", "length"),
        "",
        "Answer: Rome",
        "length",
        64,
        64,
    ),
    "LM Studio, special token": (reply("Paris<|im_end|>\n"), "Paris", "", "stop", 64, 0),
    "Llama 2, special tokens": (reply("Paris</s></s>"), "Paris", "", "stop", 64, 0),
    "LiteLLM, error is null": (reply(error=None), "Paris", "", "stop", 64, 0),
    "OpenAI, o": (
        reply(usage={**USAGE, "completion_tokens_details": {"reasoning_tokens": 60}}),
        *("Paris", "", "stop", 64, 60),
    ),
    "OpenAI, refusal": (
        reply(None, message={"refusal": "I cannot help with that."}),
        *("", "", "refusal", 64, 0),
    ),
    "Azure, filter": (reply(None, "content_filter"), "", "", "content_filter", 64, 0),
    "tool calls": (
        reply(None, "tool_calls", message={"tool_calls": [{"id": "1"}]}),
        *("", "", "tool_calls", 64, 0),
    ),
    "Mistral, thinking": (
        reply(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "Paris"},
            ]
        ),
        *("Paris", "hm", "stop", 64, 18),
    ),
    "parts": (reply([{"text": "Pa"}, "ris"]), "Paris", "", "stop", 64, 0),
    "xAI": (
        reply(
            usage={
                **{"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 317},
                "completion_tokens_details": {"reasoning_tokens": 300},
            }
        ),
        *("Paris", "", "stop", 305, 300),
    ),
    "DeepSeek": (
        reply(message={"reasoning_content": "hm"}),
        *("Paris", "hm", "stop", 64, 18),
    ),
    "Gemini, zeros": (
        reply(usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
        *("Paris", "", "stop", 1, 0),
    ),
    "gpt-oss without a parser": (
        reply(
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"
            "Paris<|return|>"
        ),
        *("Paris", "hm<|end|>", "stop", 64, 41),
    ),
    "Together, text": (
        reply(choice={"message": None, "text": "Paris", "finish_reason": "eos"}),
        *("Paris", "", "eos", 64, 0),
    ),
    "OpenRouter, details alone": (
        reply(
            message={
                "reasoning_details": [
                    {"type": "reasoning.summary", "summary": "h"},
                    {"type": "reasoning.text", "text": "m", "signature": "s"},
                    {"type": "reasoning.encrypted", "data": "gAAAA"},
                ]
            }
        ),
        *("Paris", "hm", "stop", 64, 18),
    ),
    "OpenRouter, details beside the text of them": (
        reply(
            message={
                "reasoning": "hm",
                "reasoning_details": [{"type": "reasoning.text", "text": "hm"}],
            }
        ),
        *("Paris", "hm", "stop", 64, 18),
    ),
    "length without counts": (reply(None, "length", usage=None), "", "", "length", 64, 64),
    "events that were not asked for": (
        b'data: {"choices":[{"delta":{"content":"Pa"}}]}\n\ndata: {"choices":[{"delta":'
        b'{"content":"ris"},"finish_reason":"stop"}]}\n\ndata: {"choices":[],"usage":'
        + json.dumps(USAGE).encode()
        + b"}\n\ndata: [DONE]\n\n",
        *("Paris", "", "stop", 64, 0),
    ),
    "byte order mark": (
        b"\xef\xbb\xbf" + json.dumps(reply()).encode(),
        *("Paris", "", "stop", 64, 0),
    ),
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completions(name):
    """The text, why it ended, and its tokens, thoughts included."""
    values, *expected = COMPLETIONS[name]
    found = read(values)
    assert [
        *(found.text, found.thoughts, found.finish_reason),
        *(found.usage.completion_tokens, found.thought_tokens),
    ] == expected


# Server and situation: body, error, its kind, words of the server.
ERRORS = {
    "vLLM shuts down": (reply("Answer: Par", "abort"), ChatUnavailableError, "abort"),
    "cancelled": (reply("Par", "CANCELLED"), ChatUnavailableError, "CANCELLED"),
    "DeepSeek": (
        reply("Par", "insufficient_system_resource"),
        *(ChatUnavailableError, "insufficient_system_resource"),
    ),
    "OpenRouter, error in the choice": (
        reply("", "error", choice={"error": {"code": 502, "message": "upstream is down"}}),
        *(ChatUnavailableError, "upstream is down"),
    ),
    "OpenRouter, rate": (
        {"error": {"message": "Rate limit exceeded: free-models-per-min", "code": 429}},
        *(ChatUnavailableError, "HTTP 429: Rate limit exceeded"),
    ),
    "OpenRouter, provider": (
        {"error": {"message": "Provider error", "code": 400, "metadata": {"raw": "no seeds"}}},
        *(ChatRefusedError, "no seeds"),
    ),
    "credits": (
        {"id": None, "choices": None, "error": {"message": "Insufficient credits", "code": "402"}},
        *(ChatRefusedError, "HTTP 402: Insufficient credits"),
    ),
    "LM Studio": (
        {"error": "Unexpected endpoint or method. (POST /v1). Returning 200 anyway"},
        *(ChatRefusedError, "Unexpected endpoint"),
    ),
    "Gemini": (
        [{"error": {"code": 429, "message": "exhausted", "status": "RESOURCE_EXHAUSTED"}}],
        *(ChatUnavailableError, "HTTP 429: exhausted"),
    ),
    "TGI": (
        {"error": "Model is overloaded", "error_type": "overloaded"},
        *(ChatUnavailableError, "Model is overloaded"),
    ),
    "vLLM, flat": (
        {"object": "error", "message": "no such model", "type": "NotFoundError", "code": 404},
        *(ChatRefusedError, "HTTP 404: no such model"),
    ),
    "no choices": (
        {"choices": None, "message": "Server busy"},
        *(ChatUnavailableError, "Server busy"),
    ),
    "FastAPI": ({"detail": "Model is loading"}, ChatUnavailableError, "Model is loading"),
    "MiniMax": (
        {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
        *(ChatUnavailableError, "rate limit"),
    ),
    "names of codes": (
        {"error": {"code": "invalid_api_key", "message": "Check the header"}},
        *(ChatRefusedError, "Check the header"),
    ),
    "no words": ({"error": {}, "choices": []}, ChatUnavailableError, "no text"),
    "half an event stream": (
        b'data: {"choices":[{"delta":{"content":"Par"}}]}\n\n',
        *(ChatUnavailableError, "not JSON"),
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_with_status_200(name):
    """They count as their own code would, and keep the server's words."""
    values, kind, words = ERRORS[name]
    with pytest.raises(ChatError) as caught:
        read(values)
    assert type(caught.value) is kind
    assert words in str(caught.value)


def test_tokens_of_failed_replies_are_known():
    """As far as the server counted them; else the reply counts as lost."""
    for usage, expected in ((USAGE, (64, False)), (None, (None, True))):
        with pytest.raises(ChatUnavailableError) as caught:
            read(reply("Par", "abort", usage=usage))
        error = caught.value
        assert (error.usage and error.usage.completion_tokens, error.lost) == expected


@pytest.mark.parametrize(
    "name", [name for name in COMPLETIONS if name != "LiteLLM, error is null"]
)
def test_decoded_json_means_the_same(name):
    """The path of the Hub reads replies as the path of a URL does."""
    values, *_ = COMPLETIONS[name]
    if isinstance(values, dict):
        assert completion_from_json(values, ask("x" * 40, max_tokens=64), "") == read(values)


PROGRAM = "FILE: main.py\n```python\n# ollama\napi_request_handler = sk_learning_rate = 1\n```"


@pytest.mark.parametrize("key", [None, "a", "none", "EMPTY", "ollama", "sk-no-key-required"])
def test_data_is_not_rewritten(key):
    """Replies that have a placeholder of a key in them, or look like one, arrive as written."""
    text = f"{PROGRAM}\n{key} Bearer of news, hf-internal-testing-model"
    with AdversarialServer(body(reply(text, finish=str(key)))) as server:
        found = run(HuggingFaceChat("m", base_url=server.url, api_key=key))
    assert (found.text, found.finish_reason) == (text, str(key))


def test_a_completion_of_any_source_has_its_thoughts_apart():
    """Also those in process, and from stores of earlier versions."""
    found = Completion("<think>a</think>b", read(reply()).usage, "length", "before")
    assert (found.text, found.thoughts) == ("b", "before\na")
