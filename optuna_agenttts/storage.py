"""Attributes of studies and trials: their names, and the only code that writes them.

Study values are JSON. Storages share neither a compare-and-swap operation nor a size limit: a
MySQL TEXT holds 65,535 bytes, and Optuna's own samplers split values at 2,045 characters, so long
values are split in the same way. Chunks are named after their content, and the record that points
to them is written last, so a concurrent reader sees the old value or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

from optuna.distributions import CategoricalDistribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, Trial, TrialState

PREFIX = "agenttts:"
TASK = PREFIX + "task"
ROUND = PREFIX + "round:"
CLAIM = PREFIX + "claim:"
LIMIT = PREFIX + "limit"
CARRIED = PREFIX + "carried"
FRESH = PREFIX + "fresh"
INSTANCES = PREFIX + "instances"
LOOK = PREFIX + "look:"
_WORKER = ":worker:"
_RECOGNISE = PREFIX + "recognise"
_MEASURED = PREFIX + "measured:"
_EXPLAINING = PREFIX + "explaining"
_FACTS = PREFIX + "facts"
_METRIC_NAMES = ("study:metric_names", "dashboard:objective_names")
"""Keys of metric names: those of `Study.set_metric_names`, and those of optuna-dashboard alone."""
CANDIDATE = PREFIX + "candidate"
ORIGIN = PREFIX + "origin"
REASON = PREFIX + "reason"
PROPOSED = PREFIX + "proposed"
"""System attribute of a trial: which candidate of the agent was for it, and what became of it."""
CONFIRMATION = PREFIX + "confirmation"
"""System attribute of a trial that confirms an allocation: `block` of fresh instances, from 1."""
ENDED = PREFIX + "ended_in_thoughts"
"""System attribute of a trial: replies that ended inside their thoughts, and all, by stage."""
DIAGNOSTICS = PREFIX + "diagnostics"
TRANSCRIPTS = PREFIX + "transcripts"
"""System attributes of a trial: what its stages did, and its worst instances as texts."""
DRAWN = PREFIX + "drawn"
EQUAL = PREFIX + "equal"
LENGTHS = PREFIX + "lengths"
MEAN_STEP = PREFIX + "mean_at_step"
OUTCOMES = PREFIX + "outcomes"
COST = PREFIX + "cost"
"""Of trials of several objectives: outcomes by step, and the task's cost if it is one of them."""
SPEND = PREFIX + "spend"
STAGES = PREFIX + "stages"
"""Of a trial: its exact spend; by stage, its spend and what reused samples would have cost."""

# Characters per chunk, as in Optuna's CMA-ES sampler (`optuna/samplers/_cmaes.py`).
_CHUNK = 2045
# Of graphs: tags of MLflow hold 8,000 characters, and a MySQL TEXT 65,535 bytes, six a character.
_GRAPH_CHUNK = 7000

# Tasks that this process has registered: storages do not cache attributes of studies.
_registered: WeakKeyDictionary[Study, str] = WeakKeyDictionary()
# Choices of categorical parameters, once a trial has them.
_choices: WeakKeyDictionary[Study, dict[str, tuple[Any, ...]]] = WeakKeyDictionary()


def study_of(trial: object) -> Study | None:
    """Return the study of a running trial; None for others, such as an `optuna.FixedTrial`."""
    study = getattr(trial, "study", None)
    return study if isinstance(study, Study) else None


def attributes_of(study: Study) -> Mapping[str, Any]:
    """Read the system attributes of a study."""
    return study._storage.get_study_system_attrs(study._study_id)


def _write(study: Study, key: str, value: Any) -> None:
    study._storage.set_study_system_attr(study._study_id, key, value)


def write_study_value(storage: BaseStorage, study_id: int, key: str, value: Any) -> None:
    """Write a JSON-ready value of any length under a key of a study."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    digest = _digest(text)
    chunks = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    for index, chunk in enumerate(chunks):
        storage.set_study_system_attr(study_id, f"{key}:{digest}:{index}", chunk)
    storage.set_study_system_attr(study_id, key, {"digest": digest, "pieces": len(chunks)})


def read_study_value(attributes: Mapping[str, Any], key: str) -> Any:
    """Read a value that `write_study_value` wrote.

    Returns:
        The value, or None if it is missing or incomplete.
    """
    record = attributes.get(key)
    if not isinstance(record, Mapping):
        return None
    names = [f"{key}:{record.get('digest')}:{i}" for i in range(int(record.get("pieces", 0)))]
    if not all(name in attributes for name in names):
        return None
    return json.loads("".join(attributes[name] for name in names))


def numbers_after(attributes: Mapping[str, Any], start: str) -> list[int]:
    """Return the numbers that follow this start of keys, in order."""
    ends = (key[len(start) :] for key in attributes if key.startswith(start))
    return sorted(int(end) for end in ends if end.isdigit())


def register(
    study: Study, text: str, keep: Callable[[Mapping[str, Any]], bool] = lambda earlier: False
) -> Mapping[str, Any] | None:
    """Write the description of the task that a study tunes.

    Args:
        study: The study.
        text: The description as canonical JSON.
        keep: Function that returns whether to keep another description, because it differs in
            nothing that matters. An error that it raises prevents the registration.

    Returns:
        The description that was replaced, or None if there was none or it was kept.
    """
    if _registered.get(study) == text:
        return None
    earlier, now = registered(study), json.loads(text)
    replaced = earlier if earlier != now and earlier is not None and not keep(earlier) else None
    if earlier is None or replaced is not None:
        write_study_value(study._storage, study._study_id, TASK, now)
    _registered[study] = text
    return replaced


def last_registered(study: Study) -> str | None:
    """Return the description that this process registered last, without reading the storage."""
    return _registered.get(study)


def registered(study: Study) -> Mapping[str, Any] | None:
    """Read the description of the task that a study tunes, or None."""
    values: Mapping[str, Any] | None = read_study_value(attributes_of(study), TASK)
    return values


def read_trials(study: Study) -> list[FrozenTrial]:
    """Return all trials of a study in order of number, which not every storage keeps."""
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return sorted(trials, key=attrgetter("number"))


def read_choices(study: Study, parameter: str) -> tuple[Any, ...] | None:
    """Return the choices of a categorical parameter, which Optuna fixes; None before a trial."""
    known = _choices.setdefault(study, {})
    if parameter not in known:
        for trial in read_trials(study):
            distribution = trial.distributions.get(parameter)
            if isinstance(distribution, CategoricalDistribution):
                known[parameter] = distribution.choices
                break
    return known.get(parameter)


def fail_trial(study: Study, trial: FrozenTrial) -> None:
    """End a trial that an error prevents from running, which Optuna would leave running."""
    study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def add_finished_trial(study: Study, trial: FrozenTrial) -> FrozenTrial:
    """Add a trial of `create_trial` at once, so that an interruption leaves none half written."""
    trial._validate()
    trial_id = study._storage.create_new_trial(study._study_id, template_trial=trial)
    return study._storage.get_trial(trial_id)


def confirmation_marks(block: int) -> dict[str, Any]:
    """Return the system attributes of a confirmation trial, for `optuna.trial.create_trial`.

    Args:
        block: Number of the block of fresh instances, from 1: that of the look. Trials of one
            block have the same instances, at the same steps.
    """
    return {CONFIRMATION: {"block": block}}


def confirmation_block(trial: FrozenTrial) -> int:
    """Return the block of fresh instances of a confirmation trial; 0 for trials of the search."""
    marks = trial.system_attrs.get(CONFIRMATION)
    block = marks.get("block") if isinstance(marks, Mapping) else None
    return block if isinstance(block, int) and block > 0 else 0


def write_fresh(
    study: Study, base: int, names: Sequence[str], search: Sequence[str] | None
) -> None:
    """Write the names of a study's fresh instances, in order of step.

    Args:
        study: The study.
        base: Step of the first one.
        names: Their names.
        search: Names of the search's instances, if they are known.
    """
    value = {"base": base, "names": list(names), "search": search and list(search)}
    write_study_value(study._storage, study._study_id, FRESH, value)


def write_instances(study: Study, names: Sequence[str | None]) -> None:
    """Write the names of the search's instances, in order of step; None if one is not known."""
    write_study_value(study._storage, study._study_id, INSTANCES, list(names))


def write_look(study: Study, number: int, value: Mapping[str, Any]) -> None:
    """Write the plan of a look: which allocations are evaluated on which fresh instances."""
    write_study_value(study._storage, study._study_id, f"{LOOK}{number}", value)


def write_worker(study: Study, look: int, position: int, worker: str) -> None:
    """Write which worker evaluates an allocation of a look; empty if none does any more."""
    _write(study, f"{LOOK}{look}{_WORKER}{position}", worker)


def read_workers(study: Study, look: int) -> dict[int, str]:
    """Read which workers evaluate the allocations of a look, by position."""
    start, found = f"{LOOK}{look}{_WORKER}", attributes_of(study)
    return {n: found[f"{start}{n}"] for n in numbers_after(found, start)}


def mark_measured(study: Study, text: str) -> None:
    """Record that the token lengths in a task's description were measured, not declared."""
    _write(study, _MEASURED + _digest(text), True)


def is_measured(study: Study, text: str) -> bool:
    """Return whether `mark_measured` was called for this description."""
    return _MEASURED + _digest(text) in attributes_of(study)


def write_recognise(study: Study, recognise: Any) -> None:
    """Write how stages are recognized, for `recommend` and callbacks; JSON-ready."""
    _write(study, _RECOGNISE, recognise)


def read_recognise(study: Study) -> Any:
    """Read how stages are recognized; True if nothing was written."""
    return attributes_of(study).get(_RECOGNISE, True)


def write_limit(study: Study, limit: float) -> None:
    """Write the spend at which the search stops, in units of the task's cost model."""
    _write(study, LIMIT, limit)


def write_carried(study: Study, earlier: Study, trials: int, left_out: int) -> None:
    """Write the study whose trials and metrics a study has, and how many were left out."""
    text = f"{trials} trials of study {earlier.study_name!r}; {left_out} others were left out"
    study.set_user_attr(CARRIED, text)
    if (names := attributes_of(earlier).get(_METRIC_NAMES[0])) is not None:
        _write(study, _METRIC_NAMES[0], names)


def write_round_claim(study: Study, number: int, trial: int, time: float) -> None:
    """Record which trial's worker plans a round, and since when (Unix time)."""
    _write(study, f"{CLAIM}{number}", {"by": trial, "at": time})


def write_candidate(
    study: Study, trial_id: int, facts: Mapping[str, Any], origin: str, reason: str
) -> None:
    """Write the facts about a trial's allocation, its origin, and the reason for it."""
    for name, value in facts.items():
        study._storage.set_trial_system_attr(trial_id, name, value)
    write_origin(study, trial_id, origin, reason)


def write_origin(study: Study, trial_id: int, origin: str, reason: str) -> None:
    """Write the origin of a trial's parameters, and the reason for them."""
    study._storage.set_trial_user_attr(trial_id, ORIGIN, origin)
    study._storage.set_trial_user_attr(trial_id, REASON, reason)


def write_trial_values(trial: BaseTrial, values: Mapping[str, Any]) -> None:
    """Write user attributes of a running trial."""
    for name, value in values.items():
        trial.set_user_attr(name, value)


def write_trial_facts(trial: BaseTrial, values: Mapping[str, Any]) -> None:
    """Write facts about a running trial that are for programs, as system attributes."""
    for name, value in values.items():
        if isinstance(trial, Trial):
            trial.storage.set_trial_system_attr(trial._trial_id, name, value)
        elif isinstance(trial, (FixedTrial, FrozenTrial)):
            trial.system_attrs[name] = value
        else:
            # Trials of other packages, which wrap one.
            trial.set_user_attr(name, value)


def read_trial_fact(trial: FrozenTrial, key: str) -> Any:
    """Read a fact about a trial; None if it has none.

    Earlier versions wrote user attributes, most of them without the prefix.
    """
    for attributes in (trial.system_attrs, trial.user_attrs):
        if key in attributes:
            return attributes[key]
    return trial.user_attrs.get(key[len(PREFIX) :])


def write_facts(study: Study, facts: Mapping[str, str]) -> None:
    """Write user attributes of a study for people, except those that the user has written."""
    attributes = study._storage.get_study_user_attrs(study._study_id)
    ours = attributes_of(study).get(_FACTS, [])
    new = [name for name in facts if name not in attributes and name not in ours]
    if new:
        ours = [*ours, *new]
        _write(study, _FACTS, ours)
    for name, value in facts.items():
        if name in ours and attributes.get(name) != value:
            study._storage.set_study_user_attr(study._study_id, name, value)


def write_metric_names(study: Study, names: Sequence[str]) -> None:
    """Write the names of a study's objectives for optuna-dashboard, unless it has some."""
    # `Study.set_metric_names` would rename columns of `Study.trials_dataframe`.
    if attributes_of(study).keys().isdisjoint(_METRIC_NAMES):
        _write(study, _METRIC_NAMES[1], list(names))


def write_trial_note(study: Study, trial_id: int, text: str) -> None:
    """Write the note of a trial that has none, as `optuna_dashboard.save_note` does."""
    # That function reads all attributes of the study twice for each note.
    key = f"{trial_note_key(trial_id)}str:"
    for index, start in enumerate(range(0, len(text), _CHUNK)):
        _write(study, f"{key}{index}", text[start : start + _CHUNK])
    _write(study, f"{trial_note_key(trial_id)}ver", 1)


def write_graph(study: Study, graph_id: str, text: str) -> None:
    """Write a graph for optuna-dashboard, as `save_plotly_graph_object` does.

    Parts that are equal are not written again, and parts are larger: a graph is written in a
    third of the time.

    Args:
        study: The study.
        graph_id: ID of the graph.
        text: The figure as JSON.
    """
    key = f"dashboard:plot_data:{graph_id}:"
    attributes = attributes_of(study)
    count = sum(name.startswith(key) for name in attributes)
    for index in range(max(count, -(-len(text) // _GRAPH_CHUNK))):
        part = text[index * _GRAPH_CHUNK : (index + 1) * _GRAPH_CHUNK]
        if attributes.get(f"{key}{index}") != part:
            _write(study, f"{key}{index}", part)


def trial_note_key(trial_id: int) -> str:
    """Return the start of the keys of a trial's note in its study's system attributes."""
    return f"dashboard:{trial_id}:note_"


def begin_explaining(study: Study, worker: str, now: float, timeout: float) -> bool:
    """Return whether this worker may write explanations: no other one is doing so.

    Storages have no compare-and-swap operation, so two workers that begin at the same instant may
    both write; the later texts stay.

    Args:
        study: The study.
        worker: Unique name of the worker.
        now: Unix time, in seconds.
        timeout: Time after which another worker is taken to have been killed, in seconds.
    """
    record = attributes_of(study).get(_EXPLAINING, {})
    if record.get("by") and abs(now - record["at"]) < timeout:
        return False
    _write(study, _EXPLAINING, {"by": worker, "at": now})
    return bool(attributes_of(study)[_EXPLAINING]["by"] == worker)


def end_explaining(study: Study) -> None:
    """Let other workers write explanations."""
    _write(study, _EXPLAINING, {"by": "", "at": 0.0})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
