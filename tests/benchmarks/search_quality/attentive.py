"""A scripted agent that knows its prompt alone, and follows the tables in it."""

import itertools
import json
import re

from prompt_reading import between

_SHORT = re.compile(r'("(?:[^"\\]|\\.)*"|[\w./-]+) x (\d+)')
"""A model's short name and samples, as in ``7B x 3``."""
_GAIN = re.compile(r"(\d+): (-?[\d.]+)")
_WANTED = 8
_LEADERS, _OWN = 5, 3
_PLACES = (1, 4)
"""Places among its proposals, from 0, of what the fit would try next."""


def attentive(task, text):
    """Allocations that AgentTTS's prompt speaks for, as choices.

    For each stage it combines models that the table of models cannot tell from the best (without
    that table: those of the best five trials listed) with the samples around those at which the
    table of gains has nearly all of the gain (without: those of the best three trials listed with
    that model). The first ones lose the least by both tables; of those of the same models, each
    differs in some number of samples by half. Some are what the fit would try next.
    """
    reading = _Reading(task, text)
    tried, near, samples = reading.tried, reading.near_models(), reading.samples()
    order = sorted(tried, key=tried.get, reverse=True)
    for stage, models in enumerate(near):
        if not models:
            models.update((c[stage][0], 0.0) for c in order[:_LEADERS])
    for choices in order if not samples else ():
        for stage, (model, number) in enumerate(choices):
            known = samples.setdefault((stage, model), {})
            if len(known) < _OWN:
                known.setdefault(number, 0.0)
    options = [
        {
            (model, number): behind + loss
            for model, behind in models.items()
            for number, loss in samples.get((stage, model), {1: 0.0}).items()
        }
        for stage, models in enumerate(near)
    ]
    every = sorted(
        itertools.product(*options),
        key=lambda choices: sum(loss[c] for loss, c in zip(options, choices)),
    )
    found = []
    next_ones = [reading.choices(cells[0]) for cells in reading.rows("next") if len(cells) == 3]
    next_ones = [choices for choices in next_ones if choices][: len(_PLACES)]
    for choices in every if tried else ():
        if len(found) in _PLACES and next_ones:
            found.append(next_ones.pop(0))
        fits = task.feasible.fits(choices) and choices not in reading.taken
        if fits and not any(_alike(choices, other) for other in found):
            found.append(choices)
    return found[:_WANTED]


def _alike(first, second):
    return all(m == k and max(a, b) < 1.5 * min(a, b) for (m, a), (k, b) in zip(first, second))


class _Reading:
    """What a prompt says, by position of stages and models."""

    def __init__(self, task, text):
        self.text, self.names = text, [stage.name for stage in task.stages]
        self.positions = [{m.name: i for i, m in enumerate(s.models)} for s in task.stages]
        self.short = [{} for _ in self.names]
        for cells in self.rows("costs"):
            if len(cells) > 3 and cells[0].startswith('"'):
                stage = self.stage(cells[0])
                self.short[stage][cells[2]] = self.positions[stage][json.loads(cells[1])]
        self.tried = {}
        for cells in self.rows("history"):
            if cells[0].rstrip("*").isdigit():
                self.tried[self.choices(cells[1])] = float(cells[2].split(" ")[0])

        lines = [between(text, name) for name in ("queue", "proposals", "running")]
        self.taken = {*self.tried, *map(self.choices, "\n".join(lines).splitlines())}

    def rows(self, name):
        """Cells of the lines of a block."""
        return [line.split(" | ") for line in between(self.text, name).splitlines()]

    def stage(self, quoted):
        return self.names.index(json.loads(quoted))

    def choices(self, cell):
        """Read the first allocation of a text."""
        found = _SHORT.findall(cell)[: len(self.names)]
        return tuple((self.short[i][name], int(n)) for i, (name, n) in enumerate(found))

    def near_models(self):
        """Models of each stage that cannot be told from the best, and how far they are behind."""
        near = [{} for _ in self.names]
        for cells in self.rows("models"):
            if len(cells) == 6 and _SHORT.search(cells[5]):
                behind, _, error = cells[4].partition(" ± ")
                behind = 0.0 if behind == "the best" else float(behind)
                if behind <= 2 * float(error or 0):
                    stage = self.stage(cells[0])
                    near[stage][self.short[stage][cells[1]]] = behind
        return near

    def samples(self):
        """Numbers of samples worth trying and what they lose, by stage and model."""
        found = {}
        for cells in self.rows("gains"):
            if len(cells) == 3 and cells[0].startswith('"'):
                stage, gains = self.stage(cells[0]), [(1, 0.0)]
                gains += [(int(n), float(gain)) for n, gain in _GAIN.findall(cells[2])]
                most = max(gain for _, gain in gains)
                losses = {number: most - gain for number, gain in gains}
                for (low, first), (high, second) in itertools.pairwise(gains):
                    losses[round((low * high) ** 0.5)] = most - (first + second) / 2
                found[stage, self.short[stage][cells[1]]] = losses
        return found


def as_reply(task, allocations):
    """Build the reply that proposes allocations, given as choices."""
    candidates = [
        {
            "allocation": {
                stage: {"model": model, "samples": samples}
                for stage, (model, samples) in task.allocation(choices).items()
            },
            "reason": "scripted",
        }
        for choices in allocations
    ]
    return json.dumps({"guidelines": ["scripted"], "candidates": candidates})
