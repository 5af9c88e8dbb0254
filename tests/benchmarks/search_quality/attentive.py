"""A scripted agent that knows its prompt alone, and follows the tables in it."""

import itertools
import json
import re

import numpy as np
from prompt_reading import NAME, SETTING, between

_SATURATION = re.compile(rf"^{NAME} \| {NAME} \| (\d+) \((\d+) to (\d+)\)")
_WANTED = 8
_LEADERS, _OWN = 5, 3


def attentive(task, text):
    """Allocations that AgentTTS's prompt speaks for, as choices.

    For each stage it combines models that the table of models cannot tell from the best (without
    that table: those of the best five trials listed) with the samples at which they are said to
    saturate (without: those of the best three trials listed with that model).
    """
    tried = _listed(task, between(text, "history"))
    order = sorted(tried, key=tried.get, reverse=True)
    names = [stage.name for stage in task.stages]
    positions = [{m.name: i for i, m in enumerate(stage.models)} for stage in task.stages]
    near = [[] for _ in names]
    for line in between(text, "models").splitlines():
        cells = line.split(" | ")
        if not SETTING.search(line):
            continue
        behind = re.fullmatch(r"(\S+) ± (\S+)", cells[4])
        if behind is None or float(behind[1]) <= 2 * float(behind[2]):
            stage = names.index(json.loads(cells[0]))
            near[stage].append(positions[stage][json.loads(cells[1])])
    for stage, models in enumerate(near):
        models += [] if models else dict.fromkeys(c[stage][0] for c in order[:_LEADERS])
    samples = {}
    saturation = between(text, "saturation")
    for line in saturation.splitlines():
        found = _SATURATION.search(line)
        if found:
            stage = names.index(json.loads(f'"{found[1]}"'))
            at, low, high = (int(found[i]) for i in (3, 4, 5))
            middle = round((low * high) ** 0.5)
            key = stage, positions[stage][json.loads(f'"{found[2]}"')]
            samples[key] = list(dict.fromkeys((at, middle, low, high)))
    for choices in order if not saturation else ():
        for stage, (model, number) in enumerate(choices):
            known = samples.setdefault((stage, model), [])
            if len(known) < _OWN and number not in known:
                known.append(number)
    options = [
        [(model, number) for model in models for number in samples.get((stage, model), [1])]
        for stage, models in enumerate(near)
    ]
    every = np.array(list(itertools.product(*options)), dtype=np.int64)
    if not every.size:
        return []
    fits = task.feasible.costs_of(every[..., 0], every[..., 1]) <= task.feasible.limit
    found = [tuple(map(tuple, choices)) for choices in every[fits].tolist()]
    fresh = [choices for choices in found if choices not in tried]
    return fresh[:: max(1, len(fresh) // _WANTED)][:_WANTED]


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


def _listed(task, history):
    """Return the values of the listed trials, keyed by choices."""
    found = {}
    for line in history.splitlines():
        settings = SETTING.findall(line.split(" | ")[1]) if SETTING.search(line) else ()
        if settings:
            named = {
                json.loads(f'"{stage}"'): (json.loads(f'"{model}"'), int(samples))
                for stage, model, samples in settings
            }
            found[tuple(task.choices(named))] = float(line.split(" | ")[2].split(" ")[0])
    return found
