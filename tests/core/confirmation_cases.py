"""Studies to confirm, and functions that evaluate their allocations, which tests share."""

import zlib
from statistics import NormalDist

import numpy as np
import optuna
from study_cases import one_stage, study_with_outcomes

from optuna_agenttts import AgentTTSSampler, search

TASK = one_stage(metric_range=(0, 1))
SEARCH = [f"s{i}" for i in range(30)]
FRESH = [f"f{i}" for i in range(400)]


def rate(allocation):
    """Return the true rate of an allocation: more samples are better, and saturate."""
    model, samples = allocation["answer"]
    return (0.45 if model.startswith("small") else 0.7) * (1 - 0.5 / (1 + samples) ** 0.5)


def outcome(allocation, name):
    """Return an outcome that depends on nothing but allocation and name; names are shared luck."""

    def normal(*key):
        return np.random.default_rng(zlib.crc32(repr(key).encode())).normal()

    own = normal(name, sorted((s, tuple(a)) for s, a in allocation.items()))
    return float(0.7 * normal(name) + 0.714 * own < NormalDist().inv_cdf(rate(allocation)))


class Evaluate:
    """Function that evaluates allocations, and counts each evaluation of an instance."""

    def __init__(self, fail=lambda allocation, names: False):
        self.runs, self.fail = [], fail

    def __call__(self, allocation, names):
        """Return the outcomes in the order of the names."""
        if self.fail(allocation, names):
            raise RuntimeError("the server is down")
        key = tuple(sorted((s, tuple(a)) for s, a in allocation.items()))
        self.runs += [(key, name) for name in names]
        return [outcome(allocation, name) for name in names]


def searched(direction="maximize", count=8):
    """Return a study of trials that ran on the instances `SEARCH`; losses are 1 - outcome."""
    models = [model.name for model in TASK.stages[0].models]
    allocations = [{"answer": (models[0], 2**i)} for i in range(count - 2)]
    allocations += [{"answer": (models[1], i)} for i in (1, 2)]
    study = study_with_outcomes(
        TASK,
        [(a, [oriented(outcome(a, name), direction) for name in SEARCH]) for a in allocations],
        direction=direction,
    )
    TASK.register(study)
    return study


def oriented(value, direction):
    """Return an outcome, or the loss."""
    return value if direction == "maximize" else 1 - value


def search_in_process(path, evaluations, die_after=None):
    """Search and confirm in a study on SQLite; die without notice after some evaluations."""
    import os
    import signal

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    count = 0

    def evaluate(allocation, names):
        nonlocal count
        with open(f"{path}.runs", "a") as log:
            for name in names:
                count += 1
                if die_after is not None and count > die_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                print(allocation["answer"], name, file=log, flush=True)
        return {name: outcome(allocation, name) for name in names}

    study = optuna.create_study(
        storage=f"sqlite:///{path}",
        study_name="s",
        direction="maximize",
        load_if_exists=True,
        sampler=AgentTTSSampler(TASK, seed=0),
    )
    return search(study, evaluate, SEARCH + FRESH, evaluations=evaluations)
