"""Short names of models, so that a trial fits into one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from optuna_agenttts.agent.prompts.data import quote
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.task.task import Task

_WORD = re.compile(r"[A-Za-z0-9.]+")
_SIZE = re.compile(r"\d+(\.\d+)?[BMbm]")
"""The size in a name, which says most."""
_MAX_LENGTH = 16
"""Maximum number of characters of a short name; chosen by hand."""
_MAX_WORDS = 3
"""Maximum number of words of a short name; chosen by hand."""


def short_names(task: Task) -> dict[str, str]:
    """Return a short name for each model of a task, by its name.

    A short name is a word of the name, or successive ones, that no other model of the task has;
    without one, the quoted name. Choices of one model at several thinking efforts have its short
    name and the effort.

    Args:
        task: The task.
    """
    models = [model for stage in task.stages for model in stage.models]
    efforts = {model.name: model.thinking for model in models}
    wholes = {name: name if each is None else each.model for name, each in efforts.items()}
    short = _shortened(list(dict.fromkeys(wholes.values())))
    found = {}
    for name, thinking in efforts.items():
        label = "" if thinking is None else thinking.brief_label
        plain = _WORD.fullmatch(label) and not short[wholes[name]].startswith('"')
        whole = f"{short[wholes[name]]}/{label}" if plain else short[wholes[name]]
        found[name] = quote(name) if label and not plain else whole
    distinct = len(set(found.values())) == len(found)
    return found if distinct else {name: quote(name) for name in found}


def full_names(task: Task) -> dict[str, str]:
    """Return the names of models by their short names in lower case, for the reading of replies.

    The short name of a model without a thinking effort stands for the model.
    """
    found = {}
    efforts = {model.name: model.thinking for stage in task.stages for model in stage.models}
    for name, short in short_names(task).items():
        found[short.casefold()] = name
        thinking = efforts[name]
        if thinking is not None and not short.startswith('"'):
            found.setdefault(short.rpartition("/")[0].casefold(), thinking.model)
    return found


def allocation_text(task: Task, names: Mapping[str, str], choices: Choices) -> str:
    """Format an allocation on one line, in the order of the stages.

    Args:
        task: The task.
        names: Short names of its models.
        choices: The allocation.
    """
    models = (stage.models[model].name for stage, (model, _) in zip(task.stages, choices))
    return ", ".join(f"{names[name]} x {samples}" for name, (_, samples) in zip(models, choices))


def _shortened(names: Sequence[str]) -> dict[str, str]:
    """Return a short name for each of these names."""
    runs = {name: _runs(name) for name in names}
    owners = Counter(run.lower() for found in runs.values() for run in set(found))
    return {
        name: next((run for run in found if owners[run.lower()] == 1), quote(name))
        for name, found in runs.items()
    }


def _runs(name: str) -> list[str]:
    """Return the successive words of a name that can be its short name, the best first."""
    words = _WORD.findall(name)
    runs = [
        words[start : start + size]
        for size in range(1, _MAX_WORDS + 1)
        for start in range(len(words) - size + 1)
    ]
    runs.sort(key=lambda run: (len(run), not any(map(_SIZE.fullmatch, run))))
    joined = map("-".join, runs)
    return [run for run in joined if len(run) <= _MAX_LENGTH and re.search("[A-Za-z]", run)]
