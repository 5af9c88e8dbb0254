"""Section of a summary about the agent: its guidelines, its rounds, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from optuna_agenttts.report.document import Block, Bullets, Line, Paragraph, Section, Strong
from optuna_agenttts.report.sections import first_rows
from optuna_agenttts.study.claims import contradictions
from optuna_agenttts.study.claims import summary as verdicts_text
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.support.plain import one_line, shortened

_NAME, _TEXT, _PROSE = 60, 300, 3000
"""Characters of a name, a description, and a guideline, as in `sections.py`."""
_HISTORY = 5
"""Rounds whose guidelines are shown: more would push the rest out of sight."""

_KINDS = {
    "duplicate": "a duplicate was tried, or is proposed already",
    "refused": "a refused one promised too little in an earlier round",
}
"""Explanations of the kinds of proposals that are not kept."""


def agent_section(rounds: Sequence[Round]) -> Section:
    """Return the agent's guidelines, the latest first, its rounds, and its latest candidates."""
    # Guidelines that did not change are shown once, by their latest round.
    written = {planned.guidelines: planned for planned in rounds if planned.guidelines}
    ranked = sorted(written.values(), key=lambda planned: -planned.number)
    blocks: list[Block] = [] if ranked else [Paragraph("None yet.")]
    for planned in ranked[:_HISTORY]:
        when = Strong(f"Round {planned.number}, after {planned.trials} trials")
        model = shortened(one_line(planned.model, _PROSE), _NAME)
        blocks.append(Paragraph((when, f", by {model}:" if model else ":")))
        blocks.append(Bullets(tuple(one_line(text, _PROSE) for text in planned.guidelines)))
        if planned is ranked[0] and planned.verdicts:
            blocks.append(Paragraph(verdicts_text(planned.verdicts)))
            refuted = tuple(verdict.text for verdict in contradictions(planned.verdicts))
            blocks += [Bullets(refuted)] * bool(refuted)
    rows: list[tuple[Line, ...]] = []
    # Rounds in a row for which the agent was not asked, for one reason, are one row.
    groups = groupby(reversed(rounds), lambda each: (each.number if each.asked else -1, each.why))
    for (number, why), group in groups:
        latest, *others = group
        if number >= 0:
            rows.append(_row(latest))
        else:
            start = f"{others[-1].number} to " if others else ""
            numbers = f"{start}{latest.number}"
            rows.append((numbers, "0", "0", "0", "0.0", f"not asked: {why}", "none"))
    head = ("round", "candidates", "requests", "tokens", "seconds", "became", "problems")
    blocks += first_rows(head, rows)
    kinds = {each.kind for planned in rounds for each in planned.dropped}
    if known := [text for kind, text in _KINDS.items() if kind in kinds]:
        blocks.append(Paragraph(f"Not kept: {'; '.join(known)}."))
    for planned in [planned for planned in rounds if planned.candidates][-1:]:
        blocks.append(Paragraph(f"Candidates of round {planned.number}, best first:"))
        texts = [f"{_params(each.params or {})}: {each.text}" for each in planned.candidates]
        blocks.append(Bullets(tuple(one_line(text, _TEXT) for text in texts)))
    return Section("Guidelines of the agent", tuple(blocks))


def _row(planned: Round) -> tuple[Line, ...]:
    """Return the row of a round for which the agent was asked."""
    tokens = planned.prompt_tokens + planned.completion_tokens
    outcomes = Counter(each.outcome or "kept" for each in planned.candidates)
    kinds = Counter(each.kind for each in planned.dropped)
    became = [f"{count} {outcome}" for outcome, count in outcomes.items()]
    became += [f"{count} not kept ({kind})" for kind, count in kinds.items()]
    return (
        str(planned.number),
        str(len(planned.candidates)),
        str(planned.requests),
        f"{tokens:,}",
        f"{planned.seconds:.1f}",
        ", ".join(became) or "nothing proposed",
        one_line(planned.problems_text, _TEXT) or "none",
    )


def _params(params: Mapping[str, Any]) -> str:
    """Return parameters on one line."""
    return ", ".join(f"{name} = {value}" for name, value in params.items())
