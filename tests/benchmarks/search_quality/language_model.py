"""Searches with a language model as the agent, each beside one without an agent.

``python tests/benchmarks/search_quality/language_model.py --out FILE --llm URL [--table]``

After each trial the recommendation is compared with the truth. Reported are the trials until its
regret is first under .10 and until it stays there, the spend to that, and the share of searches
that end above .3. On the simulated pipelines of data sets (`agent_stages`), whose prompts have
diagnostics and transcripts, it is the share of stages with another model than the best instead.
Searches run side by side, each in a thread, since they mostly wait for the language model; one
line of JSON is written for each, and those in the file are not run again.
"""

import argparse
import contextlib
import json
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import optuna
from agents import PromptSampler
from landscapes import REPORT, landscape
from run import read

sys.path.insert(0, str(Path(__file__).parents[1]))

import agent_stages

from optuna_agenttts import AgentTTSSampler, guidelines, recommend

CLOSE, BAD = 0.10, 0.30
PLACES = {
    "calibrated": 6,
    "random": 3,
    "violating": 3,
    "playground": 1,
    **dict.fromkeys(agent_stages.DATA, 3),
}
"""Landscapes or simulated pipelines of each family."""
PIPELINE_TRIALS = 24
"""Trials of a simulated pipeline at most."""


class Landscape:
    """A landscape; see `landscapes`."""

    def __init__(self, family, index, seed):
        self._place, self._seed = landscape(family, index), seed
        self.task, self.name = self._place.task, self._place.name

    def run(self, trial):
        """Run a trial."""
        models, samples = np.array(self.task.choices(self.task.suggest(trial))).T
        outcomes = self._place.outcomes(models, samples, self._seed, 50)
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(outcome, step)
        return float(outcomes.mean())

    def loss(self, allocation):
        """Return the regret of an allocation."""
        models, samples = np.array(self.task.choices(allocation)).T
        return float(self._place.regret(self._place.truth(models, samples)))


class Pipeline:
    """Simulated pipeline of a data set; see `agent_stages`."""

    def __init__(self, family, index, seed):
        benchmark = agent_stages.make_benchmark(family)
        models, self._best = agent_stages.knowing_models(benchmark, seed + index)
        self.task, self.name = benchmark.task, family
        self.run = benchmark.objective(models, seed=seed, progress=False, measure_after=None)

    def loss(self, allocation):
        """Return the share of stages that have another model than the best."""
        return float(np.mean([self._best[stage] != m for stage, (m, _) in allocation.items()]))


def one_search(family, index, seed, trials, llm):
    """Run one search; returns the loss of the recommendation after each trial, and the spend."""
    place = (Pipeline if family in agent_stages.DATA else Landscape)(family, index, seed)
    task = place.task
    trials = min(trials, PIPELINE_TRIALS) if family in agent_stages.DATA else trials
    own = int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % 2**31)
    if llm is None:
        sampler = AgentTTSSampler(task, seed=own)
    else:
        sampler = PromptSampler(task, llm=llm, seed=own, llm_timeout=3600, n_trials=trials)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    curve, spend = [], []

    def note(study, trial):
        tried = task.read(trial.params)
        spend.append(task.cost(task.allocation(tried)))
        curve.append(round(place.loss(recommend(study, task).allocation), 4))

    with contextlib.ExitStack() as stack:
        if hasattr(place.run, "close"):
            stack.enter_context(place.run)
        study.optimize(place.run, n_trials=trials, callbacks=[note])
    rounds = guidelines(study)
    return {
        "name": place.name,
        "curve": curve,
        "spend": np.cumsum(spend).round(2).tolist(),
        "origins": [t.user_attrs.get("agenttts:origin", "") for t in study.trials],
        "requests": sum(planned.requests for planned in rounds),
        "tokens": sum(planned.prompt_tokens for planned in rounds),
    }


def first(curve):
    """Return the trials until a curve is first close, one more than there are if never."""
    hits = np.flatnonzero(np.array(curve) < CLOSE)
    return int(hits[0]) + 1 if len(hits) else len(curve) + 1


def stays(curve):
    """Return the trials until a curve is close for good."""
    misses = np.flatnonzero(np.array(curve) >= CLOSE)
    return int(misses[-1]) + 2 if len(misses) else 1


def _spend(record):
    """Return the spend until the recommendation stays close; all of it if it never does."""
    return record["spend"][min(stays(record["curve"]), len(record["spend"])) - 1]


def table(records):
    """Print both searches side by side, and ratios with intervals over searches."""
    pairs = {}
    for record in records:
        key = (record["family"], record["index"], record["seed"])
        pairs.setdefault(key, {})[record["search"]] = record
    pairs = {key: pair for key, pair in pairs.items() if len(pair) == 2}
    if not pairs:
        print("There is no search of both, with an agent and without, yet.")
        return
    print("search, trials until close | stays close | final regret | requests: planner / agent")
    for (family, _, seed), pair in sorted(pairs.items()):
        cells = [
            f"{statistic(pair['planner'])} / {statistic(pair['agent'])}"
            for statistic in (
                lambda r: first(r["curve"]),
                lambda r: stays(r["curve"]),
                lambda r: r["curve"][-1],
            )
        ]
        name = pair["agent"]["name"]
        print(f"{family} {name} seed {seed}: {' | '.join(cells)} | {pair['agent']['requests']}")
    rng = np.random.default_rng(0)
    for name, statistic in (
        ("trials until close", lambda r: first(r["curve"])),
        ("trials until it stays close", lambda r: stays(r["curve"])),
        ("spend until it stays close", _spend),
    ):
        logs = np.array(
            [np.log(statistic(p["agent"]) / statistic(p["planner"])) for p in pairs.values()]
        )
        drawn = rng.choice(logs, (4000, len(logs))).mean(axis=1)
        low, high = np.exp(np.quantile(drawn, [0.025, 0.975]))
        print(f"{name}, agent of planner: {np.exp(logs.mean()):.2f} ({low:.2f} to {high:.2f})")
    for search in ("planner", "agent"):
        bad = np.mean([pair[search]["curve"][-1] > BAD for pair in pairs.values()])
        mean = np.mean([pair[search]["curve"][-1] for pair in pairs.values()])
        print(f"{search}: mean final regret {mean:.3f}, above {BAD:g} in {100 * bad:.0f} %")


def main():
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--llm", help="a URL or a model id; without, planner only")
    parser.add_argument("--families", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first landscape")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        table(read(options.out))
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    searches = {"planner": None} | ({"agent": options.llm} if options.llm else {})
    done = {(r["family"], r["index"], r["seed"], r["search"]) for r in read(options.out)}
    start = -(-REPORT.start // 24) * 24 + options.first
    jobs = [
        (family, start + number, seed, search)
        for family in options.families
        for number in range(PLACES[family])
        for seed in range(REPORT.start, REPORT.start + options.seeds)
        for search in searches
    ]
    # Drawn once, before threads share them.
    for family, index, *_ in jobs:
        if family not in agent_stages.DATA:
            landscape(family, index)
    with ThreadPoolExecutor(options.workers) as pool, options.out.open("a") as file:
        running = {
            pool.submit(one_search, *job[:3], options.trials, searches[job[3]]): job
            for job in jobs
            if job not in done
        }
        for future in as_completed(running):
            family, index, seed, search = running[future]
            key = {"family": family, "index": index, "seed": seed, "search": search}
            try:
                file.write(json.dumps(key | future.result()) + "\n")
                file.flush()
            # The others go on.
            except Exception as error:
                print(f"{key}: {error!r}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
