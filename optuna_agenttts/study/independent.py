"""The independent sampler: its construction from TPE's arguments, and its joint sampling."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.task.parameters import order_of_suggestion


class TPEOptions(TypedDict, total=False):
    """Arguments of `TPESampler` in Optuna 4.4 to 5, for type checkers.

    At run time, the arguments that the installed Optuna has are accepted.
    """

    consider_prior: bool | None
    prior_weight: float | None
    consider_magic_clip: bool | None
    consider_endpoints: bool | None
    n_startup_trials: int
    n_ei_candidates: int
    gamma: Callable[[int], int] | None
    weights: Callable[[int], Any] | None
    multivariate: bool | None
    group: bool
    warn_independent_sampling: bool | None
    constant_liar: bool
    constraints_func: Callable[[FrozenTrial], Sequence[float]] | None
    categorical_distance_func: dict[str, Callable[[Any, Any], float]] | None


def make_independent(
    sampler: BaseSampler | None,
    seed: int | None,
    options: Mapping[str, Any],
    owner: type,
) -> BaseSampler:
    """Return the given independent sampler, or construct a `TPESampler`.

    Args:
        sampler: The independent sampler, if one was given.
        seed: Seed of the `TPESampler`.
        options: Further arguments of the `TPESampler`.
        owner: Class of the sampler that is constructed, whose arguments are suggested as well.

    Raises:
        TypeError: `TPESampler` does not have one of the arguments.
        TaskError: Arguments are given together with `sampler`.
    """
    known = set(inspect.signature(TPESampler).parameters)
    for name in options:
        if name not in known:
            names = sorted(known.union(inspect.signature(owner).parameters))
            nearest = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean `{nearest[0]}`?" if nearest else ""
            raise TypeError(
                f"AgentTTSSampler: `{name}` is an argument neither of AgentTTSSampler nor of "
                f"TPESampler (Optuna {optuna.__version__}).{hint} Arguments of other samplers "
                "are passed to them: `independent_sampler=OtherSampler(...)`."
            )
    if sampler is None:
        return TPESampler(seed=seed, **options)
    if options:
        raise TaskError(
            f"AgentTTSSampler: {', '.join(f'`{name}`' for name in options)} cannot be given with "
            f"`independent_sampler`, got a {type(sampler).__name__}: arguments of TPESampler "
            "configure the default independent sampler. Pass them to the given sampler's "
            "constructor if it has them."
        )
    return sampler


def sample_jointly(
    sampler: BaseSampler,
    study: Study,
    trial: FrozenTrial,
    search_space: dict[str, BaseDistribution],
) -> dict[str, Any]:
    """Sample exactly the parameters of a search space.

    Parameters that `sample_relative` leaves out, such as TPE's during startup, are sampled by
    `sample_independent`, in the order in which an earlier trial suggested them.
    """
    relative = sampler.sample_relative(study, trial, search_space)
    # TPE's `group` option of Optuna 4.4 returns parameters outside the search space, too.
    values = {name: relative[name] for name in search_space if name in relative}
    fixed = trial.system_attrs.get("fixed_params", {})
    missing = [name for name in search_space if name not in values and name not in fixed]
    if missing:
        order = order_of_suggestion(study)
        for name in sorted(missing, key=lambda name: order.get(name, len(order))):
            values[name] = sampler.sample_independent(study, trial, name, search_space[name])
    return values
