"""What the prompts of the compared methods say, read back from their text."""

import json
import re
import zlib

import numpy as np

LEVELS = ("few", "some", "many")
"""Levels of samples: up to 3, up to 15, more."""
NAME = r'"((?:[^"\\]|\\.)*)"'
"""A quoted name."""
SETTING = re.compile(NAME + ": " + NAME + r" x (\d+)")
"""A stage's model and samples, as in ``"stage": "model" x 3``."""


def level_of(samples):
    """Return the position in `LEVELS` of a number of samples."""
    return int(np.searchsorted((3, 15), samples, side="left"))


def size_class(rank, count):
    """Classify a model by its size rank among those of its stage."""
    return "smallest" if rank == 0 else "largest" if rank == count - 1 else "middle"


class Reading:
    """What a prompt about a task says; allocations are (position of model, samples) by stage."""

    def __init__(self, text):
        self.text = text
        rows = [line.split(" | ") for line in between(text, "costs").splitlines()[1:]]
        self.stages = list(dict.fromkeys(json.loads(row[0]) for row in rows))
        self.models = [
            [
                (json.loads(row[1]), *map(_number, row[2:5]))
                for row in rows
                if json.loads(row[0]) == stage
            ]
            for stage in self.stages
        ]
        self.most = [int(n) for n in re.findall(r"1 to (\d+) samples", text)]
        self.budget = float(re.search(r"the budget of ([\d.e+]+?)\.\s", text + "\n")[1])
        wanted = re.search(r"exactly (\d+) new candidates", text)
        self.wanted = int(wanted[1]) if wanted else 0
        self.old = self._trials("old_history")
        self.recent = self._trials("history")
        self.trials = {**self.old, **self.recent}
        self.order = sorted(self.trials, key=self.trials.get, reverse=True)
        self.rng = np.random.default_rng(zlib.crc32(text.encode()))

    def _trials(self, name):
        found = {}
        for line in between(self.text, name).splitlines()[1:]:
            _, settings, value, _ = line.split(" | ")
            choices = tuple(
                (self.position(self.stages.index(json.loads(f'"{stage}"')), model), int(samples))
                for stage, model, samples in SETTING.findall(settings)
            )
            found[choices] = float(value)
        return found

    def position(self, stage, model):
        """Return the position of a model, given its name as it appears between quotes."""
        return [name for name, *_ in self.models[stage]].index(json.loads(f'"{model}"'))

    def quoted(self, stage, models):
        """Return the quoted name of a stage's model in a combination."""
        return json.dumps(self.models[stage][models[stage]][0])

    def by_size(self, stage):
        """Positions of a stage's models, from the smallest."""
        return sorted(range(len(self.models[stage])), key=lambda m: self.models[stage][m][1])

    def fit(self, choices, first=None):
        """Reduce the samples of an allocation to the budget, those of stage `first` last.

        Return None if its models do not fit.
        """
        limited = [(m, min(max(1, round(s)), most)) for (m, s), most in zip(choices, self.most)]
        groups = [[i for i in range(len(limited)) if i != first]]
        groups += [[first]] if first is not None else []
        for group in groups:
            full = list(limited)
            for factor in 0.85 ** np.arange(32):
                for stage in group:
                    model, samples = full[stage]
                    limited[stage] = (model, max(1, int(samples * factor)))
                if self.cost(limited) <= self.budget:
                    return tuple(limited)
        return None

    def cost(self, choices):
        """Compute the cost of an allocation from the table in the prompt."""
        total = 0.0
        for models, (model, samples) in zip(self.models, choices):
            _, _, fixed, slope = models[model]
            total += max(0.0, fixed + slope * samples)
        return total


def _number(cell):
    return np.inf if cell == "unknown" else float(cell)


def between(text, name):
    return text.partition(f"<{name}>\n")[2].partition(f"\n</{name}>")[0]
