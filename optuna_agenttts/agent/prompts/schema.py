"""JSON schema of the replies, for servers that support structured output."""

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
    repeats: bool = False,
) -> str:
    """Return the schema of a reply, as JSON text.

    Args:
        properties: Schemas of the properties that each candidate has under `name`.
        wanted: Maximum number of candidates.
        guidelines: Whether the reply includes guidelines.
        name: ``"allocation"`` or ``"params"``.
        strict: Whether all properties are required and no others are allowed.
        claims: Schema of the claims; None if the reply includes none.
        repeats: Whether the reply includes trials to repeat.
    """
    # Maximum lengths, in characters, and numbers of items are those of `validation.py`.
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
        "maxItems": wanted,
    }
    if repeats:
        number = {"type": "integer", "minimum": 0}
        fields["measure_again"] = {"type": "array", "items": number, "maxItems": wanted}
    schema = {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
    return json.dumps(schema, separators=(",", ":"))
