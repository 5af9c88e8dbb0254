"""Searches by Ray Tune's `OptunaSearch`."""

import os
import sys

import pytest
from hosts_support import HIGH, LOW, MODELS, NAMES, STAGES, compare, make_sampler, score, suggest

ray = pytest.importorskip("ray")
tune = pytest.importorskip("ray.tune")
OptunaSearch = pytest.importorskip("ray.tune.search.optuna").OptunaSearch

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]
N_TRIALS = 12
FLAT = {
    key: value
    for stage in STAGES
    for key, value in (
        (f"{stage}.model", tune.choice(MODELS)),
        (f"{stage}.samples", tune.randint(LOW, HIGH + 1)),
    )
}
NESTED = {
    stage: {"model": tune.choice(MODELS), "samples": tune.randint(LOW, HIGH + 1)}
    for stage in STAGES
}
NESTED_NAMES = "{stage}/{part}"
"""Names that Ray gives to the parameters of a nested space."""


def define_by_run(trial):
    """Suggest the pipeline's parameters."""
    suggest(trial)


@pytest.fixture(scope="module")
def cluster():
    """Start Ray with two workers, which find the helpers where this process does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        ray.shutdown()


@pytest.mark.parametrize(
    ("space", "names"),
    [(FLAT, NAMES), (define_by_run, NAMES), (NESTED, NESTED_NAMES)],
    ids=["dictionary", "define-by-run", "nested dictionary"],
)
def test_tuner(space, names, cluster, tmp_path):
    """The three searches compare as stated with two trials at a time."""
    by_run = callable(space)

    def trainable(config):
        tune.report({"score": score(flatten(config), names)})

    def search(name, n_trials):
        sampler = make_sampler(name, names)
        options = {"space": space, "metric": "score", "mode": "max"} if by_run else {}
        tuner = tune.Tuner(
            trainable,
            param_space={} if by_run else space,
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(sampler=sampler, **options),
                num_samples=n_trials,
                max_concurrent_trials=2,
                reuse_actors=True,
                **({} if by_run else {"metric": "score", "mode": "max"}),
            ),
            run_config=tune.RunConfig(name=name, storage_path=str(tmp_path), verbose=0),
        )
        results = tuner.fit()
        assert not results.errors
        return [flatten(result.config) for result in results]

    compare(search, names=names, n_trials=N_TRIALS)


def flatten(config):
    """Return a nested configuration as Ray names it."""
    return {
        f"{key}/{part}" if part else key: value
        for key, inner in config.items()
        for part, value in (inner.items() if isinstance(inner, dict) else [("", inner)])
    }


def test_save_and_restore(tmp_path):
    """The three searches compare as stated when the searcher is restored half-way."""

    def run(searcher, numbers):
        trials = []
        for number in numbers:
            trials.append(searcher.suggest(str(number)))
            searcher.on_trial_complete(str(number), {"score": score(trials[-1])})
        return trials

    def search(name, n_trials):
        options = {"space": define_by_run, "metric": "score", "mode": "max"}
        first = OptunaSearch(sampler=make_sampler(name), **options)
        trials = run(first, range(n_trials // 2))
        first.save(str(tmp_path / name))
        second = OptunaSearch(sampler=make_sampler(name), **options)
        second.restore(str(tmp_path / name))
        return trials + run(second, range(n_trials // 2, n_trials))

    compare(search)
