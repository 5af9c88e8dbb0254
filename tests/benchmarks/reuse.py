"""How many of its tokens a search generates, and how many it takes from its store.

    python tests/benchmarks/reuse.py [--trials 50] [--seeds 3] [--data FOLDER]

Searches of 50 trials with `AgentTTSSampler` on each of the paper's data sets, with simulated
models. The share is that of the tokens that the same trials would generate without reuse. Data are
the package's own small samples, or the paper's files where the folder has them
(``2wiki_100.json``, ``cwq_100.json``).
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import optuna

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts_integrations.tasks import (
    chat_dev,
    cwq,
    hotpot_qa,
    sample_path,
    task_bench,
    two_wiki,
    web_qsp,
)
from optuna_agenttts_integrations.testing.simulation import simulated_models

FAMILIES = {
    "2WikiMultiHopQA": lambda data, fusion: two_wiki(data or sample("two_wiki"), fusion=fusion),
    "HotpotQA": lambda data, fusion: hotpot_qa(sample("hotpot_qa"), search=12, fusion=fusion),
    "CWQ": lambda data, fusion: cwq(data or sample("cwq"), fusion=fusion),
    "WebQSP": lambda data, fusion: web_qsp(sample("web_qsp"), search=12, fusion=fusion),
    "TaskBench": lambda data, fusion: task_bench(
        sample("task_bench"), tools=sample("task_bench_tools"), search=12, fusion=fusion
    ),
    "SRDD (ChatDev)": lambda data, fusion: chat_dev(
        sample_path("software.csv"), search=8, fusion=fusion
    ),
}
FILES = {"2WikiMultiHopQA": "2wiki_100.json", "CWQ": "cwq_100.json"}


def sample(name):
    """One of the package's own files of records."""
    return sample_path(f"{name}.json")


def share(name, folder, fusion, seed, trials):
    """Return the share of tokens that one search generates, and its number of instances."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = folder / FILES[name] if folder and name in FILES else None
    if data is None and name in FILES:
        name = {"2WikiMultiHopQA": "HotpotQA", "CWQ": "WebQSP"}[name]
    benchmark = FAMILIES[name](data, fusion)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(benchmark.task))
    with benchmark.objective(simulated_models(benchmark), seed=seed, progress=False) as objective:
        study.optimize(objective, n_trials=trials)
    tokens = sum(trial.user_attrs["tokens"] for trial in study.trials)
    return tokens / sum(trial.user_attrs["naive_tokens"] for trial in study.trials), len(
        benchmark.search
    )


def main():
    """Run all searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    print("| data set | instances | generated, fused by the model | generated, voted on |")
    print("|---|---|---|---|")
    for name in FAMILIES:
        cells = []
        for fusion in (True, False):
            seeds = range(options.seeds)
            count = len(seeds)
            with ProcessPoolExecutor(2) as pool:
                found = list(
                    pool.map(
                        share,
                        [name] * count,
                        [options.data] * count,
                        [fusion] * count,
                        seeds,
                        [options.trials] * count,
                    )
                )
            shares = np.array([value for value, _ in found])
            cells.append(f"{np.median(shares):.0%} ({shares.min():.0%} to {shares.max():.0%})")
        print(f"| {name} | {found[0][1]} | {' | '.join(cells)} |", flush=True)
    print(f"\n{options.trials} trials, {options.seeds} seeds; medians and ranges.")


if __name__ == "__main__":
    main()
