"""Tune a real two-stage pipeline of tiny language models under a budget: offline, in a minute.

Runs forty trials on fifty problems, evaluates the recommended allocation and others on held-out
problems, and writes a web page about the study.
"""

import argparse
import logging
import time
from pathlib import Path

import optuna
from optuna.storages import RDBStorage

from optuna_agenttts import AgentTTSSampler, PrintTrials, explain, summarize
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.cli import main as agenttts
from optuna_agenttts_integrations.playground import make_objective, make_problems, make_task

TRIALS = 40


def spend(study):
    """Return the total cost of a study's trials, in units of the task's cost model."""
    return sum(trial.user_attrs.get("spend", 0.0) for trial in study.trials)


def show(name, allocation, task, objective, held_out):
    """Print an allocation's cost and its score on held-out problems."""
    evaluation = objective.evaluate(allocation, held_out)
    mean, count = evaluation.mean, len(held_out)
    error = (mean * (1 - mean) / count) ** 0.5
    setting = ", ".join(f"{s.samples} x {s.model}" for s in allocation.values())
    print(f"  {name:<24} {mean:.3f} ± {error:.3f}   {task.cost(allocation):>6.1f}   {setting}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--out", type=Path, default=Path("quickstart.db"))
    arguments = parser.parse_args()
    logging.getLogger("optuna").setLevel(logging.WARNING)
    url = f"sqlite:///{arguments.out}"

    task = make_task()
    print(
        f"{task.count_allocations():,} allocations of {len(task.stages)} stages cost at most "
        f"{task.budget:g} {task.cost_model.unit} per problem."
    )
    # Each search has its own store, so that none reuses the completions of another.
    storage = RDBStorage(url)
    objective = make_objective(task=task, store=CompletionStore())
    study = optuna.create_study(
        # A new name for each run, so that earlier studies are kept.
        study_name=f"quickstart {len(optuna.get_all_study_names(storage)) + 1}",
        storage=storage,
        direction="maximize",
        sampler=AgentTTSSampler(task),
    )
    started = time.perf_counter()
    study.optimize(objective, n_trials=arguments.trials, callbacks=[PrintTrials()])
    seconds = time.perf_counter() - started
    summary = summarize(study)
    tokens = sum(trial.user_attrs["tokens"] for trial in study.trials)
    naive = sum(trial.user_attrs["naive_tokens"] for trial in study.trials)
    print(
        f"{len(study.trials)} trials in {seconds:.0f} s; {tokens:,} tokens generated, "
        f"{tokens / naive:.0%} of what they would have taken without reuse.\n"
    )
    print(f"{summary}\n")

    # TPE on the same problems, with the same total cost.
    rival_objective = make_objective(task=task, store=CompletionStore())
    rival = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    paid = spend(study)

    def stop_at_spend(study, trial):
        if spend(study) >= paid:
            study.stop()

    rival.optimize(rival_objective, n_trials=3 * arguments.trials, callbacks=[stop_at_spend])
    luckiest = task.choices_from_params(rival.best_params)

    held_out = make_problems("test", 200)
    largest = {s.name: (max(s.models, key=lambda m: m.parameters).name, 1) for s in task.stages}
    unit = task.cost_model.unit
    print(f"On {len(held_out)} held-out problems (± standard error); costs in {unit} per problem")
    print("                             score       cost   allocation")
    for name, allocation in {
        "recommended": summary.recommendation.allocation,
        "largest models, once": task.project(largest),
        "cheapest": task.complete({}),
        f"TPE ({len(rival.trials)} trials)": task.allocation([luckiest[0], luckiest[1]]),
    }.items():
        show(name, allocation, task, objective, held_out)
    for closing in (objective, rival_objective):
        closing.close()
        closing.store.close()
    explain(study)
    page = arguments.out.with_suffix(".html")
    print(f"\nLook at the study:  optuna-dashboard {url}")
    print(f"As a web page, by agenttts report {arguments.out} --html {page}:")
    agenttts(["report", url, "--html", str(page)])


if __name__ == "__main__":
    main()
