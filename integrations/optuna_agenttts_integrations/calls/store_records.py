"""Records of a completion store as JSON text: requests, completions, lines of an export."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts.support.forking import unlocked_cached_property

_MAX_TOKENS = 2**53
"""Most tokens of a completion, whose sums all databases can hold."""

_MAX_SAMPLE, _MAX_SEED = 2**31 - 1, 2**63 - 1
"""Greatest integers of the columns ``sample`` and ``seed`` in PostgreSQL."""


@dataclass(frozen=True)
class RequestKey:
    """Key of the completions of a request.

    Args:
        endpoint: Identity of the endpoint.
        seed: Seed of the objective.
        request: Request as canonical JSON.
    """

    endpoint: str
    seed: int
    request: str

    @unlocked_cached_property
    def digest(self) -> str:
        """SHA-256 of the key, in hexadecimal: the column ``key`` of the store."""
        identity = f"{self.endpoint}\n{self.seed}\n{self.request}"
        return hashlib.sha256(identity.encode()).hexdigest()

    @unlocked_cached_property
    def model(self) -> str:
        """Name of the requested model."""
        return str(json.loads(self.request).get("model", ""))


def canonical_json(values: Mapping[str, Any]) -> str:
    """Return values as JSON text that is the same for equal values."""
    return _json(values, sort_keys=True, separators=(",", ":"))


def _json(values: Any, **options: Any) -> str:
    """Return values as JSON text that can be encoded as UTF-8."""
    text = json.dumps(values, ensure_ascii=False, **options)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A truncated reply may end in an unpaired surrogate.
        return json.dumps(values, **options)
    return text


def completion_text(completion: Completion) -> str:
    """Return a completion as JSON text."""
    usage = completion.usage
    values = [
        completion.text,
        # Models in process may return numpy integers, which `json` does not accept.
        int(usage.prompt_tokens),
        int(usage.completion_tokens),
        str(completion.finish_reason),
    ]
    # Left out where there are none, as in earlier versions.
    if completion.thoughts or usage.thought_tokens:
        values += [completion.thoughts, int(usage.thought_tokens)]
    return _json(values)


def read_completion(value: str) -> Completion:
    """Return the completion that `completion_text` wrote.

    Raises:
        ValueError: The text is not that of a completion.
    """
    try:
        return _checked(json.loads(value))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not a text of JSON: {error}") from error


def _checked(fields: Any) -> Completion:
    """Return the completion of fields from outside; raise `ValueError` if it is none."""
    types = [str, int, int, str, str, int]
    if (
        not isinstance(fields, list)
        or [type(field) for field in fields] != types[: max(4, len(fields))]
        or not all(0 <= tokens <= _MAX_TOKENS for tokens in (*fields[1:3], *fields[5:]))
    ):
        raise ValueError("not text, tokens of prompt and reply, and finish reason")
    return _completion(*fields)


def _completion(
    text: str,
    prompt: int,
    generated: int,
    reason: str,
    thoughts: str = "",
    thought_tokens: int = 0,
) -> Completion:
    return Completion(text, Usage(prompt, generated, thought_tokens), reason, thoughts)


def export_line(request_key: RequestKey, samples: Mapping[int, str], at: float) -> str:
    """Return a line of an export, given what `completion_text` returned, by index."""
    values = {
        "endpoint": request_key.endpoint,
        "seed": request_key.seed,
        "at": at,
        "request": json.loads(request_key.request),
        "samples": {str(sample): json.loads(value) for sample, value in samples.items()},
    }
    return _json(values)


def read_line(line: bytes) -> tuple[RequestKey, dict[int, Completion], float | None]:
    """Read key, completions by index, and time of the first request, if any, of an export's line.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: The line is not one of an export.
    """
    try:
        values = json.loads(line.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    at = values.get("at")
    request_key = RequestKey(
        str(values["endpoint"]), int(values["seed"]), canonical_json(dict(values["request"]))
    )
    if "\0" in request_key.endpoint + request_key.model:
        raise ValueError("the name of an endpoint or model has a NUL")
    # Names with unpaired surrogates cannot be encoded.
    for text in (request_key.endpoint, request_key.model):
        text.encode()
    if abs(request_key.seed) > _MAX_SEED or not math.isfinite(at or 0.0):
        raise ValueError(f"seed {request_key.seed} or time {at} is out of range")
    samples = {}
    for name, value in values["samples"].items():
        if not 0 <= int(name) <= _MAX_SAMPLE:
            raise ValueError(f"the index of sample {name!r} is out of range")
        samples[int(name)] = _checked(value)
    return request_key, samples, None if at is None else float(at)
