"""Inspected instances and trials: as text for people, as a dictionary for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING, Any

from optuna_agenttts.report.frames import to_frame
from optuna_agenttts.report.text import count_text
from optuna_agenttts.support import html
from optuna_agenttts.support.html import Html
from optuna_agenttts_integrations.inspection.records import InspectedReply, InspectedStage
from optuna_agenttts_integrations.inspection.text import (
    MIN_WIDTH,
    SEPARATOR,
    escaped,
    number,
    result_text,
    side_by_side,
    stage_lines,
    table,
    wrapped,
)
from optuna_agenttts_integrations.pipeline.plain_values import plain

if TYPE_CHECKING:
    from pandas import DataFrame

_UNWRAPPED = 10_000
"""Width in columns that leaves the wrapping of lines to a browser."""
_SHOWN = 20
"""Instances in the view of a trial in a notebook. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class InstanceInspection:
    """Inspected instance under an allocation.

    Prints as text; `to_dict` is for JSON.

    Args:
        instance: ID of the instance.
        subject: The trial or allocation, in words.
        trial: Number of the trial; None for an allocation.
        allocation: Model and number of samples by stage; empty if it is not known.
        outcome: The recorded outcome, or else the computed one if no reply is missing.
        recorded: Outcome that the trial recorded; None if it has none.
        computed: Score of the stored replies; None if the pipeline cannot be run on them.
        metrics: The pipeline's metrics of the stored replies, by name.
        stages: The stages in order; empty if only outcomes are known.
        notes: What is missing, failed or inconsistent.
        baseline: The same instance under the baseline, if there is one.
    """

    instance: str
    subject: str
    trial: int | None = None
    allocation: Mapping[str, tuple[str, int]] | None = None
    outcome: float | None = None
    recorded: float | None = None
    computed: float | None = None
    metrics: Mapping[str, float] | None = None
    stages: tuple[InspectedStage, ...] = ()
    notes: tuple[str, ...] = ()
    baseline: InstanceInspection | None = None

    @property
    def known(self) -> bool:
        """True if there is an outcome or a reply."""
        replies = (r for s in self.stages for each in s.requests for r in each.replies)
        return self.recorded is not None or any(reply.text is not None for reply in replies)

    def __str__(self) -> str:
        """Return the text for a terminal of 100 columns."""
        return self.text()

    def text(self, width: int = 99) -> str:
        """Return the text for a terminal, side by side with the baseline if there is one.

        Args:
            width: Width in columns.
        """
        width = max(MIN_WIDTH, width)
        title = wrapped(f"Instance {escaped(self.instance)}", width)
        if self.baseline is None:
            return "\n".join([*title, *chain.from_iterable(self._sections(width))])
        half = (width - len(SEPARATOR)) // 2
        sides = (self._sections(half), self.baseline._sections(half))
        return "\n".join([*title, *side_by_side(*sides, half)])

    def _repr_html_(self) -> str:
        """Show outcome, prompts and replies in a notebook, beside those of the baseline."""
        sides = [each._parts() for each in (self, self.baseline) if each is not None]
        return html.join([html.heading(f"Instance {self.instance}"), html.table((), [sides])])

    def _parts(self) -> Html:
        """Return a summary and each stage, whose prompts and replies are shown on a click."""
        summary, *stages = self._sections(_UNWRAPPED)
        parts = [html.paragraph(*chain.from_iterable((line, html.BREAK) for line in summary))]
        for _, title, *lines in stages:
            text = html.element("pre", "\n".join(lines), style="white-space:pre-wrap")
            parts.append(html.details(title.removeprefix("== "), text))
        return html.join(parts)

    def _sections(self, width: int) -> list[list[str]]:
        """Return the lines of a summary and of each stage."""
        metrics = "".join(f", {name} {number(v)}" for name, v in (self.metrics or {}).items())
        summary = wrapped(self.subject, width)
        summary += wrapped(f"outcome {number(self.outcome)}{metrics}", width)
        summary += [line for note in self.notes for line in wrapped(f"! {note}", width)]
        return [summary, *(["", *stage_lines(stage, width)] for stage in self.stages)]

    def _cells(self) -> list[str]:
        """Return the instance's row in a table."""
        other = self.baseline
        cells = [escaped(self.instance), number(self.outcome)]
        cells += [] if other is None else [number(other.outcome)]
        for position, stage in enumerate(self.stages):
            cell = result_text(stage)
            if other is not None:
                beside = result_text(other.stages[position])
                cell = cell if cell == beside else f"{cell} | {beside}"
            cells.append(cell)
        return cells

    def to_dict(self) -> dict[str, Any]:
        """Return the values as types of JSON."""
        values: dict[str, Any] = plain(self)
        return values

    def to_dataframe(self) -> DataFrame:
        """Return the samples as a pandas DataFrame, one row for each reply.

        The columns are ``stage``, ``model``, ``purpose``, and the fields of `InspectedReply`.

        Raises:
            AgentTTSError: pandas is not installed.
        """
        reply_fields = tuple(field.name for field in fields(InspectedReply))
        rows = (
            {
                "stage": stage.name,
                "model": stage.model,
                "purpose": request.purpose,
                **{name: getattr(reply, name) for name in reply_fields},
            }
            for stage in self.stages
            for request in stage.requests
            for reply in request.replies
        )
        return to_frame("to_dataframe", rows, ("stage", "model", "purpose", *reply_fields))


@dataclass(frozen=True, slots=True)
class TrialInspection:
    """Inspected instances of a trial or allocation, the worst outcome first.

    With a baseline, only the instances whose outcomes differ, the largest loss first. Prints as a
    table; `to_dict` is for JSON.

    Args:
        subject: The trial or allocation, in words.
        instances: The instances.
        notes: What is not known or not listed.
        baseline: The baseline, in words; None without one.
    """

    subject: str
    instances: tuple[InstanceInspection, ...]
    notes: tuple[str, ...] = ()
    baseline: str | None = None

    def __len__(self) -> int:
        """Return the number of instances."""
        return len(self.instances)

    def __iter__(self) -> Iterator[InstanceInspection]:
        """Iterate over the instances."""
        return iter(self.instances)

    def __getitem__(self, position: int) -> InstanceInspection:
        """Return the instance at a position, 0 for the worst."""
        return self.instances[position]

    def __str__(self) -> str:
        """Return the table for a terminal of 100 columns."""
        return self.text()

    def text(self, width: int = 99, limit: int | None = None) -> str:
        """Return the table for a terminal.

        Args:
            width: Width in columns.
            limit: Maximum number of rows. Default: all instances.
        """
        width = max(MIN_WIDTH, width)
        lines = [line for text in self._summary() for line in wrapped(text, width)]
        listed = self.instances[:limit]
        if listed:
            lines += ["", *table(self._titles(), [each._cells() for each in listed], width)]
        if len(listed) < len(self.instances):
            lines.append(f"... and {len(self.instances) - len(listed)} more")
        for note in self.notes:
            lines += ["", *wrapped(note, width)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        listed = self.instances[:_SHOWN]
        parts = [html.paragraph(line) for line in self._summary()]
        if listed:
            rows = [each._cells() for each in listed]
            parts.append(html.table(self._titles(), rows, numbers=(1,)))
        more = len(self.instances) - len(listed)
        notes = ([f"and {more} more"] if more else []) + list(self.notes)
        return html.join([*parts, html.bullets(notes)])

    def _summary(self) -> list[str]:
        """Describe the trial or allocation, and its mean outcome or the baseline."""
        if self.baseline is not None:
            return [self.subject, f"against {self.baseline}"]
        outcomes = [each.outcome for each in self if each.outcome is not None]
        if not outcomes:
            return [self.subject]
        mean = sum(outcomes) / len(outcomes)
        count = count_text(len(outcomes), "instance")
        return [self.subject, f"mean outcome {number(mean)} on {count}"]

    def _titles(self) -> list[str]:
        """Return the titles of the table."""
        return [*self._columns(), *(stage.name for stage in self.instances[0].stages)]

    def _columns(self) -> list[str]:
        return ["instance", "outcome", *([] if self.baseline is None else ["baseline"])]

    def to_dict(self) -> dict[str, Any]:
        """Return the values as types of JSON."""
        values: dict[str, Any] = plain(self)
        return values

    def to_dataframe(self) -> DataFrame:
        """Return the instances as a pandas DataFrame, one row each.

        The columns are ``instance``, ``outcome``, ``baseline`` (the outcome there, if there is
        one), the metrics, and the result of each stage under its name.

        Raises:
            AgentTTSError: pandas is not installed.
        """
        rows = (
            {
                "instance": each.instance,
                "outcome": each.outcome,
                **({"baseline": each.baseline.outcome} if each.baseline is not None else {}),
                **(each.metrics or {}),
                **{stage.name: stage.result for stage in each.stages},
            }
            for each in self.instances
        )
        return to_frame("to_dataframe", rows, self._columns())
