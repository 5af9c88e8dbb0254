"""Data of the prompt for the next round of a task, and the choice of what fits into the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna_agenttts.agent.facts import Facts
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.task.task import Task

TABLES = ("models", "saturation", "paired")
"""Names of the tables of computed evidence, in the order of the prompt."""
NO_FACTS = Facts()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptData:
    """Data of the prompt.

    Args:
        evidence: The trials so far.
        facts: Computed facts about them.
        insights: Numbers of the paper's insights to state.
        tables: Names of the tables of computed evidence to show, from `TABLES`.
        guidelines: Whether to ask for guidelines and show earlier ones.
        wanted: Number of candidates to ask for.
        fates: What became of the agent's recent proposals.
        earlier: Guidelines of earlier rounds, as pairs of round number and lines.
        contradicted: Sentences about the latest claims that the fit contradicts.
        spent: Description of the spending so far; may be empty.
        experience: Lines that describe earlier studies; may be empty.
    """

    evidence: Evidence
    facts: Facts = NO_FACTS
    insights: tuple[int, ...] = (1, 2, 3)
    tables: tuple[str, ...] = TABLES
    guidelines: bool = True
    wanted: int = 8
    fates: tuple[Proposal, ...] = ()
    earlier: tuple[tuple[int, tuple[str, ...]], ...] = ()
    contradicted: tuple[str, ...] = ()
    spent: str = ""
    experience: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """The task."""
        return self.evidence.task


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """Part of a prompt, and what it gives way to.

    Args:
        render: Returns the part's text; empty if there is nothing to show. It may return several
            versions instead, from the longest to the shortest.
        rank: Importance of the part, 1 being the most important; None if it is always shown
            whole. A prompt that is too long loses the parts of the highest rank first. For a part
            of several versions, one rank for each version but the last: the importance of what
            the version has more than the next one. The last version is always shown; that of a
            part with a single text is empty.
    """

    render: Callable[[PromptData], str | Sequence[str]]
    rank: int | tuple[int, ...] | None = None

    def versions(self, data: PromptData) -> tuple[tuple[str, int], ...]:
        """Return the versions, from the longest to the shortest, each with its rank.

        The last one has a rank of 0: it gives way to none.
        """
        found = self.render(data)
        if isinstance(found, str):
            found = (found,) if self.rank is None else (found, "")
        ranks = self.rank if isinstance(self.rank, tuple) else (self.rank or 0,)
        shorter = len(found) - 1
        ranks = (*ranks, *ranks[-1:] * shorter)[:shorter]
        return (*zip(found, ranks), (found[-1], 0))


def fitting_texts(
    blocks: Sequence[PromptBlock], data: PromptData, tokens: float
) -> tuple[str, ...]:
    """Return the texts of a prompt's parts that fit together into a number of tokens.

    Args:
        blocks: The parts, in the order of the prompt.
        data: Data of the prompt.
        tokens: Maximum number of tokens, as `estimated_tokens` counts them. It is exceeded only
            if the parts that are always shown do.
    """
    versions = [block.versions(data) for block in blocks]
    chosen = [0] * len(blocks)
    while True:
        shown = [each[position] for each, position in zip(versions, chosen)]
        texts = tuple(text for text, _ in shown)
        least = max(range(len(blocks)), key=lambda i: shown[i][1])
        if not shown[least][1] or sum(map(estimated_tokens, texts)) <= tokens:
            return texts
        chosen[least] += 1
