"""Simulated models of known competence, for tests and offline examples."""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna_agenttts.llm import ChatRefusedError, ChatRequest, Completion, Usage
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.tasks.benchmark import Benchmark
from optuna_agenttts_integrations.testing.simulated_replies import quoted_text, simulated_reply
from optuna_agenttts_integrations.testing.simulated_thinking import (
    SimulatedThinking,
    thoughts_text,
)

Reply = Callable[..., str]
"""Function with the signature of `simulated_reply`."""

_CANDIDATE = re.compile(r'<candidate number="\d+">\n(.*?)\n</candidate>', re.DOTALL)
_FUSION_GAIN = 0.5
"""Fraction of the probability of error that a fusion removes when a right candidate is among those
shown; chosen by hand."""
_THINKING = SimulatedThinking()


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedModel:
    """Chat model that answers the prompts of a benchmark with a given probability of being right.

    The stage of a prompt is recognized by the system message of the stage, the instance by
    `quote`. A completion is a function of the model's name, the prompt, the seed and the thinking
    effort, if the request asks for one.

    Args:
        name: The model's name on its server, which its choices of several thinking efforts share.
        benchmark: The benchmark. Every stage that asks a model needs its own system message.
        competence: For each stage, the probability of being right in one sample, 0 to 1.
        reply: Writes replies. Default: `simulated_reply`, which knows the task families.
        quote: Returns the text that every prompt about an instance contains. Default:
            `quoted_text`, which knows the task families.
        thinking: Length and effect of its thoughts, for requests with a thinking effort; others
            get none.

    Raises:
        PipelineError: A stage that the model can run has no competence or one out of range, or a
            stage has no system message.
    """

    name: str
    benchmark: Benchmark
    competence: Mapping[str, float]
    reply: Reply = simulated_reply
    quote: Callable[[Any], str] = quoted_text
    thinking: SimulatedThinking = _THINKING
    _instructions: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the values."""
        stages = self.benchmark.task.stages
        needed = [s.name for s in stages if self.name in (m.served_name for m in s.models)]
        for stage in {*needed, *self.competence}:
            if not 0 <= self.competence.get(stage, math.nan) <= 1:
                raise PipelineError(
                    f"{self.name}: `competence` is {dict(self.competence)!r}: give {stage!r} a "
                    "probability from 0 to 1."
                )
        object.__setattr__(self, "_instructions", stage_instructions(self.benchmark))

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`.

        Raises:
            ChatRefusedError: The prompt does not belong to the benchmark.
        """
        prompt = "\n".join(message.content for message in request.messages)
        stage, instance = self._identify(prompt)
        effort = request.thinking
        source = f"{self.name}:{seed}:{prompt}" + (f":{effort}" if effort is not None else "")
        digest = hashlib.blake2b(source.encode(), digest_size=8).digest()
        rng = random.Random(int.from_bytes(digest, "big"))
        prompt_tokens = max(1, round(estimated_tokens(prompt)))
        thoughts = 0 if effort is None else self.thinking.length(effort, rng)
        if thoughts >= request.max_tokens:
            cut = request.max_tokens
            return Completion("", Usage(prompt_tokens, cut, cut), "length", thoughts_text(cut))
        probability = self.thinking.improved(self.competence[stage], stage, thoughts)
        text = self.reply(instance, stage=stage, prompt=prompt, right=True, rng=random.Random(0))
        if text.strip() in _CANDIDATE.findall(prompt):
            probability += (1 - probability) * _FUSION_GAIN
        if rng.random() >= probability:
            text = self.reply(instance, stage=stage, prompt=prompt, right=False, rng=rng)
        generated = max(1, round(estimated_tokens(text))) + thoughts
        usage = Usage(prompt_tokens, generated, thoughts)
        return Completion(text, usage, thoughts=thoughts_text(thoughts))

    def _identify(self, prompt: str) -> tuple[str, Any]:
        """Return the stage and the instance that a prompt belongs to."""
        stages = [stage for stage, text in self._instructions.items() if text in prompt]
        found = [
            instance
            for instance in (*self.benchmark.search, *self.benchmark.held_out)
            if self.quote(instance) in prompt
        ]
        if len(stages) != 1 or not found:
            raise ChatRefusedError(
                f"{self.name}: the prompt does not belong to the benchmark: it contains the "
                f"system messages of {len(stages)} stages and the texts of {len(found)} instances."
            )
        # A question can be part of a longer one: take the longest match.
        return stages[0], max(found, key=lambda instance: len(self.quote(instance)))


def stage_instructions(benchmark: Benchmark) -> dict[str, str]:
    """Return the system message of each stage that asks a model, by the stage's name.

    Args:
        benchmark: The benchmark.

    Raises:
        PipelineError: A stage has no system message.
    """
    # Without earlier results, as after stages whose replies were all malformed.
    state = State(benchmark.search[0], dict.fromkeys(s.name for s in benchmark.pipeline.stages))
    found: dict[str, str] = {}
    for program in benchmark.pipeline.programs:
        texts = [m.content for m in program.messages(state) if m.role == "system"]
        if not texts:
            raise PipelineError(
                f"Stage {program.name!r} has no system message, by which simulated models "
                "recognize its prompts: add one."
            )
        found[program.name] = texts[0]
    return found


def simulated_models(
    benchmark: Benchmark,
    competence: Mapping[str, Mapping[str, float]] | None = None,
    *,
    reply: Reply = simulated_reply,
    quote: Callable[[Any], str] = quoted_text,
    thinking: SimulatedThinking | Mapping[str, SimulatedThinking] = _THINKING,
) -> dict[str, SimulatedModel]:
    """Create a simulated model for each model of a benchmark.

    A model at several thinking efforts is one model, by its name on the server.

    Args:
        benchmark: The benchmark.
        competence: For each model, its probability of being right in each stage. Default: larger
            models are better, by most in the first stage.
        reply: Writes replies; see `SimulatedModel`.
        quote: Returns the text that every prompt about an instance contains; see
            `SimulatedModel`.
        thinking: Length and effect of thoughts, for all models or by name; see `SimulatedModel`.

    Returns:
        The models by their names on the server.

    Raises:
        PipelineError: A model or a stage has no competence, or one out of range.
    """
    models = {m.served_name: m for stage in benchmark.task.stages for m in stage.models}
    stages = [stage.name for stage in benchmark.task.stages]
    if competence is None:
        competence = {
            name: dict(zip(stages, _by_size(model.parameters or 1e9, len(stages))))
            for name, model in models.items()
        }
    return {
        name: SimulatedModel(
            name=name,
            benchmark=benchmark,
            competence=competence.get(name, {}),
            reply=reply,
            quote=quote,
            thinking=thinking
            if isinstance(thinking, SimulatedThinking)
            else thinking.get(name, _THINKING),
        )
        for name in models
    }


def _by_size(parameters: float, stages: int) -> Sequence[float]:
    """Return one probability per stage, chosen by hand.

    It rises with the logarithm of the size, from 3e9 to 72e9 parameters: from .45 to .8 in the
    first stage, and from .55 to .7 in the last.
    """
    size = min(1.0, max(0.0, math.log(parameters / 3e9) / math.log(72 / 3)))
    shares = [index / max(1, stages - 1) for index in range(stages)]
    return [0.45 + 0.1 * share + size * (0.35 - 0.2 * share) for share in shares]
