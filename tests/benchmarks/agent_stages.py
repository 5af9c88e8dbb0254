"""How soon an agent that reads what happened inside of the pipeline finds the right models.

Simulated pipelines of two data sets, run as they are, with models of one size whose names say
nothing. In its stage, each knows a share of the instances. In each search a scripted agent reads
nothing but its prompt. Counted are stages for which the recommendation, after some numbers of
trials, has the model that knows most.

* ``planner`` has no agent.
* ``scores`` reads the history: the two models of largest mean score, over the trials listed.
* ``attentive`` reads the tables of the fit, as in `search_quality`.
* ``stages`` reads `<stages>`: the models that pass most of their own checks. It is ``scores``
  without that block.
* ``transcripts`` reads `<transcripts>`: it exchanges the model of the stage that failed most.

Run: ``python tests/benchmarks/agent_stages.py --seeds 10``.
"""

import argparse
import itertools
import json
import random
import re
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parent / "search_quality"))
import attentive
from agents import PromptSampler
from prompt_reading import NAME, between

import optuna_agenttts_integrations
from optuna_agenttts import AgentTTSSampler, Model, ScriptedChatModel, recommend
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.tasks import cwq, two_wiki
from optuna_agenttts_integrations.testing.simulation import simulated_models

SAMPLES = Path(optuna_agenttts_integrations.__file__).parent / "tasks" / "samples"
DATA = {
    "2WikiMultiHopQA": (two_wiki, "two_wiki.json", 160),
    "CWQ": (cwq, "cwq.json", 90),
}
"""Loader, sample and budget by data set: for about ten samples beside one of each stage."""
READERS = ("planner", "scores", "attentive", "stages", "transcripts")
_WANTED, _LOOKS = 8, (10, 14, 18)
"""Candidates of a round, and the numbers of trials after which recommendations are looked at."""
_KNOWN = (0.9, 0.75, 0.6, 0.45)
"""Shares of the instances that the models of a stage know: votes cannot replace knowledge."""
_COMPETENCE = {True: 0.8, False: 0.1}
"""Probability of being right in one sample, of known instances and of others."""
_SHARES = (0.2, 0.4, 0.6)
"""Shares that a scripted agent gives to a stage, of the budget beyond one sample of each."""
_SHARE = re.compile(r"\S+ ± \S+")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?: ([\d.]+)")
_FEW = 4
"""Samples below which a model may be better than it seems."""
_FAILED = re.compile(rf"^- stage {NAME}, check (failed|passed by)", re.MULTILINE)


def make_benchmark(name):
    """Return a data set's benchmark with models of one size, on two variants of its sample.

    Variants have other words at the end, so that simulated models reply to each anew.
    """
    models = [[Model(f"s{s}-{m}-8B", parameters=8e9) for m in range(4)] for s in range(2)]
    load, file, budget = DATA[name]
    benchmark = load(
        SAMPLES / file,
        search=16,
        fusion=False,
        retrievers=models[0],
        answerers=models[1],
        budget=budget,
    )
    instances = [
        replace(one, id=f"{one.id}-{n}", question=f"{one.question} (variant {n})")
        for n in range(2)
        for one in benchmark.search
    ]
    return replace(benchmark, search=tuple(instances))


class KnowingModel:
    """Simulated model that knows some instances: a share of them, drawn by its name and a seed."""

    def __init__(self, name, models, instances, share, seed):
        self.models = {knows: named[name] for knows, named in models.items()}
        order = random.Random(f"{seed}:{name}").sample(instances, len(instances))
        self.known = {instance.id for instance in order[: round(share * len(instances))]}

    async def complete(self, request, *, seed):
        """Reply as one that knows the instance, or as one that does not."""
        prompt = "\n".join(message.content for message in request.messages)
        _, instance = self.models[True]._identify(prompt)
        return await self.models[instance.id in self.known].complete(request, seed=seed)


def knowing_models(benchmark, seed):
    """Return models that know shares of the instances, and the best model of each stage."""
    rng, stages = random.Random(seed), benchmark.task.stages
    names = [model.name for stage in stages for model in stage.models]
    models = {
        knows: simulated_models(
            benchmark, {name: dict.fromkeys([s.name for s in stages], value) for name in names}
        )
        for knows, value in _COMPETENCE.items()
    }
    found, best = {}, {}
    for stage in stages:
        shares = rng.sample(_KNOWN, len(_KNOWN))
        for model, share in zip(stage.models, shares):
            found[model.name] = KnowingModel(
                model.name, models, list(benchmark.search), share, seed
            )
        best[stage.name] = max(zip(shares, (m.name for m in stage.models)))[1]
    return found, best


class Reader:
    """Scripted agent that reads its prompt in one way."""

    def __init__(self, task, kind):
        self.task, self.kind = task, kind
        self.names = [stage.name for stage in task.stages]

    def __call__(self, request):
        """Reply with allocations of the models that the prompt speaks for."""
        text = request.messages[1].content
        reading = attentive._Reading(self.task, text)
        if not reading.tried:
            return attentive.as_reply(self.task, [])
        if self.kind == "attentive":
            return attentive.as_reply(self.task, attentive.attentive(self.task, text))
        models = {
            "scores": self._by_scores,
            "stages": self._by_stages,
            "transcripts": self._by_transcripts,
        }[self.kind](reading)
        return attentive.as_reply(self.task, self._allocations(models, reading.taken))

    def _by_scores(self, reading):
        found = []
        for stage in range(len(self.names)):
            values = defaultdict(list)
            for choices, value in reading.tried.items():
                values[choices[stage][0]].append(value)
            found.append(sorted(values, key=lambda m: -np.mean(values[m]))[:2])
        return found

    def _by_stages(self, reading):
        found = self._by_scores(reading)
        shares = [{} for _ in self.names]
        few = [set() for _ in self.names]
        for cells in reading.rows("stages"):
            if len(cells) < 5 or not _SHARE.fullmatch(cells[3]):
                continue
            stage = reading.stage(cells[0])
            model = reading.short[stage][cells[1]]
            ranges = [(int(high or low), float(s)) for low, high, s in _RANGE.findall(cells[4])]
            shares[stage][model] = max(share for _, share in ranges)
            if max(number for number, _ in ranges) < _FEW:
                few[stage].add(model)
        for stage, known in enumerate(shares):
            if known:
                order = sorted(known, key=known.get, reverse=True)
                # The best, and the best of those that were tried with few samples alone.
                found[stage] = [order[0], *(m for m in order[1:] if m in few[stage])][:2]
        return found

    def _by_transcripts(self, reading):
        text = between(reading.text, "transcripts")
        failed = [json.loads(f'"{stage}"') for stage, _ in _FAILED.findall(text)]
        # The first stage, or the last one where it passed in most instances.
        blamed = failed[0] if 2 * len(failed) > text.count("\ninstance ") else self.names[-1]
        best = max(reading.tried, key=reading.tried.get)
        models = [[model] for model, _ in best]
        stage = self.names.index(blamed)
        counts = Counter(choices[stage][0] for choices in reading.tried)
        models[stage] = sorted(range(len(self.task.stages[stage].models)), key=counts.__getitem__)
        models[stage] = [m for m in models[stage] if m != best[stage][0]][:2]
        return models

    def _allocations(self, models, tried):
        """Return fresh allocations of models, with splits of the budget between the stages."""
        feasible = self.task.feasible
        slack = self.task.budget - feasible.cheapest_cost
        found = []
        for combination in itertools.product(*models):
            for shares in itertools.product(_SHARES, repeat=len(self.names)):
                if sum(shares) > 1.01:
                    continue
                wanted = [
                    (m, int(np.searchsorted(costs[m], costs[m][0] + share * slack, "right")))
                    for m, share, costs in zip(combination, shares, feasible.costs)
                ]
                choices = tuple(wanted)
                if feasible.fits(choices) and choices not in tried and choices not in found:
                    found.append(choices)
        # Turns of the combinations of models, the first one first.
        groups = [
            [c for c in found if tuple(m for m, _ in c) == g] for g in itertools.product(*models)
        ]
        rows = itertools.zip_longest(*(reversed(group) for group in groups))
        return [choices for row in rows for choices in row if choices][:_WANTED]


def search(benchmark, kind, seed, store):
    """Run a search; return which recommended models are the best, by look."""
    models, best = knowing_models(benchmark, seed)
    objective = benchmark.objective(
        models,
        store=store,
        seed=seed,
        progress=False,
        measure_after=None,
    )
    task = objective.task
    sampler = (
        AgentTTSSampler(task, explain=False)
        if kind == "planner"
        else PromptSampler(task, llm=ScriptedChatModel(Reader(task, kind)), explain=False)
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    right = []

    def look(study, trial):
        if trial.number + 1 not in _LOOKS:
            return
        allocation = recommend(study).allocation
        right.append([allocation[stage].model == model for stage, model in best.items()])

    with objective:
        study.optimize(objective, n_trials=_LOOKS[-1], callbacks=[look])
    mine = [t for t in study.trials if t.user_attrs.get("agenttts:origin") == "agent"]
    good = [
        all(t.params[f"{stage}.model"] == model for stage, model in best.items()) for t in mine
    ]
    return right, len(good), sum(good)


def main():
    """Run the searches and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--readers", nargs="+", default=READERS, choices=READERS)
    parser.add_argument("--data", nargs="+", default=[*DATA], choices=DATA)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in arguments.data:
        benchmark = make_benchmark(name)
        rows = {kind: [] for kind in arguments.readers}
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            store = CompletionStore()
            for kind in arguments.readers:
                rows[kind].append(search(benchmark, kind, seed, store))
            for kind, found in rows.items():
                right = np.array([each for each, _, _ in found])
                line = {
                    "data": name,
                    "reader": kind,
                    "searches": len(found),
                    "trials": _LOOKS,
                    "stages right": right.mean(axis=(0, 2)).round(3).tolist(),
                    "both right": right.all(axis=2).mean(axis=0).round(3).tolist(),
                    "agent's trials": round(float(np.mean([n for _, n, _ in found])), 1),
                    "of them with both right": round(float(np.mean([n for *_, n in found])), 1),
                }
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
