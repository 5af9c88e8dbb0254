"""Fresh instances of a study, on which allocations are confirmed, and their steps.

Instances of the search have the steps from 0 on. Fresh ones have steps from a base beyond these,
in an order that is stored with the study, so that a resumed confirmation gives each instance the
same step and trials are paired on equal instances only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.study.stopped import outcomes_of

_LONGEST = 100_000
"""Characters of the names of all instances of a search that are stored. Chosen by hand: storages
read all attributes of a study at once."""
_LEAST_BASE = 1000
"""Smallest step of a fresh instance. Searches of fewer instances than that are the rule."""


@dataclass(frozen=True, slots=True)
class FreshInstances:
    """Names of fresh instances, in order of step.

    Args:
        base: Step of the first one.
        names: The names.
        search: Names of the search's instances; None if they are not known.
    """

    base: int
    names: tuple[str, ...] = ()
    search: tuple[str, ...] | None = None

    def steps(self) -> dict[str, int]:
        """Return the step of each name."""
        return {name: self.base + position for position, name in enumerate(self.names)}

    def name(self, step: int) -> str:
        """Return the name of the instance of a step; empty if it is not known."""
        names, position = self.names, step - self.base
        if position < 0:
            names, position = self.search or (), step
        return names[position] if 0 <= position < len(names) else ""

    def including(self, names: Iterable[str], seed: int) -> FreshInstances:
        """Return these and further instances, which are appended in random order."""
        known = set(self.names)
        added = [name for name in names if name not in known]
        random.Random(seed).shuffle(added)
        return replace(self, names=(*self.names, *added))


def own_id(instance: Any) -> Any:
    """Return the attribute or key ``id`` of an instance; None if it has none."""
    return instance.get("id") if isinstance(instance, Mapping) else getattr(instance, "id", None)


def read_fresh(study: Study) -> FreshInstances | None:
    """Read the fresh instances of a study; None if there are none yet."""
    value = storage.read_study_value(storage.attributes_of(study), storage.FRESH)
    if value is None:
        return None
    search = value["search"]
    names = None if search is None else tuple(search)
    return FreshInstances(value["base"], tuple(value["names"]), names)


def note_instances(study: Study, names: Sequence[str]) -> None:
    """Write the names of a search's instances, in order of step, so that reports show them.

    A step that had another name before, in trials on other instances, has none from then on.
    """
    known = instances_of(study)
    # Trials on fewer instances contradict nothing.
    pairs = zip_longest(known, names, fillvalue="")
    merged = tuple((new or old) if "" in (old, new) or old == new else None for old, new in pairs)
    if merged != known and sum(len(name or "") for name in merged) <= _LONGEST:
        storage.write_instances(study, merged)


def instance_names(study: Study) -> Callable[[int], str]:
    """Return a function from a step to the name of its instance; empty if it is not known."""
    names, fresh = instances_of(study), read_fresh(study)

    def name(step: int) -> str:
        known = fresh.name(step) if fresh is not None else ""
        return known or (names[step] or "" if 0 <= step < len(names) else "")

    return name


def instances_of(study: Study) -> tuple[str | None, ...]:
    """Return the names of a search's instances, in order of step; None where there were two."""
    return tuple(storage.read_study_value(storage.attributes_of(study), storage.INSTANCES) or ())


def prepare_fresh(
    study: Study,
    names: Sequence[str],
    *,
    search: Sequence[str] | None = None,
    beyond: int = 0,
    seed: int = 0,
) -> FreshInstances:
    """Give fresh instances their steps, and write them to the study if some are new.

    Args:
        study: The study.
        names: Names of the instances.
        search: Names of the search's instances, if they are known.
        beyond: Step that trials on all instances may reach.
        seed: Seed of the order of the new ones.
    """
    earlier = read_fresh(study)
    known = earlier or FreshInstances(_base_of(study, beyond))
    found = known.including(names, seed)
    if search is not None:
        found = replace(found, search=tuple(search))
    if found != earlier:
        storage.write_fresh(study, found.base, found.names, found.search)
    return found


def _base_of(study: Study, beyond: int) -> int:
    """Return the smallest power of ten, from 1,000 on, beyond all steps of the search."""
    steps = (max(outcomes_of(t), default=0) for t in storage.read_trials(study))
    base, largest = _LEAST_BASE, max([beyond, *steps])
    while base <= largest:
        base *= 10
    return base
