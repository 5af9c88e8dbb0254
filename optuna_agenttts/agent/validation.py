"""Validation of replies: usable proposals, guidelines and claims, and the problems of the rest.

A reply is untrusted data: it is read, checked and bounded, never executed. Unambiguous errors are
repaired: code fences, trailing commas and truncation (by json-repair), the case of names, and
numbers of samples over the budget.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_agenttts.agent.claims import read_claims
from optuna_agenttts.agent.parsing import (
    Problem,
    abbreviate,
    given_effort,
    is_most,
    match_named,
    read_allocation,
    read_float,
    read_integer,
    read_object,
)
from optuna_agenttts.agent.prompts.short_names import full_names
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.study.claims import Claim
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.task.task import Task

_MAX_GUIDELINES, _MAX_GUIDELINE, _MAX_REASON = 8, 400, 300
"""Maximum number of guidelines, and maximum characters of a guideline and of a reason, as in the
reply schema (`prompts/schema.py`)."""
_MAX_CANDIDATES = 32
"""Maximum number of candidates to read from a reply; chosen by hand."""

_REPEATED = {"duplicate": "tried or proposed already", "refused": "refused before"}


@dataclass(frozen=True, slots=True)
class Reply:
    """Validated reply.

    Args:
        guidelines: The agent's guidelines, one sentence each.
        proposals: Usable candidates, in the reply's order.
        problems: Problems with the reply and the other candidates, for the repair request.
        dropped: The other candidates.
        claims: Usable claims.
        unusable_claims: Number of unusable claims, or parts of them; not sent back.
    """

    guidelines: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    problems: tuple[Problem, ...] = ()
    dropped: tuple[Proposal, ...] = ()
    claims: tuple[Claim, ...] = ()
    unusable_claims: int = 0


def read_plan(
    text: str,
    task: Task,
    taken: Collection[Choices],
    claims: Collection[str] = (),
    refused: Collection[Choices] = (),
    trials: Mapping[int, Choices] | None = None,
    *,
    random: bool = False,
) -> Reply:
    """Read a reply about a task.

    Args:
        text: The reply.
        task: The task.
        taken: Allocations that were tried, are running, or were proposed before.
        claims: Requested fields of a claim; see `prompts.claim_fields`.
        refused: Allocations that the weighing refused lately.
        trials: Allocations of the trials by number, of which the reply may ask for a repeat.
        random: Whether the study has shown that a repeated trial can have another score.
    """
    values, problem = read_object(text)
    if problem is not None:
        return Reply(problems=(problem,))
    problems: list[Problem] = []
    proposals, dropped = _read_repeats(values.get("measure_again"), task, trials or {}, random)
    seen: set[Choices] = set()
    stages = [stage.name for stage in task.stages]
    for position, item in enumerate(_candidates(values, "allocation", problems), start=1):
        label = f"candidate {position}"
        found = _parse_choices(read_allocation(item, stages), task, label)
        fitted = found if isinstance(found, Problem) else _fit_budget(found, task, label)
        if isinstance(fitted, Problem):
            problems.append(fitted)
            known = None if isinstance(found, Problem) else task.params(task.allocation(found))
            dropped.append(Proposal(known, kind=fitted.kind, text=fitted.text))
            continue
        assert not isinstance(found, Problem)
        asked = None if fitted == found else task.params(task.allocation(found))
        params = task.params(task.allocation(fitted))
        if fitted in taken or fitted in seen or fitted in refused:
            reduced = "" if asked is None else " after its samples were reduced to fit the budget"
            kind = "refused" if fitted in refused else "duplicate"
            text = f"{label} was {_REPEATED[kind]}{reduced}"
            problems.append(Problem(kind, text))
            dropped.append(Proposal(params, asked=asked, kind=kind, text=text))
        else:
            seen.add(fitted)
            proposals.append(Proposal(params, _reason(item), asked))
    claimed, unusable = read_claims(
        values.get("claims") if claims else None, task, samples="samples" in claims
    )
    return Reply(
        _guidelines(values),
        tuple(proposals),
        tuple(problems),
        tuple(dropped),
        claimed,
        unusable,
    )


def _read_repeats(
    given: Any, task: Task, trials: Mapping[int, Choices], random: bool
) -> tuple[list[Proposal], list[Proposal]]:
    """Return the trials to repeat as proposals, and the requests that cannot be met.

    Repeating a trial teaches nothing where objectives reuse samples, as `MultiStageObjective`
    does, and the sampler cannot give an objective other instances; `confirm` does.
    """
    proposals, dropped = [], []
    for item in given[:_MAX_CANDIDATES] if isinstance(given, list) else ():
        number = read_integer(item)
        choices = None if number is None else trials.get(number)
        if choices is None:
            text = f"there is no finished trial {abbreviate(item)} to measure again"
            dropped.append(Proposal(None, kind="unknown trial", text=text))
            continue
        params = task.params(task.allocation(choices))
        if random:
            proposals.append(Proposal(params, f"measures trial {number} again", again=True))
        else:
            text = (
                f"trial {number} is not measured again: no repeat here had another score, "
                "and only the user's `confirm` runs on other instances"
            )
            dropped.append(Proposal(params, kind="same score", text=text))
    return proposals, dropped


def read_params(
    text: str,
    space: Mapping[str, BaseDistribution],
    optional: Collection[str],
    taken: Sequence[Mapping[str, Any]],
) -> Reply:
    """Read a reply about an arbitrary search space.

    Args:
        text: The reply.
        space: Distributions by parameter.
        optional: Parameters that a candidate may omit.
        taken: Parameters that were tried, are running, or were proposed before.
    """
    values, problem = read_object(text)
    if problem is not None:
        return Reply(problems=(problem,))
    proposals: list[Proposal] = []
    problems: list[Problem] = []
    dropped: list[Proposal] = []
    known = [dict(params) for params in taken]
    for position, item in enumerate(_candidates(values, "params", problems), start=1):
        label = f"candidate {position}"
        raw = item.get("params")
        params: dict[str, Any] = {}
        wrong = None
        if not isinstance(raw, Mapping):
            wrong, raw = Problem("wrong type", f"{label}: `params` is no object"), {}
        for name in raw:
            if name not in space:
                wrong = Problem("unknown parameter", f"{label}: no parameter {abbreviate(name)}")
        for name, distribution in space.items() if wrong is None else ():
            if name not in raw:
                if name not in optional:
                    wrong = Problem("missing parameter", f"{label} lacks {abbreviate(name)}")
                continue
            value = _parse_value(raw[name], distribution, f"{label}: {abbreviate(name)}")
            if isinstance(value, Problem):
                wrong = value
            else:
                params[name] = value
        if wrong is None and params in known:
            wrong = Problem("duplicate", f"{label} was tried or proposed already")
        if wrong is not None:
            problems.append(wrong)
            repeated = params if wrong.kind == "duplicate" else None
            dropped.append(Proposal(repeated, kind=wrong.kind, text=wrong.text))
        else:
            known.append(params)
            proposals.append(Proposal(params, _reason(item)))
    return Reply(_guidelines(values), tuple(proposals), tuple(problems), tuple(dropped))


def _candidates(
    values: Mapping[str, Any], name: str, problems: list[Problem]
) -> list[Mapping[str, Any]]:
    """Return the candidates that are objects, and append the problems of the others."""
    items = values.get("candidates")
    items = [items] if isinstance(items, Mapping) and name in items else items
    if not isinstance(items, list):
        problems.append(Problem("no candidates", "the reply has no list `candidates`"))
        return []
    good = [item for item in items[:_MAX_CANDIDATES] if isinstance(item, Mapping)]
    if len(good) < len(items[:_MAX_CANDIDATES]):
        problems.append(Problem("wrong type", f"each candidate must be an object with `{name}`"))
    return good


def _guidelines(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the guidelines of a reply, bounded in number and length."""
    lines = values.get("guidelines")
    lines = [lines] if isinstance(lines, str) else lines
    if not isinstance(lines, list):
        return ()
    texts = [one_line(line, _MAX_GUIDELINE) for line in lines if isinstance(line, str)]
    return tuple(text for text in texts if text)[:_MAX_GUIDELINES]


def _reason(item: Mapping[str, Any]) -> str:
    """Return the reason of a candidate, bounded in length; empty if there is none."""
    reason = item.get("reason")
    return one_line(reason, _MAX_REASON) if isinstance(reason, str) and reason.strip() else ""


def _parse_choices(raw: Any, task: Task, label: str) -> Choices | Problem:
    """Parse an allocation; samples are capped per stage, but may still exceed the budget."""
    if not isinstance(raw, Mapping):
        return Problem("wrong type", f"{label}: `allocation` is no object")
    names = [stage.name for stage in task.stages]
    for name in raw:
        if name not in names:
            return Problem("unknown stage", f"{label}: there is no stage {abbreviate(name)}")
    # Replies may have a model's short name, as the tables of the prompt do.
    whole = full_names(task)
    choices, most = [], []
    for position, stage in enumerate(task.stages):
        if stage.name not in raw:
            return Problem("missing stage", f"{label} lacks stage {abbreviate(stage.name)}")
        setting = raw[stage.name]
        if not isinstance(setting, Mapping):
            return Problem(
                "wrong type",
                f"{label}: stage {abbreviate(stage.name)} needs `model` and `samples`",
            )
        models = match_named(setting, stage.models, whole)
        if len(models) != 1:
            options = ", ".join(abbreviate(m.name) for m in stage.models)
            given = abbreviate(setting.get("model"))
            if effort := given_effort(setting):
                given += f" at thinking effort {abbreviate(effort)}"
            if models:
                options = ", ".join(abbreviate(stage.models[m].name) for m in models)
                given += " without a thinking effort"
            return Problem(
                "no thinking effort" if models else "unknown model",
                f"{label}: stage {abbreviate(stage.name)} has no model {given}; it has {options}",
            )
        model = models[0]
        if is_most(setting.get("samples")):
            most.append(position)
            choices.append((model, 1))
            continue
        samples = read_integer(setting.get("samples"))
        if samples is None:
            return Problem(
                "wrong type",
                f"{label}: `samples` of stage {abbreviate(stage.name)} is "
                f"{abbreviate(setting.get('samples'))}, no integer",
            )
        if samples < 1:
            return Problem(
                "out of range",
                f"{label}: `samples` of stage {abbreviate(stage.name)} is {samples}; it is 1 to "
                f"{stage.max_samples}",
            )
        choices.append((model, min(samples, stage.max_samples)))
    return _with_most(tuple(choices), most, task) if most else tuple(choices)


def _with_most(choices: Choices, stages: Sequence[int], task: Task) -> Choices:
    """Return an allocation with as many samples of some stages as fit beside the others.

    Several stages get equal numbers first; what is left goes to the first of them.
    """

    def with_samples(samples: int, only: Collection[int] = stages) -> Choices:
        return tuple(
            (m, min(samples, task.stages[i].max_samples) if i in only else n)
            for i, (m, n) in enumerate(choices)
        )

    feasible, top = task.feasible, max(task.stages[i].max_samples for i in stages)
    fitting = bisect_left(
        range(1, top + 1), True, key=lambda n: not feasible.fits(with_samples(n))
    )
    choices = with_samples(max(1, fitting))
    for stage in stages:
        others = feasible.cost_of_others(choices, stage)
        most = feasible.max_samples(stage, choices[stage][0], others)
        choices = with_samples(max(1, most), (stage,))
    return choices


def _fit_budget(choices: Choices, task: Task, label: str) -> Choices | Problem:
    """Reduce the samples of an allocation to fit the budget, if its models can."""
    feasible = task.feasible
    if feasible.fits(choices):
        return choices
    least = [(model, 1) for model, _ in choices]
    if not feasible.fits(least):
        return Problem(
            "over budget",
            f"{label}: its models cost {feasible.cost(least):.4g} with one sample each, over the "
            f"budget of {feasible.budget:.4g}",
        )
    return tuple(feasible.project(choices))


def _parse_value(value: Any, distribution: BaseDistribution, label: str) -> Any:
    """Return a value of the distribution, with the distribution's type, or the problem."""
    if isinstance(distribution, CategoricalDistribution):
        equal = [c for c in distribution.choices if type(c) is type(value) and c == value]
        # Choices of other types than JSON's are compared by their JSON text.
        matches = equal or [c for c in distribution.choices if abbreviate(c) == abbreviate(value)]
        if matches:
            return matches[0]
        return Problem("unknown choice", f"{label} is {abbreviate(value)}, none of its choices")
    if isinstance(distribution, IntDistribution):
        number = read_integer(value)
        if number is None:
            return Problem("wrong type", f"{label} is {abbreviate(value)}, no integer")
        step, low = distribution.step, distribution.low
        if distribution.low <= number <= distribution.high:
            return low + round((number - low) / step) * step if step != 1 else number
        return Problem("out of range", f"{label} is {number}; it is {low} to {distribution.high}")
    if isinstance(distribution, FloatDistribution):
        real = read_float(value)
        if real is None:
            return Problem("wrong type", f"{label} is {abbreviate(value)}, no number")
        if not distribution.low <= real <= distribution.high:
            return Problem(
                "out of range",
                f"{label} is {real:g}; it is {distribution.low:g} to {distribution.high:g}",
            )
        if distribution.step is None:
            return real
        steps = round((real - distribution.low) / distribution.step)
        return min(distribution.high, distribution.low + steps * distribution.step)
    return Problem("wrong type", f"{label} is of a kind that cannot be proposed")
