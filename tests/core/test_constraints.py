"""Constraints of a study: what is proposed, and what is recommended."""

import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from core_support import LARGE, SMALL, allocation_of, params_of, run, score, wiki_task
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from optuna_agenttts import AgentTTSSampler, Claim, NoEvidenceError, StopWhenSettled, recommend
from optuna_agenttts.agent.advice import required_share
from optuna_agenttts.agent.facts import fit_facts
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.agent.verdicts import check_claims
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.feasibility import Feasibility, _log_normal_cdf
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.study.archive import Archive
from optuna_agenttts.study.constraints import constraints_of

TASK = wiki_task()
PLANNER = NumericalPlanner(TASK)
POOL = PLANNER.pool(Evidence.empty(TASK)).points
BIG = ("qwen-72B", LARGE)
DISTRIBUTIONS = {
    name: distribution
    for stage in TASK.stages
    for name, distribution in (
        (stage.model_parameter, CategoricalDistribution([m.name for m in stage.models])),
        (stage.samples_parameter, IntDistribution(1, stage.max_samples)),
    )
}
NEW = hasattr(optuna.trial.Trial, "set_constraint")


def set_constraints(trial, values, form="list"):
    """Write constraint values as `constraints_func` does, or as `Trial.set_constraint` does."""
    write = trial.study._storage.set_trial_system_attr
    if form == "list":
        write(trial._trial_id, "constraints", list(values.values()))
    elif NEW:
        for key, value in values.items():
            trial.set_constraint(key, value)
    else:
        for key, value in values.items():
            write(trial._trial_id, f"constraints:{key}", value)


def latency(allocation, limit=5.0):
    """Return by how much the sum of the stages' latencies is over a limit."""
    slow = sum(8.0 if s.model in BIG else 1.0 for s in allocation.values())
    return slow + 0.01 * sum(s.samples for s in allocation.values()) - limit


def memory(allocation):
    """Return a violation unless all models are small."""
    return 70.0 * any(s.model in BIG for s in allocation.values()) - 24


def total(allocation, limit=30):
    """Return by how much the number of samples is over a limit."""
    return float(sum(s.samples for s in allocation.values()) - limit)


def scaled(allocation):
    """Return a multiplicative constraint that spans several orders of magnitude."""
    return math.prod(s.samples for s in allocation.values()) - 60.0


def search(sampler, constraints, *, n_trials=20, direction="maximize", form="list", fail=()):
    """Run a study whose constraints are functions of the allocation.

    Args:
        sampler: The sampler.
        constraints: Function from the allocation to constraint values by key.
        n_trials: Number of trials.
        direction: Direction of the study.
        form: How values are written; see `set_constraints`.
        fail: Numbers of trials that fail after they have set their constraints.
    """
    sign = 1 if direction == "maximize" else -1

    def objective(trial):
        allocation = TASK.suggest(trial)
        set_constraints(trial, constraints(allocation), form)
        if trial.number in fail:
            raise RuntimeError("out of memory")
        return sign * score(allocation)

    study = optuna.create_study(direction=direction, sampler=sampler)
    study.optimize(objective, n_trials=n_trials, catch=(RuntimeError,))
    return study


def feasible(trial):
    """Return whether a trial meets its constraints."""
    return all(value <= 0 for value in constraints_of(trial).values())


def late_share(study):
    """Return the share of feasible trials in the second half of a study."""
    late = study.trials[len(study.trials) // 2 :]
    return np.mean([feasible(trial) for trial in late])


def named(result):
    """Return all allocations that a recommendation names."""
    return [result.allocation, *(tie.allocation for tie in result.ties)]


# Reading.


@pytest.mark.skipif(not NEW, reason="Optuna 4 has no FrozenTrial.constraints")
@given(
    st.lists(st.floats(-1e3, 1e3), max_size=3),
    st.dictionaries(st.text("ab:0", min_size=1), st.floats(-1e3, 1e3), max_size=3),
)
def test_constraints_are_those_of_optuna(values, by_key):
    """Both forms are read as Optuna 5 reads them."""
    attributes = {"constraints": values} if values else {}
    attributes.update({f"constraints:{key}": value for key, value in by_key.items()})
    trial = create_trial(value=0.0, system_attrs=attributes)
    assert constraints_of(trial) == trial.constraints


def test_constraints_of_a_failed_function_are_none():
    """`constraints_func` that raises leaves None behind."""
    assert constraints_of(create_trial(value=0.0, system_attrs={"constraints": None})) == {}


# Searches.


@pytest.mark.parametrize("values", [{}, {"k": -1.0}, {"k": 0.0}, {"k": -math.inf, "other": -2.0}])
def test_constraints_that_are_always_met_change_nothing(values):
    """The trials are those of a study without constraints, as is the recommendation."""
    plain = run(AgentTTSSampler(TASK), n_trials=15)
    constrained = search(AgentTTSSampler(TASK), lambda _: values, n_trials=15, form="keys")
    assert params_of(constrained) == params_of(plain)
    assert recommend(constrained) == recommend(plain)


@pytest.mark.parametrize("form", ["list", "keys"])
def test_both_forms_lead_to_the_same_search(form):
    """How a value was written does not matter."""
    found = [
        search(AgentTTSSampler(TASK), lambda a: {"0": latency(a)}, n_trials=12, form=kind)
        for kind in ("list", form)
    ]
    assert params_of(found[0]) == params_of(found[1])


def with_independent(constraints_func):
    """Build a sampler whose independent sampler has the function."""
    independent = TPESampler(seed=0, constraints_func=constraints_func)
    return AgentTTSSampler(TASK, independent_sampler=independent)


def with_argument(constraints_func):
    """Build a sampler with the function as its own argument."""
    return AgentTTSSampler(TASK, constraints_func=constraints_func)


@pytest.mark.parametrize("build", [with_argument, with_independent])
def test_constraints_func_constrains_allocations(build):
    """The independent sampler evaluates it, and the planner reads its values."""

    def constraints_func(trial):
        return (float(trial.params["retrieval.model"] == "qwen-72B") - 0.5,)

    with pytest.warns((FutureWarning, ExperimentalWarning), match="constraints_func"):
        sampler = build(constraints_func)
    study = run(sampler, n_trials=20)
    assert all(constraints_of(trial) for trial in study.trials)
    assert late_share(study) >= 0.7
    assert recommend(study).allocation["retrieval"].model == "qwen-7B"


KINDS = {
    "latency": lambda a: {"latency": latency(a)},
    "memory": lambda a: {"memory": memory(a)},
    "samples": lambda a: {"samples": total(a)},
    "product": lambda a: {"product": scaled(a)},
    "binary": lambda a: {"binary": 1.0 if total(a) > 0 else -1.0},
    "only violations": lambda a: {"samples": total(a)} if total(a) > 0 else {},
    "two": lambda a: {"samples": total(a), "latency": latency(a, 12)},
    "infinite": lambda a: {"k": math.inf if memory(a) > 0 else -1.0},
    "small units": lambda a: {"price": 1e-9 * total(a)},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_late_trials_are_mostly_feasible(kind, direction):
    """At least 70 % of the second half of a search, and all that is recommended."""
    study = search(AgentTTSSampler(TASK), KINDS[kind], direction=direction)
    assert late_share(study) >= 0.7
    result = recommend(study)
    assert all(value <= 0 for a in named(result) for value in KINDS[kind](a).values())
    best = max(score(allocation_of_settings(t)) for t in study.trials if feasible(t))
    assert score(result.allocation) >= 0.95 * best


def allocation_of_settings(trial):
    """Return a trial's allocation with settings."""
    return TASK.allocation(TASK.choices(allocation_of(trial)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_noisy_constraints_are_mostly_met(seed):
    """At least 70 % of the second half, with noise of a tenth of the values' range."""
    rng = np.random.default_rng(seed)
    study = search(AgentTTSSampler(TASK), lambda a: {"k": total(a) + rng.normal(0, 5)})
    assert late_share(study) >= 0.7


def test_the_constraint_of_a_failed_trial_is_evidence():
    """Failures with a violation are not followed by more of them."""
    study = search(AgentTTSSampler(TASK), KINDS["memory"], n_trials=16, fail=range(4))
    assert late_share(study) >= 0.7


def test_additive_constraint_is_known_after_some_trials():
    """Exactly where it was tried, and after 12 random trials for 95 % of all allocations."""
    rng = np.random.default_rng(0)
    limits = {"slow": lambda a: latency(a, 10), "many": lambda a: total(a, 20)}
    for limit in limits.values():
        tried = POOL.take(rng.choice(len(POOL), 12, replace=False))
        choices = tried.choices
        values = [limit(TASK.allocation(c)) for c in choices]
        constraints = tuple((c, {"k": value}) for c, value in zip(choices, values))
        evidence = replace(Evidence.empty(TASK), constraints=constraints)
        feasibility = Feasibility(evidence, PLANNER.surrogate)
        probability = np.exp(feasibility.log_probability(tried))
        np.testing.assert_allclose(probability, np.array(values) <= 0, atol=0.1)
        pool = POOL
        truth = [limit(TASK.allocation(c)) <= 0 for c in pool.choices]
        assert np.mean((feasibility.log_probability(pool) > math.log(0.5)) == truth) >= 0.95


@settings(max_examples=20)
@given(factor=st.floats(1e-9, 1e9), seed=st.integers(0, 3))
def test_units_of_a_constraint_do_not_matter(factor, seed):
    """Probabilities are those of the constraint in other units."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(POOL), 12, replace=False)
    tried, values = POOL.take(rows), rng.normal(size=12)
    found = []
    for unit in (1.0, factor):
        constraints = [{"k": unit * value} for value in values]
        pairs = zip(tried.choices, constraints)
        evidence = replace(Evidence.empty(TASK), constraints=tuple(pairs))
        feasibility = Feasibility(evidence, PLANNER.surrogate)
        found.append(feasibility.log_probability(POOL.take(np.arange(0, 300, 10))))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_log_normal_cdf_is_that_of_the_standard_library():
    """It is exact where the probability is at least 1e-22, and near that to 1 %."""
    z = np.linspace(-9.9, 6, 200)
    expected = [math.log(0.5 * math.erfc(-value / math.sqrt(2))) for value in z]
    np.testing.assert_allclose(_log_normal_cdf(z), expected, atol=1e-12)
    tail = np.linspace(-37, -10.1, 50)
    expected = [math.log(0.5 * math.erfc(-value / math.sqrt(2))) for value in tail]
    np.testing.assert_allclose(_log_normal_cdf(tail), expected, atol=0.011)
    assert np.isfinite(_log_normal_cdf(np.array([-1e6]))).all()


@pytest.mark.parametrize("sampled", [False, True])
def test_running_trials_avoid_each_other_within_the_constraints(sampled):
    """Trials asked for at the same time differ, also where scores and values are noisy."""
    rng = np.random.default_rng(0)
    study = search(
        AgentTTSSampler(TASK),
        lambda a: {"k": total(a) + sampled * rng.normal()},
        n_trials=12,
    )
    if sampled:
        allocation = allocation_of(study.best_trial)
        study.add_trial(study_of([(allocation, study.best_value - 0.1, [-1.0])]).trials[0])
    asked = [tuple(TASK.choices(TASK.suggest(study.ask()))) for _ in range(5)]
    assert len(set(asked)) == 5
    assert sum(total(TASK.allocation(choices)) <= 3 for choices in asked) >= 4


def test_everything_is_tried_before_anything_is_repeated():
    """With constraints, too, until the allocations of a small task are exhausted."""
    task = wiki_task(max_samples=2)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))

    def objective(trial):
        allocation = task.suggest(trial)
        set_constraints(trial, {"k": memory(allocation)})
        return score(allocation)

    study.optimize(objective, n_trials=task.count_allocations() + 2)
    tried = {tuple(task.choices_from_params(trial.params).values()) for trial in study.trials}
    assert len(tried) == task.count_allocations()
    assert all(memory(task.allocation(c)) <= 0 for c in tried_last(task, study, 2))


def tried_last(task, study, count):
    """Return the allocations of the last trials."""
    return [tuple(task.choices_from_params(t.params).values()) for t in study.trials[-count:]]


# Recommendations.


def study_of(rows, direction="maximize"):
    """Return a study of triples of an allocation, its value and its constraints."""
    study = optuna.create_study(direction=direction)
    for allocation, value, constraints in rows:
        attributes = {} if constraints is None else {"constraints": constraints}
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL
        study.add_trial(
            create_trial(
                params=TASK.params(allocation),
                distributions=DISTRIBUTIONS,
                value=value,
                state=state,
                system_attrs=attributes,
            )
        )
    return study


def at(retrieval, answer, large=False):
    """Return an allocation by its numbers of samples."""
    models = ("qwen-72B", LARGE) if large else ("qwen-7B", SMALL)
    return {"retrieval": (models[0], retrieval), "answer": (models[1], answer)}


@pytest.mark.parametrize("sampler", [RandomSampler, TPESampler])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_recommendations_for_any_sampler_are_feasible(sampler, direction):
    """The winner and all ties meet the constraints."""
    study = search(sampler(seed=1), KINDS["samples"], n_trials=40, direction=direction)
    assert not all(feasible(trial) for trial in study.trials)
    assert all(total(allocation) <= 0 for allocation in named(recommend(study)))


def test_trials_without_constraints_are_feasible():
    """As in Optuna, a complete trial without constraints is feasible."""
    rows = [(at(8, 8), 0.5, [1.0]), (at(9, 9), 0.4, None), (at(3, 3), 0.3, [-1.0])]
    assert recommend(study_of(rows)).allocation == TASK.allocation(TASK.choices(at(9, 9)))


def test_an_allocation_is_feasible_if_all_its_trials_are():
    """One violation, in a failed trial too, rules an allocation out."""
    rows = [(at(8, 8), 0.9, [-1.0]), (at(9, 9), 0.8, [-1.0]), (at(3, 3), 0.1, [-1.0])]
    for other in ((at(8, 8), 0.9, [0.1]), (at(8, 8), None, [0.1])):
        result = recommend(study_of([*rows, other]))
        assert result.allocation == TASK.allocation(TASK.choices(at(9, 9)))
        assert TASK.allocation(TASK.choices(at(8, 8))) not in named(result)


def test_nothing_feasible_is_an_error_that_names_constraints_and_the_closest_trial():
    """The error is `NoEvidenceError`; `agenttts report` prints its text."""
    rows = [(at(8, 8), 0.9, [3.0, -1.0]), (at(9, 9), 0.8, [0.25, 0.5]), (at(3, 3), 0.1, [9.0])]
    with pytest.raises(NoEvidenceError, match=r"\('0', '1'\).*Trial 1 .*'0' by 0.25, '1' by 0.5"):
        recommend(study_of(rows))


def test_scores_of_trials_that_violate_constraints_are_evidence():
    """A violating trial is evidence about the scores of others, as any trial is."""
    rows = [(at(8, 8), 0.9, [1.0]), (at(3, 3), 0.3, [-1.0])]
    assert recommend(study_of(rows)).trials == 2


# Stopping and the agent.


def test_gain_is_over_the_best_feasible_trial():
    """A search in which only a violating trial is good is not settled, nor without feasible ones.

    The gain of feasible allocations over the incumbent is smaller the better the incumbent is.
    """
    gains = []
    for constraints in ([-1.0], [1.0]):
        rows = [(at(9, 9), 0.6, constraints), (at(3, 3), 0.2, [-1.0]), (at(1, 2), 0.2, [-1.0])]
        evidence = Archive(TASK, maximize=True).read(study_of(rows).trials)
        gains.append(PLANNER.compare(evidence).improvement)
    assert gains[1] > gains[0]
    rows = [(at(9, 9), 0.6, [1.0]), (at(3, 3), 0.2, [1.0])]
    evidence = Archive(TASK, maximize=True).read(study_of(rows).trials)
    assert PLANNER.compare(evidence).improvement == math.inf


def test_search_settles_with_constraints():
    """`StopWhenSettled` ends a search whose feasible region is known."""
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))

    def objective(trial):
        allocation = TASK.suggest(trial)
        set_constraints(trial, {"k": total(allocation, 4)})
        return score(allocation)

    study.optimize(objective, n_trials=60, callbacks=[StopWhenSettled(0.02)])
    assert len(study.trials) < 60


def test_proposals_of_the_agent_are_weighed_by_their_feasibility():
    """One that surely violates a constraint promises nothing, however high its score would be."""
    study = search(RandomSampler(seed=0), KINDS["memory"], n_trials=25)
    evidence = Archive(TASK, maximize=True).read(study.trials)
    choices = [tuple(TASK.choices(at(2, 20, large=True))), tuple(TASK.choices(at(40, 20)))]
    worth = PLANNER.compare(evidence, choices).worth
    assert worth[0] < 0.1 < worth[1]
    without = PLANNER.compare(replace(evidence, constraints=()), choices).worth
    assert without[0] > without[1]


def test_facts_and_prompt_are_of_feasible_allocations():
    """No companion violates a constraint, and models that always do are left out by name."""
    study = search(RandomSampler(seed=0), KINDS["memory"], n_trials=25)
    evidence = Archive(TASK, maximize=True).read(study.trials)
    facts = fit_facts(PLANNER, evidence)
    assert facts.violating == {(0, 1), (1, 1)}
    assert {model for fact in facts.models for model, _ in fact.companion} == {0}
    # Of the only model that is left in each stage nothing can be claimed.
    assert check_claims([Claim("answer", (LARGE,))], facts, TASK) == ()
    questions = TaskQuestions(PLANNER, evidence, insights=(1, 2, 3), guidelines=True, wanted=8)
    text = questions.messages()[1].content
    assert 'violates "0" by 46' in text
    assert "likely to meet all constraints" in text


def test_required_share_rises_with_violations():
    """An agent whose good scores violate constraints is trusted less."""
    rows = [(at(n, n), 0.5 + n / 100, [1.0 if n < 4 else -1.0]) for n in range(1, 9)]
    evidence = Archive(TASK, maximize=True).read(study_of(rows).trials)
    evidence = replace(evidence, origins=("agent",) * 3 + ("numerical",) * 5)
    honest = replace(evidence, constraints=())
    scores = evidence.scores.copy()
    scores[:3] = 0.9
    violating, trusted = (replace(e, scores=scores) for e in (evidence, honest))
    assert required_share(violating) > required_share(trusted)
