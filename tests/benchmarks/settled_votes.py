"""Tokens that votes save when they stop, and the votes that they change.

``python tests/benchmarks/settled_votes.py [--allocations 30] [--seeds 3] [--data FOLDER]``

Random allocations within the budget, on the playground and on each of the paper's data sets with
votes in place of fusions (simulated models, data as in `reuse.py`). All of them run with all
samples, and on the same samples with rules that stop votes. Shares of tokens are those that each
allocation takes (median and quartiles), and those that all of them generate with one store, which
reuses samples. Votes are compared one by one, on the samples that a stage had with all samples:
those over three or more, since two give the result of the first.

With ``--records FILE`` also the recorded answers of 31 models to 800 questions, ten each, of a
file of arrays ``code_0.2`` and ``code_0.8`` (models, questions, samples).
"""

import argparse
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from reuse import FAMILIES, FILES

from optuna_agenttts_integrations import CompletionStore, majority_vote, settled
from optuna_agenttts_integrations.playground import make_objective
from optuna_agenttts_integrations.testing.simulation import simulated_models

RULES = {
    "certain": settled(),
    **{f"settled({p})": settled(p) for p in (0.99, 0.95, 0.9)},
}
WHOLE = ("certain", "settled(0.95)")
"""Rules that whole pipelines run with; the others are followed vote by vote."""
LEAST = 3
"""Samples of a vote that can change: of two, the first wins."""


def objective_of(name, folder, seed, store):
    """Return an objective of the playground, or of a data set with votes."""
    if name == "playground":
        return make_objective(store=store, seed=seed)
    data = folder / FILES[name] if folder and name in FILES else None
    if data is None and name in FILES:
        name = {"2WikiMultiHopQA": "HotpotQA", "CWQ": "WebQSP"}[name]
    benchmark = FAMILIES[name](data, False)
    return benchmark.objective(simulated_models(benchmark), store=store, seed=seed, progress=False)


def follow(objective, enough, record=None):
    """Let all stages of an objective follow a rule, and record their samples."""

    def watched(stage):
        if record is None:
            return replace(stage, enough=enough)

        def aggregate(samples):
            record[stage.name, stage.aggregate].append(tuple(samples))
            return stage.aggregate(samples)

        return replace(stage, enough=enough, aggregate=aggregate)

    stages = [watched(stage) for stage in objective.pipeline.programs]
    objective.pipeline = replace(objective.pipeline, stages=stages)
    return objective


def drawn_by(rule, aggregate, samples):
    """Return how many of the samples of a vote a rule draws."""
    tried = 0
    while left := len(samples) - tried:
        more = rule(aggregate, samples[:tried], left)
        if tried and more == 0:
            break
        tried += max(1, more)
    return tried


def changed(aggregate, samples, drawn):
    """Return whether the samples that a rule draws have another result than all of them."""
    some, every = aggregate(samples[:drawn]), aggregate(samples)
    # Numbers of malformed ids are sums over the samples that were drawn.
    return getattr(some, "ids", some) != getattr(every, "ids", every)


def compare(name, folder, seed, count):
    """Yield a rule, its shares of tokens, changed outcomes, and votes by stage."""
    votes, rng = defaultdict(list), np.random.default_rng(seed)
    with follow(objective_of(name, folder, seed, CompletionStore()), None, votes) as objective:
        models, samples = objective.task.feasible.arrays()
        chosen = rng.choice(len(models), min(count, len(models)), replace=False)
        allocations = [
            objective.task.allocation(list(zip(models[i].tolist(), samples[i].tolist())))
            for i in chosen
        ]
        every = [objective.evaluate(allocation) for allocation in allocations]
    for rule, enough in RULES.items():
        if rule not in WHOLE:
            yield rule, [], np.nan, [], votes_of(enough, votes)
            continue
        with follow(objective_of(name, folder, seed, CompletionStore()), enough) as objective:
            found = [objective.evaluate(allocation) for allocation in allocations]
        generated, all_generated = (sum(e.generated_tokens for e in x) for x in (found, every))
        tokens = [e.naive_tokens / a.naive_tokens for e, a in zip(found, every)]
        outcomes = [
            e.outcomes[key] != a.outcomes[key] for e, a in zip(found, every) for key in a.outcomes
        ]
        yield rule, tokens, generated / all_generated, outcomes, votes_of(enough, votes)


def votes_of(enough, votes):
    """Return by stage the share of samples that a rule draws, and which votes it changes."""
    stages = {}
    for (stage, aggregate), cases in votes.items():
        drawn = [(each, drawn_by(enough, aggregate, each)) for each in cases]
        total = sum(len(each) for each, _ in drawn)
        stages[stage] = (
            sum(count for _, count in drawn) / total,
            [changed(aggregate, *each) for each in drawn if len(each[0]) >= LEAST],
        )
    return stages


def recorded(path, cases=4000):
    """Yield a rule, the share of samples it draws of recorded votes, and which it changes."""
    with np.load(path) as data:
        for name in ("code_0.2", "code_0.8"):
            for most in (5, 10):
                rng, votes = random.Random(0), []
                for _ in range(cases):
                    answers = data[name][rng.randrange(len(data[name])), rng.randrange(800)]
                    votes.append(tuple(rng.sample(answers.tolist(), most)))
                for rule, enough in RULES.items():
                    yield (
                        f"{name} of {most}",
                        rule,
                        *votes_of(enough, {("vote", majority_vote): votes})["vote"],
                    )


def percent(flags):
    """Return the share of true values as text."""
    return f"{100 * np.mean(flags):.2f} %" if len(flags) else "-"


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allocations", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--only", help="the name of one data set")
    options = parser.parse_args()
    print("| data | rule | tokens | generated | outcomes changed | votes changed |")
    print("|---|---|---|---|---|---|")
    for name in ("playground", *FAMILIES):
        if options.only not in (None, name):
            continue
        found = defaultdict(list)
        for seed in range(options.seeds):
            for rule, *values in compare(name, options.data, seed, options.allocations):
                found[rule].append(values)
        for rule, seeds in found.items():
            tokens = np.concatenate([tokens for tokens, *_ in seeds])
            text = "- | -"
            if len(tokens):
                low, middle, high = np.quantile(tokens, [0.25, 0.5, 0.75])
                generated = np.mean([share for _, share, *_ in seeds])
                text = f"{middle:.2f} ({low:.2f} to {high:.2f}) | {generated:.2f}"
            outcomes = np.concatenate([outcomes for *_, outcomes, _ in seeds])
            stages = []
            for stage in seeds[0][-1]:
                share = np.mean([votes[stage][0] for *_, votes in seeds])
                flags = np.concatenate([votes[stage][1] for *_, votes in seeds])
                stages.append(f"{stage} {percent(flags)} ({share:.2f} of the samples)")
            print(
                f"| {name} | {rule} | {text} | {percent(outcomes)} | {', '.join(stages)} |",
                flush=True,
            )
    if options.records:
        for name, rule, share, flags in recorded(options.records):
            print(f"| {name} | {rule} | {share:.2f} of the samples | - | - | {percent(flags)} |")


if __name__ == "__main__":
    main()
