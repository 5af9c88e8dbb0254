"""Chain prior: random test-time scaling curves with the paper's three insights.

A curve assigns every allocation a rate: its expected score on a scale from 0 to 1. Stages form a
chain on the logit scale, starting from quality_0 = 0. For stages i = 1, ..., S::

    peak'_i   = max(0, peak_i - advance_i * quality_(i-1))
    scale_i   = 1 - widening_i * size_i
    quality_i = influence_i * quality_(i-1)
                + slope_i * size_i + effect_i[model_i] + thinking_i[model_i]
                + gain_i    * scale_i * min(x_i, peak'_i)
                - decline_i * scale_i * max(x_i - peak'_i, 0)
    rate      = sigmoid(level + quality_S)

Notation (D draws, S stages, M_i models in stage i):

    symbol      shape          unit                          distribution of each draw
    size_i      (M_i,)         decades of model size, <= 0   given: log10(size / largest in stage)
    x_i         scalar         ln(samples), >= 0             given
    quality_i   scalar         logit                         formula
    level       (D,)           logit                         N
    slope       (D, S)         logit / decade                |N|; broad: N
    effect_i    (D, M_i)       logit                         N
    gain        (D, S)         logit / ln(samples)           |N|; broad: N
    decline     (D, S)         logit / ln(samples)           |N|; broad: N
    peak        (D, S)         ln(samples)                   max(0, N)
    widening    (D, S)         1 / decade                    uniform
    influence   (D, S)         1                             N
    advance     (D, S)         ln(samples) / logit           |N|
    thinking_i  (D, M_i)       logit                         formula, below

Choices that are one model at several thinking efforts share its effect, and differ by what
thinking adds: a gain that saturates and may then turn into harm. With the model b of a choice and
the length of its thoughts t = ln(1 + tokens / 100) (`kinship.py`)::

    rise        = min(t, enough_i)
    thinking_i  = talent_i[b] * (thought_i * rise - overthinking_i * (t - rise))

    symbol        shape        unit                          distribution of each draw
    thought       (D, S)       logit / ln(tokens)            |N|; broad: N
    overthinking  (D, S)       logit / ln(tokens)            |N|; broad: N
    enough        (D, S)       ln(tokens)                    max(0, N)
    talent_i      (D, B_i)     1                             max(0, N)

In tasks without efforts thinking_i is 0, and none of these is drawn.

N is a normal distribution and |N| the absolute value of a normal draw, with the means and
standard deviations in `ChainPrior`.

Insights (arXiv 2508.00890, Section 3):

* Insight 1, stages prefer different models: every stage has its own slope, and every model an
  effect besides its size.
* Insight 2, samples saturate and then hurt, small models more: gain up to a peak, then decline,
  both scaled up by `widening` for small models.
* Insight 3, earlier stages move the optima of later ones: `influence` passes quality on, and
  `advance` moves the peak to fewer samples where earlier stages are good.

The planner uses only mean and covariance of the draws, as two of the prior components in
`kernels.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Ints
from optuna_agenttts.planner.kinship import Kinship
from optuna_agenttts.task.task import Task

_CHUNK = 64
"""Allocations evaluated at a time. With 800 draws an array then has 400 kB and stays in the CPU
cache, which was measured to be three times as fast as all allocations at once."""


@dataclass(frozen=True, slots=True)
class ChainPrior:
    """Hyperparameters of the chain prior: pairs of mean and standard deviation.

    Units are in the module's notation. "Tuned" values were chosen on development landscapes of
    six forms, by the correlation between posterior mean and truth among the best quarter of a
    pool after 5, 15 and 50 trials (docs/benchmarks.md, "How the prior was set"). For comparison,
    recorded outcomes are those of real models on CRUXEval, LiveCodeBench, EvalPerf, MMLU-Pro,
    GPQA, AIME, SWE-bench and AgentOpt.

    Args:
        slope: Benefit of model size. Tuned; was .7. Recorded outcomes: .45 ± .63.
        gain: Benefit of samples before the peak. Tuned; was .25. Recorded outcomes: .03 to .11
            for votes, .24 to 1.0 for the best of n with a verifier.
        decline: Harm of samples beyond the peak. Tuned; was .05 ± .1. Recorded outcomes: none up
            to 10 votes or 100 verified samples.
        folded: Whether draws of slope, gain and decline are replaced by their absolute values.
        peak: Where samples saturate for a largest model after a stage of quality 0. Tuned; was
            12 samples with standard deviation .9.
        widening: Bounds of the uniform distribution of how much more gain and decline a small
            model has. Chosen by hand.
        influence: Share of a stage's quality that the next one inherits. Tuned; the mean was .9.
        advance: Shift of the peak by the previous stage's quality. Tuned; the standard deviation
            was .5.
        level: Logit of the rate of the largest models with one sample each. Tuned; was .8 ± 1.
        effect: Deviation of a model from the trend of its size. Tuned; was absent. Recorded
            outcomes: standard deviations of .13 to .66, median .27.
        thought: Benefit of thoughts before they are enough. Tuned; was .2 ± .3. Reported: .4
            between 2,000 and 16,000 tokens on AIME (arXiv 2505.09388), little in retrieval.
        enough: Length of thoughts where they saturate: 4,000 tokens. Tuned; the standard deviation
            was 1.2.
        overthinking: Harm of thoughts beyond that. Chosen by hand. Reported: .4 between 1,100 and
            16,000 tokens on GSM8K if thoughts are prolonged (arXiv 2506.04210).
        talent: Share of a stage's benefit and harm of thinking that a model has. Tuned; the
            standard deviation was .4.
    """

    slope: tuple[float, float] = (0.5, 0.6)
    gain: tuple[float, float] = (0.2, 0.2)
    decline: tuple[float, float] = (0.1, 0.15)
    folded: bool = True
    peak: tuple[float, float] = (math.log(20), 1.2)
    widening: tuple[float, float] = (0.0, 0.6)
    influence: tuple[float, float] = (0.6, 0.4)
    advance: tuple[float, float] = (0.0, 0.3)
    level: tuple[float, float] = (0.3, 1.5)
    effect: tuple[float, float] = (0.0, 0.2)
    thought: tuple[float, float] = (0.1, 0.2)
    enough: tuple[float, float] = (math.log(40), 2.0)
    overthinking: tuple[float, float] = (0.0, 0.1)
    talent: tuple[float, float] = (1.0, 0.7)


CHAIN = ChainPrior()
BROAD_CHAIN = ChainPrior(
    slope=(0.0, 1.0), gain=(0.1, 0.3), decline=(0.05, 0.2), thought=(0.0, 0.3), folded=False
)
"""Signs of slope, gain, decline, thought and overthinking are free. Tuned; was (0, 1.2),
(.1, .35), (.05, .3), (.2, .3)."""
_DRAWS = 800
"""Draws per chain: 800 ordered allocations better than 400 (docs/benchmarks.md)."""


def log_sizes(task: Task) -> tuple[Floats, ...]:
    """Return the sizes of each stage's models in decades below the largest of the stage.

    The cost of one sample replaces the size in stages where a model has none; of a model at
    several thinking efforts, that of the cheapest. If a cost is zero too, all models of the stage
    count as equally large.
    """
    decades = []
    for stage, rows in zip(task.stages, task.feasible.costs):
        sizes = [model.parameters for model in stage.models]
        if any(size is None for size in sizes):
            costs, bases = np.array([float(row[0]) for row in rows]), Kinship.of(stage).bases
            sizes = [float(costs[bases == base].min()) for base in bases]
        if any(not size for size in sizes):
            sizes = [1.0 for _ in sizes]
        logs = np.array([math.log10(float(size or 1.0)) for size in sizes])
        decades.append(logs - logs.max())
    return tuple(decades)


@dataclass(frozen=True, slots=True)
class Curves:
    """Draws of the chain prior: the symbols of the module's notation.

    `log_sizes` are those of the function; `effects` has one array for each stage, the
    effects of models and of thinking together.
    """

    log_sizes: tuple[Floats, ...]
    level: Floats
    effects: tuple[Floats, ...]
    slope: Floats
    gain: Floats
    peak: Floats
    decline: Floats
    widening: Floats
    influence: Floats
    advance: Floats

    def rates(self, models: Ints, samples: Ints) -> Floats:
        """Return the rate of every allocation under every draw, shape (draws, allocations).

        Args:
            models: Positions of models, shape (allocations, stages).
            samples: Numbers of samples, shape (allocations, stages).
        """
        rates = np.empty((len(self.level), len(models)))
        for start in range(0, len(models), _CHUNK):
            rows = slice(start, start + _CHUNK)
            rates[:, rows] = self._rates(models[rows], samples[rows])
        return rates

    def _rates(self, models: Ints, samples: Ints) -> Floats:
        """Evaluate the formula of the module's docstring."""
        quality = np.zeros((len(self.level), len(models)))
        x = np.log(samples)
        for stage, decades in enumerate(self.log_sizes):
            size = decades[models[:, stage]]
            column = slice(stage, stage + 1)
            peak = np.maximum(self.peak[:, column] - self.advance[:, column] * quality, 0.0)
            scale = 1 - self.widening[:, column] * size
            rise = np.minimum(x[:, stage], peak)
            quality = (
                self.influence[:, column] * quality
                + self.slope[:, column] * size
                + self.effects[stage][:, models[:, stage]]
                + self.gain[:, column] * scale * rise
                - self.decline[:, column] * scale * (x[:, stage] - rise)
            )
        rates: Floats = 1 / (1 + np.exp(-(self.level[:, None] + quality)))
        return rates


def draw_curves(
    task: Task,
    rng: np.random.Generator,
    *,
    draws: int = _DRAWS,
    broad: bool = False,
    insights: Collection[int] = (1, 2, 3),
) -> Curves:
    """Draw curves from the chain prior.

    Args:
        task: The task.
        rng: Random number generator.
        draws: Number of curves.
        broad: Use `BROAD_CHAIN` instead of `CHAIN`.
        insights: The paper's insights to include. Without Insight 1 all stages share one slope
            and models have no effects; without Insight 2 samples neither saturate nor hurt;
            without Insight 3 quality is added up over stages and peaks stay.

    Returns:
        The curves. The order of draws is part of every study's reproducibility.
    """
    prior = BROAD_CHAIN if broad else CHAIN
    shape = (draws, len(task.stages))

    def normal(hyperparameters: tuple[float, float]) -> Floats:
        return rng.normal(*hyperparameters, shape)

    slope, gain, decline = normal(prior.slope), normal(prior.gain), normal(prior.decline)
    if prior.folded:
        slope, gain, decline = np.abs(slope), np.abs(gain), np.abs(decline)
    peak, widening = normal(prior.peak), rng.uniform(*prior.widening, shape)
    influence, advance = normal(prior.influence), np.abs(normal(prior.advance))
    level = rng.normal(*prior.level, draws)
    kin = [Kinship.of(stage) for stage in task.stages]
    effects = tuple(
        rng.normal(*prior.effect, (draws, stage.count))[:, stage.bases] for stage in kin
    )
    if 1 not in insights:
        slope = np.repeat(slope[:, :1], shape[1], axis=1)
        effects = tuple(np.zeros_like(effect) for effect in effects)
    if 2 not in insights:
        peak, decline = np.full(shape, np.inf), np.zeros(shape)
    if 3 not in insights:
        influence, advance = np.ones(shape), np.zeros(shape)
    # Last, so that draws for tasks without efforts do not depend on them.
    if any(stage.thinks for stage in kin):
        thinking = _draw_thinking(prior, rng, kin, draws)
        effects = tuple(effect + more for effect, more in zip(effects, thinking))
    return Curves(
        log_sizes=log_sizes(task),
        level=level,
        effects=effects,
        slope=slope,
        gain=gain,
        peak=np.maximum(peak, 0.0),
        decline=decline,
        widening=widening,
        influence=influence,
        advance=advance,
    )


def _draw_thinking(
    prior: ChainPrior, rng: np.random.Generator, kin: Sequence[Kinship], draws: int
) -> tuple[Floats, ...]:
    """Draw what thinking adds to the quality of each choice; see the module's notation."""
    shape = (draws, len(kin))
    thought = rng.normal(*prior.thought, shape)
    overthinking = rng.normal(*prior.overthinking, shape)
    if prior.folded:
        thought, overthinking = np.abs(thought), np.abs(overthinking)
    enough = np.maximum(rng.normal(*prior.enough, shape), 0.0)
    thinking = []
    for stage, choices in enumerate(kin):
        column = slice(stage, stage + 1)
        talent = np.maximum(rng.normal(*prior.talent, (draws, choices.count)), 0.0)
        rise = np.minimum(choices.thoughts, enough[:, column])
        gain = thought[:, column] * rise - overthinking[:, column] * (choices.thoughts - rise)
        thinking.append(talent[:, choices.bases] * gain)
    return tuple(thinking)
