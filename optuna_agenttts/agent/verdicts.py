"""Comparison of the agent's claims with the fitted facts.

Both parts of a verdict use the central 90 % interval of a difference, as do the tables shown to
the agent. Differences whose interval contains zero leave a claim open.

*Models.* A claim names the models of a stage, one of which should be the best. A model *can be the
best* if it fits the budget, is not likely to violate a constraint of the study, and the fit does
not exclude it (`ModelFact.excluded`; a model without facts is not excluded).
The verdict is

* "contradicts" if no named model can be the best,
* "agrees" if all models that can be the best are named, and some model within the budget is not,
* "open" otherwise. A claim that names every model is always open.

*Samples.* A claim gives the range of samples at which its first model saturates, with the best
choice for the other stages. The verdict is

* "contradicts" if that range does not overlap `ModelFact.saturation_range`, unless it starts
  beyond the maximum within the budget, where no trial can decide,
* "agrees" if it contains `ModelFact.saturation`, spans at most half of the possible range by ratio
  (such as 3 to 30 of 1 to 100), and the fit distinguishes one sample or the maximum from the peak,
* "open" otherwise.

There is no verdict before the first score, for stages with one model (models), or where only one
sample fits the budget (samples).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from optuna_agenttts.agent.facts import Facts, ModelFact
from optuna_agenttts.study.claims import Aspect, Claim, Outcome, Verdict
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.task.task import Task

_MAX_TEXT = 400
"""Maximum number of characters in the text of a verdict; chosen by hand."""


def check_claims(claims: Sequence[Claim], facts: Facts, task: Task) -> tuple[Verdict, ...]:
    """Compare claims with fitted facts.

    Args:
        claims: The claims; stages and models that are not in the task are ignored.
        facts: The facts.
        task: The task.

    Returns:
        The verdicts, at most one per claim and aspect.
    """
    stages = [stage.name for stage in task.stages]
    verdicts = []
    for claim in claims:
        if claim.stage not in stages:
            continue
        stage = stages.index(claim.stage)
        names = [model.name for model in task.stages[stage].models]
        known = {fact.model: fact for fact in facts.models if fact.stage == stage}
        named = [names.index(name) for name in claim.models if name in names]
        if not known or not named:
            continue
        found: dict[Aspect, _Result] = {
            "models": _check_models(named, known, task, stage, facts.violating),
            "samples": _check_samples(claim.samples, known.get(named[0]), names[named[0]]),
        }
        verdicts += [
            Verdict(claim.stage, aspect, outcome, one_line(f"{claim.stage}: {text}", _MAX_TEXT))
            for aspect, (outcome, text) in found.items()
            if outcome is not None
        ]
    return tuple(verdicts)


_Result = tuple[Outcome, str] | tuple[None, str]
_NO_VERDICT: _Result = (None, "")


def _check_models(
    named: Sequence[int],
    known: Mapping[int, ModelFact],
    task: Task,
    stage: int,
    violating: Collection[tuple[int, int]],
) -> _Result:
    """Compare the models of a claim with the facts."""
    feasible, names = task.feasible, [model.name for model in task.stages[stage].models]
    affordable = [
        model
        for model in range(len(names))
        if feasible.fits(feasible.complete({stage: (model, 1)}))
        and (stage, model) not in violating
    ]
    if len(affordable) < 2:
        return _NO_VERDICT
    possible = sorted(
        (m for m in affordable if m not in known or not known[m].excluded),
        key=lambda m: known[m].behind if m in known else float("inf"),
    )
    others = [model for model in affordable if model not in named]

    def describe(models: Sequence[int], word: str) -> str:
        figures = []
        for model in models:
            if (stage, model) in violating:
                figures.append(f"{names[model]} (violates a constraint)")
            elif model not in affordable:
                figures.append(f"{names[model]} (over the budget)")
            elif model not in known:
                figures.append(f"{names[model]} (not weighed)")
            elif known[model].behind > 0:
                figures.append(f"{names[model]} ({_behind(known[model])} behind)")
            else:
                figures.append(names[model])
        return _join(figures, word)

    if not others:
        return "open", "the best was claimed to be any of its models, which says nothing."
    claimed = f"the best was claimed to be {describe(named, 'or')}"
    if not set(possible) & set(named):
        return "contradicts", f"{claimed}, but is {describe(possible, 'or')}."
    if set(possible) <= set(named):
        return "agrees", f"{claimed}, beside {describe(others, 'and')}."
    return "open", f"{claimed}; the fit cannot tell yet between {describe(possible, 'and')}."


def _check_samples(claimed: tuple[int, int] | None, fact: ModelFact | None, model: str) -> _Result:
    """Compare the samples of a claim with the facts."""
    if claimed is None or fact is None or fact.most < 2:
        return _NO_VERDICT
    (low, high), (first, last), most = claimed, fact.saturation_range, fact.most
    span = f"{low} to {high}" if low < high else f"{low}"
    claim = f"{model} was claimed to saturate at {span} samples"
    fitted = f"at {fact.saturation} ({first} to {last})"
    if low > most:
        return "open", f"{claim}; beside the best rest no more than {most} fit."
    if high < first or low > last:
        return "contradicts", f"{claim}, but does {fitted}."
    # More than half of the range 1 to `most` on a logarithmic scale.
    if (min(high, most) / low) ** 2 > most:
        return "open", f"{claim}, which says little of 1 to {most}."
    if first == 1 and last == most:
        return "open", f"{claim}; the fit cannot tell any of 1 to {most} from the peak yet."
    if low <= fact.saturation <= high:
        return "agrees", f"{claim}, and does {fitted}."
    return "open", f"{claim}; the fit has it {fitted}."


def _behind(fact: ModelFact) -> str:
    """Format the distance to the best model."""
    return f"{fact.behind:.2g} ± {fact.behind_sd:.2g}"


def _join(words: Sequence[str], word: str) -> str:
    """Join words with commas, and the last with a conjunction; see also `Thinking.choice`."""
    separator = "; " if any(", " in each for each in words) else ", "
    return f" {word} ".join(filter(None, (separator.join(words[:-1]), words[-1])))
