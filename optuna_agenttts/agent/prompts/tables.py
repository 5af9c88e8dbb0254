"""Tables of computed evidence in the prompt: models, saturation, paired trials."""

from __future__ import annotations

from optuna_agenttts.agent.prompts.data import block, quote, table
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.task.allocation import Allocation


def allocation_line(allocation: Allocation) -> str:
    """Format an allocation on one line."""
    return ", ".join(
        f"{quote(stage)}: {quote(setting.model)} x {setting.samples}"
        for stage, setting in allocation.items()
    )


def models_block(data: PromptData) -> str:
    """Return the tables of the distance of each model and effort to the best."""
    if "models" not in data.tables:
        return ""
    return block("models", [*_models(data), *_efforts(data)])


def _names(data: PromptData, stage: int, model: int) -> tuple[str, str]:
    """Return the quoted names of a stage and of one of its models."""
    found = data.task.stages[stage]
    return quote(found.name), quote(found.models[model].name)


def _models(data: PromptData) -> list[str]:
    """Return the table of models, each at its best effort."""
    worse = {
        (fact.stage, model)
        for fact in data.facts.efforts
        for model, behind in zip(fact.models, fact.behind)
        if behind > 0
    }
    rows = [
        (
            *_names(data, fact.stage, fact.model),
            str(fact.trials),
            f"{fact.expected:.3g}",
            f"{fact.behind:.2g} ± {fact.behind_sd:.2g}" if fact.behind > 0 else "the best",
            allocation_line(data.task.allocation(fact.companion)),
        )
        for fact in data.facts.models
        if (fact.stage, fact.model) not in worse
    ]
    if not rows:
        return []
    head = ("stage", "model", "trials", "expected at its best", "behind the best", "its best")
    note = "What a statistical fit to all trials says (± is one standard deviation):"
    return [note, *table(head, rows)]


def _efforts(data: PromptData) -> list[str]:
    """Return the table of the distance of each thinking effort to the model's best."""
    rows = []
    for fact in data.facts.efforts:
        stage, cells = data.task.stages[fact.stage], []
        for model, expected, behind, sd in zip(
            fact.models, fact.expected, fact.behind, fact.behind_sd
        ):
            thinking = stage.models[model].thinking
            effort = "" if thinking is None else thinking.brief_label
            distance = f"{behind:.2g} ± {sd:.2g} behind" if behind > 0 else "best"
            cells.append(f"{effort} {expected:.3g} ({distance})")
        rows.append((quote(stage.name), quote(fact.name), ", ".join(cells)))
    if not rows:
        return []
    note = (
        "The same fit by thinking effort, each effort with what is best beside it within the "
        "budget; models above are at their best effort:"
    )
    head = ("stage", "model", "expected by effort (behind the model's best effort)")
    return [note, *table(head, rows)]


def saturation_block(data: PromptData) -> str:
    """Return the table of the samples at which each model saturates."""
    # It would reveal Insight 2.
    if "saturation" not in data.tables or 2 not in data.insights:
        return ""
    worse = {
        (fact.stage, model)
        for fact in data.facts.efforts
        for model, behind in zip(fact.models, fact.behind)
        if behind > 0
    }
    rows = [
        (
            *_names(data, fact.stage, fact.model),
            f"{fact.saturation} ({fact.saturation_range[0]} to {fact.saturation_range[1]})",
            f"{fact.gain:.2g} ± {fact.gain_sd:.2g}",
        )
        for fact in data.facts.models
        if (fact.stage, fact.model) not in worse
    ]
    head = ("stage", "model", "samples at saturation (range)", "gain over one sample")
    note = (
        "What a statistical fit to all trials says of samples beside the best rest (± is one "
        "standard deviation); the range holds those that cannot be told from the peak:"
    )
    return block("saturation", [note, *table(head, rows)] if rows else [])


def paired_block(data: PromptData) -> str:
    """Return the table of paired comparisons."""
    if "paired" not in data.tables:
        return ""
    rows = []
    for pair in data.facts.paired:
        names = [data.task.stages[pair.stage].models[model].name for model in pair.models]
        rows.append(
            (
                quote(data.task.stages[pair.stage].name),
                f"{quote(names[0])} (trial {pair.numbers[0]})",
                f"{quote(names[1])} (trial {pair.numbers[1]})",
                f"{pair.difference:.2g} ± {pair.error:.2g}",
                str(pair.instances),
            )
        )
    head = ("stage", "best trial with", "against best trial with", "difference", "instances")
    note = "On the same instances; the trials may differ in other stages too:"
    return block("paired", [note, *table(head, rows)] if rows else [])
