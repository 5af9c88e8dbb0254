"""Ranges that a study's trials suggest from, and the untried values in them.

`task.suggest` defines the ranges itself, bounded by the budget. Other objectives define their own:
from 1 to 8, with a step, from a YAML file, or bounded by earlier suggestions. A sampler receives
the range of a parameter only when the trial requests it. Later ranges are predicted from earlier
trials: the ranges that they suggested from, the parameters that something else sets (such as
`PartialFixedSampler`), and the tree of suggestions, which shows where every allocation has been
tried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.task.equivalence import EquivalentAllocations
from optuna_agenttts.task.parameters import parameters_of
from optuna_agenttts.task.ranges import Ranges, Samples
from optuna_agenttts.task.task import Task
from optuna_agenttts.task.values import allowed_models, allowed_samples, read_model, read_samples

Step = tuple[str, int]
"""A parameter, and the position of its model or its number of samples."""
Prefix = tuple[Step, ...]
"""Suggestions of a trial so far, in order."""

_RECENT = 8
"""Distributions of a parameter that are compared: if the latest ones are equal, the next one is
expected to be. Chosen by hand."""


class Suggestions:
    """Ranges and tree of the suggestions of a study's trials.

    Args:
        task: Task that the study tunes.
    """

    def __init__(self, task: Task) -> None:
        """See the class."""
        self._task = task
        self._parameters = parameters_of(task)
        self._all = Ranges.all_of(task.feasible)
        self._recent: dict[str, deque[BaseDistribution]] = {}
        self._imposed: dict[str, int] = {}
        self._nodes: dict[Prefix, tuple[str, BaseDistribution, int]] = {}
        self._latest: dict[str, tuple[BaseDistribution, int]] = {}
        """Latest distribution of each parameter, and how often it changed after equal values."""
        self._children: dict[Prefix, set[int]] = {}
        self._leaves: set[Prefix] = set()
        self._ranges: Ranges | None = self._all
        self._regular = True
        """True if all trials suggested all parameters, from the ranges of `Task.suggest`."""

    def add(self, trial: FrozenTrial, given: Choices | None) -> None:
        """Learn from a finished trial.

        Args:
            trial: The trial.
            given: Allocation that this sampler gave the trial; None if another one did.
        """
        prefix: Prefix = ()
        for name, value in trial.params.items():
            if name not in self._parameters:
                continue
            stage, is_model = self._parameters[name]
            read = read_model if is_model else read_samples
            token = read(self._task.stages[stage], value)
            if token is None:
                return
            distribution = trial.distributions[name]
            changes = self._latest.get(name, (distribution, 0))[1]
            changes += prefix in self._nodes and self._nodes[prefix][:2] != (name, distribution)
            self._latest[name] = distribution, changes
            self._nodes[prefix] = name, distribution, changes
            self._children.setdefault(prefix, set()).add(token)
            from_budget = self._is_from_budget(trial.params, name, distribution)
            known = len(self._tokens(name, distribution)) if is_model else 0
            self._regular &= from_budget or known == len(self._task.stages[stage].models)
            recent = self._recent.setdefault(name, deque(maxlen=_RECENT))
            if from_budget and not (recent and recent[-1] == distribution):
                # The bound follows from the budget, or equals it by chance.
                distribution = IntDistribution(1, self._task.stages[stage].max_samples)
            recent.append(distribution)
            if given is not None:
                own = self._token(name, given)
                self._learn_imposed(name, token, own, trial.distributions[name])
            prefix = (*prefix, (name, token))
        if trial.state != TrialState.FAIL:
            self._leaves.add(prefix)
            self._regular &= len(prefix) == len(self._parameters)
        self._ranges = None

    def ranges(self) -> Ranges:
        """Return the ranges that the next trial is expected to suggest from."""
        if self._ranges is None:
            ranges = self._all
            for name, recent in self._recent.items():
                stage, is_model = self._parameters[name]
                described = self._task.stages[stage]
                if is_model:
                    positions = {p for d in recent for p in allowed_models(described, d)}
                    ranges = ranges.with_models(stage, positions) if positions else ranges
                    continue
                samples: Samples = allowed_samples(described, recent[-1])
                if any(distribution != recent[-1] for distribution in recent):
                    # The bounds vary between trials: rely on the lower bound only.
                    lows = [allowed_samples(described, d)[:1] for d in recent]
                    low = min((low[0] for low in lows if low), default=1)
                    samples = range(low, described.max_samples + 1)
                ranges = ranges.with_samples(stage, samples) if samples else ranges
            self._ranges = self._fix(ranges, self._imposed)
        return self._ranges

    def is_free(self) -> bool:
        """Return whether the expected ranges are those of the task."""
        return self.ranges() == self._all

    def open_ranges(
        self,
        suggested: Mapping[str, Any],
        fixed: Mapping[str, int],
        name: str,
        distribution: BaseDistribution,
        visited: Collection[Choices],
    ) -> tuple[Ranges, bool]:
        """Return the allocations that a trial can still take.

        Args:
            suggested: Parameters that the trial has suggested, in order.
            fixed: Values of these and of enqueued parameters, as tokens.
            name: Parameter that the trial requests.
            distribution: Its distribution.
            visited: Allocations not to propose.

        Returns:
            The ranges: the trial's values, for `name` those that lead to an allocation within the
            budget and not in `visited`, and the expected ranges of the others; and whether there
            are such values of `name`. If not, it has all values within the budget, or else the
            cheapest one.
        """
        prefix = self._prefix(suggested, fixed)
        ranges = self._fix(self.ranges(), fixed)
        within, _ = self._affordable(ranges, name, distribution)
        left = tuple(self._untried(prefix, ranges, name, within, visited))
        if not left and self._imposed:
            # Parameters that something else set may be free by now.
            self._imposed, self._ranges = {}, None
            return self.open_ranges(suggested, fixed, name, distribution, visited)
        return self._narrow(ranges, name, left or within), bool(left)

    def is_open(
        self,
        given: Choices,
        name: str,
        suggested: Mapping[str, Any],
        fixed: Mapping[str, int],
        visited: Collection[Choices],
    ) -> bool:
        """Check whether a parameter's value in an allocation leads to something untried.

        The allocation itself is untried, but may be out of bounds that depend on this value.

        Args:
            given: Allocation that the trial was given.
            name: Parameter that the trial asks for.
            suggested: See `open_ranges`.
            fixed: See `open_ranges`.
            visited: See `open_ranges`.
        """
        if self._regular:
            return True
        below = (*self._prefix(suggested, fixed), (name, self._token(name, given)))
        return not self._is_closed(below, visited)

    def is_exhausted(self, visited: Collection[Choices]) -> bool:
        """Return whether all allocations of the tree that are within the budget were tried."""
        return bool(self._nodes) and self._is_closed((), visited)

    def record_request(self, name: str) -> bool:
        """Record that a trial requests a parameter from the sampler, so nothing else sets it.

        Returns:
            Whether something else was expected to set it.
        """
        if self._imposed.pop(name, None) is None:
            return False
        self._ranges = None
        return True

    def record_imposed(self, given: Choices, fixed: Mapping[str, int]) -> bool:
        """Record the values of a running trial that were set elsewhere.

        Args:
            given: Allocation that this sampler gave the trial.
            fixed: Values that it has, as tokens.

        Returns:
            Whether some were.
        """
        other = {name: token for name, token in fixed.items() if self._token(name, given) != token}
        if other:
            self._imposed, self._ranges = {**self._imposed, **other}, None
        return bool(other)

    def _prefix(self, suggested: Mapping[str, Any], fixed: Mapping[str, int]) -> Prefix:
        """Return what a trial has suggested so far."""
        return tuple(
            (name, fixed[name]) for name in suggested if name in fixed and name in self._parameters
        )

    def _token(self, name: str, choices: Choices) -> int:
        stage, is_model = self._parameters[name]
        return choices[stage][0 if is_model else 1]

    def _learn_imposed(
        self, name: str, token: int, given: int, distribution: BaseDistribution
    ) -> None:
        """Record a value that something else set although this sampler gave another one."""
        if token != given and given in self._tokens(name, distribution):
            self._imposed[name] = token

    def _is_from_budget(
        self, params: Mapping[str, Any], name: str, distribution: BaseDistribution
    ) -> bool:
        """Return whether a distribution is what `Task.suggest` derives from the budget."""
        stage, is_model = self._parameters[name]
        if is_model or not isinstance(distribution, IntDistribution):
            return False
        feasible, choices = self._task.feasible, []
        for index, described in enumerate(self._task.stages):
            model = read_model(described, params.get(described.model_parameter))
            number = read_samples(described, params.get(described.samples_parameter))
            if model is None or (index < stage and number is None):
                return False
            choices.append((model, number if index < stage and number else 1))
        others = feasible.cost_of_others(choices, stage)
        most = max(1, feasible.max_samples(stage, choices[stage][0], others))
        return (distribution.low, distribution.high, distribution.step) == (1, most, 1)

    def _fix(self, ranges: Ranges, values: Mapping[str, int]) -> Ranges:
        for name, token in values.items():
            ranges = self._narrow(ranges, name, (token,))
        return ranges

    def _narrow(self, ranges: Ranges, name: str, tokens: Samples) -> Ranges:
        stage, is_model = self._parameters[name]
        if is_model:
            return ranges.with_models(stage, tokens)
        return ranges.with_samples(stage, tokens)

    def _tokens(self, name: str, distribution: BaseDistribution) -> Samples:
        stage, is_model = self._parameters[name]
        described = self._task.stages[stage]
        if is_model:
            return tuple(allowed_models(described, distribution))
        return allowed_samples(described, distribution)

    def _affordable(
        self, ranges: Ranges, name: str, distribution: BaseDistribution
    ) -> tuple[tuple[int, ...], bool]:
        """Return the values of a parameter that can be completed within the budget.

        Returns:
            The values, or the cheapest one if none does; and whether any does.
        """
        stage, is_model = self._parameters[name]
        tokens = np.array(self._tokens(name, distribution), dtype=np.int64)
        costs = self._task.feasible.costs
        rest = 0.0
        for other, rows in enumerate(costs):
            if other != stage:
                first = ranges.samples[other][0] - 1
                rest += min(float(rows[model][first]) for model in ranges.models[other])
        rows = costs[stage]
        if is_model:
            own = np.array([float(rows[token][ranges.samples[stage][0] - 1]) for token in tokens])
        else:
            own = np.min([rows[model][tokens - 1] for model in ranges.models[stage]], axis=0)
        inside = own + rest <= self._task.feasible.limit
        chosen = tokens[inside] if inside.any() else tokens[[int(np.argmin(own))]]
        return tuple(chosen.tolist()), bool(inside.any())

    def _untried(
        self,
        prefix: Prefix,
        ranges: Ranges,
        name: str,
        tokens: Sequence[int],
        visited: Collection[Choices],
    ) -> Iterator[int]:
        """Yield the values of a parameter that lead to an untried allocation."""
        explored = self._children.get(prefix, set())
        stage, is_model = self._parameters[name]
        choices = self._complete(self._narrow(ranges, name, (tokens[0],)))
        if choices is None:
            for token in tokens:
                below = (*prefix, (name, token))
                if token in explored:
                    closed = self._is_closed(below, visited)
                else:
                    closed = self._is_covered(self._narrow(ranges, name, (token,)), visited)
                if not closed:
                    yield token
            return
        head, tail, own = choices[:stage], choices[stage + 1 :], choices[stage]
        for token in tokens:
            choice = (token, own[1]) if is_model else (own[0], token)
            if (*head, choice, *tail) not in visited:
                yield token

    def _is_closed(self, prefix: Prefix, visited: Collection[Choices]) -> bool:
        """Return whether every allocation with a prefix was tried or is over the budget."""
        if prefix not in self._nodes:
            return prefix in self._leaves
        name, distribution, changes = self._nodes[prefix]
        latest, now = self._latest[name]
        # Where ranges change over time, what was seen before is out of date.
        distribution = distribution if changes == now else latest
        ranges = self._fix(self.ranges(), dict(prefix))
        if not self._tokens(name, distribution):
            return False
        within, affordable = self._affordable(ranges, name, distribution)
        untried = self._untried(prefix, ranges, name, within, visited)
        return not affordable or next(untried, None) is None

    def _is_covered(self, ranges: Ranges, visited: Collection[Choices]) -> bool:
        """Return whether all allocations within ranges have outcomes that are known."""
        return isinstance(visited, EquivalentAllocations) and all(
            choices in visited for choices in ranges.walk(self._task.feasible)
        )

    def _complete(self, ranges: Ranges) -> Choices | None:
        """Return the allocation if the ranges hold just one."""
        if any(len(m) > 1 or len(s) > 1 for m, s in zip(ranges.models, ranges.samples)):
            return None
        return tuple((m[0], s[0]) for m, s in zip(ranges.models, ranges.samples))
