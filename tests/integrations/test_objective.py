"""`MultiStageObjective` in studies."""

import copy
import logging
import pickle

import optuna
import pytest
from optuna.trial import TrialState
from pipeline_support import (
    ScriptedModel,
    allocation,
    calls,
    make_objective,
    make_pipeline,
    make_task,
)

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.study.measured import with_lengths
from optuna_agenttts.study.spending import rounded, stated_spend
from optuna_agenttts_integrations import (
    CompletionStore,
    Endpoint,
    MultiStageObjective,
    PipelineError,
    TooManyFailuresError,
)

ATTRIBUTES = (
    "cost",
    "spend",
    "tokens",
    "naive_tokens",
    "reused",
    "failed",
    "malformed",
    "seconds",
)


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def run(objective, trials=6, **options):
    options.setdefault("sampler", AgentTTSSampler(objective.task))
    jobs = options.pop("n_jobs", 1)
    study = optuna.create_study(direction="maximize", **options)
    study.optimize(objective, n_trials=trials, n_jobs=jobs)
    return study


def test_value_is_the_mean_of_the_reported_outcomes():
    """A trial has one intermediate value per instance, and their mean is its value."""
    objective, _ = make_objective()
    with objective:
        for trial in run(objective).trials:
            assert len(trial.intermediate_values) == 20
            assert trial.value == pytest.approx(sum(trial.intermediate_values.values()) / 20)


def test_steps_are_the_same_instances_in_every_trial():
    """Step i is the same instance in all trials, as paired statistics need."""
    first, _ = make_objective()
    second, _ = make_objective(concurrency=1)
    with first, second:
        evaluations = [o.evaluate(allocation()) for o in (first, second)]
        assert list(first.instances) == list(second.instances)
        assert evaluations[0].outcomes == evaluations[1].outcomes


def test_a_repeated_allocation_makes_no_call():
    """Stored completions are not generated again."""
    objective, chats = make_objective()
    with objective:
        objective.evaluate(allocation(say=("small", 5)))
        before = calls(chats)
        again = objective.evaluate(allocation(say=("small", 5)))
    assert calls(chats) == before
    assert again.reused == 1
    assert again.spend == 0


def test_twenty_samples_after_five_cost_fifteen():
    """Samples are nested, so that only the difference is generated."""
    objective, chats = make_objective()
    with objective:
        objective.evaluate(allocation(find=("large", 1), say=("small", 5)))
        before = len(chats["small"].calls)
        objective.evaluate(allocation(find=("large", 1), say=("small", 20)))
    assert len(chats["small"].calls) - before == 15 * 20


def test_outcomes_do_not_depend_on_concurrency():
    """Outcomes depend on the seed only."""
    outcomes = []
    for concurrency in (1, 7, 64):
        objective, _ = make_objective(concurrency=concurrency)
        with objective:
            outcomes.append(objective.evaluate(allocation(say=("small", 3))).outcomes)
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_another_seed_draws_other_samples():
    """The seed reaches the samples."""
    outcomes = []
    for seed in (0, 1):
        objective, _ = make_objective(count=60, seed=seed)
        with objective:
            outcomes.append(objective.evaluate(allocation()).outcomes)
    assert outcomes[0] != outcomes[1]


def test_parallel_trials_generate_a_sample_once():
    """Concurrent trials share equal samples."""
    objective, chats = make_objective()
    with objective:
        study = optuna.create_study(direction="maximize")
        for _ in range(4):
            study.enqueue_trial(objective.task.params(allocation(say=("small", 7))))
        study.optimize(objective, n_trials=4, n_jobs=4)
    assert calls(chats) == 20 * (1 + 7)
    assert len({t.value for t in study.trials}) == 1


def test_user_attributes_are_set_on_the_trial():
    """Tokens, reuse and spend are numbers, which the dashboard can sort by."""
    objective, _ = make_objective()
    with objective:
        trial = run(objective, trials=1).trials[0]
    attributes = trial.user_attrs
    assert all(isinstance(attributes[name], (int, float)) for name in ATTRIBUTES)
    assert attributes["tokens"] == attributes["naive_tokens"]
    # The scripted model reports prompts of 10 tokens and replies of 3.
    lengths = trial.system_attrs["agenttts:lengths"]
    assert lengths == {"find": [10, 3], "say": [10, 3]}
    measured = with_lengths(objective.task, lengths)
    used = trial.params
    allocation = {
        stage: (used[f"{stage}.model"], used[f"{stage}.samples"]) for stage in ("find", "say")
    }
    exact = 20 * measured.cost(allocation)
    assert stated_spend(trial) == pytest.approx(exact)
    assert attributes["spend"] == rounded(stated_spend(trial)) == pytest.approx(exact, rel=5e-4)


def test_wilcoxon_prunes_what_is_hopeless():
    """With `WilcoxonPruner` a bad allocation stops after some instances."""
    # The small model is right in both stages in about half of the cases.
    objective, _ = make_objective(count=100)
    with objective:
        study = optuna.create_study(
            direction="maximize", pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1)
        )
        good = allocation(("large", 9), ("large", 9))
        bad = allocation(("small", 1), ("small", 1))
        for setting in (good, bad):
            study.enqueue_trial(objective.task.params(setting))
        study.optimize(objective, n_trials=2)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED]
    assert len(study.trials[1].intermediate_values) < 100
    assert study.trials[1].user_attrs["spend"] < 100 * study.trials[1].user_attrs["cost"]


def test_other_pruners_are_ignored():
    """Optuna's default pruner compares learning curves, so it is ignored."""
    objective, _ = make_objective()
    with objective:
        study = run(objective, trials=12, pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_a_few_failures_count_as_wrong(caplog):
    """A failed instance scores 0, is counted and logged."""
    objective, _ = make_objective(refuse=["q3."])
    with objective, caplog.at_level(logging.WARNING):
        evaluation = objective.evaluate(allocation(("large", 5), ("large", 5)))
    assert evaluation.failed == 1
    assert evaluation.outcomes["q3."] == 0
    assert "unknown instance" in caplog.text


def test_too_many_failures_fail_the_trial_and_keep_what_was_generated():
    """A trial that mostly failed has no value; its completions are kept."""
    objective, _ = make_objective(refuse=["q1"])
    with objective:
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial(objective.task.params(allocation()))
        study.optimize(objective, n_trials=1, catch=(TooManyFailuresError,))
        with pytest.raises(TooManyFailuresError, match="unknown instance"):
            objective.evaluate(allocation())
        assert study.trials[0].state == TrialState.FAIL
        assert study.trials[0].user_attrs["failed"] == 11
        assert len(objective.store) == 2 * 9


def test_malformed_replies_are_counted_and_left_out():
    """A malformed reply is neither a failure nor a vote."""
    chats = {name: ScriptedModel(name) for name in ("small", "large")}
    pipeline = make_pipeline()
    object.__setattr__(
        pipeline.stages[0], "parse", lambda text, state: text if text == "yes" else None
    )
    objective = MultiStageObjective(
        pipeline,
        [{"id": i} for i in range(50)],
        task=make_task(),
        endpoints={n: Endpoint(chat=c, identity=n) for n, c in chats.items()},
        progress=False,
    )
    with objective:
        evaluation = objective.evaluate(allocation(("small", 3), ("large", 1)))
    assert 0 < evaluation.malformed < 150
    assert evaluation.failed == 0


def test_held_out_instances_can_be_scored():
    """`evaluate` takes instances that are not in the search."""
    objective, _ = make_objective()
    with objective:
        evaluation = objective.evaluate(allocation(), [{"id": "other"}, {"id": "another"}])
    assert set(evaluation.outcomes) == {"other", "another"}


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_work(clone, tmp_path):
    """An objective can be copied and pickled after its first use."""
    objective, _ = make_objective(store=CompletionStore(tmp_path / "store.db"))
    with objective:
        before = objective.evaluate(allocation()).outcomes
        with clone(objective) as twin:
            assert twin.evaluate(allocation()).outcomes == before
            assert twin.evaluate(allocation()).reused == 1
            twin.store.close()


def test_threads_share_an_objective():
    """`n_jobs=4` works, and every trial is scored."""
    objective, _ = make_objective()
    with objective:
        study = run(objective, trials=12, n_jobs=4)
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "`instances` must not be empty"),
        ({"concurrency": 0}, "`concurrency` must be at least 1, got 0"),
        ({"max_failed": 2}, "`max_failed` must be between 0 and 1, got 2"),
        ({"chats": {"small": ScriptedModel("small")}}, "`endpoints` has no endpoint for large"),
        ({"instance_id": lambda instance: "same"}, "got 'same' twice"),
    ],
)
def test_invalid_arguments_are_rejected(options, message):
    """Errors have the argument and its value, and are raised at construction."""
    with pytest.raises(PipelineError, match=message):
        make_objective(**options)


def test_stages_must_match_the_task():
    """A pipeline with other stages is rejected."""
    pipeline = make_pipeline()
    object.__setattr__(pipeline, "stages", pipeline.stages[::-1])
    with pytest.raises(PipelineError, match="same order"):
        MultiStageObjective(pipeline, [1], task=make_task(), endpoints={})


def test_a_closed_objective_can_be_used_again():
    """Closing stops the event loop; the next use starts a new one."""
    objective, _ = make_objective(concurrency=3)
    outcomes = []
    for _ in range(3):
        outcomes.append(objective.evaluate(allocation(say=("small", 9))).outcomes)
        objective.close()
    assert outcomes[0] == outcomes[1] == outcomes[2]
