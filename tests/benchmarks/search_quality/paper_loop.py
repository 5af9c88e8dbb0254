"""The paper's loop and the methods that it is compared with, without a numerical planner.

No planner of ours weighs what the model proposes, and none fills what it leaves out:

* ``paper loop``: AgentTTS as published (arXiv 2508.00890; where the paper leaves room, its code):
  an opening at unit budgets, then rounds of guidelines, candidates and trials.
* ``LLM_ZS``: candidates from the search space and the trials, the first ones from the space alone.
* ``AgentHPO-like``: a creator of experiments, and an executor who logs them with reflections.
* ``MLCopilot-like``: experience with other landscapes of the family (a few random trials of each),
  put down as knowledge; candidates from both, then also from the trials.

All of them propose `BATCH` at a time and talk through `ChatModel`, so that any language model can
take the place of the scripted stand-in (`follower`). Replies are read as AgentTTS's own are
(`read_plan`): what repeats a trial or makes no sense is dropped, as published; what is a little
over the budget is reduced to fit, which the published code drops. A round with too few candidates
is a short one, also as published; where nothing is left, a random feasible allocation is tried.
"""

from functools import cache

import numpy as np
from choices_sampler import ChoicesSampler
from families import cycle
from follower import follow
from landscapes import landscape
from paper_prompts import (
    candidates_prompt,
    copilot_prompt,
    creator_prompt,
    guidelines_prompt,
    knowledge_prompt,
    plain_prompt,
    reflection_prompt,
)
from prompt_reading import LEVELS, level_of, size_class

from optuna_agenttts import ScriptedChatModel
from optuna_agenttts.agent.prompts import plan_schema
from optuna_agenttts.agent.validation import read_plan
from optuna_agenttts.llm import ChatRequest, RetryingChatModel, connect
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.planner.opening import unit_budget_opening

BATCH = 10
"""Candidates by round, as in the published code."""

_TIMEOUT = 300.0
_OTHERS, _TRIALS = 3, 10
"""Landscapes that experience comes from, and random trials on each."""
_EXPERIENCED = 9000
"""Where the landscapes of experience begin: a part of the development split that nothing else
uses."""


class AgentLoop(ChoicesSampler):
    """A search that a language model leads; derive and write `propose`.

    Args:
        task: The task.
        seed: Seed of random allocations and of requests.
        place: The landscape.
        llm: The language model, as `connect` takes it; None for the stand-in.

    Attributes:
        talk: Pairs of a prompt and its reply, in order.
    """

    def __init__(self, task, seed, *, place=None, llm=None):
        super().__init__(task, seed)
        self.place, self.seed, self.talk = place, seed, []
        chat = connect(llm) if llm else ScriptedChatModel(follow)
        # A server that is down ends the search: random trials must not pass for the model's.
        self.chat = RetryingChatModel(chat, timeout=_TIMEOUT)
        self.loop = LoopThread(self.chat.aclose)

    def ask(self, messages, schema=None):
        """Return the reply to a prompt."""
        request = ChatRequest(
            model="", messages=messages, max_tokens=4096, temperature=0.7, schema=schema
        )
        seed = 1 + (self.seed + len(self.talk)) % (2**31 - 2)
        reply = self.loop.run(self.chat.complete(request, seed=seed)).text
        self.talk.append((messages[-1].content, reply))
        return reply

    def write(self, messages):
        """Return the model's guidelines by line, or its text if it is not in the form."""
        text = self.ask(messages)
        return read_plan(text, self.task, ()).guidelines or (" ".join(text.split())[:2000],)

    def candidates(self, tried, messages):
        """Yield the candidates of a round."""
        text = self.ask(messages, plan_schema(self.task, wanted=BATCH, guidelines=False))
        read = read_plan(text, self.task, tried).proposals
        found = [self.task.read(proposal.params) for proposal in read]
        for _ in range(100):
            if found:
                break
            choices = self.random()
            found = [choices] if choices not in tried else []
        yield from found[:BATCH] or [self.random()]


class PaperLoop(AgentLoop):
    """AgentTTS as published; `insights` without some of 1, 2, 3 are its ablations."""

    insights = (1, 2, 3)

    def propose(self, tried):
        """See the class."""
        if 1 in self.insights:
            for _, choices in unit_budget_opening(self.task):
                yield choices
        else:
            yield self.random()
        written, recent = [], len(tried)
        while True:
            known = len(tried)
            lines = self.write(
                guidelines_prompt(
                    self.task, tried, recent, first=not written, insights=self.insights
                )
            )
            written.append((len(written) + 1, lines))
            yield from self.candidates(tried, candidates_prompt(self.task, tried, written, BATCH))
            recent = len(tried) - known


class ZeroShot(AgentLoop):
    """LLM_ZS."""

    def propose(self, tried):
        """See the class."""
        while True:
            yield from self.candidates(tried, plain_prompt(self.task, tried, BATCH))


class CreatorExecutor(AgentLoop):
    """AgentHPO-like."""

    def propose(self, tried):
        """See the class."""
        log = []
        while True:
            known = len(tried)
            yield from self.candidates(tried, creator_prompt(self.task, tried, log, BATCH))
            recent = len(tried) - known
            log.append((len(log) + 1, self.write(reflection_prompt(self.task, tried, recent))))


class Copilot(AgentLoop):
    """MLCopilot-like."""

    def experience(self):
        """Return lines about trials on other tasks; see `experience_lines`."""
        return experience_of(self.place.family, self.place.index)

    def propose(self, tried):
        """See the class."""
        experience = self.experience()
        knowledge = self.write(knowledge_prompt(experience))
        while True:
            prompt = copilot_prompt(self.task, experience, knowledge, tried, BATCH)
            yield from self.candidates(tried, prompt)


@cache
def experience_of(family, index):
    """Random trials on other landscapes than one, best first, in words that suit any task.

    The others are of the same family and of other kinds (the playground's are calibrated ones:
    there is one playground), and from the development split, whatever is searched.
    """
    source = "calibrated" if family == "playground" else family
    kinds = cycle(source)
    first = _EXPERIENCED - _EXPERIENCED % kinds + index % kinds + 1
    indices = [i for i in range(first, first + _OTHERS + 1) if i != index][:_OTHERS]
    lines = []
    for name, other in zip("ABCDEFG", indices):
        place = landscape(source, other)
        sampler = ChoicesSampler(place.task, other)
        trials = []
        for choices in dict.fromkeys(sampler.random() for _ in range(_TRIALS)):
            value = float(place.outcomes(*np.array(choices).T, other).mean())
            trials.append((value, choices))
        lines += experience_lines(name, place.task, trials)
    return tuple(lines)


def experience_lines(name, task, trials):
    """Describe trials, pairs of value and choices, best first, in words that suit any task."""
    lines = []
    for rank, (value, choices) in enumerate(sorted(trials, reverse=True), 1):
        settings = "; ".join(
            f"stage {stage + 1} of {len(choices)}: "
            f"{size_class(_rank(task, stage, model), len(rows))} model, "
            f"{LEVELS[level_of(samples)]} samples ({samples})"
            for stage, ((model, samples), rows) in enumerate(zip(choices, task.feasible.costs))
        )
        lines.append(
            f"task {name}, {rank} of {len(trials)}: {settings}; value {value:.2f}, "
            f"{task.feasible.cost(choices) / task.budget:.0%} of the budget"
        )
    return lines


def _rank(task, stage, model):
    """Rank a model by size among those of its stage, smallest first."""
    sizes = [m.parameters for m in task.stages[stage].models]
    return sorted(range(len(sizes)), key=sizes.__getitem__).index(model)


LOOPS = {
    "paper loop": PaperLoop,
    "LLM_ZS": ZeroShot,
    "AgentHPO-like": CreatorExecutor,
    "MLCopilot-like": Copilot,
}
"""Classes by method; each takes a task, a seed, and the keywords `place` and `llm`."""
