"""How a simulated pipeline works: the truth behind the landscapes.

A stage succeeds with the chance that some of its samples are good (`_coverage`) and that joining
them does no harm (`_hold`); a later stage depends on what the earlier ones hand on. None of these
forms is the planner's own (`optuna_agenttts.planner.prior` is a chain of clipped logarithms on
the logit scale): power laws, exponentials and Hill curves of probabilities.
"""

from dataclasses import dataclass, replace

import numpy as np

FORMS = ("coverage", "power", "hill")
FALLS = ("hill", "exponential")


@dataclass(frozen=True)
class StageCurve:
    """How one stage depends on model and samples; arrays are by model.

    Args:
        form: How samples help: `coverage` is noisy-OR of samples that are not independent,
            1 - (1 - p) ** (S ** rise); `power` an error that falls as S ** -rise; `hill` a rise
            from p to `top` that is half done at 1 + 9 * (1 - rise) samples.
        fall: How joining many samples hurts: `hill` or `exponential`.
        skill: Chance p that one sample is good, on perfect input.
        rise: How fast samples help.
        top: Ceiling of `hill`.
        onset: Samples around which joining them starts to hurt.
        depth: The most that it hurts, as a share.
        order: Steepness of the fall.
        weight: How much of the result hangs on the stage before.
        help: How much a better earlier stage raises the chance of a sample (below 0: lowers).
        shift: How much a better earlier stage brings the fall forward.
    """

    form: str
    fall: str
    skill: np.ndarray
    rise: np.ndarray
    top: np.ndarray
    onset: np.ndarray
    depth: np.ndarray
    order: float
    weight: float
    help: float
    shift: float

    def quality(self, model, samples, before):
        """Quality from 0 to 1, given that of the stage before (None for the first)."""
        skill, onset = self.skill[model], self.onset[model]
        if before is not None:
            lacking = 1 - before if self.help >= 0 else before
            skill = skill * (1 - abs(self.help) * lacking)
            onset = onset * np.exp(self.shift * (0.5 - before))
        covered = self._coverage(model, skill, samples) * self._hold(model, onset, samples)
        return covered

    def _coverage(self, model, skill, samples):
        rise = self.rise[model]
        if self.form == "coverage":
            return 1 - (1 - skill) ** (samples**rise)
        if self.form == "power":
            return 1 - (1 - skill) * samples**-rise
        half = 1 + 9 * (1 - rise)
        ceiling = np.maximum(self.top[model], skill)
        return skill + (ceiling - skill) * (samples - 1) / (samples - 1 + half)

    def _hold(self, model, onset, samples):
        x = ((samples - 1) / onset) ** self.order
        harm = x / (1 + x) if self.fall == "hill" else 1 - np.exp(-x)
        return 1 - self.depth[model] * harm


@dataclass(frozen=True)
class Mechanism:
    """A pipeline's stages, and how their qualities make a score.

    Args:
        curves: The stages.
        joint: `chain` (a stage passes on what it got, by `weight`), `sum` (stages do not
            interact), or `inverse` (a better earlier stage takes from a later one).
        floor: Score at quality 0.
        gain: Score per quality.
        bumps: Amplitude of deterministic noise.
        waves: Frequencies and phases of that noise, shape (waves, stages, 3): of log samples, of
            the model's position, and a phase.
    """

    curves: tuple
    joint: str = "chain"
    floor: float = 0.0
    gain: float = 1.0
    bumps: float = 0.0
    waves: np.ndarray | None = None

    def quality(self, models, samples):
        """Quality of allocations, arrays of shape (..., stages)."""
        samples = np.asarray(samples, dtype=float)
        passed, parts = None, []
        for stage, curve in enumerate(self.curves):
            model, count = models[..., stage], samples[..., stage]
            # Without interaction a stage does not see what came before.
            own = curve.quality(model, count, passed if self.joint == "chain" else None)
            parts.append(curve.weight * own)
            if passed is None:
                passed = own
            elif self.joint == "inverse":
                passed = own * (1 - curve.weight * passed)
            else:
                passed = own * (1 - curve.weight + curve.weight * passed)
        if self.joint == "sum":
            return sum(parts) / sum(curve.weight for curve in self.curves)
        return passed

    def scores(self, models, samples):
        """Return the true scores of allocations, given as arrays of shape (..., stages)."""
        scores = self.floor + self.gain * self.quality(models, samples)
        if self.bumps:
            x = np.log(samples)[..., None, :]
            frequency, offset, phase = np.moveaxis(self.waves, -1, 0)
            angle = (frequency * x + offset * models[..., None, :] + phase).sum(axis=-1)
            scores = scores + self.bumps * np.cos(angle).mean(axis=-1) * 2
        return np.clip(scores, 0.01, 0.99)

    def scaled(self, best, level, floor):
        """Return a copy whose score is `level` at quality `best`."""
        return replace(self, floor=floor, gain=(level - floor) / best)


def draw_mechanism(rng, sizes, *, strength=None):
    """Draw a pipeline in which the paper's insights hold.

    Args:
        rng: Source of randomness.
        sizes: For each stage its models' numbers of parameters.
        strength: How strongly they hold, 0 to 1. Default: drawn.
    """
    strength = rng.uniform(0.15, 1.0) if strength is None else strength
    curves = []
    for numbers in sizes:
        ratio = np.asarray(numbers) / max(numbers)
        count = len(ratio)
        # Insight 1: stages differ in how much the size of a model counts.
        alpha = 0.5 * strength * rng.beta(0.7, 0.9)
        skill = rng.uniform(0.3, 0.85) * ratio**alpha * np.exp(rng.normal(0, 0.06, count))
        # Insight 2: samples help, then hurt, small models more.
        small = 1 - ratio ** rng.uniform(0.15, 0.5)
        depth = rng.uniform(0.02, 0.2) * (1 + 3 * strength * small)
        onset = np.exp(rng.normal(np.log(30), 0.8)) * ratio ** rng.uniform(0, 0.2)
        rise = rng.uniform(0.15, 0.7) * np.exp(rng.normal(0, 0.1, count))
        curves.append(
            StageCurve(
                form=str(rng.choice(FORMS)),
                fall=str(rng.choice(FALLS)),
                skill=np.clip(skill, 0.03, 0.97),
                rise=np.clip(rise, 0.05, 0.95),
                top=np.clip(skill + rng.uniform(0.1, 0.5) * (1 - skill), 0, 0.98),
                onset=onset,
                depth=np.clip(depth, 0, 0.8),
                order=rng.uniform(0.8, 2.5),
                weight=rng.uniform(0.3, 0.95),
                # Insight 3: earlier stages move later peaks and levels.
                help=strength * rng.uniform(0, 0.7),
                shift=strength * rng.uniform(0, 2),
            )
        )
    return Mechanism(tuple(curves))


def with_curves(mechanism, **changes):
    """Replace fields of every stage's curve in a copy; functions get curve and stage."""
    curves = []
    for stage, curve in enumerate(mechanism.curves):
        values = {k: v(curve, stage) if callable(v) else v for k, v in changes.items()}
        curves.append(replace(curve, **values))
    return replace(mechanism, curves=tuple(curves))
