"""The only owner of what this package keeps in a study's storage.

Values are JSON. Storages have no compare-and-swap and no size limit in common: a MySQL TEXT
holds 65,535 bytes, and Optuna's own samplers split at 2,045 characters, so long values are split
likewise. The pieces are named after their content and the record that points to them is written
last, so a reader sees either the old value or the new one, never a mixture, whoever else writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study

PREFIX = "agenttts:"
TASK = PREFIX + "task"
CANDIDATE = PREFIX + "candidate"
ORIGIN = PREFIX + "origin"
REASON = PREFIX + "reason"
ROUND = PREFIX + "round:"
CLAIM = PREFIX + "claim:"
LIMIT = PREFIX + "limit"

_CHUNK = 2045

# What this process has registered already, so that a trial does not read the study's attributes,
# which no storage caches, just to find them as they were.
_registered: WeakKeyDictionary[Study, str] = WeakKeyDictionary()


def write_study_value(storage: BaseStorage, study_id: int, key: str, value: Any) -> None:
    """Keep a JSON-ready value under a key of the study."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    pieces = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    for index, piece in enumerate(pieces):
        storage.set_study_system_attr(study_id, f"{key}:{digest}:{index}", piece)
    storage.set_study_system_attr(study_id, key, {"digest": digest, "pieces": len(pieces)})


def read_study_value(attributes: Mapping[str, Any], key: str) -> Any:
    """Read what `write_study_value` kept; None if there is nothing, or not all of it.

    Args:
        attributes: The study's system attributes.
        key: The key.
    """
    record = attributes.get(key)
    if not isinstance(record, Mapping):
        return None
    names = [f"{key}:{record.get('digest')}:{i}" for i in range(int(record.get("pieces", 0)))]
    if not all(name in attributes for name in names):
        return None
    return json.loads("".join(attributes[name] for name in names))


def register(study: Study, text: str) -> Mapping[str, Any] | None:
    """Keep the description of the task that a study tunes.

    Args:
        study: The study.
        text: The description as canonical JSON.

    Returns:
        The description that it replaced, or None if there was none or the same.
    """
    if _registered.get(study) == text:
        return None
    earlier, now = registered(study), json.loads(text)
    if earlier != now:
        write_study_value(study._storage, study._study_id, TASK, now)
    _registered[study] = text
    return earlier if earlier != now else None


def last_registered(study: Study) -> str | None:
    """The description that this process registered last, as canonical JSON, without reading."""
    return _registered.get(study)


def registered(study: Study) -> Mapping[str, Any] | None:
    """The description of the task that a study tunes, or None."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    values: Mapping[str, Any] | None = read_study_value(attributes, TASK)
    return values
