"""Settings of an allocation that had no effect on its outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts_integrations.pipeline.aggregation import equal_counts, settled
from optuna_agenttts_integrations.pipeline.evaluation import InstanceResult
from optuna_agenttts_integrations.pipeline.programs import StageProgram


def settings_without_effect(
    programs: Iterable[StageProgram], allocation: Allocation, results: Iterable[InstanceResult]
) -> dict[str, list[int] | str]:
    """Return what could have been different in an allocation without changing any outcome.

    This holds for the instances that ran, with the same samples: a stage that ran for none of
    them has no effect, and a number of samples equals others that its aggregation treats alike
    (`StageProgram.equal_samples`), provided that all replies were readable. Otherwise a further
    sample could replace an unreadable one.

    Args:
        programs: Stages that call models.
        allocation: The allocation.
        results: Results of all instances.

    Returns:
        By stage, ``"any"`` if it has no effect, or the numbers of samples of equal outcomes.
    """
    results = list(results)
    if any(r.total("failed") or (r.failed and not r.unreadable) for r in results):
        # Another run may not fail.
        return {}
    found: dict[str, list[int] | str] = {}
    for program in programs:
        ran = [r.stages[program.name] for r in results if program.name in r.stages]
        group = _group_of(program, allocation[program.name].samples)
        if not ran:
            found[program.name] = "any"
        elif _holds(program, group) and all(not u.malformed and u.calls == u.drawn for u in ran):
            found[program.name] = list(group)
    return found


def _holds(program: StageProgram, group: Sequence[int]) -> bool:
    """Return whether numbers of samples have the same result under the stage's rule, too."""
    # Other rules may stop elsewhere if more samples are allowed.
    return bool(group) and (max(group) <= 2 or program.enough in (None, settled()))


def _group_of(program: StageProgram, samples: int) -> Sequence[int]:
    """Return the numbers of samples with the same result as a number, itself included."""
    groups = program.equal_samples
    groups = equal_counts(program.aggregate) if groups is None else groups
    return next((sorted(group) for group in groups if samples in group and len(group) > 1), ())
