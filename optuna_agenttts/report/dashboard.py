"""The note that optuna-dashboard shows: guidelines of the agent, rounds and spend."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence

from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.report.trials import count_states, stopped_trials
from optuna_agenttts.study.claims import contradictions, summary
from optuna_agenttts.study.rounds import Round, guidelines
from optuna_agenttts.study.spending import spend
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)

HEADING = "## Guidelines of the agent"
"""First line of our part of the note. Text before it belongs to the user and is kept."""

# Earlier rounds whose guidelines are shown: more would push the spend out of sight.
_HISTORY = 4
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~@-]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""Markup of Markdown, and the parts of bare addresses that become links."""


def save_note(study: Study) -> bool:
    """Write the agent's guidelines into the study's note, below the user's text.

    The sampler calls this after each round, and `confirm` at its end.

    Args:
        study: The study.

    Returns:
        True if the note was written; False if optuna-dashboard is not installed or no agent
        planned a round.
    """
    body = note(study)
    if not body:
        return False
    try:
        import optuna_dashboard
    except ImportError:
        _logger.debug(
            "The study's note is not written: run `pip install optuna-agenttts[dashboard]`."
        )
        return False
    present = optuna_dashboard.get_note(study)
    own = present.partition(HEADING)[0].rstrip()
    optuna_dashboard.save_note(study, f"{own}\n\n{body}" if own else body)
    return True


def note(study: Study) -> str:
    """Return the agent's guidelines, rounds, trials and spend as Markdown.

    Args:
        study: The study.

    Returns:
        The text; empty if no agent planned a round.
    """
    rounds = guidelines(study)
    if not rounds:
        return ""
    written = [planned for planned in rounds if planned.guidelines]
    parts = [HEADING]
    if written:
        latest = written[-1]
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
    for planned in reversed(written[:-1][-_HISTORY:]):
        parts.append(f"### Round {planned.number}\n\n{_bullets(planned.guidelines)}")
    trials = storage.read_trials(study)
    parts += ["### Trials", f"{count_states(trials)}."]
    if stopped := stopped_trials(trials):
        parts.append(f"Pruned, with the mean of what each saw: {stopped}.")
    parts += ["### Spend", _spend(study, rounds)]
    return "\n\n".join(parts)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _table(rounds: Sequence[Round]) -> str:
    rows = ["| Round | Candidates | Requests | Tokens | Seconds | Problems |", "|" + " --- |" * 6]
    for planned in rounds[-10:][::-1]:
        problems = Counter(planned.problems) + Counter(planned.failures)
        words = ", ".join(f"{kind} ({count})" for kind, count in sorted(problems.items()))
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
    """Escape the Markdown in a text that a model wrote."""
    return _MARKUP.sub(r"\\\1", text)
