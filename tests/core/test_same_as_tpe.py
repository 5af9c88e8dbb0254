"""In studies without stages, the sampler is TPE, argument for argument and seed for seed."""

import copy
import inspect
import pickle

import optuna
import pytest
from core_support import mixed, params_of, run, wiki_task
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.samplers import PartialFixedSampler, RandomSampler, TPESampler

from optuna_agenttts import AgentTTSSampler, TaskError
from optuna_agenttts.study.independent import TPEOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # arguments that Optuna deprecates
    pytest.mark.filterwarnings("ignore:Inconsistent parameter values"),
]
TASK = wiki_task()
HAS_CONSTRAINTS = hasattr(optuna.Trial, "set_constraint")
"""From Optuna 5 on."""


def constraint(trial):
    """Forbid large `x`; for any trial, as a function that can be pickled."""
    return (trial.params.get("x", 0.0) - 0.5,)


OPTIONS = [
    {},
    {"n_startup_trials": 0},
    {"n_startup_trials": 30},
    {"n_startup_trials": 5, "n_ei_candidates": 3},
    {"multivariate": True},
    {"multivariate": False},
    {"multivariate": True, "group": True, "n_startup_trials": 4},
    {"multivariate": True, "constant_liar": True},
    {"constant_liar": False, "n_startup_trials": 4},
    {"constraints_func": constraint},
]
options_of_tpe = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "none")


def trials_of(study):
    """All that a sampler decides about a study, in a form in which NaN equals NaN."""
    return repr([(t.params, t.distributions, t.state, t.values) for t in study.trials])


# Programs: nested lists of suggestions, drawn by hypothesis or written below.


def suggest(trial, program, path=""):
    """Run a program; return the sum of what is suggested, all between 0 and 1 or so."""
    total = 0.0
    for position, (kind, *arguments) in enumerate(program):
        name = f"{path}{position}" if path or position else "x"
        if kind == "float":
            total += trial.suggest_float(name, 0, 1, step=arguments[0])
        elif kind == "log":
            total += trial.suggest_float(name, 1e-3, 1, log=True)
        elif kind == "int":
            total += trial.suggest_int(name, 1, 16, log=arguments[0]) / 16
        elif kind == "moving":
            # Its range depends on the trial.
            total += trial.suggest_float(name, 0, 1 + trial.number % arguments[0])
        elif kind == "single":
            total += trial.suggest_int(name, 1, 1)
        elif kind == "branch":
            chosen = trial.suggest_categorical(name, list(range(len(arguments[0]))))
            total += suggest(trial, arguments[0][chosen], f"{name}.{chosen}.")
        elif kind == "loop":
            for i in range(trial.suggest_int(name, 0, 3)):
                total += suggest(trial, arguments[0], f"{name}[{i}].")
        elif kind == "prune" and trial.number % arguments[0] == 1:
            trial.report(total, 0)
            raise optuna.TrialPruned
        elif kind == "fail" and trial.number % arguments[0] == 1:
            raise ValueError
        elif kind == "constraint" and HAS_CONSTRAINTS:
            trial.set_constraint(name, total - 1.0)
    return total


LEAVES = st.one_of(
    st.tuples(st.just("float"), st.sampled_from([None, 0.25])),
    st.tuples(st.sampled_from(["log", "single", "constraint"])),
    st.tuples(st.just("int"), st.booleans()),
    st.tuples(st.sampled_from(["moving", "prune", "fail"]), st.integers(2, 5)),
)
PROGRAMS = st.recursive(
    st.lists(LEAVES, max_size=4),
    lambda inner: st.lists(
        st.one_of(
            LEAVES,
            st.tuples(st.just("branch"), st.lists(inner, min_size=1, max_size=3)),
            st.tuples(st.just("loop"), inner),
        ),
        max_size=4,
    ),
    max_leaves=10,
)
ALL = [
    ("float", None),
    ("branch", [[("log",), ("prune", 5)], [("int", True), ("loop", [("float", 0.25)])], []]),
    ("fail", 7),
    ("moving", 3),
    ("constraint",),
    ("int", False),
]
"""Conditional, dynamic, pruned, failing and constrained."""


def optimized(sampler, program, n_trials=25, objectives=1, prepare=lambda study: None):
    """Optimize a program, and return the trials."""

    def objective(trial):
        total = suggest(trial, program)
        return total if objectives == 1 else (total, trial.params.get("x", 0.5))

    study = optuna.create_study(directions=["minimize", "maximize"][:objectives], sampler=sampler)
    prepare(study)
    study.optimize(objective, n_trials=n_trials, catch=(ValueError,))
    return trials_of(study)


@options_of_tpe
def test_trials_are_those_of_tpe(options):
    """A program with all that a program may do gives the same trials."""
    ours, theirs = (c(seed=1, **options) for c in (AgentTTSSampler, TPESampler))
    assert optimized(ours, ALL) == optimized(theirs, ALL)


@pytest.mark.slow
@settings(max_examples=40)
@given(program=PROGRAMS, options=st.sampled_from(OPTIONS), seed=st.integers(0, 3))
def test_trials_of_any_program_are_those_of_tpe(program, options, seed):
    """Nested conditions, loops, moving ranges, prunes and failures make no difference."""
    ours, theirs = (c(seed=seed, **options) for c in (AgentTTSSampler, TPESampler))
    assert optimized(ours, program) == optimized(theirs, program)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    program=PROGRAMS,
    options=st.sampled_from(OPTIONS),
    seed=st.integers(0, 3),
    answers=st.lists(st.integers(0, 4), min_size=10, max_size=30),
)
def test_interleaved_asks_are_those_of_tpe(program, options, seed, answers):
    """Several trials may run at a time: before each one, some of the oldest are told."""
    studies = []
    for construct in (AgentTTSSampler, TPESampler):
        study = optuna.create_study(sampler=construct(seed=seed, **options))
        running = []
        for answer in answers:
            for trial, value in running[:answer]:
                study.tell(trial, value)
            running = running[answer:]
            trial = study.ask()
            try:
                running.append((trial, suggest(trial, program)))
            except (ValueError, optuna.TrialPruned):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        studies.append(trials_of(study))
    assert studies[0] == studies[1]


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("task", [None, TASK], ids=["bare", "task"])
def test_enqueued_trials_and_several_objectives_are_those_of_tpe(objectives, task):
    """Trials that are given in part, and two objectives, make no difference; nor does a task."""

    def prepare(study):
        for params in ({"x": 0.5}, {"1": 1, "5": 3}, {"x": 0.25, "1": 0, "5": 4}):
            study.enqueue_trial(params)

    program = [("float", None), ("int", True)]
    if objectives == 2:
        # Optuna 4 does not prune trials with two objectives.
        program = [("branch", [[("log",)], [("int", True), ("loop", [("float", 0.25)])], []])]
        program = [("float", None), *program, *ALL[2:]]
    elif task is None:
        program = ALL
    ours, theirs = (
        optimized(sampler, program, objectives=objectives, prepare=prepare)
        for sampler in (AgentTTSSampler(task, seed=2), TPESampler(seed=2))
    )
    assert ours == theirs


@options_of_tpe
def test_partially_fixed_trials_are_those_of_tpe(options):
    """`PartialFixedSampler` fixes the same of both."""
    ours, theirs = (
        optimized(PartialFixedSampler({"x": 0.5}, construct(seed=3, **options)), ALL)
        for construct in (AgentTTSSampler, TPESampler)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    "copied", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
@options_of_tpe
def test_copies_keep_the_arguments_of_tpe(options, copied):
    """A copy samples what a copy of the TPE sampler does."""
    ours, theirs = (copied(c(seed=4, **options)) for c in (AgentTTSSampler, TPESampler))
    assert optimized(ours, ALL) == optimized(theirs, ALL)


def test_reseeding_reaches_tpe():
    """After `reseed_rng`, as in parallel searches, other values are sampled."""
    sampler = AgentTTSSampler(seed=0, n_startup_trials=2)
    sampler.reseed_rng()
    assert optimized(sampler, ALL) != optimized(TPESampler(seed=0, n_startup_trials=2), ALL)


# Arguments.


def test_every_argument_of_tpe_is_accepted_and_typed():
    """The installed Optuna decides which ones there are."""
    known = inspect.signature(TPESampler).parameters
    for name, parameter in known.items():
        AgentTTSSampler(**{name: parameter.default})
    assert set(known) - {"seed"} <= TPEOptions.__annotations__.keys()


def test_constraints_func_is_called_in_studies_with_stages():
    """Searches with a task record the constraints as TPE does."""
    seen = []

    def observe(trial):
        seen.append(trial.number)
        return (0.0,)

    run(AgentTTSSampler(TASK, constraints_func=observe), n_trials=3, target=mixed)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    "space", [None, {"temperature": FloatDistribution(0.0, 1.0)}], ids=["inferred", "given"]
)
def test_groups_and_stages_are_sampled_side_by_side(space):
    """TPE's group decomposition sees a task's parameters, too, and must not sample them."""
    sampler = AgentTTSSampler(
        TASK, search_space=space, seed=0, multivariate=True, group=True, n_startup_trials=2
    )
    study = run(sampler, n_trials=8, target=mixed)
    allocations = [(t.params["retrieval.model"], t.params["answer.samples"]) for t in study.trials]
    plain = run(AgentTTSSampler(TASK, search_space=space, seed=0), n_trials=2, target=mixed)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)
    assert params_of(study)[:2] == params_of(plain)
    assert len(set(allocations)) > 1


def test_values_outside_the_search_space_are_left_out():
    """An independent sampler may return more than it was asked for, as TPE 4.4 does in groups."""

    class Fixed(RandomSampler):
        def infer_relative_search_space(self, study, trial):
            return {"temperature": FloatDistribution(0.0, 1.0)}

        def sample_relative(self, study, trial, search_space):
            return {"temperature": 0.25}

    class Generous(Fixed):
        def sample_relative(self, study, trial, search_space):
            return {"temperature": 0.25, "retrieval.samples": 99, "answer.samples": 99}

    searches = [
        params_of(run(AgentTTSSampler(TASK, independent_sampler=sampler), 3, target=mixed))
        for sampler in (Fixed(), Generous())
    ]
    assert searches[0] == searches[1]


@pytest.mark.parametrize("options", OPTIONS[1:], ids=",".join)
def test_arguments_beside_an_independent_sampler_are_refused(options):
    """They would have no effect. The error names them and the sampler that could take them."""
    with pytest.raises(TaskError, match=r"`independent_sampler`.*RandomSampler") as caught:
        AgentTTSSampler(independent_sampler=RandomSampler(), **options)
    assert all(f"`{name}`" in str(caught.value) for name in options)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("n_startup_trial", "n_startup_trials"), ("insight", "insights"), ("popsize", None)],
)
@pytest.mark.parametrize("independent", [None, RandomSampler()], ids=["default", "given"])
def test_unknown_arguments_are_refused(name, nearest, independent):
    """The error names the argument, the nearest known one, and where others belong."""
    with pytest.raises(TypeError, match=f"`{name}`.*`independent_sampler=") as caught:
        AgentTTSSampler(independent_sampler=independent, **{name: 3})
    assert ("Did you mean" in str(caught.value)) == (nearest is not None)
    assert nearest is None or f"Did you mean `{nearest}`?" in str(caught.value)
