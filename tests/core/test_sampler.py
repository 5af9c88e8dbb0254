"""The sampler: Optuna's protocol, and the search it makes."""

import copy
import multiprocessing
import pickle
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import optuna
import pytest
from core_support import (
    LARGE,
    SMALL,
    allocation_of,
    mixed,
    objective,
    open_storage,
    params_in_this_process,
    params_of,
    run,
    score,
    wiki_task,
    work,
)
from optuna.distributions import FloatDistribution
from optuna.pruners import HyperbandPruner, WilcoxonPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task, TaskError
from optuna_agenttts.storage import register

TASK = wiki_task()
STATES = [TrialState.COMPLETE]


def all_fit(study, task=TASK):
    return all(task.fits(allocation_of(trial)) for trial in study.trials)


def repeats(study):
    """How many trials tried what another one had."""
    counts = Counter(tuple(sorted(params.items())) for params in params_of(study))
    return sum(count - 1 for count in counts.values())


def origins(study):
    return [trial.user_attrs.get("agenttts:origin") for trial in study.trials]


def by_hand(trial):
    """Suggest the stages' parameters without a task, one of them on a log scale."""
    allocation = {
        "retrieval": (
            trial.suggest_categorical("retrieval.model", ["qwen-7B", "qwen-72B"]),
            trial.suggest_int("retrieval.samples", 1, 64, log=True),
        ),
        "answer": (
            trial.suggest_categorical("answer.model", [SMALL, LARGE]),
            trial.suggest_int("answer.samples", 1, 40),
        ),
    }
    return score(allocation)


# The search.


def test_no_trial_is_over_the_budget():
    """Every trial completes and fits."""
    study = run(AgentTTSSampler(TASK), n_trials=40)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert all_fit(study)


def test_no_allocation_is_tried_twice():
    """Forty trials try forty allocations."""
    assert repeats(run(AgentTTSSampler(TASK), n_trials=40)) == 0


def test_no_trial_is_over_the_budget_of_suggestions_by_hand():
    """Without `Task.suggest`, the sampler's task keeps trials within the budget all the same."""
    study = run(AgentTTSSampler(TASK), n_trials=30, target=by_hand)
    assert all_fit(study)


def test_everything_is_tried_before_anything_is_repeated():
    """A space of a few allocations is walked through, and then measured again."""
    task = wiki_task(max_samples=2)
    count = task.count_allocations()
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    study.optimize(lambda trial: score(task.suggest(trial)), n_trials=count + 3)
    tried = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(set(tried[:count])) == len(set(tried)) == count


def test_opening_shows_every_model_of_every_stage():
    """The first trials are the opening, and after it no model is unseen."""
    study = run(AgentTTSSampler(TASK), n_trials=10)
    length = origins(study).index("numerical")
    opening = study.trials[:length]
    seen = {(name, v) for trial in opening for name, v in trial.params.items() if "model" in name}
    assert set(origins(study)[:length]) == {"opening"}
    assert seen == {
        (stage.model_parameter, model.name) for stage in TASK.stages for model in stage.models
    }


def test_opening_of_three_stages_shows_every_model():
    """Three models in each of three stages are all seen within the opening."""
    models = [Model(f"m{size}", parameters=size * 1e9) for size in (3, 8, 70)]
    task = Task(
        name="three",
        stages=[
            Stage(name, models=models, prompt_tokens=256, generation_tokens=64, max_samples=20)
            for name in ("a", "b", "c")
        ],
    )
    study = optuna.create_study(sampler=AgentTTSSampler(task), direction="maximize")
    study.optimize(lambda trial: len(task.suggest(trial)), n_trials=12)
    opening = [t for t in study.trials if t.user_attrs["agenttts:origin"] == "opening"]
    seen = {(name, v) for t in opening for name, v in t.params.items() if "model" in name}
    assert len(seen) == 9


def test_opening_does_not_show_models_that_cannot_fit():
    """With a tight budget, the large retriever is never tried."""
    task = wiki_task(budget=300)
    study = run(AgentTTSSampler(task), target=lambda trial: score(task.suggest(trial)))
    assert {trial.params["retrieval.model"] for trial in study.trials} == {"qwen-7B"}


def test_every_trial_says_where_it_came_from_and_why():
    """Origin and reason are user attributes, for people."""
    study = run(AgentTTSSampler(TASK), n_trials=8)
    assert set(origins(study)) == {"opening", "numerical"}
    assert all(trial.user_attrs["agenttts:reason"] for trial in study.trials)


def test_search_comes_close_to_the_best_allocation():
    """After 25 trials of a landscape without noise, the best is nearly found."""
    best = max(map(score, TASK.allocations()))
    assert run(AgentTTSSampler(TASK), n_trials=25).best_value >= 0.98 * best


def test_search_beats_random_search():
    """Fifteen planned trials find more than fifteen random ones do on average."""
    random = [run(RandomSampler(seed=seed), n_trials=15).best_value for seed in range(5)]
    assert run(AgentTTSSampler(TASK), n_trials=15).best_value > sum(random) / 5


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_minimising_finds_what_maximising_the_negative_does(scale):
    """The direction of a study turns nothing but the sign."""

    def loss(trial):
        return -scale * score(TASK.suggest(trial))

    down = optuna.create_study(direction="minimize", sampler=AgentTTSSampler(TASK))
    down.optimize(loss, n_trials=15)
    up = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    up.optimize(lambda trial: -loss(trial), n_trials=15)
    if scale == 1.0:
        # An error rate and a success rate are read on the same scale, up to a shift.
        assert params_of(down)[:2] == params_of(up)[:2]
        assert -down.best_value == pytest.approx(up.best_value, rel=0.03)
    else:
        assert params_of(down) == params_of(up)


def test_minimising_an_error_rate_finds_what_maximising_the_rate_does():
    """One less the score, minimised, is the same search."""
    down = optuna.create_study(direction="minimize", sampler=AgentTTSSampler(TASK))
    down.optimize(lambda trial: 1 - score(TASK.suggest(trial)), n_trials=15)
    assert params_of(down) == params_of(run(AgentTTSSampler(TASK), n_trials=15))


@pytest.mark.parametrize("insights", [(), (1,), (2, 3), (3, 2, 1)])
def test_insights_can_be_narrowed(insights):
    """Every subset of the insights searches within the budget."""
    assert all_fit(run(AgentTTSSampler(TASK, prior_insights=insights), n_trials=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "wiki"}, "`task` must be .*got 'wiki'"),
        ({"insights": (1, 4)}, r"`insights` must be .*got \(1, 4\)"),
        ({"prior_insights": (0,)}, r"`prior_insights` must be .*got \(0,\)"),
    ],
)
def test_senseless_arguments_are_named(options, message):
    """The error names the argument and its value."""
    with pytest.raises(TaskError, match=message):
        AgentTTSSampler(**options)


# Reproducibility and resumption.


def test_same_seed_same_trials():
    """Two searches with one seed are the same search, other parameters included."""
    first, second = (
        params_of(run(AgentTTSSampler(TASK, seed=3), n_trials=20, target=mixed)) for _ in range(2)
    )
    assert first == second


def test_other_seed_other_temperatures():
    """The seed reaches what lies outside the task."""
    first, second = (
        [t.params["temperature"] for t in run(AgentTTSSampler(seed=seed), 5, None, mixed).trials]
        for seed in (1, 2)
    )
    assert first != second


def test_same_seed_same_trials_in_another_process():
    """Nothing depends on the process, such as on the order of hashes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        elsewhere = pool.submit(params_in_this_process, 3).result(timeout=300)
    assert elsewhere == params_in_this_process(3)


def test_reseeding_changes_other_parameters_alone():
    """Allocations are a function of the trials; the rest is drawn anew."""
    sampler = AgentTTSSampler(TASK, seed=3)
    sampler.reseed_rng()
    again = params_of(run(sampler, n_trials=1, target=mixed))[0]
    before = params_of(run(AgentTTSSampler(TASK, seed=3), n_trials=1, target=mixed))[0]
    assert again.pop("temperature") != before.pop("temperature")
    assert again == before


@pytest.mark.parametrize("task", [TASK, None], ids=["told", "registered"])
def test_resumed_search_continues_as_if_uninterrupted(tmp_path, task):
    """A new sampler on a stored study goes on where the old one stopped."""
    whole = params_of(run(AgentTTSSampler(task), n_trials=14))
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    run(AgentTTSSampler(task), n_trials=6, storage=storage)
    study = optuna.load_study(study_name="s", storage=storage, sampler=AgentTTSSampler(task))
    study.optimize(objective, n_trials=8)
    assert params_of(study) == whole


def test_search_by_ask_and_tell_is_the_same_search():
    """`ask` and `tell` see what `optimize` does."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    for _ in range(10):
        trial = study.ask()
        study.tell(trial, score(TASK.suggest(trial)))
    assert params_of(study) == params_of(run(AgentTTSSampler(TASK), n_trials=10))


@pytest.mark.parametrize(
    "copied", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_copied_sampler_continues_alike(copied):
    """A sampler that is copied in the middle of a study proposes what the original would."""
    study = run(AgentTTSSampler(TASK, seed=0), n_trials=7, target=mixed)
    study.sampler = copied(study.sampler)
    study.optimize(mixed, n_trials=7)
    whole = run(AgentTTSSampler(TASK, seed=0), n_trials=14, target=mixed)
    assert params_of(study) == params_of(whole)


@pytest.mark.parametrize(
    "copied", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_study_with_the_sampler_can_be_copied(copied):
    """Ray, scikit-learn and MLflow copy whole studies."""
    study = copied(run(AgentTTSSampler(TASK), n_trials=5))
    study.optimize(objective, n_trials=5)
    assert (len(study.trials), repeats(study)) == (10, 0)


def test_one_sampler_serves_several_studies():
    """Studies that share a sampler do not see each other's trials."""
    sampler = AgentTTSSampler(TASK)
    first, second = run(sampler, n_trials=6), run(sampler, n_trials=6)
    assert params_of(first) == params_of(second)


def test_one_sampler_serves_several_studies_in_one_storage(tmp_path):
    """Interleaved studies in one storage are two searches.

    `TPESampler` itself refuses a second study, hence another independent sampler.
    """
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    sampler = AgentTTSSampler(independent_sampler=RandomSampler())
    studies = [
        optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, direction="maximize"
        )
        for name in "ab"
    ]
    for _ in range(5):
        for study in studies:
            study.optimize(objective, n_trials=1)
    assert params_of(studies[0]) == params_of(studies[1]) == params_of(run(sampler, n_trials=5))


# Many workers.


def test_threads_share_a_sampler_without_repeats():
    """Four threads try forty different allocations, all within the budget."""
    study = run(AgentTTSSampler(TASK), n_trials=40, n_jobs=4)
    assert len(study.trials) == 40
    assert all_fit(study)
    assert repeats(study) == 0


def test_trials_that_run_side_by_side_differ():
    """Trials that are all running before any is told try different allocations."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    trials = [study.ask() for _ in range(8)]
    for trial in trials:
        TASK.suggest(trial)
    assert repeats(study) == 0


def test_trials_may_choose_in_another_order_than_they_were_asked():
    """Allocations stay different if the last trial asked is the first to suggest."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    trials = [study.ask() for _ in range(6)]
    for trial in reversed(trials):
        TASK.suggest(trial)
    assert repeats(study) == 0


def test_samplers_in_separate_workers_pass_over_each_others_proposals():
    """Two samplers on one study that choose at the same moment choose differently."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    twin = copy.copy(study)
    twin.sampler = AgentTTSSampler(TASK)
    first, second = study.ask(), twin.ask()
    TASK.suggest(second)
    TASK.suggest(first)
    assert repeats(study) == 0


def test_trials_that_choose_at_the_same_moment_choose_differently():
    """Workers that both see nothing announced do not propose the same."""
    chosen = []
    for position in (0, 1):
        study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
        trials = [study.ask() for _ in range(2)]
        chosen.append(TASK.suggest(trials[position]))
    assert chosen[0] != chosen[1]


def test_running_trials_count_as_if_they_scored_what_is_expected():
    """A running trial, which has no score, keeps the next one away."""
    study = run(AgentTTSSampler(TASK), n_trials=6)
    waiting = [TASK.suggest(study.ask()) for _ in range(3)]
    assert len({tuple(a.items()) for a in waiting}) == 3


def test_killed_worker_does_not_stop_the_search():
    """A trial that never finishes does not block the others."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    study.ask()
    study.optimize(objective, n_trials=45)
    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len({tuple(trial.params.items()) for trial in finished}) == 45


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_processes_share_a_study(tmp_path, kind):
    """Four processes on one file: all trials fit, and at most a few repeat."""
    path = tmp_path / "study"
    storage = open_storage(kind, path)
    optuna.create_study(study_name="s", storage=storage, direction="maximize")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        for future in [pool.submit(work, kind, path, 6) for _ in range(4)]:
            future.result(timeout=120)
    study = optuna.load_study(study_name="s", storage=storage)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 24
    assert all_fit(study)
    assert repeats(study) <= 2
    if kind == "sqlite":
        storage.engine.dispose()


# Trials that end otherwise than complete, and queued ones.


def test_enqueued_trial_runs_as_it_is():
    """An enqueued allocation runs unchanged, and is not tried again."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    wanted = TASK.params({"retrieval": ("qwen-7B", 5), "answer": (LARGE, 3)})
    study.enqueue_trial(wanted)
    study.optimize(objective, n_trials=15)
    assert study.trials[0].params == wanted
    assert repeats(study) == 0


@pytest.mark.parametrize(
    "fixed",
    [
        {"answer.samples": 37},
        {"retrieval.samples": 2},
        {"retrieval.model": "qwen-72B"},
        {"answer.model": LARGE, "answer.samples": 30},
        {"retrieval.model": "qwen-72B", "answer.samples": 20},
    ],
)
@pytest.mark.parametrize("n_before", [0, 5])
def test_partly_enqueued_trial_fits_around_what_is_fixed(fixed, n_before):
    """The fixed value is respected and the rest is chosen such that all fits."""
    study = run(AgentTTSSampler(TASK), n_trials=n_before)
    study.enqueue_trial(fixed)
    study.optimize(objective, n_trials=1)
    trial = study.trials[-1]
    assert trial.state == TrialState.COMPLETE
    assert fixed.items() <= trial.params.items()
    assert TASK.fits(allocation_of(trial))


def test_waiting_trials_are_not_proposed_again():
    """What the user queued for later is not proposed meanwhile."""
    plan = params_of(run(AgentTTSSampler(TASK), n_trials=3))
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    trial = study.ask()
    for params in plan:
        study.enqueue_trial(params)
    assert TASK.params(TASK.suggest(trial)) not in plan


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_enqueued_over_the_budget_is_pruned_and_the_search_goes_on():
    """A queued trial that does not fit costs nothing."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    study.enqueue_trial(TASK.params({"retrieval": ("qwen-72B", 9), "answer": (LARGE, 9)}))
    study.optimize(objective, n_trials=8)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.PRUNED] + [TrialState.COMPLETE] * 7


@pytest.mark.parametrize("outcome", ["exception", "nan", "pruned"])
def test_only_failed_trials_are_repeated(outcome):
    """A failed allocation may be tried again, twice at most; nothing else is repeated."""

    def fragile(trial):
        value = score(TASK.suggest(trial))
        if trial.number % 3 != 1:
            return value
        if outcome == "exception":
            raise RuntimeError
        if outcome == "pruned":
            raise optuna.TrialPruned
        return float("nan")

    study = run(AgentTTSSampler(TASK), n_trials=21, target=fragile, catch=(RuntimeError,))
    finished = [t.params for t in study.trials if t.state != TrialState.FAIL]
    failed = [t.params for t in study.trials if t.state == TrialState.FAIL]
    assert all(finished.count(params) == 1 for params in finished)
    # The first try, and two more.
    assert all(failed.count(params) <= 3 for params in failed)
    assert sum(trial.state == TrialState.COMPLETE for trial in study.trials) == 14


def test_search_goes_on_if_every_trial_fails():
    """Without any score, the search still tries something new each time."""
    study = run(AgentTTSSampler(TASK), n_trials=10, target=lambda t: TASK.suggest(t) and None)
    assert {trial.state for trial in study.trials} == {TrialState.FAIL}
    assert repeats(study) == 0


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e300, -1e300, 0.0])
def test_extreme_values_do_not_stop_the_search(value):
    """Infinite, huge or constant scores raise nothing."""

    def extreme(trial):
        TASK.suggest(trial)
        return value

    study = run(AgentTTSSampler(TASK), n_trials=8, target=extreme)
    assert all_fit(study)
    assert repeats(study) == 0


def reporting(trial):
    """Report ten outcomes, stopping early if the pruner decides so."""
    rate = score(TASK.suggest(trial))
    outcomes = [float((7 * step + trial.number) % 10 < 10 * rate) for step in range(10)]
    for step, outcome in enumerate(outcomes):
        trial.report(outcome, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return sum(outcomes) / len(outcomes)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "pruner",
    [
        pytest.param(
            WilcoxonPruner(p_threshold=0.3, n_startup_steps=2),
            id="wilcoxon",
            marks=pytest.mark.slow,
        ),
        pytest.param(HyperbandPruner(min_resource=1, max_resource=9), id="hyperband"),
    ],
)
@pytest.mark.parametrize("task", [TASK, None], ids=["told", "registered"])
def test_pruners_work(pruner, task):
    """With outcomes reported and trials pruned, everything fits and nothing repeats."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task), pruner=pruner)
    study.optimize(reporting, n_trials=25)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    assert all_fit(study)
    assert repeats(study) == 0


def test_trials_that_were_added_are_evidence():
    """Trials of another sampler are learned from, and not tried again."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))
    study.add_trials(run(RandomSampler(seed=0), n_trials=15).get_trials(states=STATES))
    study.optimize(objective, n_trials=10)
    assert repeats(study) == 0
    assert set(origins(study)[-10:]) == {"numerical"}


# Studies that are not as simple as a task.


def test_stage_that_is_skipped_in_some_trials():
    """A pipeline that leaves a stage out now and then is searched on."""

    def conditional(trial):
        if trial.suggest_categorical("decompose", [True, False]):
            return score(TASK.suggest(trial))
        model = trial.suggest_categorical("answer.model", [SMALL, LARGE])
        samples = trial.suggest_int("answer.samples", 1, 100)
        return score({"retrieval": ("qwen-7B", 1), "answer": (model, samples)})

    study = run(AgentTTSSampler(TASK, seed=0), n_trials=25, target=conditional)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert {len(trial.params) for trial in study.trials} == {3, 5}
    full = [trial for trial in study.trials if trial.params["decompose"]]
    assert all(TASK.fits(allocation_of(trial)) for trial in full)


def test_stage_that_is_always_skipped_does_not_freeze_the_others():
    """What is suggested still varies if the pipeline never asks for one of the stages."""

    def partial(trial):
        model = trial.suggest_categorical("answer.model", [SMALL, LARGE])
        samples = trial.suggest_int("answer.samples", 1, 9)
        return score({"retrieval": ("qwen-7B", 1), "answer": (model, samples)})

    study = run(AgentTTSSampler(TASK), n_trials=12, target=partial)
    assert len({tuple(params.items()) for params in params_of(study)}) > 1


@pytest.mark.parametrize("task", [TASK, None], ids=["told", "recognised"])
def test_ranges_may_change_between_trials(task):
    """Every value lies in the range that its trial asked for."""

    def shifting(trial):
        low = 1 + trial.number % 4
        allocation = {
            "retrieval": (
                trial.suggest_categorical("retrieval.model", ["qwen-7B", "qwen-72B"]),
                trial.suggest_int("retrieval.samples", low, low + 3),
            ),
            "answer": (
                trial.suggest_categorical("answer.model", [SMALL, LARGE]),
                trial.suggest_int("answer.samples", 2, 2 + 2 * low, step=2),
            ),
        }
        assert low <= allocation["retrieval"][1] <= low + 3
        assert allocation["answer"][1] in range(2, 3 + 2 * low, 2)
        return score(allocation)

    study = run(AgentTTSSampler(task), n_trials=16, target=shifting)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize("task", [TASK, None], ids=["told", "registered"])
def test_parameters_outside_the_task_are_sampled_too(task):
    """A temperature outside the task varies within its range."""
    study = run(AgentTTSSampler(task, seed=0), n_trials=20, target=mixed)
    temperatures = [params["temperature"] for params in params_of(study)]
    assert len(set(temperatures)) == 20
    assert 0 <= min(temperatures) <= max(temperatures) <= 1
    assert all_fit(study)


def test_search_space_is_sampled_jointly_from_the_first_trial():
    """The independent sampler receives the given distributions."""
    asked = []

    class Asked(RandomSampler):
        def sample_relative(self, study, trial, search_space):
            asked.append(set(search_space))
            return {"temperature": 0.25}

    sampler = AgentTTSSampler(
        TASK,
        search_space={"temperature": FloatDistribution(0.0, 1.0)},
        independent_sampler=Asked(),
    )
    study = run(sampler, n_trials=2, target=mixed)
    assert asked == [{"temperature"}] * 2
    assert [params["temperature"] for params in params_of(study)] == [0.25] * 2


def test_independent_sampler_never_chooses_what_belongs_to_the_task():
    """The stages' parameters never reach the independent sampler."""
    asked = set()

    class Asked(RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):
            asked.add(param_name)
            return super().sample_independent(study, trial, param_name, param_distribution)

    run(AgentTTSSampler(TASK, independent_sampler=Asked()), n_trials=12, target=mixed)
    assert asked == {"temperature"}


def test_several_objectives_are_left_to_the_independent_sampler():
    """A study of a score and something else to maximize is searched as TPE alone would."""

    def two(trial):
        allocation = TASK.suggest(trial)
        return score(allocation), TASK.cost(allocation)

    searches = []
    for sampler in (AgentTTSSampler(TASK, seed=0), TPESampler(seed=0)):
        study = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
        study.optimize(two, n_trials=15)
        searches.append(params_of(study))
    assert searches[0] == searches[1]


@pytest.mark.parametrize("given", [True, False], ids=["given", "registered"])
def test_several_objectives_are_warned_about_once(given, caplog):
    """Before the first trial (or its first stage), one warning names the study."""
    sampler = AgentTTSSampler(TASK if given else None, seed=0)
    for name in ("first", "second"):
        study = optuna.create_study(
            directions=["maximize", "maximize"], sampler=sampler, study_name=name
        )
        caplog.clear()

        def two(trial):
            if given:
                assert len(caplog.records) == 1
            allocation = TASK.suggest(trial)
            assert len(caplog.records) == 1
            return score(allocation), TASK.cost(allocation)

        study.optimize(two, n_trials=4)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert f"Study '{name}': the second of its 2 objectives" in record.getMessage()
        assert "independent sampler" in record.getMessage()


def test_several_objectives_without_a_task_are_no_reason_to_warn(caplog):
    """A study without stages is left to TPE in any case."""
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=AgentTTSSampler(seed=0)
    )
    study.optimize(lambda t: (t.suggest_float("x", 0, 1), t.suggest_float("y", 0, 1)), n_trials=3)
    assert not caplog.records


@pytest.mark.parametrize("told", [True, False], ids=["told", "registered"])
def test_budget_may_be_raised_in_the_middle_of_a_study(told):
    """After the budget is raised, earlier trials count and dearer ones are tried."""
    poor, rich = wiki_task(budget=300), wiki_task(budget=2000)
    study = optuna.create_study(
        direction="maximize", sampler=AgentTTSSampler(poor if told else None)
    )
    study.optimize(lambda trial: score(poor.suggest(trial)), n_trials=8)
    assert all_fit(study, poor)
    if told:
        study.sampler = AgentTTSSampler(rich)
    study.optimize(lambda trial: score(rich.suggest(trial)), n_trials=12)
    assert any(trial.params["retrieval.model"] == "qwen-72B" for trial in study.trials)
    assert all_fit(study, rich)
    assert repeats(study) == 0


# Without a task.


def test_registered_task_is_used():
    """A sampler without a task plans the one that `Task.suggest` registers."""
    assert params_of(run(AgentTTSSampler(), n_trials=12)) == params_of(
        run(AgentTTSSampler(TASK), n_trials=12)
    )


def test_stages_are_recognised_after_the_first_trial():
    """Parameters named after stages are planned from the second trial on."""
    study = run(AgentTTSSampler(seed=0), n_trials=10, target=by_hand)
    found = origins(study)
    assert found[0] is None
    assert set(found[1:]) == {"opening", "numerical"}


def test_all_recognised_stages_are_planned():
    """After the first trial, no stage's parameter is left to the independent sampler."""
    asked = []

    class Asked(RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):
            asked.append((trial.number, param_name))
            return super().sample_independent(study, trial, param_name, param_distribution)

    run(AgentTTSSampler(independent_sampler=Asked(seed=0)), n_trials=4, target=by_hand)
    assert {number for number, _ in asked} == {0}


def test_recognised_stages_stay_in_their_ranges_and_all_models_are_seen():
    """Ranges by hand, log scales included, are met; every model is tried."""
    study = run(AgentTTSSampler(seed=0), n_trials=10, target=by_hand)
    for params in params_of(study):
        assert 1 <= params["retrieval.samples"] <= 64
        assert 1 <= params["answer.samples"] <= 40
    assert {params["retrieval.model"] for params in params_of(study)} == {"qwen-7B", "qwen-72B"}
    assert {params["answer.model"] for params in params_of(study)} == {SMALL, LARGE}


def test_recognised_stages_do_not_repeat():
    """Planned trials by hand are all different."""
    assert repeats(run(AgentTTSSampler(seed=0), n_trials=30, target=by_hand)) == 0


def plain(trial):
    """Evaluate an objective without stages."""
    x = trial.suggest_float("x", -5, 5)
    n = trial.suggest_int("n", 1, 100, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b", None])
    return (x - 1) ** 2 + n / 100 + (kind == "a")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("task", [None, TASK], ids=["untold", "told"])
def test_study_without_stages_is_searched_as_tpe_does(seed, task):
    """Without stages, the sampler is TPE with the same seed."""
    assert params_of(run(AgentTTSSampler(task, seed=seed), 25, None, plain)) == params_of(
        run(TPESampler(seed=seed), 25, None, plain)
    )


@pytest.mark.parametrize(
    "suggest",
    [
        lambda t: (t.suggest_categorical("a.model", [1, 2]), t.suggest_int("a.samples", 1, 5)),
        lambda t: (t.suggest_categorical("a.model", ["x"]), t.suggest_float("a.samples", 1, 5)),
        lambda t: t.suggest_categorical("a.model", ["x", "y"]),
        lambda t: t.suggest_int("a.samples", 1, 5),
        lambda t: (t.suggest_categorical(".model", ["x"]), t.suggest_int(".samples", 1, 5)),
        lambda t: (t.suggest_categorical("a.b.model", ["x"]), t.suggest_int("a.b.samples", 1, 5)),
        lambda t: (t.suggest_categorical("a.model", ["x"]), t.suggest_int("a.samples", -5, 0)),
    ],
)
def test_names_that_only_resemble_a_stage_are_left_to_tpe(suggest):
    """What is no stage is no obstacle."""
    study = run(
        AgentTTSSampler(seed=0), n_trials=4, target=lambda t: float(suggest(t) is not None)
    )
    assert set(origins(study)) == {None}


def test_hooks_reach_the_independent_sampler():
    """The independent sampler is called before and after each trial."""
    calls = []

    class Hooked(RandomSampler):
        def before_trial(self, study, trial):
            calls.append("before")

        def after_trial(self, study, trial, state, values):
            calls.append(state)

    run(AgentTTSSampler(TASK, independent_sampler=Hooked()), n_trials=2)
    assert calls == ["before", TrialState.COMPLETE] * 2


def test_unreadable_registration_leaves_the_study_to_tpe(caplog):
    """A task that this version cannot read costs quality, never a trial."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(seed=0))
    register(study, '{"name": "from the future"}')
    study.optimize(plain, n_trials=5)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert "cannot be read" in caplog.text


def test_sampler_leaves_no_thread_behind():
    """Sampling starts no thread of its own."""
    before = threading.active_count()
    run(AgentTTSSampler(TASK), n_trials=3)
    assert threading.active_count() == before


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_reasons_speak_of_the_studys_own_values(direction):
    """The expected value in a reason has the sign of the study's values."""
    study = optuna.create_study(direction=direction, sampler=AgentTTSSampler(TASK))
    study.optimize(lambda trial: score(TASK.suggest(trial)), n_trials=8)
    reasons = [t.user_attrs["agenttts:reason"] for t in study.trials]
    expected = [r.split()[1] for r in reasons if r.startswith("expected ")]
    assert expected
    assert all(float(value) > 0 for value in expected)
