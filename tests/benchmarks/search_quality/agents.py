"""AgentTTS with agents: what one adds to the numerical planner, and what a bad one costs.

Scripted agents, which get AgentTTS's own prompt:

* ``attentive`` knows the prompt alone and follows the tables in it (`attentive`); also without
  each of the insights and, where the sampler can leave them out, without the tables.
* ``knowing`` knows the landscape and proposes the best allocations that have not been tried, of a
  pool of 8,000 (and of all, where there are no more than 20,000).
* ``worst`` proposes the worst.
* ``... odds`` proposes nothing and states the same odds in each round, .8 for one model and one
  octave of samples of each stage: the truly best ones (``knowing``), the worst (``wrong``), or the
  largest model with two or three samples (``plausible``).

``AgentTTS+llm`` has the language model of `--llm` in their place.
"""

import json
from functools import cache
from inspect import signature

import numpy as np
from attentive import as_reply, attentive
from feasible_draws import draw_pool

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel

_WANTED = 8
_ALL = 20_000


class PromptSampler(AgentTTSSampler):
    """AgentTTS that waits for each round as soon as its planning has begun.

    Rounds are planned in the background, and one that comes late is not waited for long. Trials
    take no time here, so that figures would hang on how busy the machine is. What a round is
    planned from is settled when it begins: waiting changes nothing else.

    Attributes:
        tried: Allocations of trials so far, as choices.
    """

    tried = frozenset()

    def before_trial(self, study, trial):
        """Plan, and wait for it."""
        past = (self._task.choices_from_params(t.params) for t in study.get_trials(deepcopy=False))
        stages = range(len(self._task.stages))
        self.tried = {tuple(map(known.get, stages)) for known in past}
        super().before_trial(study, trial)
        self._scheduler.wait(study)


def _attentive(**options):
    def make(task, seed, *, place=None, llm=None):
        def reply(request):
            return as_reply(task, attentive(task, request.messages[1].content))

        return PromptSampler(task, llm=ScriptedChatModel(reply), seed=seed, **options)

    return make


def _informed(*, best, **options):
    def make(task, seed, *, place=None, llm=None):
        def reply(request):
            order = ranked(place) if best else reversed(ranked(place))
            fresh = (choices for choices in order if choices not in sampler.tried)
            return as_reply(task, [choices for choices, _ in zip(fresh, range(_WANTED))])

        sampler = PromptSampler(task, llm=ScriptedChatModel(reply), seed=seed, **options)
        return sampler

    return make


def _odds(kind):
    def make(task, seed, *, place=None, llm=None):
        reply = json.dumps(
            {"guidelines": ["scripted"], "claims": stated_odds(place, kind), "candidates": []}
        )
        return PromptSampler(task, llm=ScriptedChatModel(lambda request: reply), seed=seed)

    return make


def stated_odds(place, kind):
    """Return the claims of an agent that states odds; see the module."""
    pool = np.array(ranked(place))
    claims = []
    for position, stage in enumerate(place.task.stages):
        models = pool[:, position, 0].tolist()
        octaves = [n.bit_length() - 1 for n in pool[:, position, 1].tolist()]
        # In order of the best allocation with each, the truly best first.
        order, lengths = list(dict.fromkeys(models)), list(dict.fromkeys(octaves))
        if kind == "plausible":
            model = max(order, key=lambda m: stage.models[m].parameters or 0)
            octave = min(1, max(lengths))
        else:
            end = {"knowing": 0, "wrong": -1}[kind]
            model, octave = order[end], lengths[end]
        low, high = 2**octave, min(2 ** (octave + 1) - 1, stage.max_samples)
        odds = {"samples": [low, high], "samples_odds": 0.8}
        claims.append({"stage": stage.name, "models": {stage.models[model].name: 0.8}, **odds})
    return claims


def _real(task, seed, *, place=None, llm=None):
    if llm is None:
        raise ValueError("AgentTTS+llm: name a language model with --llm.")
    return PromptSampler(task, llm=llm, seed=seed)


@cache
def ranked(place):
    """Feasible allocations of a landscape as choices, the truly best first."""
    feasible = place.task.feasible
    drawn = [np.stack(draw_pool(place.task), axis=-1)]
    if feasible.count() <= _ALL:
        drawn.append(np.stack(feasible.arrays(), axis=-1))
    pool = np.unique(np.concatenate(drawn), axis=0)
    truth = place.truths(pool[..., 0], pool[..., 1])
    order = np.argsort(-truth, kind="stable")
    return [tuple(map(tuple, choices)) for choices in pool[order].tolist()]


AGENTS = {
    "AgentTTS+attentive": _attentive(),
    "AgentTTS+attentive no I1": _attentive(insights=(2, 3)),
    "AgentTTS+attentive no I2": _attentive(insights=(1, 3)),
    "AgentTTS+attentive no I3": _attentive(insights=(1, 2)),
    "AgentTTS+knowing": _informed(best=True),
    "AgentTTS+worst": _informed(best=False),
    "AgentTTS+knowing odds": _odds("knowing"),
    "AgentTTS+plausible odds": _odds("plausible"),
    "AgentTTS+wrong odds": _odds("wrong"),
    "AgentTTS+llm": _real,
}
"""Makers of samplers by name; each takes a task, a seed, and the keywords `place` and `llm`."""

if "llm_when" in signature(AgentTTSSampler).parameters:
    AGENTS["AgentTTS+attentive auto"] = _attentive(llm_when="auto")
    AGENTS["AgentTTS+knowing auto"] = _informed(best=True, llm_when="auto")
    AGENTS["AgentTTS+worst auto"] = _informed(best=False, llm_when="auto")
if "tables" in signature(AgentTTSSampler).parameters:
    AGENTS["AgentTTS+attentive no tables"] = _attentive(tables=())
