"""Whether the fit bears out what the agent claims.

Both sides of a verdict are those of the fit's certainty, the central 90 % of a difference, as in
the tables that the agent is shown; what lies between them is open.

*Models.* A claim says that the best model of a stage is one of those that it names. Of the models
that fit the budget, those can be the best that the fit does not exclude (`ModelFact.excluded`;
one that it has not weighed it does not exclude). The fit

* contradicts the claim if none of the models that can be the best is named,
* agrees if all of them are, and some model that fits the budget is not,
* leaves it open else; so a claim that names every model is open, however good the evidence.

*Samples.* A claim says from how many to how many samples the first model that it names
saturates, beside the best rest. The fit

* contradicts the claim if it has no number in common with `ModelFact.saturation_range`, and does
  not begin beyond what fits the budget there, of which no trial can tell,
* agrees if it holds `ModelFact.saturation`, spans at most half of what fits (by ratio: of 1 to
  100, 3 to 30), and the fit itself can tell one sample or the most from the peak,
* leaves it open else.

A claim on what nothing can be said of has no verdict: before the first score, of a stage with one
model, or of one sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna_agenttts.agent.facts import Facts, ModelFact
from optuna_agenttts.llm.secrets import one_line
from optuna_agenttts.study.claims import Aspect, Claim, Outcome, Verdict
from optuna_agenttts.task.task import Task

_MAX_TEXT = 400


def check_claims(claims: Sequence[Claim], facts: Facts, task: Task) -> tuple[Verdict, ...]:
    """Compare claims with the fit.

    Args:
        claims: Claims; those on stages and models that the task does not have are passed over.
        facts: What the fit says.
        task: The task that both are about.
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
        found: dict[Aspect, _Found] = {
            "models": _check_models(named, known, task, stage),
            "samples": _check_samples(claim.samples, known.get(named[0]), names[named[0]]),
        }
        verdicts += [
            Verdict(claim.stage, aspect, outcome, one_line(f"{claim.stage}: {text}", _MAX_TEXT))
            for aspect, (outcome, text) in found.items()
            if outcome is not None
        ]
    return tuple(verdicts)


_Found = tuple[Outcome, str] | tuple[None, str]
_NOTHING: _Found = (None, "")


def _check_models(
    named: Sequence[int], known: Mapping[int, ModelFact], task: Task, stage: int
) -> _Found:
    feasible, names = task.feasible, [model.name for model in task.stages[stage].models]
    affordable = [
        model
        for model in range(len(names))
        if feasible.fits(feasible.complete({stage: (model, 1)}))
    ]
    if len(affordable) < 2:
        return _NOTHING
    possible = sorted(
        (m for m in affordable if m not in known or not known[m].excluded),
        key=lambda m: known[m].behind if m in known else float("inf"),
    )
    others = [model for model in affordable if model not in named]

    def told(models: Sequence[int], word: str) -> str:
        figures = []
        for model in models:
            if model not in affordable:
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
    claimed = f"the best was claimed to be {told(named, 'or')}"
    if not set(possible) & set(named):
        return "contradicts", f"{claimed}, but is {told(possible, 'or')}."
    if set(possible) <= set(named):
        return "agrees", f"{claimed}, beside {told(others, 'and')}."
    return "open", f"{claimed}; the fit cannot tell yet between {told(possible, 'and')}."


def _check_samples(claimed: tuple[int, int] | None, fact: ModelFact | None, model: str) -> _Found:
    if claimed is None or fact is None or fact.most < 2:
        return _NOTHING
    (low, high), (first, last), most = claimed, fact.saturation_range, fact.most
    span = f"{low} to {high}" if low < high else f"{low}"
    says = f"{model} was claimed to saturate at {span} samples"
    fits = f"at {fact.saturation} ({first} to {last})"
    if low > most:
        return "open", f"{says}; beside the best rest no more than {most} fit."
    if high < first or low > last:
        return "contradicts", f"{says}, but does {fits}."
    # At most half of the logarithms of 1 to `most`.
    if (min(high, most) / low) ** 2 > most:
        return "open", f"{says}, which says little of 1 to {most}."
    if first == 1 and last == most:
        return "open", f"{says}; the fit cannot tell any of 1 to {most} from the peak yet."
    if low <= fact.saturation <= high:
        return "agrees", f"{says}, and does {fits}."
    return "open", f"{says}; the fit has it {fits}."


def _behind(fact: ModelFact) -> str:
    return f"{fact.behind:.2g} ± {fact.behind_sd:.2g}"


def _join(words: Sequence[str], word: str) -> str:
    return f" {word} ".join(filter(None, (", ".join(words[:-1]), words[-1])))
