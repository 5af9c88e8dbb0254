"""Replies in the form in which servers send them, and what they mean.

`COMPLETIONS` are the replies of each server in each situation; `ERRORS` are those that are no
completion. Comments name where a form was seen: the source or documentation of the server, or a
public thread of a repository.
"""

import json
from dataclasses import dataclass, field
from typing import Any

TEXT = "Answer: Paris"
"""Text of every reply that has one; tests replace it."""
THOUGHTS = "The Louvre is in Paris."
PROMPT, GENERATED = 12, 64
"""Tokens that servers count."""


@dataclass(frozen=True)
class Dialect:
    """Form of a server's completions: further fields, and names of what all servers have."""

    top: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    stop: str = "stop"
    length: str = "length"
    thoughts: str = "reasoning_content"

    def reply(
        self,
        content: Any = TEXT,
        finish: Any = None,
        *,
        usage: Any = (),
        message: dict[str, Any] | None = None,
        choice: dict[str, Any] | None = None,
        **top: Any,
    ) -> dict[str, Any]:
        """Return the body of a completion with the given differences."""
        counts = {"prompt_tokens": PROMPT, "completion_tokens": GENERATED, "total_tokens": 76}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        **{"role": "assistant", "content": content},
                        **self.message,
                        **(message or {}),
                    },
                    "finish_reason": self.stop if finish is None else finish,
                    **self.choice,
                    **(choice or {}),
                }
            ],
            "usage": {**counts, **self.usage, **dict(usage)} if usage is not None else None,
            **self.top,
            **top,
        }


_DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        **{"reasoning_tokens": 0, "audio_tokens": 0},
        **{"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    },
}
_SAFE = {"hate": {"filtered": False, "severity": "safe"}}

DIALECTS = {
    # huggingface/text-generation-inference: docs/openapi.json, pull request 2344.
    "TGI": Dialect({"system_fingerprint": "3.3.6-native"}, {"logprobs": None}),
    "TGI before 2.2": Dialect({"system_fingerprint": "2.1.0"}, stop="eos_token"),
    # vllm-project/vllm: entrypoints/openai/chat_completion/protocol.py.
    "vLLM": Dialect(
        {"service_tier": None, "prompt_logprobs": None, "kv_transfer_params": None},
        {"logprobs": None, "stop_reason": None, "token_ids": None},
        {"refusal": None, "annotations": None, "function_call": None, "tool_calls": []},
        {"prompt_tokens_details": None},
        thoughts="reasoning",
    ),
    # sgl-project/sglang: entrypoints/openai/protocol.py.
    "SGLang": Dialect(
        {"metadata": {"weight_version": "default"}},
        {"logprobs": None, "matched_stop": 151645},
        {"reasoning_content": None, "tool_calls": None},
        {"prompt_tokens_details": None, "reasoning_tokens": 0},
    ),
    # ggml-org/llama.cpp: tools/server/README.md.
    "llama.cpp": Dialect(
        {"system_fingerprint": "b6700", "timings": {"prompt_n": PROMPT, "predicted_n": 64}}
    ),
    # abetlen/llama-cpp-python: llama_types.py.
    "llama-cpp-python": Dialect(choice={"logprobs": None}),
    # ollama/ollama: openai/openai.go, issue 15288.
    "Ollama": Dialect({"system_fingerprint": "fp_ollama"}, thoughts="reasoning"),
    # lmstudio-ai/docs: OpenAI compatibility endpoints.
    "LM Studio": Dialect(
        {"stats": {}, "system_fingerprint": "m"}, {"logprobs": None}, {"tool_calls": []}
    ),
    # BerriAI/litellm: types/utils.py.
    "LiteLLM": Dialect(
        {"service_tier": None, "system_fingerprint": None},
        {"provider_specific_fields": {}},
        {"tool_calls": None, "function_call": None, "provider_specific_fields": None},
        {"completion_tokens_details": None, "prompt_tokens_details": None},
    ),
    # openai/openai-openapi.
    "OpenAI": Dialect(
        {"service_tier": "default", "system_fingerprint": None},
        message={"refusal": None, "annotations": []},
        usage=_DETAILS,
    ),
    # mistralai/platform-docs-public: openapi.yaml.
    "Mistral": Dialect(message={"tool_calls": None, "prefix": False}, length="model_length"),
    # docs.x.ai: chat completions; genkit-ai/genkit pull request 6259.
    "xAI": Dialect(
        {"system_fingerprint": "fp_1"},
        message={"refusal": None},
        usage={**_DETAILS, "num_sources_used": 0},
        stop="end_turn",
    ),
    # api-docs.deepseek.com: create chat completion.
    "DeepSeek": Dialect(
        {"system_fingerprint": "fp_1"},
        {"logprobs": None},
        usage={"prompt_cache_hit_tokens": 0, "prompt_cache_miss_tokens": PROMPT},
    ),
    # ai.google.dev: OpenAI compatibility; some gateways pass Gemini's own reasons.
    "Gemini": Dialect(),
    "Gemini behind a gateway": Dialect(stop="STOP", length="MAX_TOKENS"),
    # openrouter.ai/docs: API reference; reVrost/go-openrouter pull request 43.
    "OpenRouter": Dialect(
        {"provider": "Novita"},
        {"logprobs": None, "native_finish_reason": "stop"},
        {"refusal": None, "reasoning": None},
        _DETAILS,
        thoughts="reasoning",
    ),
    # console.groq.com/docs: API reference.
    "Groq": Dialect(
        {"usage_breakdown": None, "x_groq": {"id": "req_1"}, "service_tier": "on_demand"},
        {"logprobs": None},
        usage={"queue_time": 0.1, "prompt_time": 0.1, "completion_time": 0.1, "total_time": 0.2},
        thoughts="reasoning",
    ),
    # openai/openai-dotnet pull request 267.
    "Together": Dialect({"prompt": []}, {"logprobs": None, "seed": 17}, stop="eos"),
    # inference-docs.cerebras.ai: chat completions.
    "Cerebras": Dialect(
        {"system_fingerprint": "fp_1", "time_info": {"queue_time": 0.1, "total_time": 0.2}},
        usage={"prompt_tokens_details": {"cached_tokens": 0}},
        thoughts="reasoning",
    ),
    # Azure-Samples: Azure OpenAI reference; microsoft/semantic-kernel issue 5240.
    "Azure": Dialect(
        {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": _SAFE}]},
        {"content_filter_results": _SAFE, "logprobs": None},
        {"refusal": None, "annotations": []},
        _DETAILS,
    ),
}
"""Forms of completions by server; providers of Hugging Face's router pass their own."""

OPENAI = DIALECTS["OpenAI"]


@dataclass(frozen=True)
class Meaning:
    """Meaning of a completion."""

    text: str = TEXT
    reason: str = "stop"
    thoughts: str = ""
    generated: int = GENERATED
    thought_tokens: int = 0
    prompt: int = PROMPT
    cached: int = 0


EMPTY = Meaning("", "length", thought_tokens=GENERATED)
_SHARE = round(GENERATED * len(THOUGHTS) / len(THOUGHTS + TEXT))
THOUGHT = Meaning(thoughts=THOUGHTS, thought_tokens=_SHARE)
_ALL = Meaning("", "length", THOUGHTS, thought_tokens=GENERATED)


def _situations(dialect: Dialect) -> dict[str, tuple[Any, Meaning]]:
    """Return a server's replies in the situations that all servers are in."""
    thinks = {dialect.thoughts: THOUGHTS}
    return {
        "normal": (dialect.reply(), Meaning()),
        "length": (dialect.reply(finish=dialect.length), Meaning(reason="length")),
        "no finish reason": (dialect.reply(choice={"finish_reason": None}), Meaning()),
        "thoughts in a field": (dialect.reply(message=thinks), THOUGHT),
        "thoughts in the text": (
            dialect.reply(f"<think>\n{THOUGHTS}\n</think>\n\n{TEXT}"),
            THOUGHT,
        ),
        "opening tag in the prompt": (dialect.reply(f"{THOUGHTS}\n</think>\n\n{TEXT}"), THOUGHT),
        # EleutherAI and lighteval issue 869: an answer in a draft is none.
        "thoughts cut off": (
            dialect.reply(f"<think>\n{TEXT}", dialect.length),
            Meaning("", "length", TEXT, thought_tokens=GENERATED),
        ),
        # vllm-project/vllm issues 52640 and 41902.
        "thoughts without content": (dialect.reply(None, dialect.length, message=thinks), _ALL),
        "null content, length": (dialect.reply(None, dialect.length), EMPTY),
        "empty content, length": (dialect.reply("", dialect.length), EMPTY),
        "null content, stop": (dialect.reply(None), Meaning("")),
        "null content, filter": (
            dialect.reply(None, "content_filter"),
            Meaning("", "content_filter"),
        ),
        "null content, refusal": (
            dialect.reply(None, message={"refusal": "I cannot help with that."}),
            Meaning("", "refusal"),
        ),
        "null content, tool call": (
            dialect.reply(None, "tool_calls", message={"tool_calls": [{"id": "1"}]}),
            Meaning("", "tool_calls"),
        ),
        # microsoft/agent-framework issue 6978.
        "parts": (dialect.reply([{"type": "text", "text": TEXT}]), Meaning()),
        "zero counts": (
            dialect.reply(
                usage=dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
            ),
            Meaning(prompt=10, generated=len(TEXT) // 4),
        ),
        "no counts": (dialect.reply(usage=None), Meaning(prompt=10, generated=len(TEXT) // 4)),
    }


def _usage(**counts: Any) -> dict[str, Any]:
    """Return a reply with other counts."""
    reply = OPENAI.reply()
    reply["usage"] = counts
    return reply


def events(*values: Any, between: str = "\n\n") -> bytes:
    """Return server-sent events."""
    texts = (value if isinstance(value, str) else json.dumps(value) for value in values)
    return "".join(f"data: {text}{between}" for text in texts).encode()


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return an event of a completion."""
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        "usage": None,
    }


_COUNTS = {"prompt_tokens": PROMPT, "completion_tokens": GENERATED, "total_tokens": 76}
_LAST = {"choices": [], "usage": _COUNTS}
_ENCODED = json.dumps(OPENAI.reply(), ensure_ascii=False).encode()

SPECIAL: dict[str, tuple[Any, Meaning]] = {
    # Finish reasons: huggingface/text-generation-inference, genkit-ai/genkit pull request 6259,
    # MacPaw/OpenAI pull request 312, Anthropic's API behind gateways.
    "reason: stop_sequence": (OPENAI.reply(finish="stop_sequence"), Meaning()),
    "reason: max_tokens": (OPENAI.reply(None, "max_tokens"), EMPTY),
    "reason: model_context_window_exceeded": (
        OPENAI.reply(None, "model_context_window_exceeded"),
        EMPTY,
    ),
    "reason: SAFETY": (OPENAI.reply(None, "SAFETY"), Meaning("", "content_filter")),
    "reason: sensitive": (OPENAI.reply("", "sensitive"), Meaning("", "content_filter")),
    "reason: unknown": (OPENAI.reply(finish="OTHER"), Meaning(reason="OTHER")),
    "reason: object": (
        OPENAI.reply(finish={"type": "length", "length": 64}),
        Meaning(reason="length"),
    ),
    # sgl-project/sglang issue 4550: none at all.
    "null content, no reason": (OPENAI.reply(None, choice={"finish_reason": None}), Meaning("")),
    # ollama and Gemini (evalstate/fast-agent issue 184): a choice without a message.
    "no message": (OPENAI.reply(choice={"finish_reason": "length", "message": None}), EMPTY),
    "no choices, counts": ({"choices": [], "usage": _COUNTS}, Meaning("")),
    # Thoughts.
    "thoughts: parts (Mistral)": (
        OPENAI.reply(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHTS}]},
                {"type": "text", "text": TEXT},
            ]
        ),
        THOUGHT,
    ),
    "thoughts: parts (Anthropic)": (
        OPENAI.reply(
            [
                {"type": "thinking", "thinking": THOUGHTS, "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": TEXT},
            ]
        ),
        THOUGHT,
    ),
    "thoughts: parts (Gemini)": (
        OPENAI.reply([{"text": THOUGHTS, "thought": True}, {"text": TEXT}]),
        THOUGHT,
    ),
    "thoughts: summaries (OpenAI)": (
        OPENAI.reply(
            [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHTS}]},
                {"type": "output_text", "text": TEXT},
            ]
        ),
        THOUGHT,
    ),
    "thoughts: details (OpenRouter)": (
        OPENAI.reply(
            message={"reasoning_details": [{"type": "reasoning.text", "text": THOUGHTS}]}
        ),
        THOUGHT,
    ),
    "thoughts: encrypted (OpenRouter)": (
        OPENAI.reply(
            message={"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}
        ),
        Meaning(),
    ),
    "thoughts: details beside the text of them (OpenRouter)": (
        OPENAI.reply(
            message={
                "reasoning": THOUGHTS,
                "reasoning_details": [
                    {"type": "reasoning.summary", "summary": THOUGHTS},
                    {"type": "reasoning.encrypted", "data": "x"},
                ],
            }
        ),
        THOUGHT,
    ),
    "thoughts: summary (OpenRouter)": (
        OPENAI.reply(
            message={"reasoning_details": [{"type": "reasoning.summary", "summary": THOUGHTS}]}
        ),
        THOUGHT,
    ),
    "thoughts: blocks (LiteLLM)": (
        OPENAI.reply(message={"thinking_blocks": [{"type": "thinking", "thinking": THOUGHTS}]}),
        THOUGHT,
    ),
    "thoughts: provider's field (LiteLLM)": (
        OPENAI.reply(message={"provider_specific_fields": {"reasoning_content": THOUGHTS}}),
        THOUGHT,
    ),
    "thoughts: list of texts": (OPENAI.reply(message={"reasoning": [THOUGHTS]}), THOUGHT),
    "thoughts: object": (OPENAI.reply(message={"reasoning": {"text": THOUGHTS}}), THOUGHT),
    "thoughts: beside the message": (OPENAI.reply(choice={"reasoning": THOUGHTS}), THOUGHT),
    "thoughts: both in the text and a field": (
        OPENAI.reply(f"<think>{THOUGHTS}</think>{TEXT}", message={"reasoning": THOUGHTS}),
        THOUGHT,
    ),
    "thoughts: both fields (vLLM)": (
        OPENAI.reply(message={"reasoning": THOUGHTS, "reasoning_content": THOUGHTS}),
        THOUGHT,
    ),
    "thoughts: withheld, counted (OpenAI)": (
        OPENAI.reply(usage={"completion_tokens_details": {"reasoning_tokens": 60}}),
        Meaning(thought_tokens=60),
    ),
    # Content.
    "content: list of texts": (OPENAI.reply([TEXT[:4], TEXT[4:]]), Meaning()),
    "content: one part": (OPENAI.reply({"type": "text", "text": TEXT}), Meaning()),
    "content: part with null text": (
        OPENAI.reply([{"type": "text", "text": None}], "length"),
        EMPTY,
    ),
    "content: no parts": (OPENAI.reply([], "length"), EMPTY),
    "content: refusal part": (
        OPENAI.reply([{"type": "refusal", "refusal": "No."}]),
        Meaning("", "refusal"),
    ),
    "content: value (assistants)": (
        OPENAI.reply([{"type": "text", "text": {"value": TEXT, "annotations": []}}]),
        Meaning(),
    ),
    "content: image part": (
        OPENAI.reply([{"type": "image_url", "image_url": {"url": "x"}}, {"text": TEXT}]),
        Meaning(),
    ),
    "content: text completion": (
        OPENAI.reply(choice={"message": None, "text": TEXT}),
        Meaning(),
    ),
    "content: message is a text": (OPENAI.reply(choice={"message": TEXT}), Meaning()),
    "content: delta": (
        OPENAI.reply(choice={"message": None, "delta": {"content": TEXT}}),
        Meaning(),
    ),
    # moltis issue 306, llama.cpp issue 6924, vllm issue 46224.
    **{
        f"content: ends with {token!r}": (OPENAI.reply(f"{TEXT}{token}\n"), Meaning())
        for token in (
            *("<|im_end|>", "</s>", "</s></s>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>"),
            *("<|endoftext|>", "<|end_of_text|>", "<|return|>", "<end_of_turn>", "<eos>"),
            *("<turn|>", "<|END_OF_TURN_TOKEN|>", "<|END_RESPONSE|>", "<|end_of_turn|>"),
            *("[|endofturn|]", "<|user|>", "<|observation|>", "<seed:eos>", "<|assistant_end|>"),
            *("<｜end▁of▁sentence｜>", "<|im_end|>\n<|endoftext|>", "<|EOT|>", "<|role_end|>"),
        )
    },
    # Counts: inspect_ai issue 5528, vercel/ai pull request 12425, gpt-researcher issue 2065.
    "counts: thoughts outside of the completion (xAI)": (
        _usage(
            prompt_tokens=12,
            completion_tokens=5,
            total_tokens=317,
            completion_tokens_details={"reasoning_tokens": 300},
        ),
        Meaning(generated=305, thought_tokens=300),
    ),
    "counts: thoughts outside, no total": (
        _usage(
            prompt_tokens=12,
            completion_tokens=5,
            completion_tokens_details={"reasoning_tokens": 300},
        ),
        Meaning(generated=305, thought_tokens=300),
    ),
    "counts: thoughts in the total alone (Gemini)": (
        _usage(prompt_tokens=12, completion_tokens=5, total_tokens=317),
        Meaning(generated=305),
    ),
    "counts: thoughts at the top (SGLang)": (
        _usage(**_COUNTS, reasoning_tokens=60),
        Meaning(thought_tokens=60),
    ),
    "counts: texts": (_usage(**{name: str(count) for name, count in _COUNTS.items()}), Meaning()),
    "counts: floats": (
        _usage(**{name: float(count) for name, count in _COUNTS.items()}),
        Meaning(),
    ),
    "counts: Anthropic's names": (
        _usage(input_tokens=12, output_tokens=64, cache_read_input_tokens=8),
        Meaning(cached=8),
    ),
    "counts: Responses' names": (
        _usage(input_tokens=12, output_tokens=64, output_tokens_details={"reasoning_tokens": 60}),
        Meaning(thought_tokens=60),
    ),
    "counts: no total": (_usage(prompt_tokens=12, completion_tokens=64), Meaning()),
    "counts: total is 0": (
        _usage(prompt_tokens=12, completion_tokens=64, total_tokens=0),
        Meaning(),
    ),
    "counts: no completion": (_usage(prompt_tokens=12, total_tokens=76), Meaning()),
    "counts: no prompt": (_usage(completion_tokens=64, total_tokens=76), Meaning()),
    "counts: null": (
        _usage(prompt_tokens=None, completion_tokens=None, total_tokens=0),
        Meaning(prompt=10, generated=3),
    ),
    "counts: negative": (
        _usage(prompt_tokens=-1, completion_tokens=-1, total_tokens=-1),
        Meaning(prompt=10, generated=3),
    ),
    "counts: huge": (_usage(prompt_tokens=10**30, completion_tokens=64), Meaning(prompt=10)),
    "counts: cached (OpenAI)": (
        _usage(**_COUNTS, prompt_tokens_details={"cached_tokens": 8}),
        Meaning(cached=8),
    ),
    "counts: cached (DeepSeek)": (_usage(**_COUNTS, prompt_cache_hit_tokens=8), Meaning(cached=8)),
    "counts: cached (Moonshot)": (_usage(**_COUNTS, cached_tokens=8), Meaning(cached=8)),
    "counts: in the choice (Moonshot)": (
        OPENAI.reply(usage=None, choice={"usage": _COUNTS}),
        Meaning(),
    ),
    "counts: in x_groq": (OPENAI.reply(usage=None, x_groq={"usage": _COUNTS}), Meaning()),
    # Errors that are none.
    **{
        f"error: {nothing!r}": (OPENAI.reply(error=nothing), Meaning())
        for nothing in (None, {}, [], "", False)
    },
    "error: code 0": (OPENAI.reply(code=0, msg="success"), Meaning()),
    "error: MiniMax's status 0": (
        OPENAI.reply(base_resp={"status_code": 0, "status_msg": ""}),
        Meaning(),
    ),
    # Encodings.
    "bytes: byte order mark": (b"\xef\xbb\xbf" + _ENCODED, Meaning()),
    "bytes: UTF-16": (_ENCODED.decode().encode("utf-16"), Meaning()),
    "bytes: NaN": (_ENCODED.replace(b"1700000000", b"NaN"), Meaning()),
    "bytes: huge number": (_ENCODED.replace(b"1700000000", b"9" * 400 + b"e9"), Meaning()),
    "bytes: key twice": (
        _ENCODED.replace(b'"content": ', b'"content": "x", "content": '),
        Meaning(),
    ),
    "bytes: raw line break": (
        _ENCODED.replace(TEXT.encode(), b"<think>\n\x00\n</think>" + TEXT.encode()),
        Meaning(thoughts="\x00", thought_tokens=5),
    ),
    "bytes: white space while it waits": (b"\n\n \n" + _ENCODED + b"\n", Meaning()),
    # openrouter.ai/docs: comments keep the connection open.
    "bytes: comments": (b": OPENROUTER PROCESSING\n\n" * 3 + _ENCODED, Meaning()),
    # Events that were not asked for, or of servers that send nothing else.
    "events": (
        events(
            chunk(role="assistant", content=None),
            *(chunk(content=TEXT[:4]), chunk(content=TEXT[4:]), chunk("stop"), _LAST, "[DONE]"),
        ),
        Meaning(),
    ),
    "events: thoughts": (
        events(
            *(chunk(reasoning_content=THOUGHTS[:5]), chunk(reasoning_content=THOUGHTS[5:])),
            *(chunk(content=TEXT), chunk("stop"), _LAST, "[DONE]"),
        ),
        THOUGHT,
    ),
    "events: thoughts in parts": (
        events(
            chunk(content=[{"type": "thinking", "thinking": [{"text": THOUGHTS}]}]),
            *(chunk("stop", content=TEXT), _LAST),
        ),
        THOUGHT,
    ),
    "events: thoughts to the end": (
        events(chunk(reasoning=THOUGHTS), chunk("length"), _LAST),
        _ALL,
    ),
    "events: names, comments, CR": (
        b": OPENROUTER PROCESSING\r\n\r\nevent: message\r\nid: 1\r\n"
        + events(chunk("stop", content=TEXT), _LAST, "[DONE]", between="\r\n\r\n"),
        Meaning(),
    ),
    "events: counts in the choice": (
        events(
            chunk(content=TEXT),
            {"choices": [{"finish_reason": "stop", "usage": _COUNTS}]},
            "[DONE]",
        ),
        Meaning(),
    ),
    "events: text completion": (
        events(*({"choices": [{"text": text}]} for text in (TEXT[:4], TEXT[4:])), _LAST, "[DONE]"),
        Meaning(),
    ),
    "events: one, whole": (events(OPENAI.reply(), "[DONE]"), Meaning()),
    "events: refusal": (
        events(chunk(refusal="No."), chunk("stop"), _LAST, "[DONE]"),
        Meaning("", "refusal"),
    ),
    "events: tool call": (
        events(chunk(tool_calls=[{"id": "1"}]), chunk("tool_calls"), _LAST, "[DONE]"),
        Meaning("", "tool_calls"),
    ),
}

COMPLETIONS = {
    f"{server}: {situation}": row
    for server, dialect in DIALECTS.items()
    for situation, row in _situations(dialect).items()
} | SPECIAL
"""Body of each server and situation, and its meaning."""


WAITS, TRIES, ENDS = "waits", "tries", "ends"
"""Consequences of an error: the server is waited for, tried a few times, or not called again."""


@dataclass(frozen=True)
class Failure:
    """Meaning of an error: what is done about it, its kind, and words of the server."""

    then: str
    kind: str
    words: str = ""


def _error(message: str, code: Any = None, type: Any = None, **more: Any) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": type, "param": None, "code": code, **more}}


_EARLY = "reply ended early"
_QUOTA = "You exceeded your current quota, please check your plan and billing details."
_CLOUDFLARE = "<!DOCTYPE html><html><head><title>m | 502: Bad gateway</title></head></html>"

ERRORS: dict[str, tuple[int, Any, Failure]] = {
    # Replies that a failing server cut off: vllm issue 57082, radixark/miles pull request 3337.
    "vLLM: shuts down": (
        200,
        DIALECTS["vLLM"].reply("Answer: Par", "abort"),
        Failure(TRIES, _EARLY),
    ),
    "SGLang: aborts": (
        200,
        DIALECTS["SGLang"].reply("Par", {"type": "abort", "message": "x"}),
        Failure(TRIES, _EARLY, "abort"),
    ),
    **{
        f"{server}: {reason}": (200, OPENAI.reply("Par", reason), Failure(TRIES, _EARLY, reason))
        for server, reason in (
            *(("OpenRouter", "error"), ("Mistral", "error"), ("gateway", "CANCELLED")),
            *(("DeepSeek", "insufficient_system_resource"), ("Zhipu", "network_error")),
            *(("LM Studio", "modelUnloaded"), ("gateway", "Aborted"), ("gateway", "server_error")),
        )
    },
    "vLLM: events, aborted": (
        200,
        events(chunk(content="Par"), chunk("abort"), "[DONE]"),
        Failure(TRIES, _EARLY),
    ),
    # maximhq/bifrost issue 5425.
    "OpenRouter: error, counts are null": (
        200,
        OPENAI.reply("Par", "error", usage={"prompt_tokens": None, "completion_tokens": None}),
        Failure(TRIES, _EARLY),
    ),
    # UKGovernmentBEIS/inspect_ai pull request 1536.
    "OpenRouter: error in the choice": (
        200,
        OPENAI.reply("", "error", choice={"error": {"code": 502, "message": "upstream is down"}}),
        Failure(WAITS, "HTTP 502", "upstream is down"),
    ),
    # Errors under status 200: aider issue 3550, dify issue 9249, mini-swe-agent pull request 902.
    "OpenRouter: rate": (
        200,
        {"error": {"message": "Rate limit exceeded: free-models-per-min", "code": 429}},
        Failure(WAITS, "HTTP 429", "Rate limit exceeded"),
    ),
    "OpenRouter: provider": (
        200,
        {"error": {"message": "Provider error", "code": 400, "metadata": {"raw": "too long"}}},
        Failure(ENDS, "HTTP 400", "too long"),
    ),
    "OpenRouter: credits": (
        200,
        {"id": None, "choices": None, "error": {"message": "Insufficient credits", "code": "402"}},
        Failure(ENDS, "HTTP 402", "Insufficient credits"),
    ),
    "OpenRouter: error among events": (
        200,
        events(chunk(content="Par"), _error("Internal error", 500), "[DONE]"),
        Failure(WAITS, "HTTP 500", "Internal error"),
    ),
    "vLLM: error event": (
        200,
        b"event: error\n" + events({"message": "overloaded", "code": 503}),
        Failure(WAITS, "HTTP 503", "overloaded"),
    ),
    "LM Studio: unknown path": (
        200,
        {"error": "Unexpected endpoint or method. (POST /v1). Returning 200 anyway"},
        Failure(ENDS, "error in reply", "Unexpected endpoint"),
    ),
    "Gemini: exhausted": (
        200,
        [{"error": {"code": 429, "message": "exhausted", "status": "RESOURCE_EXHAUSTED"}}],
        Failure(WAITS, "HTTP 429", "exhausted"),
    ),
    # text-generation-inference issue 2749.
    "TGI: overloaded": (
        200,
        {"error": "Model is overloaded", "error_type": "overloaded"},
        Failure(WAITS, "overloaded", "Model is overloaded"),
    ),
    "vLLM: no model": (
        200,
        {"object": "error", "message": "no such model", "type": "NotFoundError", "code": 404},
        Failure(ENDS, "HTTP 404", "no such model"),
    ),
    "gateway: code beside a text": (
        200,
        {"status": 500, "error": "Internal Server Error", "path": "/v1/chat/completions"},
        Failure(WAITS, "HTTP 500", "Internal Server Error"),
    ),
    # Its models are loaded again for the next request.
    "LM Studio: unloaded": (
        400,
        {"error": "Model unloaded."},
        Failure(WAITS, "overloaded", "Model unloaded"),
    ),
    "LM Studio: crashed": (
        400,
        {"error": "The model has crashed without additional information. (Exit code: 6)"},
        Failure(WAITS, "overloaded", "crashed"),
    ),
    "FastAPI: loading": (
        200,
        {"detail": "Model is loading"},
        Failure(WAITS, "overloaded", "loading"),
    ),
    "gateway: nested detail": (
        200,
        {"detail": {"error": {"message": "Slow down", "code": 429}}},
        Failure(WAITS, "HTTP 429", "Slow down"),
    ),
    "gateway: nested error": (
        200,
        {"error": {"error": {"message": "Empty", "code": "insufficient_quota"}}},
        Failure(ENDS, "no quota", "Empty"),
    ),
    "gateway: JSON in a text": (
        200,
        {"error": json.dumps({"error": {"message": "Slow down", "code": 429}})},
        Failure(WAITS, "HTTP 429", "Slow down"),
    ),
    "gateway: problem (RFC 9457)": (
        200,
        {"status": 503, "title": "Service Unavailable"},
        Failure(WAITS, "HTTP 503", "Service Unavailable"),
    ),
    "gateway: statusCode": (
        200,
        {"statusCode": 503, "message": "Down"},
        Failure(WAITS, "HTTP 503", "Down"),
    ),
    "gateway: errors": (
        200,
        {"result": None, "success": False, "errors": [{"code": 7009, "message": "Upstream busy"}]},
        Failure(WAITS, "overloaded", "Upstream busy"),
    ),
    "Anthropic: overloaded": (
        200,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        Failure(WAITS, "overloaded", "Overloaded"),
    ),
    "MiniMax: rate": (
        200,
        {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
        Failure(WAITS, "overloaded", "rate limit"),
    ),
    "gateway: code is a name": (
        200,
        _error("Check the header", "invalid_api_key"),
        Failure(ENDS, "error in reply", "Check the header"),
    ),
    "gateway: code is a float": (200, _error("Boom", 503.0), Failure(WAITS, "HTTP 503", "Boom")),
    "gateway: no words": (200, {"error": {}, "choices": []}, Failure(TRIES, "no text in reply")),
    "gateway: no choices": (
        200,
        {"choices": [], "usage": {"prompt_tokens": PROMPT, "completion_tokens": 0}},
        Failure(TRIES, "no text in reply"),
    ),
    "gateway: half an event stream": (
        200,
        events(chunk(content="Par")),
        Failure(WAITS, "no JSON"),
    ),
    "gateway: half an object": (200, _ENCODED[:100], Failure(WAITS, "no JSON")),
    "gateway: page": (200, "<html>Log in</html>", Failure(WAITS, "no JSON", "Log in")),
    # Outages.
    "TGI: busy": (
        429,
        {"error": "Model is overloaded", "error_type": "overloaded"},
        Failure(WAITS, "HTTP 429", "overloaded"),
    ),
    "TGI: fails": (
        424,
        {"error": "Request failed during generation: CUDA error", "error_type": "generation"},
        Failure(TRIES, "HTTP 424", "CUDA error"),
    ),
    "vLLM: engine died": (
        500,
        {
            "object": "error",
            "message": "EngineCore died",
            "type": "InternalServerError",
            "code": 500,
        },
        Failure(WAITS, "HTTP 500", "EngineCore"),
    ),
    "llama.cpp: loads": (
        503,
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
        Failure(WAITS, "HTTP 503", "Loading model"),
    ),
    "OpenAI: rate": (
        429,
        _error(
            "Rate limit reached for m on requests per min (RPM): Limit 3, Used 3, Requested 1.",
            "rate_limit_exceeded",
            "requests",
        ),
        Failure(WAITS, "HTTP 429", "Rate limit reached"),
    ),
    # Gemini calls limits a minute a quota: gemini-cli issue 10925.
    "Gemini: requests a minute": (
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": f"{_QUOTA} Please retry in 33.2s.",
                    "details": [{"retryDelay": "33s"}],
                }
            }
        ],
        Failure(WAITS, "HTTP 429"),
    ),
    "Anthropic: 529": (
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        Failure(WAITS, "HTTP 529", "Overloaded"),
    ),
    **{
        f"Cloudflare: {status}": (
            status,
            _CLOUDFLARE,
            Failure(WAITS, f"HTTP {status}", "Bad gateway"),
        )
        for status in (502, 503, 504, 520, 521, 522, 523, 524, 530)
    },
    # Errors that time does not mend: langchainjs issue 1929.
    "OpenAI: no quota": (
        429,
        _error(_QUOTA, "insufficient_quota", "insufficient_quota"),
        Failure(ENDS, "no quota", "exceeded your current quota"),
    ),
    "DeepSeek: no balance": (
        402,
        _error("Insufficient Balance", "invalid_request_error", "unknown_error"),
        Failure(ENDS, "HTTP 402", "Insufficient Balance"),
    ),
    "HF router: no credits": (
        402,
        {"error": "You have exceeded your monthly included credits for Inference Providers."},
        Failure(ENDS, "HTTP 402", "bill_to"),
    ),
    "Anthropic: no credits": (
        400,
        {
            "type": "error",
            "error": {"message": "Your credit balance is too low to access the API."},
        },
        Failure(ENDS, "no quota", "credit balance"),
    ),
    "OpenAI: wrong key": (
        401,
        _error("Incorrect API key provided", "invalid_api_key"),
        Failure(ENDS, "HTTP 401", "Incorrect API key"),
    ),
    "OpenAI: no model": (
        404,
        _error("The model `m` does not exist", "model_not_found"),
        Failure(ENDS, "HTTP 404", "does not exist"),
    ),
    "One API: no channel for the model": (
        503,
        _error("No available channel for model m", "model_not_found", "new_api_error"),
        Failure(ENDS, "HTTP 503", "No available channel"),
    ),
    "HF router: not supported": (
        400,
        {"error": {"message": "The requested model 'm' is not supported by any provider."}},
        Failure(ENDS, "HTTP 400", "not supported"),
    ),
    # Contexts exceeded: vllm issue 20409, QwenLM/Qwen3 issue 1321, llama.cpp pull request 15780.
    "OpenAI: context": (
        400,
        _error("This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        Failure(ENDS, "HTTP 400", "maximum context length"),
    ),
    "SGLang: context": (
        400,
        {
            "object": "error",
            "message": "The input (61709 tokens) is longer than the model's context length.",
            "type": "BadRequestError",
            "code": 400,
        },
        Failure(ENDS, "HTTP 400", "is longer than"),
    ),
    "llama.cpp: context": (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 1407,
                "n_ctx": 256,
            }
        },
        Failure(ENDS, "HTTP 400", "available context size"),
    ),
    "llama.cpp: context, earlier": (
        500,
        {
            "error": {
                "code": 500,
                "message": "the request exceeds the available context size.",
                "type": "exceed_context_size_error",
            }
        },
        Failure(ENDS, "HTTP 500", "available context size"),
    ),
    # fedora-copr/logdetective-website pull request 193.
    "llama-cpp-python: context": (
        500,
        _error(
            "Requested tokens (2285) exceed context window of 2048", type="internal_server_error"
        ),
        Failure(ENDS, "HTTP 500", "exceed context window"),
    ),
    "TGI: context": (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
            "error_type": "validation",
        },
        Failure(ENDS, "HTTP 422", "must be <= 4096"),
    ),
    "OpenAI: request above the limit a minute": (
        429,
        _error("Request too large for m on tokens per min (TPM): Limit 30000, Requested 50000."),
        Failure(ENDS, "HTTP 429", "Request too large"),
    ),
    "proxy: too large": (
        413,
        "<html>413 Request Entity Too Large</html>",
        Failure(ENDS, "HTTP 413"),
    ),
}
"""Status and body of each server and situation, and the meaning of the error."""

ENDED: dict[str, tuple[int, Any, Meaning]] = {
    # stanford-crfm/helm pull request 3327, compl-ai/compl-ai issue 20.
    "Azure: prompt filtered": (
        400,
        _error(
            "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy.",
            "content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
            status=400,
        ),
        Meaning("", "content_filter", generated=0, prompt=10),
    ),
    "OpenAI: thoughts up to the limit": (
        400,
        _error(
            "Could not finish the message because max_tokens or model output limit was reached. "
            "Please try again with higher max_tokens.",
            type="invalid_request_error",
        ),
        Meaning("", "length", thought_tokens=64, prompt=10),
    ),
}
"""Errors that are the end of a completion."""
