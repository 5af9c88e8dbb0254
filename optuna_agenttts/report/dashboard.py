"""What optuna-dashboard shows of the agent: the study's note."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence

from optuna.study import Study

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.study.claims import contradictions, summary
from optuna_agenttts.study.rounds import Round, guidelines
from optuna_agenttts.study.spending import spend
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)

HEADING = "## Guidelines of the agent"
"""Where our part of the note begins; what stands before it is the user's and stays."""

_HISTORY = 4
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~@-]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What Markdown acts on, and what makes links of bare addresses."""


def save_note(study: Study) -> bool:
    """Write the agent's guidelines into the study's note, below what the user wrote there.

    Done after each round by the sampler itself.

    Args:
        study: The study.

    Returns:
        Whether the note was written: not where optuna-dashboard is not installed, or no agent
        planned.
    """
    try:
        import optuna_dashboard
    except ImportError:
        _logger.debug("No note: install it by `pip install optuna-agenttts[dashboard]`.")
        return False
    body = note(study)
    if not body:
        return False
    present = optuna_dashboard.get_note(study)
    own = present.partition(HEADING)[0].rstrip()
    optuna_dashboard.save_note(study, f"{own}\n\n{body}" if own else body)
    return True


def note(study: Study) -> str:
    """The agent's guidelines as Markdown: the latest first, a short history, spend.

    Args:
        study: The study.

    Returns:
        The text; empty if no agent planned.
    """
    rounds = guidelines(study)
    if not rounds:
        return ""
    told = [planned for planned in rounds if planned.guidelines]
    parts = [HEADING]
    if told:
        latest = told[-1]
        parts.append(
            f"Round {latest.number}, after {latest.trials} trials, by {_plain(latest.model)}:"
        )
        parts.append(_bullets(latest.guidelines))
        if latest.verdicts:
            parts.append(_plain(summary(latest.verdicts)))
        if refuted := contradictions(latest.verdicts):
            parts.append(_bullets([verdict.text for verdict in refuted]))
    else:
        parts.append("None yet.")
    parts += ["### Rounds", _table(rounds)]
    for planned in reversed(told[:-1][-_HISTORY:]):
        parts.append(f"### Round {planned.number}\n\n{_bullets(planned.guidelines)}")
    parts += ["### Spend", _spend(study, rounds)]
    return "\n\n".join(parts)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _table(rounds: Sequence[Round]) -> str:
    rows = ["| Round | Candidates | Requests | Tokens | Seconds | Trouble |", "|" + " --- |" * 6]
    for planned in rounds[-10:][::-1]:
        trouble = Counter(planned.problems) + Counter(planned.failures)
        words = ", ".join(f"{kind} ({count})" for kind, count in sorted(trouble.items()))
        cells = (
            planned.number,
            len(planned.candidates),
            planned.requests,
            planned.prompt_tokens + planned.completion_tokens,
            f"{planned.seconds:.1f}",
            _plain(words or "none"),
        )
        rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(rows)


def _spend(study: Study, rounds: Sequence[Round]) -> str:
    try:
        task = Task.registered(study)
    except AgentTTSError:
        task = None
    if task is None:
        tokens = sum(planned.prompt_tokens + planned.completion_tokens for planned in rounds)
        return f"{tokens} tokens on planning."
    return str(spend(study, task))


def _plain(text: str) -> str:
    """Text from a model, with nothing in it that Markdown would act on."""
    return _MARKUP.sub(r"\\\1", text)
