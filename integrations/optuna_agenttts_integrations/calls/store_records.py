"""What a completion store keeps, as text: requests, completions, and the lines of an export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna_agenttts.llm import Completion, Usage


@dataclass(frozen=True)
class RequestKey:
    """What completions answer.

    Args:
        endpoint: Identity of the endpoint that was request_key.
        seed: The objective's seed.
        request: The request as canonical JSON.
    """

    endpoint: str
    seed: int
    request: str

    @cached_property
    def digest(self) -> str:
        """What the store knows it by."""
        identity = f"{self.endpoint}\n{self.seed}\n{self.request}"
        return hashlib.sha256(identity.encode()).hexdigest()

    @cached_property
    def model(self) -> str:
        """The model that was asked for."""
        return str(json.loads(self.request).get("model", ""))


def canonical_json(values: Mapping[str, Any]) -> str:
    """Values as JSON text that is the same for equal values."""
    return _json(values, sort_keys=True, separators=(",", ":"))


def _json(values: Any, **options: Any) -> str:
    text = json.dumps(values, ensure_ascii=False, **options)
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair: a reply that was cut off may end in one.
        return json.dumps(values, **options)
    return text


def completion_text(completion: Completion) -> str:
    """A completion as JSON text."""
    usage = completion.usage
    values = [
        completion.text,
        # Models in process may count in numpy's integers.
        int(usage.prompt_tokens),
        int(usage.completion_tokens),
        str(completion.finish_reason),
    ]
    return _json(values)


def read_completion(value: str) -> Completion:
    """Undo `completion_text`."""
    text, prompt, generated, reason = json.loads(value)
    return Completion(text, Usage(prompt, generated), reason)


def export_line(request_key: RequestKey, samples: Mapping[int, str], at: float) -> str:
    """A line of an export.

    Args:
        request_key: What was request_key.
        samples: For each index, the completion as `completion_text` writes it.
        at: When it was first asked, in seconds since 1970.
    """
    values = {
        "endpoint": request_key.endpoint,
        "seed": request_key.seed,
        "at": at,
        "request": json.loads(request_key.request),
        "samples": {str(sample): json.loads(value) for sample, value in samples.items()},
    }
    return _json(values)


def read_line(line: bytes) -> tuple[RequestKey, dict[int, Completion], float | None]:
    """What was asked, the samples, and when, if it says so, from a line of an export.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: It is not what `export_line` writes.
    """
    try:
        values = json.loads(line.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    at = values.get("at")
    request_key = RequestKey(
        str(values["endpoint"]), int(values["seed"]), canonical_json(dict(values["request"]))
    )
    samples = {}
    for name, (text, prompt, generated, reason) in values["samples"].items():
        index = int(name)
        whole = all(type(number) is int and number >= 0 for number in (index, prompt, generated))
        if not (whole and isinstance(text, str) and isinstance(reason, str)):
            raise ValueError(f"sample {name!r} is no completion")
        samples[index] = Completion(text, Usage(prompt, generated), reason)
    return request_key, samples, None if at is None else float(at)
