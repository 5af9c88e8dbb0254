"""Diagnosis of an objective: checks before a search, inspection of replies after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.llm import Report
from optuna_agenttts_integrations.check import check_data, check_servers
from optuna_agenttts_integrations.check_pipeline import check_functions, check_run
from optuna_agenttts_integrations.inspection.tracing import Tracer
from optuna_agenttts_integrations.inspection.trials import (
    Inspectable,
    inspect_subjects,
    read_subject,
    with_steps,
)
from optuna_agenttts_integrations.inspection.views import InstanceInspection, TrialInspection
from optuna_agenttts_integrations.pipeline.predictor import PipelineRunner
from optuna_agenttts_integrations.pipeline.stages import Pipeline


class DiagnosableObjective(PipelineRunner):
    """Base of `MultiStageObjective` with its methods for checks and inspection."""

    pipeline: Pipeline
    instances: Mapping[str, Any]
    _steps: Mapping[str, int]

    def check(self) -> Report:
        """Check data, functions, store and servers before a search, and run one instance.

        Each server receives about eight small requests for a model, and a question for each of its
        thinking efforts. Then one instance runs through every stage, parse, aggregation, fusion,
        score and metrics, with the cheapest models that work and two samples, which the search
        reuses. Functions with a wrong signature are found before any request is sent. With
        `replay`, servers are not contacted, and the instance runs on stored samples.

        Returns:
            A report that prints as a table; `Report.raise_for_errors` turns errors into an
            exception.
        """
        report = check_functions(self.pipeline)
        if not report.ok:
            return report
        report += check_data(self.pipeline, self.instances, self.task, self.store)
        servers = Report()
        if not self._replay:
            servers = self._loop.run(
                check_servers(self.pipeline, self.instances, self.task, self.endpoints)
            )
        run = check_run(self._tracer(), report, servers, replay=self._replay)
        return report + servers + self._loop.run(run)

    @overload
    def inspect(
        self,
        trial: Inspectable,
        instance: str | int,
        *,
        baseline: Inspectable | None = None,
        study: Study | None = None,
    ) -> InstanceInspection: ...

    @overload
    def inspect(
        self,
        trial: Inspectable,
        instance: None = None,
        *,
        baseline: Inspectable | None = None,
        study: Study | None = None,
    ) -> TrialInspection: ...

    def inspect(
        self,
        trial: Inspectable,
        instance: str | int | None = None,
        *,
        baseline: Inspectable | None = None,
        study: Study | None = None,
    ) -> InstanceInspection | TrialInspection:
        """Show what the models replied and what became of it, without calling a model.

        Prompts, replies and results are computed again from the store: steps, parsers,
        aggregations and scores run once more. Missing replies are marked.

        Args:
            trial: A trial, its number, or an allocation.
            instance: ID of the instance. Default: all that are known, the worst outcome first.
            baseline: Another trial or allocation to show beside it. Without `instance`, only
                instances whose outcomes differ are listed, the largest loss first.
            study: Study of the trials, needed for numbers and for trials of a confirmation. Its
                direction decides which outcomes are bad; by default small ones.

        Returns:
            One instance, or a sequence of instances. Both print as text and have `to_dict`.

        Raises:
            PipelineError: The trial or instance does not exist.
            TaskError: The allocation does not match the task.
            StoreError: Nothing is known, or the store cannot be read.
        """
        if study is None:
            study = storage.study_of(trial)
        subjects = [
            with_steps(read_subject(each, self.task, study), self._steps, study)
            for each in ((trial,) if baseline is None else (trial, baseline))
        ]
        return self._loop.run(
            inspect_subjects(self._tracer(), subjects, self._steps, instance, study)
        )

    def _tracer(self) -> Tracer:
        return Tracer(
            pipeline=self.pipeline,
            instances=self.instances,
            task=self.task,
            endpoints=self.endpoints,
            store=self.store,
            seed=self._seed,
        )
