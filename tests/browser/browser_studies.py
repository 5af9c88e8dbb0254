"""Studies of every kind, to be opened in optuna-dashboard."""

from __future__ import annotations

import math
import random
import runpy
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
from core_support import wiki_task
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.pruners import WilcoxonPruner
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from optuna_agenttts import (
    AgentTTSSampler,
    Explain,
    Model,
    ScriptedChatModel,
    Stage,
    Task,
    explain,
    report_outcomes,
    search,
)
from optuna_agenttts.storage import ENDED, write_trial_facts
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.playground import make_objective, make_problems, make_task

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = "<script>injected=1</script>"
IMAGE = "<img src=x onerror='injected=1'>"
LINK = "[click](javascript:alert(1)) ![](http://example.invalid/a.png)"
LONG = "long-" * 60
"""300 characters without a space."""

# Examples import each other.
sys.path.append(str(EXAMPLES))


def _study(storage, name, sampler, direction="maximize", **options):
    return optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, direction=direction, **options
    )


def _optimize(study, objective, n_trials):
    """Run trials; the callback explains studies of other samplers."""
    callbacks = [] if isinstance(study.sampler, AgentTTSSampler) else [Explain()]
    study.optimize(objective, n_trials=n_trials, callbacks=callbacks, catch=(ValueError,))
    explain(study)
    return study


def quickstart(storage, trials=24):
    """Search the playground, as `examples/quickstart.py` does."""
    task = make_task()
    with closing(CompletionStore()) as store, make_objective(task=task, store=store) as objective:
        study = _study(storage, "quickstart 1", AgentTTSSampler(task, seed=0))
        return _optimize(study, objective, trials)


def pruned(storage, trials=24):
    """Search the playground with Optuna's pruner for instances."""
    task = make_task()
    with closing(CompletionStore()) as store, make_objective(task=task, store=store) as objective:
        pruner = WilcoxonPruner(p_threshold=0.2)
        study = _study(storage, "pruned", AgentTTSSampler(task, seed=0), pruner=pruner)
        return _optimize(study, objective, trials)


def confirmed(storage):
    """Search the playground, and compare the best allocations on further problems."""
    task = make_task()
    options = {"problems": make_problems("search", 100), "progress": False}
    with (
        closing(CompletionStore()) as store,
        make_objective(task=task, store=store, **options) as objective,
    ):
        study = _study(storage, "confirmed", AgentTTSSampler(task, seed=0))
        search(study, objective, evaluations=900)
        explain(study)
    return study


def llm_agent(storage, trials=30):
    """Let a scripted model plan, as `examples/llm_agent.py` does."""
    example = runpy.run_path(str(EXAMPLES / "llm_agent.py"))
    rng = random.Random(0)
    llm = ScriptedChatModel(example["script"])
    sampler = AgentTTSSampler(example["task"], llm=llm, seed=0)
    study = _study(storage, "llm agent", sampler)
    return _optimize(study, lambda t: example["objective"](t, rng), trials)


def own_objective(storage, sampler=None, trials=20, direction="maximize", name="TPE", metric=""):
    """Search the formula of `examples/own_objective.py` by TPE, or another sampler."""
    example = runpy.run_path(str(EXAMPLES / "own_objective.py"))
    task, rng = example["task"], random.Random(0)
    if metric:
        task = Task.from_dict({**task.to_dict(), "metric": metric})
    study = _study(storage, name, sampler or TPESampler(seed=0), direction)

    def objective(trial):
        outcomes = example["my_pipeline"](task.suggest(trial), rng)
        if direction == "minimize":
            outcomes = [1 - outcome for outcome in outcomes]
        for step, outcome in enumerate(outcomes):
            trial.report(outcome, step)
        return sum(outcomes) / len(outcomes)

    return _optimize(study, objective, trials)


def minimization(storage):
    """Minimize an error rate."""
    sampler = RandomSampler(seed=0)
    return own_objective(
        storage, sampler, direction="minimize", name="minimization", metric="error rate"
    )


def two_objectives(storage):
    """Optimize the score and the cost, with another sampler."""
    task = wiki_task(metric="exact match")
    study = optuna.create_study(
        study_name="two objectives",
        storage=storage,
        sampler=NSGAIISampler(seed=0, population_size=8),
        directions=["maximize", "minimize"],
    )

    rng = np.random.default_rng(0)

    def objective(trial):
        allocation = task.suggest(trial)
        outcomes = [float(draw < rate(allocation)) for draw in rng.random(30)]
        report_outcomes(trial, outcomes)
        return sum(outcomes) / 30, task.cost(allocation)

    return _optimize(study, objective, 20)


def rate(allocation):
    """Return a noise-free score for any stages: larger models and more samples are better."""
    product = 1.0
    for setting in allocation.values():
        product *= (0.97 if "B" in setting.model else 0.9) * (1 - 0.4 / (1 + setting.samples))
    return product


def four_stages(storage, trials=24):
    """Search a task of four stages."""
    sizes = (1e9, 8e9, 70e9)
    models = [Model(f"model-{size / 1e9:.0f}B", parameters=size) for size in sizes]
    stages = [
        Stage(name, models=models, prompt_tokens=500, generation_tokens=100, max_samples=50)
        for name in ("plan", "retrieve", "draft", "review")
    ]
    task = Task(name="four", stages=stages, budget=900, metric="F1", metric_range=(0, 1))
    study = _study(storage, "four stages", AgentTTSSampler(task, seed=0))
    return _optimize(study, lambda trial: rate(task.suggest(trial)), trials)


def efforts_of_models(storage, trials=24):
    """Search a task whose models think at three efforts, one of which leaves replies empty."""
    models = [Model("org/m-8B", parameters=8e9), Model(f"org/m-{IMAGE}", parameters=32e9)]
    lengths = {"prompt_tokens": 300, "generation_tokens": 60, "max_samples": 12}
    stages = [
        Stage(name, models=models, thinking=("off", "low", 8192), **lengths)
        for name in ("plan", "answer")
    ]
    task = Task(name="efforts", stages=stages, budget=800, metric="F1", metric_range=(0, 1))
    rng = random.Random(0)

    def objective(trial):
        allocation = task.suggest(trial)
        thinks = "no thinking" not in allocation["answer"].model
        outcomes = [float(rng.random() < 0.3 + 0.4 * thinks) for _ in range(30)]
        for step, outcome in enumerate(outcomes):
            trial.report(outcome, step)
        ended = {name: [8 * ("8192" in m), 30] for name, (m, _) in allocation.items()}
        write_trial_facts(trial, {ENDED: ended})
        return sum(outcomes) / 30

    study = _study(storage, "efforts", AgentTTSSampler(task, seed=0))
    return _optimize(study, objective, trials)


def hostile_task():
    """Return a task whose names are markup, quotes, emoji, and long."""
    models = [
        Model(f"{IMAGE} | `a` \"b\" 'c' 🦙", parameters=1e9),
        Model(f"{SCRIPT}\n# new\n| line | {LONG}", parameters=7e9),
        Model(LINK, parameters=7e10),
    ]
    names = (f"find {IMAGE} <b>|", f"say `x` \"y\" 🚀 {SCRIPT} & <a href='javascript:alert(1)'>z")
    stages = [
        Stage(name, models=models, prompt_tokens=500, generation_tokens=100, max_samples=50)
        for name in names
    ]
    return Task(
        name=f"task {IMAGE}",
        description=f"{SCRIPT} {LINK} </details></table> {LONG}",
        stages=stages,
        budget=900,
        metric=f"<i>match</i> {IMAGE} | `m` 🎯",
        metric_range=(0, 1),
    )


def hostile(storage, trials=16):
    """Search a task of hostile names; some trials fail, some are pruned."""
    task = hostile_task()
    study = _study(storage, f'hostile {IMAGE} | `s` "q" 💥', AgentTTSSampler(task, seed=0))

    def objective(trial):
        allocation = task.suggest(trial)
        if trial.number == 5:
            raise ValueError(f"failed {IMAGE}")
        return sum(s.samples * len(s.model) for s in allocation.values()) % 97 / 100

    return _optimize(study, objective, trials)


def thousand(storage, trials=1000):
    """Return a study of 1,000 finished trials."""
    task = wiki_task(metric="exact match")
    rng = random.Random(0)
    added = []
    for _ in range(trials):
        allocation = task.project(
            {
                stage.name: (rng.choice(stage.models).name, rng.randint(1, stage.max_samples))
                for stage in task.stages
            }
        )
        score = rate(allocation)
        added.append(_trial(task, allocation, value=min(1.0, score + rng.gauss(0, 0.02))))
    study = _study(storage, "thousand", RandomSampler(seed=0))
    task.register(study)
    study.add_trials(added)
    explain(study)
    return study


def one_trial(storage):
    """Return a study of one complete trial."""
    return own_objective(storage, trials=1, name="one trial")


def nothing(storage):
    """Return a study whose task is known, without a trial."""
    study = _study(storage, "no trials", RandomSampler())
    wiki_task().register(study)
    explain(study)
    return study


def failures(storage):
    """Return a study of failed trials only."""
    task = wiki_task(metric="exact match")

    def objective(trial):
        task.suggest(trial)
        raise ValueError("the server is down")

    return _optimize(_study(storage, "failures", TPESampler(seed=0)), objective, 5)


def constrained(storage):
    """Return a study whose better trials violate a constraint."""
    task = wiki_task(metric="exact match")

    def latency(trial):
        return (trial.user_attrs.get("latency", 0.0) - 10.0,)

    sampler = TPESampler(seed=0, constraints_func=latency)
    study = _study(storage, "constrained", sampler)

    def objective(trial):
        allocation = task.suggest(trial)
        trial.set_user_attr("latency", float(sum(s.samples for s in allocation.values())))
        return rate(allocation)

    return _optimize(study, objective, 20)


def without_task(storage):
    """Return a study of another program, which the callback leaves as it is."""
    study = _study(storage, "without a task", TPESampler(seed=0))
    study.optimize(
        lambda t: math.sin(t.suggest_float("x", 0, 6)), n_trials=10, callbacks=[Explain()]
    )
    return study


def _trial(task, allocation, **options):
    distributions = {}
    for stage in task.stages:
        names = [model.name for model in stage.models]
        distributions[stage.model_parameter] = CategoricalDistribution(names)
        distributions[stage.samples_parameter] = IntDistribution(1, stage.max_samples)
    return create_trial(params=task.params(allocation), distributions=distributions, **options)


STUDIES = {
    build.__name__: build
    for build in (
        quickstart,
        llm_agent,
        pruned,
        confirmed,
        own_objective,
        minimization,
        two_objectives,
        four_stages,
        efforts_of_models,
        hostile,
        thousand,
        one_trial,
        nothing,
        failures,
        constrained,
        without_task,
    )
}


def best(study):
    """Return the number of a trial to look at: the best, or the first."""
    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not complete:
        return 0
    sign = 1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else -1
    return max(complete, key=lambda trial: sign * trial.values[0]).number
