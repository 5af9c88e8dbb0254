"""AgentTTS with agents: what one adds to the numerical planner, and what a bad one costs.

Scripted agents, which get AgentTTS's own prompt:

* ``attentive`` knows the prompt alone and follows the tables in it (`attentive`); also without
  each of the insights and, where the sampler can leave them out, without the tables.
* ``knowing`` knows the landscape and proposes the best allocations that have not been tried, of a
  pool of 8,000 (and of all, where there are no more than 20,000).
* ``worst`` proposes the worst.

``AgentTTS+llm`` has the language model of `--llm` in their place.
"""

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
    "AgentTTS+llm": _real,
}
"""Makers of samplers by name; each takes a task, a seed, and the keywords `place` and `llm`."""

if "llm_when" in signature(AgentTTSSampler).parameters:
    AGENTS["AgentTTS+attentive auto"] = _attentive(llm_when="auto")
    AGENTS["AgentTTS+knowing auto"] = _informed(best=True, llm_when="auto")
    AGENTS["AgentTTS+worst auto"] = _informed(best=False, llm_when="auto")
if "tables" in signature(AgentTTSSampler).parameters:
    AGENTS["AgentTTS+attentive no tables"] = _attentive(tables=())
