"""Tasks, landscapes and workers that the tests of the core share."""

import math

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task

SMALL, LARGE = "small-3B", "large-70B"
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def wiki_task(budget=900, max_samples=100, **options):
    """Two stages, as in 2WikiMultiHopQA."""
    return Task(
        name="wiki",
        stages=[
            Stage(
                "retrieval",
                models=[Model("qwen-7B", parameters=7e9), Model("qwen-72B", parameters=72e9)],
                prompt_tokens=2048,
                generation_tokens=128,
                max_samples=max_samples,
            ),
            Stage(
                "answer",
                models=[Model(SMALL, parameters=3e9), Model(LARGE, parameters=70e9)],
                prompt_tokens=256,
                generation_tokens=64,
                max_samples=max_samples,
            ),
        ],
        budget=budget,
        **options,
    )


def score(allocation):
    """Return a noise-free rate: larger models are better, and samples saturate."""
    retrieval, answer = allocation["retrieval"], allocation["answer"]
    found = (0.85 if retrieval[0] == "qwen-72B" else 0.6) * (1 - 0.3 / retrieval[1])
    level = 0.8 if answer[0] == LARGE else 0.7
    return found * level * (1 - math.exp(-(1 + answer[1]) / 4))


def allocation_of(trial):
    """Return the allocation given by a trial's parameters."""
    return {
        name: (trial.params[f"{name}.model"], trial.params[f"{name}.samples"])
        for name in ("retrieval", "answer")
    }


def objective(trial):
    """Score of what `Task.suggest` hands out; takes no time."""
    return score(wiki_task().suggest(trial))


def run(sampler, n_trials=15, storage=None, target=objective, **options):
    """Optimize a new study and return it."""
    study = optuna.create_study(
        direction="maximize", sampler=sampler, storage=storage, study_name="s"
    )
    study.optimize(target, n_trials=n_trials, **options)
    if (scheduler := getattr(sampler, "_scheduler", None)) is not None:
        # A round that is still being planned would be written while the test reads them.
        scheduler.wait(study)
    return study


def params_of(study):
    """Return the parameters of every trial of a study."""
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def open_storage(kind, path):
    """Open a storage that several processes can share."""
    if kind == "sqlite":
        # SQLite locks the whole file; workers wait for each other.
        return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    file = str(path)
    return JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))


def params_in_this_process(seed):
    """Run a short search and return what it chose; for another process to call."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return params_of(run(AgentTTSSampler(wiki_task(), seed=seed), n_trials=8, target=mixed))


def mixed(trial):
    """Evaluate an objective with a parameter outside the task."""
    temperature = trial.suggest_float("temperature", 0.0, 1.0)
    return score(wiki_task().suggest(trial)) - (temperature - 0.4) ** 2


def work(kind, path, n_trials):
    """Run some trials of a shared study; for another process to call."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storage = open_storage(kind, path)
    study = optuna.load_study(
        study_name="s", storage=storage, sampler=AgentTTSSampler(wiki_task())
    )
    study.optimize(objective, n_trials=n_trials)
    if kind == "sqlite":
        storage.engine.dispose()
