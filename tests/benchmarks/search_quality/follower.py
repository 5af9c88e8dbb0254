"""A scripted language model that follows its prompt as a sensible reader would.

`follow` is a function of the prompt's text alone (randomness is seeded by the text), so that what
a method tells its model makes the difference between methods. Its rules, from the most to the
least that it may be told; what is left of a round is always filled by the rules further down:

* Told Insight 1, it names for each stage the smallest model that is not clearly (by .05) behind
  the best of the trials that differ in that stage's model alone.
* Told Insight 2, it brackets, for the models of the best trial, the number of samples of highest
  value between the next ones tried, or a factor of four where none was: it never looks past a
  number that did worse.
* Told Insight 3, it gives each stage priority for the budget in turn, and tries half and twice
  the samples of later stages wherever it changes an earlier one.
* By guidelines it proposes the geometric middle of all brackets, then stage by stage a geometric
  grid of them beside the best trial, and steps for the last fifth of the round; told that values
  hardly differ, it steps for all but a third.
* Asked to reflect, it says for each stage which model had the highest mean value and whether more
  samples went with higher values. By such a log it moves the best trial to those models and
  samples, all stages and each, for half of the round.
* Asked for knowledge, it says for the first, middle and last stages of other tasks which class of
  size and level of samples stood best. By such knowledge it fills half of the round, or all
  of it before the first trial.
* By trials alone it steps from the three best: the samples of a stage by a factor of up to two,
  or the next model in size.
* Told nothing, it guesses: all stages large or all small or one of them large, with round
  numbers of samples.

It is a caricature: a real model knows more than its prompt says, and follows it less well.
"""

import itertools
import json
import re
from collections import defaultdict

import numpy as np
from prompt_reading import NAME, Reading, between

_OF_LEVEL = {"few": (1, 2, 3), "some": (5, 8, 12), "many": (20, 40, 80)}
_CLEARLY = 0.05
_ROUND = (1, 5, 10, 20, 50)
_MODEL = re.compile(rf"Stage {NAME}: explore {NAME}")
_RANGE = re.compile(rf"Stage {NAME} with {NAME}: look between (\d+) and (\d+) samples")
_MEAN = re.compile(rf"Stage {NAME}: {NAME} had the highest mean value")
_TREND = re.compile(rf"Stage {NAME}: more samples went with (higher|lower) values")
_KNOWN = re.compile(r"(First|Middle|Last) stages: (\w+) models stood best .*, with (\w+) samples")
_PRIORITY = "Give each stage priority in turn"
_AGAIN = "look for the samples of later stages again"
_FLAT = "The values hardly differ"


def follow(request):
    """Return the reply to a request."""
    text = request.messages[-1].content
    if "Answer in this form:\n" + '{"guidelines"' in text:
        return json.dumps({"guidelines": _write(text)})
    reading = Reading(text)
    candidates = [
        {
            "allocation": {
                stage: {"model": models[model][0], "samples": samples}
                for stage, models, (model, samples) in zip(reading.stages, reading.models, choices)
            },
            "reason": reason,
        }
        for choices, reason in _propose(reading)
    ]
    return json.dumps({"candidates": candidates})


def _write(text):
    if "<task>" not in text:
        return _knowledge(between(text, "experience"))
    reading = Reading(text)
    if not reading.trials:
        return []
    if "Insight" not in text:
        return _reflection(reading)
    models = [model for model, _ in reading.order[0]]
    lines = []
    for stage, name in enumerate(map(json.dumps, reading.stages)):
        said = []
        if "Insight 1" in text:
            models[stage], why = _explored(reading, stage)
            said.append(f"Stage {name}: explore {reading.quoted(stage, models)} further ({why}).")
        if "Insight 2" in text:
            low, high, peak = _bracket(reading, stage, models)
            said.append(
                f"Stage {name} with {reading.quoted(stage, models)}: look between {low} and "
                f"{high} samples; {peak} did best so far."
            )
        lines.append(" ".join(said))
    if "Insight 3" in text:
        lines.append(f"{_PRIORITY}; where an earlier stage changes, {_AGAIN}.")
    values = list((reading.recent if reading.old else reading.trials).values())
    if "hardly differ" in text and len(values) > 1 and np.ptp(values) < _CLEARLY:
        lines.append(f"{_FLAT}: recombine, mutate and try at random.")
    return lines


def _explored(reading, stage):
    """Choose the model of a stage to explore further, and return it with the reason."""
    groups = defaultdict(dict)
    for choices, value in reading.trials.items():
        rest, model = (choices[:stage], choices[stage + 1 :]), choices[stage][0]
        groups[rest][model] = max(value, groups[rest].get(model, -np.inf))
    group = max(groups.values(), key=len)
    best = max(group.values())
    order = [model for model in reading.by_size(stage) if model in group]
    chosen = next(model for model in order if group[model] >= best - _CLEARLY)
    return chosen, f"{group[chosen]:.2f}, the best of {len(group)} has {best:.2f}"


def _bracket(reading, stage, models):
    """Between which numbers of samples to look, and which did best."""
    values = {}
    same = [c for c in reading.trials if [m for m, _ in c] == models]
    alike = [c for c in reading.trials if c[stage][0] == models[stage]]
    for choices in same if len({c[stage][1] for c in same}) > 1 else alike:
        samples = choices[stage][1]
        values[samples] = max(reading.trials[choices], values.get(samples, -np.inf))
    if not values:
        return 1, reading.most[stage], 1
    peak = max(values, key=values.get)
    low = max((s for s in values if s < peak), default=max(1, peak // 4))
    high = min((s for s in values if s > peak), default=min(reading.most[stage], 4 * peak))
    return low, high, peak


def _reflection(reading):
    lines = []
    values = np.array(list(reading.trials.values()))
    for stage, name in enumerate(reading.stages):
        models = np.array([choices[stage][0] for choices in reading.trials])
        samples = np.log([choices[stage][1] for choices in reading.trials])
        means = {m: values[models == m].mean() for m in set(models.tolist())}
        model = max(means, key=means.get)
        said = (
            f"Stage {json.dumps(name)}: {json.dumps(reading.models[stage][model][0])} had the "
            f"highest mean value ({means[model]:.2f})."
        )
        if len(values) > 2 and np.ptp(samples) > 0 and np.ptp(values) > 0:
            slope = np.corrcoef(samples, values)[0, 1]
            if abs(slope) > 0.2:
                trend = "higher" if slope > 0 else "lower"
                said += f" Stage {json.dumps(name)}: more samples went with {trend} values."
        lines.append(said)
    return lines


def _knowledge(experience):
    by_class, by_level = defaultdict(list), defaultdict(list)
    for line in experience.splitlines():
        found = re.match(r"task \w+, (\d+) of (\d+): ", line)
        standing = 1 - (int(found[1]) - 1) / max(1, int(found[2]) - 1)
        for at, count, size, level in re.findall(
            r"stage (\d+) of (\d+): (\w+) model, (\w+) samples", line
        ):
            place = "First" if at == "1" else "Last" if at == count else "Middle"
            by_class[place, size].append(standing)
            by_level[place, size, level].append(standing)
    lines = []
    for place in dict.fromkeys(place for place, _ in by_class):
        means = {size: np.mean(v) for (p, size), v in by_class.items() if p == place}
        size = max(means, key=means.get)
        levels = {k: np.mean(v) for (p, s, k), v in by_level.items() if (p, s) == (place, size)}
        level = max(levels, key=levels.get)
        lines.append(
            f"{place} stages: {size} models stood best ({means[size]:.2f} of 1), with {level} "
            f"samples ({levels[level]:.2f} of 1)."
        )
    return lines


def _propose(reading):
    """Return the candidates, each with its reason."""
    told, wanted = reading.text, reading.wanted
    parts = []
    if "<guidelines>" in told:
        share = wanted // 3 if _FLAT in told else wanted - wanted // 5
        parts.append((_guided(reading), share, "by the guidelines"))
    if "<log>" in told:
        parts.append((_reflected(reading), wanted // 2, "by the log"))
    if "<knowledge>" in told:
        share = wanted // 2 if reading.trials else wanted
        parts.append((_known(reading), share, "by knowledge"))
    if reading.trials:
        steps = itertools.islice(_steps(reading), 50 * wanted)
        parts.append((steps, wanted, "a step from the best"))
    parts.append((_guesses(reading), wanted, "a guess"))
    found = {}
    for part, share, reason in parts:
        before = len(found)
        for choices in part:
            if len(found) >= min(wanted, before + share):
                break
            if choices is not None and choices not in reading.trials:
                found.setdefault(choices, reason)
    return found.items()


def _unquoted(line):
    """Recover a line of notes from its quoted form."""
    return json.loads(line.partition(": ")[2] if line.startswith("round ") else line)


def _guided(reading):
    lines = [_unquoted(line) for line in between(reading.text, "guidelines").splitlines()]
    models = [model for model, _ in reading.order[0]] if reading.order else None
    models = models or [reading.by_size(i)[-1] for i in range(len(reading.stages))]
    ranges = {}
    for line in lines:  # later ones win
        for pattern in (_MODEL, _RANGE):
            found = pattern.search(line)
            if found:
                stage = reading.stages.index(json.loads(f'"{found[1]}"'))
                models[stage] = reading.position(stage, found[2])
            if found and pattern is _RANGE:
                ranges[stage, models[stage]] = (int(found[3]), int(found[4]))
    grids = []
    for stage, model in enumerate(models):
        low, high = ranges.get((stage, model), (1, reading.most[stage]))
        grids.append(list(dict.fromkeys(np.geomspace(low, high, 5).round().astype(int).tolist())))
    middle = [(model, grid[len(grid) // 2]) for model, grid in zip(models, grids)]
    yield reading.fit(middle)
    text = " ".join(lines)
    for stage in range(len(models)) if _PRIORITY in text else ():
        choices = list(middle)
        choices[stage] = (models[stage], grids[stage][-1])
        yield reading.fit(choices, stage)
    best = next((c for c in reading.order if [m for m, _ in c] == models), middle)
    for row in itertools.zip_longest(*([*grid[1:-1], grid[-1], grid[0]] for grid in grids)):
        for stage, samples in enumerate(row):
            if samples is None:
                continue
            for factor in (1, 0.5, 2) if _AGAIN in text and stage + 1 < len(row) else (1,):
                choices = list(best)
                choices[stage] = (models[stage], samples)
                for later in range(stage + 1, len(row)):
                    choices[later] = (choices[later][0], choices[later][1] * factor)
                yield reading.fit(choices, stage)


def _reflected(reading):
    if not reading.order:
        return
    best = list(reading.order[0])
    moved, trends = list(best), {}
    for line in map(_unquoted, between(reading.text, "log").splitlines()):
        found, trend = _MEAN.search(line), _TREND.search(line)
        if found:
            stage = reading.stages.index(json.loads(f'"{found[1]}"'))
            moved[stage] = (reading.position(stage, found[2]), best[stage][1])
        if trend:
            trends[reading.stages.index(json.loads(f'"{trend[1]}"'))] = trend[2]
    yield reading.fit(moved)
    for factor in (1.5, 2, 3):
        for stages in ([*trends], *([stage] for stage in trends)):
            choices = list(moved if factor == 2 else best)
            for stage in stages:
                by = factor if trends[stage] == "higher" else 1 / factor
                choices[stage] = (choices[stage][0], choices[stage][1] * by)
            yield reading.fit(choices, stages[0] if len(stages) == 1 else None)


def _known(reading):
    known = {}
    for line in map(_unquoted, between(reading.text, "knowledge").splitlines()):
        found = _KNOWN.match(line)
        if found and found[3] in _OF_LEVEL:
            known[found[1]] = (found[2], _OF_LEVEL[found[3]])
    options = []
    for stage in range(len(reading.stages)):
        place = "First" if stage == 0 else "Middle"
        place = "Last" if stage == len(reading.stages) - 1 else place
        size, numbers = known.get(place, ("largest", _OF_LEVEL["few"]))
        order = reading.by_size(stage)
        model = {"smallest": order[0], "largest": order[-1]}.get(size, order[len(order) // 2])
        options.append([(model, samples) for samples in numbers])
    # From the middle of each level outwards.
    for picks in sorted(
        itertools.product((1, 0, 2), repeat=len(options)),
        key=lambda p: [sum(i != 1 for i in p), p],
    ):
        yield reading.fit([choice[i] for choice, i in zip(options, picks)])


def _steps(reading):
    while True:
        base = reading.order[: int(reading.rng.choice([1, 1, 2, 3]))][-1]
        choices = list(base)
        stage = int(reading.rng.integers(len(choices)))
        model, samples = choices[stage]
        if reading.rng.random() < 0.3:
            order = reading.by_size(stage)
            at = order.index(model) + int(reading.rng.choice([-1, 1]))
            model = order[min(max(at, 0), len(order) - 1)]
        else:
            factor = float(reading.rng.choice([0.5, 0.7, 1.4, 2]))
            samples = max(1, round(samples * factor) + (factor > 1) * (samples == 1))
        choices[stage] = (model, samples)
        yield reading.fit(choices, stage)


def _guesses(reading):
    orders = [reading.by_size(stage) for stage in range(len(reading.stages))]
    count = len(orders)
    large, small = [order[-1] for order in orders], [order[0] for order in orders]
    middle = [order[len(order) // 2] for order in orders]
    one = [[*small[:i], large[i], *small[i + 1 :]] for i in range(count)]
    for samples in _ROUND:
        for models in (large, small, middle, *one):
            yield reading.fit([(model, samples) for model in models])
