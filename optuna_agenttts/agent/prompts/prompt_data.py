"""Data of the prompt for the next round of a task, and the choice of what fits into the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from optuna_agenttts.agent.facts import Facts
from optuna_agenttts.agent.prompts.data import sections
from optuna_agenttts.agent.prompts.numbers import Figures
from optuna_agenttts.agent.prompts.short_names import allocation_text, short_names
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts.planner.evidence import Choices, Evidence
from optuna_agenttts.study.diagnostics import TrialDiagnostics
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.task.task import Task

TABLES = ("noise", "effects", "models", "stages", "gains", "next")
"""Names of the tables of computed evidence, in the order of the prompt."""
NO_FACTS = Facts()


@dataclass(frozen=True, kw_only=True)
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
        earlier: The latest guidelines, as pairs of round number and lines.
        contradicted: Sentences about the latest claims that the fit contradicts.
        spent: Description of the spending so far; may be empty.
        left: Number of trials that the search has left, from the first that the round can be for;
            None if unknown.
        experience: Lines that describe earlier studies; may be empty.
        diagnostics: What the stages of the trials did.
        checked: Whether the diagnostics have checks of stages, so that candidates are weighed more
            favorably.
        floor: Score to reach at the lowest cost; None to search for the best score, or front.
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
    left: int | None = None
    experience: tuple[str, ...] = ()
    diagnostics: tuple[TrialDiagnostics, ...] = ()
    checked: bool = False
    floor: float | None = None

    @property
    def task(self) -> Task:
        """The task."""
        return self.evidence.task

    @cached_property
    def figures(self) -> Figures:
        """Format of scores and differences."""
        return Figures.of(self.evidence)

    @cached_property
    def names(self) -> dict[str, str]:
        """Short names of the models, by name."""
        return short_names(self.task)

    @property
    def measures_cost(self) -> bool:
        """Whether the second value of trials is another one than the task's cost."""
        forecasts = (*self.facts.front, *self.facts.leaders)
        return any(forecast.measured is not None for forecast in forecasts)

    def line(self, choices: Choices) -> str:
        """Format an allocation on one line, with short names in the order of the stages."""
        return allocation_text(self.task, self.names, choices)

    def model(self, stage: int, model: int) -> str:
        """Return the short name of a model."""
        return self.names[self.task.stages[stage].models[model].name]

    def shows(self, table: str) -> bool:
        """Return whether a table of computed evidence is shown.

        Figures about numbers of samples would reveal Insight 2.
        """
        return table in self.tables and (table != "gains" or 2 in self.insights)


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
        # Of a part with fewer versions, the shorter ones: one transcript is as important as the
        # last of three.
        ranks = (*ranks, *ranks[-1:] * (shorter - len(ranks)))
        ranks = ranks[len(ranks) - shorter :]
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
        if not shown[least][1] or estimated_tokens(sections(texts)) <= tokens:
            return texts
        chosen[least] += 1
