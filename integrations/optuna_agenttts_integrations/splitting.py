"""An objective on other instances, for trials on some of them and confirmation on the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Self

from optuna_agenttts.support.forking import on_fork
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts_integrations.instances import (
    InstanceId,
    check_disjoint,
    named_instances,
    shared_instances,
)
from optuna_agenttts_integrations.limit import SpendLimit

Instances = Sequence[Any] | Mapping[str, Any]
"""Instances, or instances by ID."""


class SplittableObjective(Resetting):
    """Base of `MultiStageObjective` with its methods for other instances."""

    instances: Mapping[str, Any]
    _instance_id: InstanceId | None
    _limit: SpendLimit

    @property
    def max_spend(self) -> float:
        """Limit on the spend of a study's trials; infinity for none."""
        return self._limit.limit

    def on(self, instances: Instances) -> Self:
        """Return the objective on other instances, or on some of its own, in the order given.

        Task, endpoints, store, limits and event loop are those of this one.

        Args:
            instances: The instances; if a mapping, by ID.

        Raises:
            PipelineError: There are none, or two share an ID.
        """
        named = named_instances(instances, self._instance_id)
        other = object.__new__(type(self))
        steps = {name: step for step, name in enumerate(named)}
        other.__dict__.update(self.__dict__, instances=named, _steps=steps)
        on_fork(other, type(other)._reset)
        return other

    def fresh_instances(self, instances: Instances, *, drop: bool = False) -> dict[str, Any]:
        """Index instances that are not the objective's own by ID.

        Args:
            instances: The instances; if a mapping, by ID.
            drop: Whether to leave out the objective's own instead of raising.

        Returns:
            The instances by ID.

        Raises:
            PipelineError: There are none, two share an ID, or some are the objective's own.
        """
        named = named_instances(instances, self._instance_id)
        if drop:
            shared = shared_instances(self.instances, named)
            return {name: item for name, item in named.items() if name not in shared}
        check_disjoint(self.instances, named)
        return named

    def _start(self) -> None:
        raise NotImplementedError
