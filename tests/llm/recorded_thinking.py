"""Servers that read thinking efforts, and the words with which they refuse the others.

Each is a function from the body of a request to an error, or None. Comments name where a form was
seen: the source or documentation of the server, or a public thread of a repository.
"""

import re
from collections.abc import Callable
from typing import Any

from optuna_agenttts.llm.thinking import FIELDS

Rule = Callable[[dict[str, Any]], tuple[int, Any] | None]


def openai(message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return {"error": error}


def _unknown(body: dict[str, Any], *read: str) -> list[str]:
    return [name for name in FIELDS if name in body and name not in read]


def gpt_5_1(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Refuse unknown fields, all of them by name; anomalyco/opencode issue 4451."""
    if names := _unknown(body, "reasoning_effort"):
        many = "s" if len(names) > 1 else ""
        return 400, openai(f"Unrecognized request argument{many} supplied: {', '.join(names)}")
    if (word := body.get("reasoning_effort")) not in ("none", "low", "medium", "high", None):
        message = (
            f"Unsupported value: '{word}' is not supported with the 'gpt-5.1' model. Supported "
            "values are: 'none', 'low', 'medium', and 'high'."
        )
        return 400, openai(message, "unsupported_value", "reasoning_effort")
    return None


def gpt_5_mini(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Take no "none"; kaitranntt/ccs issue 344."""
    if names := _unknown(body, "reasoning_effort"):
        return 400, openai(f"Unrecognized request argument supplied: {names[0]}")
    if (word := body.get("reasoning_effort")) not in ("minimal", "low", "medium", "high", None):
        message = (
            f"Unsupported value: 'reasoning_effort' does not support '{word}' with this model. "
            "Supported values are: 'minimal', 'low', 'medium', and 'high'."
        )
        return 400, openai(message, "unsupported_value", "reasoning_effort")
    return None


def gpt_4o(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Take no effort at all; davidmigloz/langchain_dart issue 712."""
    names = _unknown(body)
    return (400, openai(f"Unrecognized request argument supplied: {names[0]}")) if names else None


def vllm_gpt_oss(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Know no delimiters of thoughts; vllm-project/vllm pull request 57830."""
    if "thinking_token_budget" not in body:
        return None
    message = (
        "thinking_token_budget is set but reasoning_config is not configured. Please set "
        "--reasoning-parser and/or --reasoning-config to use thinking_token_budget."
    )
    return 400, {"error": {"message": message, "type": "BadRequestError", "code": 400}}


def vllm_gpt_oss_newer(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Say which half is missing; vllm-project/vllm pull request 57830."""
    if "thinking_token_budget" not in body:
        return None
    message = (
        "thinking_token_budget needs the reasoning start and end strings, and reasoning parser "
        "'openai_gptoss' defines none. Pass --reasoning-config with both strings to use "
        "thinking_token_budget."
    )
    return 400, {"error": {"message": message, "type": "BadRequestError", "code": 400}}


def sglang(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Take three words; router-for-me/CLIProxyAPI issue 1572."""
    word = body.get("reasoning_effort", "low")
    if word in ("low", "medium", "high"):
        return None
    text = (
        "1 validation error:\n  {'type': 'literal_error', 'loc': ('body', 'reasoning_effort'), "
        f"'msg': \"Input should be 'low', 'medium' or 'high'\", 'input': '{word}', "
        "'ctx': {'expected': \"'low', 'medium' or 'high'\"}}"
    )
    return 400, {"object": "error", "message": text, "type": "Bad Request", "code": 400}


def groq_qwen3(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Name one unknown field; earendil-works/pi issue 1745, OpenWhispr issue 831."""
    if names := _unknown(body, "reasoning_effort"):
        return 400, openai(f"property '{names[0]}' is unsupported")
    if body.get("reasoning_effort", "none") not in ("none", "default"):
        return 400, openai("reasoning_effort must be one of none or default")
    return None


def groq_gpt_oss(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Take three words; OpenWhispr/openwhispr pull request 991."""
    if names := _unknown(body, "reasoning_effort"):
        return 400, openai(f"property '{names[0]}' is unsupported")
    if body.get("reasoning_effort", "low") not in ("low", "medium", "high"):
        return 400, openai("`reasoning_effort` must be one of `low`, `medium`, or `high`")
    return None


def cerebras(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Name all unknown fields; proxysoul/Empryo pull request 209, chatwise-releases 1325."""
    if names := _unknown(body, "reasoning_effort"):
        lines = (f"{name}: property '{name}' is unsupported" for name in names)
        return 400, {"message": "\n".join(lines), "param": "validation_error"}
    if body.get("reasoning_effort", "low") not in ("low", "medium", "high"):
        text = (
            "1 validation error for ChatCompletionServerRequest\nreasoning_effort\n Input should "
            "be 'low', 'medium' or 'high' [type=enum, input_value='none', input_type=str]"
        )
        return 400, {"message": text, "param": "validation_error", "code": "wrong_api_format"}
    return None


def mistral(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Refuse fields as FastAPI does; earendil-works/pi issue 9375, SillyTavern issue 5766."""
    if names := _unknown(body, "reasoning_effort"):
        detail = [
            {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not p..."}
            for name in names
        ]
        return 422, {"detail": detail}
    if body.get("reasoning_effort", "none") not in ("none", "high"):
        text = "reasoning_effort is not valid. Supported values: ['none', 'high']"
        return 400, {"object": "error", "message": text, "code": "3051"}
    return None


def gemini(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Know no "minimal"; ctrl-space-labs/gendox-core issue 480."""
    if names := _unknown(body, "reasoning_effort"):
        return 400, [{"error": {"message": f'Unknown name "{names[0]}": Cannot find field.'}}]
    if (word := body.get("reasoning_effort")) not in ("none", "low", "medium", "high", None):
        text = f"Invalid reasoning_effort: {word}. Valid values are: high, low, medium, none"
        return 400, [{"error": {"code": 400, "message": text}}]
    return None


def openrouter(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Take one of two fields; danny-avila/LibreChat issue 6076, omeryasirkucuk/amx pull 66."""
    if "reasoning" in body and "reasoning_effort" in body:
        text = 'Only one of "reasoning" and "reasoning_effort" may be provided'
        return 400, {"error": {"code": 400, "message": text}}
    if {"effort", "max_tokens"} <= set(body.get("reasoning", {})):
        text = 'Only one of "reasoning.effort" and "reasoning.max_tokens" can be specified'
        return 400, {"error": {"code": 400, "message": text}}
    return None


def openrouter_r1(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Refuse to stop thinking; vellum-ai/vellum-assistant pull request 32428."""
    reasoning = body.get("reasoning", {})
    if reasoning.get("enabled") is False or body.get("reasoning_effort") == "none":
        text = "Reasoning is mandatory for this endpoint and cannot be disabled"
        return 400, {"error": {"code": 400, "message": text}}
    return openrouter(body)


def ollama(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Read the word of one of two fields; ollama/ollama: openai/openai.go."""
    word = body.get("reasoning", {}).get("effort") or body.get("reasoning_effort", "none")
    if word in ("high", "medium", "low", "none"):
        return None
    text = f'invalid reasoning value: \'{word}\' (must be "high", "medium", "low", or "none")'
    return 400, openai(text)


def ollama_without_levels(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Take no level; ollama/ollama issue 12561."""
    if (word := body.get("reasoning_effort", "none")) == "none":
        return None
    text = f'think value "{word}" is not supported for this model'
    return 400, openai(text)


def ollama_llama(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Cannot think; Gitlawb/openclaude issue 1371."""
    if body.get("reasoning_effort", "none") == "none":
        return None
    return 400, openai('"llama3.1:8b" does not support thinking')


def dashscope(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Stream thoughts only; langchain4j/langchain4j issue 3974, QwenLM/Qwen-Agent issue 941."""
    if body.get("enable_thinking") and not body.get("stream"):
        text = "parameter.enable_thinking must be set to false for non-streaming calls"
        return 400, openai(text, "invalid_parameter_error")
    budget = body.get("thinking_budget", 1)
    if budget < 1 or budget > 38912:
        text = "The thinking_budget parameter must be a positive integer and not greater than "
        return 400, openai(f"<400> InternalError.Algo.InvalidParameter: {text}38912")
    return None


def glm_5_3(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Refuse to stop thinking, in general words; NousResearch/hermes-agent issue 96373."""
    if body.get("thinking", {}).get("type") == "disabled":
        return 400, {"error": {"code": "1210", "message": "API 调用参数有误，请检查文档。"}}
    return None


def anthropic(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Take budgets from 1,024 tokens on, below `max_tokens`."""
    thinking = body.get("thinking", {})
    if thinking.get("type") == "enabled" and "budget_tokens" not in thinking:
        text = "thinking.enabled.budget_tokens: Field required"
        return 400, {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    if thinking.get("budget_tokens", 1024) < 1024:
        text = "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
        return 400, {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    if thinking.get("type") == "enabled" and body.get("temperature", 1) != 1:
        text = "`temperature` may only be set to 1 when thinking is enabled."
        return 400, {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    return None


def transformers_serve(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Know one field, and ignore another; huggingface/transformers: cli/serving/utils.py."""
    unknown = set(_unknown(body, "reasoning_effort", "chat_template_kwargs"))
    return (422, {"detail": f"Unexpected fields in the request: {unknown}"}) if unknown else None


def lenient(body: dict[str, Any]) -> tuple[int, Any] | None:
    """Ignore what it does not know: vLLM, SGLang, llama.cpp, Ollama, TGI, Together, DeepSeek."""
    return None


SERVERS: dict[str, Rule] = {
    re.sub("_", " ", rule.__name__): rule
    for rule in (
        *(gpt_5_1, gpt_5_mini, gpt_4o, vllm_gpt_oss, vllm_gpt_oss_newer, sglang, groq_qwen3),
        *(groq_gpt_oss, cerebras, mistral, gemini, openrouter, openrouter_r1, glm_5_3),
        *(
            ollama,
            ollama_without_levels,
            ollama_llama,
            dashscope,
            anthropic,
            lenient,
            transformers_serve,
        ),
    )
}

_WORD = "reasoning_effort"
_ALL_BUT_BUDGET = tuple(name for name in FIELDS if name != "thinking_token_budget")
_ALL_BUT_WORD = tuple(name for name in FIELDS if name != _WORD)
OUTCOMES: dict[tuple[str, str | int], tuple[str | None, tuple[str, ...]] | None] = {
    # The value of `reasoning_effort` (None: not sent) and the fields that are sent in the end;
    # None for an error.
    **{("lenient", effort): (word, FIELDS) for effort, word in (("low", "low"), ("off", "none"))},
    **{("lenient", effort): (word, FIELDS) for effort, word in (("on", "medium"), (1500, "low"))},
    ("gpt 5 1", "low"): ("low", (_WORD,)),
    ("gpt 5 1", "off"): ("none", (_WORD,)),
    ("gpt 5 1", "minimal"): None,
    ("gpt 5 1", 100): ("low", (_WORD,)),
    ("gpt 5 1", 8192): ("medium", (_WORD,)),
    ("gpt 5 1", 10000): ("high", (_WORD,)),
    ("gpt 5 mini", "off"): None,
    ("gpt 5 mini", "high"): ("high", (_WORD,)),
    ("gpt 5 mini", "xhigh"): None,
    ("gpt 4o", "low"): None,
    ("vllm gpt oss", "low"): ("low", _ALL_BUT_BUDGET),
    ("vllm gpt oss", 1024): ("low", _ALL_BUT_BUDGET),
    ("vllm gpt oss", "off"): ("none", FIELDS),
    ("vllm gpt oss newer", "low"): ("low", _ALL_BUT_BUDGET),
    ("sglang", "off"): (None, _ALL_BUT_WORD),
    ("sglang", "low"): ("low", FIELDS),
    ("sglang", "xhigh"): None,
    ("sglang", 100): ("low", FIELDS),
    ("groq qwen3", "off"): ("none", (_WORD,)),
    ("groq qwen3", "on"): ("default", (_WORD,)),
    ("groq qwen3", "low"): None,
    ("groq qwen3", 1024): ("default", (_WORD,)),
    ("groq gpt oss", "off"): None,
    ("groq gpt oss", "low"): ("low", (_WORD,)),
    ("cerebras", "low"): ("low", (_WORD,)),
    ("cerebras", "off"): None,
    ("mistral", "off"): ("none", (_WORD,)),
    ("mistral", "on"): ("high", (_WORD,)),
    ("mistral", "low"): None,
    ("mistral", 1024): ("high", (_WORD,)),
    ("gemini", "low"): ("low", (_WORD,)),
    ("gemini", "minimal"): None,
    ("openrouter", "low"): (None, _ALL_BUT_WORD),
    ("openrouter", 3000): (None, _ALL_BUT_WORD),
    ("openrouter r1", "off"): None,
    ("openrouter r1", "low"): (None, _ALL_BUT_WORD),
    ("ollama without levels", "off"): ("none", FIELDS),
    ("ollama without levels", "on"): (None, _ALL_BUT_WORD),
    ("ollama without levels", "low"): None,
    ("ollama", "off"): ("none", FIELDS),
    ("ollama", "low"): ("low", FIELDS),
    ("ollama", "minimal"): None,
    ("ollama", 100): ("low", FIELDS),
    ("ollama llama", "off"): ("none", FIELDS),
    ("ollama llama", "low"): None,
    ("dashscope", "off"): ("none", FIELDS),
    ("dashscope", "low"): ("low", FIELDS),
    ("dashscope", 100000): None,
    ("glm 5 3", "off"): None,
    ("glm 5 3", "low"): ("low", FIELDS),
    ("anthropic", "low"): (None, ("thinking",)),
    ("anthropic", "off"): ("none", FIELDS),
    ("anthropic", 2048): ("low", FIELDS),
    ("transformers serve", "off"): ("none", (_WORD, "chat_template_kwargs")),
    ("transformers serve", "low"): ("low", (_WORD, "chat_template_kwargs")),
    ("anthropic", 100): None,
}
"""What an effort becomes at a server."""
