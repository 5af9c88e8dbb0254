"""The JSON schema that replies should follow, for servers that can constrain generation."""

from __future__ import annotations

import json
from typing import Any


def reply_schema(
    properties: dict[str, Any],
    *,
    wanted: int,
    guidelines: bool,
    name: str,
    strict: bool = True,
    claims: dict[str, Any] | None = None,
) -> str:
    """The schema of a reply, as JSON text.

    Args:
        properties: What each candidate has under `name`.
        wanted: The most candidates.
        guidelines: Whether the reply holds guidelines too.
        name: ``"allocation"`` or ``"params"``.
        strict: Whether every property is required, and no other allowed.
        claims: The schema of claims, if the reply holds some.
    """
    inner: dict[str, Any] = {"type": "object", "properties": properties}
    if strict:
        inner |= {"required": list(properties), "additionalProperties": False}
    candidate = {
        "type": "object",
        "properties": {name: inner, "reason": {"type": "string", "maxLength": 300}},
        "required": [name, "reason"],
        "additionalProperties": False,
    }
    fields: dict[str, Any] = {}
    if guidelines:
        text = {"type": "string", "maxLength": 400}
        fields["guidelines"] = {"type": "array", "items": text, "maxItems": 8}
    if claims is not None:
        fields["claims"] = claims
    fields["candidates"] = {
        "type": "array",
        "items": candidate,
        "minItems": 1,
        "maxItems": wanted,
    }
    schema = {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
    return json.dumps(schema, separators=(",", ":"))
