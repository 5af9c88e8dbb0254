"""Parameters that servers refuse are renamed or left out; everything else is an error."""

import asyncio
import json
import logging
import pickle
from dataclasses import replace

import pytest
from llm_support import AdversarialServer, ask, body, chat_reply, good

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm import ChatError, ChatRefusedError, ChatRequest, HuggingFaceChat, Message

SCHEMA = json.dumps({"type": "object", "properties": {"x": {"type": "number"}}})
KEY = "A-key.of-my_own/server+77"
REQUEST = ChatRequest(
    model="",
    messages=(Message("system", "Be brief."), Message("user", "hello")),
    max_tokens=5,
    temperature=0.7,
    stop=("END",),
    schema=SCHEMA,
)


def openai(message, param=None, code="unsupported_parameter"):
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return {"error": error}


REFUSALS = {
    "openai max_tokens": (
        400,
        openai(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "max_tokens",
        ),
        "max_tokens",
    ),
    "openai temperature": (
        400,
        openai(
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the "
            "default (1) value is supported.",
            "temperature",
            "unsupported_value",
        ),
        "temperature",
    ),
    "openai role": (
        400,
        openai("Unsupported value: 'messages[0].role' does not support 'system' with this model."),
        "system",
    ),
    "openai stop": (
        400,
        openai("Unsupported parameter: 'stop' is not supported with this model.", "stop"),
        "stop",
    ),
    "azure seed": (
        400,
        openai("Unrecognized request argument supplied: seed", None, None),
        "seed",
    ),
    "mistral seed": (
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "seed"],
                        "msg": "Extra inputs are not permitted",
                        "input": 5,
                    }
                ]
            },
        },
        "seed",
    ),
    "fastapi seed": (
        422,
        {"detail": [{"loc": ["body", "seed"], "msg": "extra fields not permitted", "type": "x"}]},
        "seed",
    ),
    "gemini seed": (
        400,
        [{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}],
        "seed",
    ),
    "groq seed": (400, openai("property 'seed' is unsupported", None, None), "seed"),
    "litellm temperature": (
        400,
        openai(
            "litellm.UnsupportedParamsError: openai does not support parameters: "
            "['temperature'], for model=o3"
        ),
        "temperature",
    ),
    "openrouter temperature": (
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {"raw": json.dumps(openai("Unknown parameter: 'temperature'."))},
            }
        },
        "temperature",
    ),
    "moonshot temperature": (
        400,
        openai("invalid temperature: only 1 is allowed for this model", None, None),
        "temperature",
    ),
    "anthropic temperature": (
        400,
        {"type": "error", "error": {"message": "`temperature` is deprecated for this model."}},
        "temperature",
    ),
    "forbidden temperature": (403, {"error": "temperature is not available"}, "temperature"),
    "text": (415, "the parameter seed is not supported", "seed"),
    "vllm system": (400, {"object": "error", "message": "System role not supported"}, "system"),
    "tgi system": (
        422,
        {
            "error": "Template error: invalid operation: System role not supported",
            "error_type": "template_error",
        },
        "system",
    ),
    "llama.cpp system": (
        500,
        {"error": {"code": 500, "message": "System role not supported at row 1"}},
        "system",
    ),
    "gemini system": (
        400,
        {"error": {"message": "Developer instruction is not enabled for models/gemma-3-27b-it"}},
        "system",
    ),
    "mistral system": (
        400,
        {"message": "Conversation roles must alternate user/assistant/user/assistant/..."},
        "system",
    ),
    "bedrock system": (
        400,
        {"message": "A conversation must start with a user message. Try again."},
        "system",
    ),
    "pydantic system": (
        422,
        {
            "detail": [
                {
                    "loc": ["body", "messages", 0, "role"],
                    "msg": "Input should be 'user' or 'assistant'",
                    "type": "literal_error",
                }
            ]
        },
        "system",
    ),
    "code alone": (400, openai("Bad request", "max_tokens"), "max_tokens"),
    "fixed temperature": (400, openai("temperature must be 1 for this model"), "temperature"),
    "invalid seed": (400, {"message": "seed is not a valid parameter"}, "seed"),
    "tgi format": (
        422,
        "Failed to deserialize the JSON body: response_format: missing field `value`",
        "response_format",
    ),
    "llama.cpp format": (
        400,
        {"error": {"code": 400, "message": "failed to parse grammar"}},
        "response_format",
    ),
    "llama-cpp-python format": (
        500,
        {"error": {"message": "1 validation error: body.response_format.type"}},
        "response_format",
    ),
    "openrouter format": (
        404,
        {"error": {"message": "No endpoints found that can handle the requested parameters."}},
        "response_format",
    ),
    "dashscope stream": (
        400,
        openai("This model only support stream mode, please enable the stream parameter."),
        "stream",
    ),
    "dashscope thinking": (
        400,
        openai("parameter.enable_thinking must be set to false for non-streaming calls"),
        "stream",
    ),
    "modelscope thinking": (
        400,
        openai("enable thinking can not be support when `stream=False`."),
        "stream",
    ),
    "gateway stream": (400, {"detail": "Stream must be set to true"}, "stream"),
    "camel case": (
        400,
        openai("this model is not supported MaxTokens, please use MaxCompletionTokens"),
        "max_tokens",
    ),
    "thinking temperature": (
        400,
        openai("`temperature` may only be set to 1 when thinking is enabled."),
        "temperature",
    ),
    "bedrock seed": (
        400,
        {"message": "Malformed input request: #: extraneous key [seed] is not permitted."},
        "seed",
    ),
    "xai stop": (
        400,
        {"code": "x", "error": "Argument not supported on this model: stop"},
        "stop",
    ),
    "fireworks seed": (
        400,
        openai("Extra inputs are not permitted, field: 'seed', value: 5"),
        "seed",
    ),
    **{
        f"{name}: {words}": (400, openai(words), name)
        for name, words in (
            ("temperature", "temperature does not apply to this model"),
            ("temperature", "Custom temperature is disabled for this model"),
            ("seed", "seed is prohibited"),
            ("seed", "seed must be less than or equal to 65536"),
            ("system", "System messages are disallowed for this model"),
            ("system", "No system prompt support in this chat template"),
        )
    },
    "groq format": (
        400,
        openai("This model does not support response format `json_schema`.", "response_format"),
        "response_format",
    ),
    "unnamed format": (400, {"error": {"message": "bad request"}}, "response_format"),
}
CHANGED = {
    **{"max_tokens": "max_completion_tokens", "response_format": "json_object"},
    "stream": "true",
}


def run(chat, request=REQUEST, times=1):
    async def work():
        try:
            return [await chat.complete(request, seed=5) for _ in range(times)][-1]
        finally:
            await chat.aclose()

    return asyncio.run(work())


def uses(sent, name):
    """Return whether a request has a parameter in its usual form."""
    if name == "system":
        return sent["messages"][0]["role"] == "system"
    if name == "response_format":
        return sent.get(name, {}).get("type") == "json_schema"
    if name == "stream":
        return not sent[name]
    return name in sent


def picky(refusals):
    """Refuse requests with certain parameters; answer others."""

    def behave(exchange):
        for status, error, name in refusals:
            if uses(exchange.request.body, name):
                return body(error, status)(exchange)
        return good("{} END and more")(exchange)

    return behave


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_server_refuses_by_name_is_changed_once_and_for_all(case):
    """The call succeeds at the second attempt, later calls at the first, and all else is equal."""
    name = REFUSALS[case][2]
    with AdversarialServer(picky([REFUSALS[case]])) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        run(chat, times=3)
        sent = [request.body for request in server.chats]
    assert [uses(s, name) for s in sent] == [True, False, False, False]
    assert chat.negotiated() == {name: CHANGED.get(name)}
    more = {"system": "messages", "stream": "stream_options"}
    changed = {name, CHANGED.get(name), more.get(name)}
    rest = [{k: v for k, v in s.items() if k not in changed} for s in sent]
    assert rest == rest[:1] * 4


def test_a_renamed_parameter_keeps_its_value():
    """`max_completion_tokens` is `max_tokens` by another name."""
    with AdversarialServer(picky([REFUSALS["openai max_tokens"]])) as server:
        run(HuggingFaceChat("m", base_url=server.url))
        assert server.chats[1].body["max_completion_tokens"] == 5


def test_without_a_system_role_its_text_begins_the_first_user_message():
    """Nothing of the conversation is lost."""
    messages = (
        *(Message("system", "A"), Message("system", "B")),
        *(Message("user", "C"), Message("assistant", "D"), Message("user", "E")),
    )
    request = ChatRequest(model="", messages=messages, max_tokens=5, temperature=0.7)
    with AdversarialServer() as server:
        chat = HuggingFaceChat("m", base_url=server.url, request_parameters={"system": None})
        run(chat, request)
        sent = server.chats[0].body["messages"]
    assert [(m["role"], m["content"]) for m in sent] == [
        ("user", "A\n\nB\n\nC"),
        ("assistant", "D"),
        ("user", "E"),
    ]


def test_without_stop_strings_replies_end_before_them():
    """A server that does not stop gives the text of one that does."""
    with AdversarialServer(picky([REFUSALS["openai stop"]])) as server:
        assert run(HuggingFaceChat("m", base_url=server.url)).text == "{} "


def test_several_refusals_are_negotiated_in_one_call_and_shared(caplog):
    """Concurrent calls are refused at most once for each parameter, and later ones never."""
    refusals = [REFUSALS[c] for c in ("openai max_tokens", "openai temperature", "azure seed")]
    with AdversarialServer(picky(refusals)) as server:
        chat = HuggingFaceChat("m", base_url=server.url, concurrency=4)

        async def work():
            calls = (chat.complete(ask(), seed=seed) for seed in range(1, 41))
            replies = await asyncio.gather(*calls)
            await chat.aclose()
            return replies

        with caplog.at_level(logging.INFO):
            assert len(asyncio.run(work())) == 40
        assert len(server.chats) <= 40 + 4 * 3
    assert chat.negotiated() == {
        "max_tokens": "max_completion_tokens",
        "temperature": None,
        "seed": None,
    }
    messages = [r.getMessage() for r in caplog.records if "refuses" in r.getMessage()]
    assert len(messages) == 3
    assert sum("not reproducible" in message for message in messages) == 1


def test_models_of_one_server_are_negotiated_apart():
    """What one model refuses is sent to the others."""

    def behave(exchange):
        refuse = exchange.request.body["model"] == "picky"
        return picky([REFUSALS["azure seed"]] if refuse else [])(exchange)

    with AdversarialServer(behave) as server:
        chat = HuggingFaceChat(base_url=server.url)
        for model in ("picky", "other", "picky"):
            run(chat, ask(model=model))
        sent = [(r.body["model"], "seed" in r.body) for r in server.chats]
    assert sent == [("picky", True), ("picky", False), ("other", True), ("picky", False)]


def test_what_was_negotiated_travels_with_a_pickle():
    """Another process starts with what this one has learned."""
    with AdversarialServer(picky([REFUSALS["azure seed"]])) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        run(chat)
        run(pickle.loads(pickle.dumps(chat)))
        assert ["seed" in r.body for r in server.chats] == [True, False, False]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        # A limit of the server.
        (400, openai("max_tokens is too large: 5. This model supports at most 4.", "max_tokens")),
        (
            400,
            openai(
                "'max_tokens' or 'max_completion_tokens' is too large: 5. This model's maximum "
                "context length is 4 tokens and your request has 3 input tokens."
            ),
        ),
        (400, openai("temperature must be between 0 and 0.5", "temperature", "invalid_value")),
        (400, openai("temperature must be 1 or less", "temperature", "invalid_value")),
        (
            422,
            {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4"},
        ),
        # About something else, with an echo of the request.
        (
            422,
            {
                "detail": [
                    {
                        "loc": ["body", "user"],
                        "msg": "unexpected value",
                        "input": {"seed": 5, "temperature": 0.7, "max_tokens": 5},
                    }
                ]
            },
        ),
        (404, openai("The model `m` does not exist or you do not have access to it.")),
        (403, {"error": "forbidden"}),
        (403, openai("Streaming is not available on your plan")),
        (500, openai("upstream stream error: the connection must be restarted")),
        (500, {"error": "failed to reseed: unsupported driver"}),
        (401, openai("Unsupported parameter: 'seed'", "seed")),
        (429, openai("Unsupported parameter: 'seed'", "seed")),
        (503, openai("Unsupported parameter: 'seed'", "seed")),
    ],
)
def test_other_errors_stay_errors_with_the_words_of_the_server(status, error):
    """They are not repeated, and nothing is learned from them."""
    with AdversarialServer([body(error, status)]) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        request = ask()
        with pytest.raises(ChatError) as caught:
            run(chat, request)
        assert len(server.chats) == 1
    assert caught.value.kind == f"HTTP {status}"
    assert json.dumps(error)[:40] in str(caught.value)
    assert chat.negotiated() == {}


def test_a_server_that_refuses_whatever_is_sent_is_an_error():
    """Attempts end, the error is the server's last one, and nothing is remembered."""
    everything = body("seed, temperature, stop, max_tokens and system are not supported", 400)
    with AdversarialServer(everything) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        with pytest.raises(ChatRefusedError, match="not supported"):
            run(chat)
        assert len(server.chats) <= 6
    assert chat.negotiated() == {}


def test_events_of_a_server_that_only_streams_are_one_reply():
    """Its counts are asked for, and stop strings hold as usual."""
    piece = {"choices": [{"delta": {"content": "hi "}, "finish_reason": None}]}
    last = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}
    events = "".join(f"data: {json.dumps(event)}\n\n" for event in (piece, piece, last))

    def behave(exchange):
        if not exchange.request.body["stream"]:
            return picky([REFUSALS["dashscope stream"]])(exchange)
        exchange.reply(200, f"{events}data: [DONE]\n\n", {"content-type": "text/event-stream"})

    with AdversarialServer(behave) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        found = run(chat)
        assert server.chats[1].body["stream_options"] == {"include_usage": True}
    assert (found.text, found.usage.completion_tokens) == ("hi hi ", 7)


def test_arguments_are_obeyed_from_the_first_call():
    """Named parameters are sent as the user wants, without a refusal."""
    forms = {
        "max_tokens": "max_completion_tokens",
        "temperature": None,
        "seed": "random_seed",
        "system": "developer",
        "response_format": None,
    }
    with AdversarialServer() as server:
        run(HuggingFaceChat("m", base_url=server.url, request_parameters=forms))
        (request,) = server.chats
    assert request.body == {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "hello"},
        ],
        "max_completion_tokens": 5,
        "random_seed": 5,
        "stop": ["END"],
        "stream": False,
    }


@pytest.mark.parametrize(
    "forms",
    [{"top_k": None}, {"seed": ""}, {"seed": 3}, {"response_format": "xml"}, {"stream": "maybe"}],
)
def test_invalid_forms_are_refused(forms):
    """The message names the argument and the value."""
    with pytest.raises(AgentTTSError, match="request_parameters"):
        HuggingFaceChat("m", request_parameters=forms)


def test_extra_fields_and_thoughts_stay_when_parameters_change():
    """A refusal under HTTP status 200 counts by its own code, as any other one."""
    refusal = openai("Unknown parameter: 'seed'.", "seed")["error"] | {"code": 400}
    reply = good("<think>x END y</think>so END more")
    with AdversarialServer([body({"error": refusal}), reply]) as server:
        chat = HuggingFaceChat(
            "m", base_url=server.url, request_parameters={"stop": None}, headers={"x-key": KEY}
        )
        extra = json.dumps({"chat_template_kwargs": {"enable_thinking": True}})
        completion = run(chat, replace(REQUEST, extra=extra))
    assert (completion.text, completion.thoughts) == ("so ", "x END y")
    assert ["seed" in sent.body for sent in server.chats] == [True, False]
    for sent in server.chats:
        assert sent.body["chat_template_kwargs"] == {"enable_thinking": True}


def test_keys_in_headers_stay_out_of_texts_and_thoughts():
    """Servers may echo any header, in any escapes."""
    reply = json.dumps(chat_reply(f"<think>{KEY}</think>{KEY}")).replace(KEY[0], "\\u0041", 1)
    with AdversarialServer([body(reply)]) as server:
        completion = run(HuggingFaceChat("m", base_url=server.url, headers={"api-key": KEY}))
    assert (completion.text, completion.thoughts) == ("[hidden]", "[hidden]")


def test_an_empty_account_is_no_refusal_of_a_parameter():
    """It is final at once, and the forms of later requests stay."""
    empty = openai("Your credit balance is too low", code="insufficient_quota")
    with AdversarialServer([body(empty, 400)]) as server:
        chat = HuggingFaceChat("m", base_url=server.url)
        with pytest.raises(ChatError) as caught:
            run(chat)
        assert caught.value.permanent
        assert len(server.chats) == 1
    assert chat.negotiated() == {}
