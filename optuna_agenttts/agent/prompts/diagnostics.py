"""Blocks of a prompt about what happened inside of the pipeline: by stage, and as transcripts.

A posterior over allocations sees scores only. These blocks show which stage loses them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, compress, product

from optuna_agenttts.agent.prompts.data import block, quote, table
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts.study.diagnostics import StageDiagnostics, Transcript, output_changes

# Chosen by hand: a fifth of a prompt each.
STAGES_TOKENS, TRANSCRIPTS_TOKENS = 600, 600
"""Maximum lengths of the blocks, in estimated tokens."""
_RANGES = ((1, 3), (4, 15), (16, math.inf))
"""Ranges of samples that are told apart."""
_NUMBERS, _COMBINATIONS = 5, 4
"""Numbers of samples that are shown one by one, and combinations of models. Chosen by hand."""
_MOST_COMBINATIONS = 2000
"""Combinations of models up to which they are compared."""
_NOTE = "What happened inside of the pipeline, over all trials with a model."
_CHECKED = (
    '"passed" is the share of instances that pass the stage\'s check, where the checks of the '
    "stages before pass: the stage's own work, apart from that of the others."
)


def stages_block(data: PromptData) -> str:
    """Return the table of what each stage does by model; empty if nothing is known.

    Rows of models that pass the fewest checks are left out where it would be too long.
    """
    if not data.shows("stages"):
        return ""
    groups: defaultdict[tuple[int, int], list[StageDiagnostics]] = defaultdict(list)
    for trial in data.diagnostics:
        for position, stage in trial.stages.items():
            groups[position, stage.model].append(stage)
    # By stage, the model with the largest share first.
    order = sorted(groups, key=lambda key: (key[0], -(_own(groups[key]) or 0.0)))
    columns: dict[str, Callable[[Sequence[StageDiagnostics]], str]] = {"passed": _passed}
    if 2 in data.insights:
        columns |= {"passed by samples": _by_samples, "changed by the second half": _changed}
    columns["bad replies"] = _bad
    cells = {key: [cell(groups[key]) for cell in columns.values()] for key in order}
    used = [any(row[i] for row in cells.values()) for i in range(len(columns))]
    head = ("stage", "model", "trials", *compress(columns, used))
    lines = [*_check_lines(data), *_combined_line(data, groups)]
    note = f"{_NOTE} {_CHECKED}" if used[0] else _NOTE
    while order and (any(used) or lines):
        rows = [
            (
                quote(data.task.stages[stage].name),
                data.model(stage, model),
                str(len(groups[stage, model])),
                *(cell or "-" for cell in compress(cells[stage, model], used)),
            )
            for stage, model in order
        ]
        text = block("stages", [note, *(table(head, rows) if any(used) else ()), *lines])
        if estimated_tokens(text) <= STAGES_TOKENS:
            return text
        # The last model of the stage with the most.
        counts = Counter(stage for stage, _ in order)
        order.pop(max(range(len(order)), key=lambda row: (counts[order[row][0]], row)))
    return ""


def _own(stages: Sequence[StageDiagnostics]) -> float | None:
    """Return the share of a check that a stage passes by its own work; None if unknown."""
    weight = sum(stage.weight for stage in stages)
    return sum(stage.own for stage in stages) / weight if weight > 0 else None


def _passed(stages: Sequence[StageDiagnostics]) -> str:
    share = _own(stages)
    if share is None:
        return ""
    # Trials share their instances, so that more trials do not make the share more certain.
    count = max(1.0, max(stage.weight for stage in stages))
    # One more instance that passes and one that does not: no share is certain (Agresti and Coull).
    likely = min(1.0, max(0.0, (share * count + 1) / (count + 2)))
    return f"{share:.2f} ± {math.sqrt(likely * (1 - likely) / (count + 2)):.2f}"


def _by_samples(stages: Sequence[StageDiagnostics]) -> str:
    cells = []
    numbers = sorted({stage.samples for stage in stages})
    ranges = [(n, n) for n in numbers] if len(numbers) <= _NUMBERS else _RANGES
    for low, high in ranges:
        within = [stage for stage in stages if low <= stage.samples <= high]
        share = _own(within)
        if share is not None:
            few, many = (f([stage.samples for stage in within]) for f in (min, max))
            cells.append(f"{few}: {share:.2f}" if few == many else f"{few}-{many}: {share:.2f}")
    return ", ".join(cells)


def _changed(stages: Sequence[StageDiagnostics]) -> str:
    known = sum(stage.halved for stage in stages)
    return _percent(sum(stage.changed for stage in stages) / known) if known else ""


def _bad(stages: Sequence[StageDiagnostics]) -> str:
    replies = sum(stage.replies for stage in stages)
    counts = {
        name: sum(getattr(stage, name) for stage in stages)
        for name in ("malformed", "cut", "refused")
    }
    return ", ".join(f"{_percent(n / replies)} {name}" for name, n in counts.items() if n)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "below 1 %"


def _check_lines(data: PromptData) -> list[str]:
    """Return what the checks are, what passing them is worth, and how often outputs change."""
    lines, checked = [], False
    for position, stage in enumerate(data.task.stages):
        every = [t.stages[position] for t in data.diagnostics if position in t.stages]
        named = [one for one in every if one.check]
        if named:
            good, passed, bad, failed = map(sum, zip(*(one.outcomes for one in named)))
            means = [
                f"{total / weight:.2f} where {words}"
                for total, weight, words in ((good, passed, "passed"), (bad, failed, "not"))
                if weight > 0
            ]
            outcome = f"; mean outcome {', '.join(means)}" if means else ""
            lines.append(f"check of {quote(stage.name)}: {quote(named[-1].check)}{outcome}")
        elif checked and any(one.weight for one in every):
            lines.append(f"check of {quote(stage.name)}: the outcome itself")
        checked = checked or bool(named)
    changes = output_changes(data.diagnostics, len(data.task.stages))
    for stage, change in zip(data.task.stages, changes):
        shares = {"with other models": change.models}
        if 2 in data.insights:
            shares["with other numbers of samples"] = change.samples
        found = [f"{_percent(share)} {how}" for how, share in shares.items() if share is not None]
        if found:
            name = quote(stage.name)
            lines.append(f"output of {name} for equal inputs differs: {', '.join(found)}")
    return lines


def _combined_line(
    data: PromptData, groups: Mapping[tuple[int, int], Sequence[StageDiagnostics]]
) -> list[str]:
    """Return what combinations of models would score if stages did not depend on each other.

    The fit sees scores only, so it learns of a combination from its own trials alone.
    """
    stages = range(len(data.task.stages))
    shares = [
        {m: share for (at, m), found in groups.items() if at == p and (share := _own(found))}
        for p in stages
    ]
    checks = [
        [one for (at, _), found in groups.items() if at == p for one in found] for p in stages
    ]
    failed = [one.outcomes for one in checks[0] if one.outcomes]
    if not all(shares) or not all(any(s.check for s in found) for found in checks[:-1]):
        return []
    if len(shares) < 2 or math.prod(map(len, shares)) > _MOST_COMBINATIONS:
        return []
    bad, weight = (sum(outcomes[i] for outcomes in failed) for i in (2, 3))
    otherwise = bad / weight if weight > 0 else 0.0
    tried = {tuple(row) for row in data.evidence.models.tolist()}
    values = {}
    for models in product(*shares):
        passed = math.prod(shares[p][m] for p, m in enumerate(models[:-1]))
        values[models] = passed * shares[-1][models[-1]] + (1 - passed) * otherwise
    best = sorted(values, key=lambda models: -data.evidence.sign * values[models])
    cells = [
        f"{', '.join(data.model(p, m) for p, m in enumerate(models))}: {values[models]:.2f}"
        + ("" if models in tried else " (not tried together)")
        for models in best[:_COMBINATIONS]
    ]
    return ["by these shares, if stages did not depend on each other: " + "; ".join(cells)]


def transcripts_block(data: PromptData) -> tuple[str, ...]:
    """Return transcripts of the worst instances of the best trial, and versions with fewer."""
    known = [trial for trial in data.diagnostics if trial.transcripts and trial.value is not None]
    if not known or not data.shows("stages"):
        return ("",)
    best = max(known, key=lambda t: (data.evidence.sign * (t.value or 0.0), t.number))
    note = (
        f"Worst instances of trial {best.number}, the best with transcripts; an output joins all "
        "samples, of whose replies one is shown; texts are cut:"
    )
    entries = [_transcript(entry) for entry in best.transcripts]
    versions = [
        block("transcripts", [note, *chain.from_iterable(entries[:count])])
        for count in range(len(entries), 0, -1)
    ]
    return (*(v for v in versions if estimated_tokens(v) <= TRANSCRIPTS_TOKENS), "")


def _transcript(entry: Transcript) -> list[str]:
    """Return the lines of one instance."""
    outcome = "unknown" if entry.outcome is None else f"{entry.outcome:.3g}"
    lines = [f"instance {quote(entry.input)}: outcome {outcome}"]
    for stage in entry.stages:
        passed = "" if stage.passed is None else f", check {_verdict(stage.passed)}"
        output = "none" if stage.output is None else quote(stage.output)
        lines.append(
            f"- stage {quote(stage.name)}{passed}: output {output}; "
            f"one reply: {quote(stage.reply)}"
        )
    return lines


def _verdict(share: float) -> str:
    return {1.0: "passed", 0.0: "failed"}.get(share, f"passed by {share:.2f}")
