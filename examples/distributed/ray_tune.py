"""Ray Tune: `OptunaSearch` with this sampler proposes, and the nodes of a cluster run the trials.

Shows: a trainable that scores a configuration with an objective of its own process. All processes
    share one completion store. The sampler is in the process that calls `fit`.
Needs: `pip install '.[ray]'`; `--ray` takes a cluster that runs.
Takes: about a minute, mostly for Ray to start.
"""

import argparse
import contextlib
import os
import socket

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from ray_workers import cluster, connected
from worker import make_objective

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.playground import PlaygroundServer, make_task


def suggest(trial):
    """Suggest an allocation within the budget, for `OptunaSearch`."""
    make_task().suggest(trial)


def train(config, store, server):
    """Score the allocation of a configuration."""
    with make_objective(store, server) as objective:
        score = objective(optuna.trial.FixedTrial(config))
    tune.report({"score": score, "host": socket.gethostname(), "process": os.getpid()})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="completions.db", help="on several hosts: PostgreSQL")
    parser.add_argument("--ray", help="address of a cluster, such as auto")
    parser.add_argument("--trials", type=int, default=8)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store = given.store if "://" in given.store else os.path.abspath(given.store)
    search = OptunaSearch(
        suggest, sampler=AgentTTSSampler(make_task()), metric="score", mode="max"
    )
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PlaygroundServer())
        address = given.ray or stack.enter_context(cluster())
        stack.enter_context(connected(address))
        results = tune.Tuner(
            tune.with_parameters(train, store=store, server=server.url),
            tune_config=tune.TuneConfig(
                search_alg=search, num_samples=given.trials, max_concurrent_trials=2
            ),
            run_config=tune.RunConfig(storage_path=os.path.abspath("ray_results"), verbose=0),
        ).fit()
    with contextlib.closing(CompletionStore(store)) as opened:
        kept, paid = len(opened), server.served["/v1/chat/completions"]
    for result in results:
        print(f"{result.metrics['host']}: {result.metrics['score']:.2f} {result.config}")
    print(f"{len(results) - results.num_errors} of {len(results)} trials complete")
    print(f"{paid} requests for {kept} stored completions")
    best = results.get_best_result("score", "max")
    print(f"best {best.metrics['score']:.2f}: {best.config}")


if __name__ == "__main__":
    main()
