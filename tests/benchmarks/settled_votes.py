"""Tokens that settled votes save, and the votes that they change.

``python tests/benchmarks/settled_votes.py [--allocations 30]``

Random allocations of the playground and of retrieval question answering with votes (simulated
models) run three times on the same samples: with all samples, with votes that stop when their
result is certain, and with ``settled(0.95)``.
"""

import argparse
from dataclasses import replace

import numpy as np

from optuna_agenttts_integrations import CompletionStore, settled
from optuna_agenttts_integrations.playground import make_objective
from optuna_agenttts_integrations.tasks import sample_path, two_wiki
from optuna_agenttts_integrations.testing.simulation import simulated_models

RULES = {"all samples": None, "certain": settled(), "settled(0.95)": settled(0.95)}


def objectives(name, enough, store):
    """Return an objective whose votes follow a rule."""
    if name == "playground":
        objective = make_objective(store=store)
    else:
        benchmark = two_wiki(sample_path("two_wiki.json"), search=40, fusion=False)
        objective = benchmark.objective(simulated_models(benchmark), store=store, progress=False)
    stages = [replace(stage, enough=enough) for stage in objective.pipeline.programs]
    objective.pipeline = replace(objective.pipeline, stages=stages)
    return objective


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allocations", type=int, default=30)
    options = parser.parse_args()
    for name in ("playground", "two_wiki"):
        rng, store, found = np.random.default_rng(0), CompletionStore(":memory:"), {}
        with objectives(name, None, store) as objective:
            models, samples = objective.task.feasible.arrays()
            chosen = rng.choice(len(models), options.allocations, replace=False)
            allocations = [
                objective.task.allocation(list(zip(models[i].tolist(), samples[i].tolist())))
                for i in chosen
            ]
        for rule, enough in RULES.items():
            with objectives(name, enough, store) as objective:
                found[rule] = [objective.evaluate(allocation) for allocation in allocations]
        every = found["all samples"]
        for rule, evaluations in found.items():
            tokens = [e.naive_tokens / a.naive_tokens for e, a in zip(evaluations, every)]
            changed = [
                e.outcomes[key] != a.outcomes[key]
                for e, a in zip(evaluations, every)
                for key in a.outcomes
            ]
            print(
                f"{name}, {rule}: tokens {np.median(tokens):.2f} of all (quartiles "
                f"{np.quantile(tokens, 0.25):.2f} to {np.quantile(tokens, 0.75):.2f}), "
                f"outcomes changed {100 * np.mean(changed):.2f} %"
            )


if __name__ == "__main__":
    main()
