"""Simulated models of known competence: stand-ins for servers in tests and offline examples."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna_agenttts.llm import ChatRefusedError, ChatRequest, Completion, Usage
from optuna_agenttts_integrations.calls.tokens import estimated_tokens
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.tasks.benchmark import Benchmark

_CANDIDATE = re.compile(r'<candidate number="\d+">\n(.*?)\n</candidate>', re.DOTALL)
_FINDS = 0.5
"""How much of what is missing to certainty a model gains by seeing a right candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedModel:
    """Answers the prompts of a benchmark with a known chance of being right.

    It finds the instance and the stage that a prompt is about by the marks that the benchmark's
    prompts carry. What it says is a function of request and seed.

    Args:
        name: The model's name.
        benchmark: The benchmark.
        competence: For each stage, its chance to be right in one sample, 0 to 1.

    Raises:
        PipelineError: A stage that the model may run has no competence, or one is out of range.
    """

    name: str
    benchmark: Benchmark
    competence: Mapping[str, float]

    def __post_init__(self) -> None:
        """Check the values."""
        stages = self.benchmark.task.stages
        needed = [s.name for s in stages if self.name in (model.name for model in s.models)]
        for stage in {*needed, *self.competence}:
            if not 0 <= self.competence.get(stage, math.nan) <= 1:
                raise PipelineError(
                    f"{self.name}: `competence` is {dict(self.competence)!r}: give {stage!r} a "
                    "chance from 0 to 1."
                )

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`.

        Raises:
            ChatRefusedError: The prompt is none of the benchmark's.
        """
        prompt = "\n".join(message.content for message in request.messages)
        stage, instance = self._about(prompt)
        digest = hashlib.blake2b(f"{self.name}:{seed}:{prompt}".encode(), digest_size=8).digest()
        rng = random.Random(int.from_bytes(digest, "big"))
        chance = self.competence[stage]
        right = self.benchmark.simulate(stage, instance, prompt, True, random.Random(0))
        if right.strip() in _CANDIDATE.findall(prompt):
            chance += (1 - chance) * _FINDS
        answers = rng.random() < chance
        text = right if answers else self.benchmark.simulate(stage, instance, prompt, False, rng)
        usage = Usage(
            max(1, round(estimated_tokens(prompt))), max(1, round(estimated_tokens(text)))
        )
        return Completion(text, usage)

    def _about(self, prompt: str) -> tuple[str, Any]:
        stages = [stage for stage, mark in self.benchmark.marks.items() if mark in prompt]
        found = [
            instance
            for instance in (*self.benchmark.search, *self.benchmark.held_out)
            if self.benchmark.subject(instance) in prompt
        ]
        if len(stages) != 1 or not found:
            raise ChatRefusedError(f"{self.name}: the prompt is none of the benchmark's")
        # A question may be part of a longer one.
        return stages[0], max(found, key=lambda instance: len(self.benchmark.subject(instance)))


def simulated_models(
    benchmark: Benchmark, competence: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, SimulatedModel]:
    """Simulated models for a benchmark.

    Args:
        benchmark: The benchmark.
        competence: For each model, its chance to be right in each stage. Default: the larger the
            model, the better, the more so the earlier the stage.

    Raises:
        PipelineError: A model or a stage has no competence, or one out of range.
    """
    models = {m.name: m for stage in benchmark.task.stages for m in stage.models}
    stages = [stage.name for stage in benchmark.task.stages]
    given = competence or {
        name: dict(zip(stages, _by_size(model.parameters or 1e9, len(stages))))
        for name, model in models.items()
    }
    return {
        name: SimulatedModel(name=name, benchmark=benchmark, competence=given.get(name, {}))
        for name in models
    }


def _by_size(parameters: float, stages: int) -> Sequence[float]:
    """From .45 at 3e9 to .8 at 72e9 parameters in the first stage, .55 to .7 in the last."""
    size = min(1.0, max(0.0, math.log(parameters / 3e9) / math.log(72 / 3)))
    shares = [index / max(1, stages - 1) for index in range(stages)]
    return [0.45 + 0.1 * share + size * (0.35 - 0.2 * share) for share in shares]
