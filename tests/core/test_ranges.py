"""Plans stay inside the ranges that an objective asks for, and repeat nothing before they must."""

import math

import optuna
import pytest
from core_support import wiki_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    Stage,
    StopWhenExhausted,
    Task,
    TaskError,
    recommend,
)
from optuna_agenttts.task.recognition import recognise_task

SIZES = (1, 7, 70)


def make_task(stages, max_samples, share):
    """Build a task of some stages, whose budget is a share between its cheapest and dearest."""
    described = [
        Stage(
            f"s{i}",
            models=[Model(f"org/M-{size}B", parameters=size * 1e9) for size in SIZES],
            prompt_tokens=300 * (i + 1),
            generation_tokens=60 + 40 * i,
            max_samples=max_samples,
        )
        for i in range(stages)
    ]
    dearest = Task(name="t", budget=1e12, stages=described)
    most = sum(max(float(row[-1]) for row in rows) for rows in dearest.feasible.costs)
    least = dearest.feasible.cheapest_cost
    return Task(name="t", budget=least + share * (most - least) + 1, stages=described)


def labels(indices, spelling):
    """Spell the names of models as hosts do."""
    names = [f"org/M-{SIZES[i]}B" for i in indices]
    return [spelling(name) for name in names]


SPELLINGS = (str, str.lower, lambda name: name.rpartition("/")[2])


@st.composite
def spaces(draw):
    """Draw a task and what an objective suggests for each parameter, given what came before."""
    stages = draw(st.integers(1, 3))
    task = make_task(stages, draw(st.integers(2, 6)), draw(st.floats(0.02, 1.0)))
    rules = []
    for i in range(stages):
        models = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
        spelling = draw(st.sampled_from(SPELLINGS))
        kind = draw(st.sampled_from(["int", "step", "log", "choices", "float", "text", "bound"]))
        low, high = sorted((draw(st.integers(1, 5)), draw(st.integers(1, 9))))
        rules.append((f"s{i}", labels(models, spelling), kind, low, high))
    together = draw(st.booleans())
    return task, rules, together


def steps(rules, together):
    """List (stage, is the model, rule) in the order in which the objective suggests."""
    models = [(rule[0], True, rule) for rule in rules]
    samples = [(rule[0], False, rule) for rule in rules]
    return models + samples if together else [s for pair in zip(models, samples) for s in pair]


def distribution_of(is_model, rule, spent):
    """Return the distribution of a parameter; `spent` is the number of samples so far."""
    _, models, kind, low, high = rule
    if is_model:
        return CategoricalDistribution(models)
    if kind == "choices":
        return CategoricalDistribution(sorted({low, (low + high) // 2, high}))
    if kind == "text":
        return CategoricalDistribution([str(n) for n in range(low, high + 1)])
    if kind == "float":
        return FloatDistribution(low, high, step=1.0)
    if kind == "bound":
        return IntDistribution(low, max(low, high - spent))
    if kind == "step":
        return IntDistribution(low, low + 2 * ((high - low) // 2), step=2)
    return IntDistribution(low, high, log=kind == "log")


def suggest(trial, name, distribution):
    """Suggest a value from any distribution."""
    return trial._suggest(name, distribution)


def choose(rules, together, take):
    """Run through the suggestions; `take` returns the value of a parameter."""
    chosen, spent = {}, 0
    for stage, is_model, rule in steps(rules, together):
        name = f"{stage}.{'model' if is_model else 'samples'}"
        value = take(name, distribution_of(is_model, rule, spent))
        chosen[name] = value
        if not is_model:
            spent += int(value)
    return chosen


def values_of(distribution):
    """List the values of a finite distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    step = int(distribution.step or 1)
    return list(range(int(distribution.low), int(distribution.high) + 1, step))


def enumerate_space(task, rules, together):
    """Return the feasible allocations of the whole space, by brute force."""
    found, paths = set(), [()]
    while paths:
        path = paths.pop()
        options = []

        def take(name, distribution, path=path, options=options):
            position = len(options)
            options.append(values_of(distribution))
            return options[-1][path[position]] if position < len(path) else options[-1][0]

        chosen = choose(rules, together, take)
        if len(path) < len(options):
            paths += [(*path, k) for k in range(len(options[len(path)]))]
            continue
        known = task.choices_from_params(chosen)
        if len(known) == len(task.stages):
            choices = tuple(known[i] for i in range(len(known)))
            if task.feasible.fits(choices):
                found.add(choices)
    return found


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(space=spaces(), seed=st.integers(0, 3))
def test_nothing_is_repeated_before_all_was_tried(space, seed):
    """Whatever ranges the objective writes, also where bounds follow earlier suggestions."""
    task, rules, together = space
    feasible = enumerate_space(task, rules, together)
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task, seed=seed))
    tried = []
    for _ in range(min(60, len(feasible) + 4)):
        trial = study.ask()
        chosen = choose(rules, together, lambda name, d, trial=trial: suggest(trial, name, d))
        known = task.choices_from_params(chosen)
        # Numbers of samples that the task does not have are none of its allocations.
        if len(known) < len(task.stages):
            study.tell(trial, 0.0)
            continue
        choices = tuple(known[i] for i in range(len(known)))
        if choices in tried:
            assert feasible <= set(tried), (choices, tried, feasible - set(tried))
        elif tried and feasible - set(tried):
            assert choices in feasible, (choices, feasible - set(tried))
        tried.append(choices)
        study.tell(trial, sum(m + math.log(n) for m, n in choices))


@pytest.mark.parametrize("step", [1, 3])
def test_fixed_distributions_are_met(step):
    """With `ask(fixed_distributions=...)`."""
    task = wiki_task()
    space = {
        "retrieval.model": CategoricalDistribution(["qwen-7B", "qwen-72B"]),
        "retrieval.samples": IntDistribution(1, 7, step=step),
        "answer.model": CategoricalDistribution(["small-3B", "large-70B"]),
        "answer.samples": IntDistribution(1, 7, step=step),
    }
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
    for number in range(12):
        study.tell(study.ask(fixed_distributions=space), float(number % 5))
    assert len({tuple(t.params.values()) for t in study.trials}) == 12


@pytest.mark.parametrize("name", ["retrieval.model", "answer.samples"])
def test_values_that_are_set_elsewhere_do_not_stop_the_search(name):
    """As by `PartialFixedSampler`, which never asks for the parameter."""
    task = wiki_task()
    fixed = {name: "qwen-7B" if name.endswith("model") else 4}
    sampler = AgentTTSSampler(task)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.PartialFixedSampler(fixed, sampler)
    )

    def objective(trial):
        for stage in task.stages:
            trial.suggest_categorical(stage.model_parameter, [m.name for m in stage.models])
            trial.suggest_int(stage.samples_parameter, 1, 8)
        return float(trial.number % 3)

    study.optimize(objective, n_trials=12)
    assert len({tuple(t.params.values()) for t in study.trials}) == 12
    # Once it is free again, it is searched.
    study.sampler = sampler
    study.optimize(objective, n_trials=12)
    assert len({t.params[name] for t in study.trials[12:]}) > 1


def test_ranges_that_grow_are_used():
    """A study that goes on with wider ranges tries the new values."""
    task = wiki_task()
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))

    def run(high, trials):
        def objective(trial):
            for stage in task.stages:
                trial.suggest_categorical(stage.model_parameter, [m.name for m in stage.models])
                trial.suggest_int(stage.samples_parameter, 1, high)
            return float(trial.params["answer.samples"])

        study.optimize(objective, n_trials=trials)

    run(3, 15)
    run(12, 15)
    assert max(t.params["answer.samples"] for t in study.trials[15:]) > 3
    assert len({tuple(t.params.values()) for t in study.trials}) == 30


def simple(trial, high=3):
    """Suggest two parameters of one stage."""
    trial.suggest_categorical("s0.model", ["org/M-1B", "org/M-7B"])
    trial.suggest_int("s0.samples", 1, high)
    return 0.5


def test_exhaustion_is_said_once_and_stops_the_search(caplog):
    """`StopWhenExhausted` stops; without it, repeats begin with one warning."""
    task = make_task(1, 6, 1.0)
    study = optuna.create_study(sampler=AgentTTSSampler(task))
    study.optimize(simple, n_trials=20, callbacks=[StopWhenExhausted()])
    assert len(study.trials) == 6
    with caplog.at_level("WARNING", logger="optuna_agenttts"):
        study.optimize(simple, n_trials=5)
    assert caplog.text.count("has tried every allocation") == 1


@pytest.mark.parametrize("name", ["{}.samples", "stages.{}.samples", "{}/samples", "{}__samples"])
def test_stages_are_recognized_by_the_names_that_hosts_write(name):
    """Also after dots, slashes and underscores."""
    samples = name.format("answer")
    model = samples.removesuffix("samples") + "model"
    trial = optuna.trial.create_trial(
        value=0.5,
        params={model: "gpt-4o", samples: 3},
        distributions={
            model: CategoricalDistribution(["gpt-4o", "gpt-4o-mini"]),
            samples: IntDistribution(1, 8),
        },
    )
    (stage,) = recognise_task([trial]).stages
    assert (stage.name, stage.model_parameter, stage.samples_parameter) == (
        "answer",
        model,
        samples,
    )
    assert recognise_task([trial], recognise=False) is None


@pytest.mark.parametrize(
    ("models", "costs", "unit"),
    [
        (["qwen-7B", "llama-72B"], [7, 14, 144], "billion parameters x samples (relative)"),
        (["qwen-7B", "gpt-4o"], [1, 2, 2], "samples (relative)"),
    ],
)
def test_recognised_costs_are_relative(models, costs, unit):
    """The unit names them so; without the size of a model, only samples are counted."""
    trial = optuna.trial.create_trial(
        params={"answer.model": models[0], "answer.samples": 1},
        distributions={
            "answer.model": CategoricalDistribution(models),
            "answer.samples": IntDistribution(1, 9),
        },
        value=0.5,
    )
    task = recognise_task([trial])
    allocations = [(models[0], 1), (models[0], 2), (models[1], 2)]
    assert [task.cost({"answer": setting}) for setting in allocations] == pytest.approx(costs)
    assert task.cost_model.unit == unit


def test_programs_without_language_models_are_left_to_tpe():
    """Equal names do not make a classifier a stage: the trials are TPE's own."""

    def classify(trial):
        kind = trial.suggest_categorical("clf.model", ["svm", "forest"])
        return trial.suggest_int("clf.samples", 10, 500) / 500 - (kind == "svm")

    def trials(sampler):
        study = optuna.create_study(sampler=sampler)
        study.optimize(classify, n_trials=20)
        return [t.params for t in study.trials]

    assert trials(AgentTTSSampler(seed=1)) == trials(optuna.samplers.TPESampler(seed=1))


@pytest.mark.parametrize(
    ("recognise", "names"),
    [
        (("llm_model", "n_samples"), ("llm_model", "n_samples")),
        (("{stage}_llm", "{stage}_n"), ("answer_llm", "answer_n")),
        ({"answer": ("a", "b")}, ("a", "b")),
    ],
)
def test_other_names_are_recognized_by_patterns(recognise, names):
    """By two names, by patterns, or by a dict."""
    study = optuna.create_study(sampler=AgentTTSSampler(recognise=recognise))

    def objective(trial):
        trial.suggest_categorical(names[0], ["small", "large"])
        return 1.0 / trial.suggest_int(names[1], 1, 9)

    study.optimize(objective, n_trials=14)
    assert len({tuple(t.params.values()) for t in study.trials}) == 14
    assert all("agenttts:origin" in t.user_attrs for t in study.trials[1:])
    # What was recognized is kept with the study.
    assert recommend(study).trials == 14


@pytest.mark.parametrize("wrong", ["yes", ("a",), {}, {"s": "a"}, 3])
def test_wrong_patterns_are_refused(wrong):
    """With the forms that are accepted."""
    with pytest.raises(TaskError, match="`recognise` must be"):
        AgentTTSSampler(recognise=wrong)


def test_misfits_are_left_out_counted_and_named(caplog):
    """A word in place of a number leaves out its trial alone; numbers as text are numbers."""
    task = make_task(1, 6, 1.0)
    study = optuna.create_study(sampler=AgentTTSSampler(task))
    for samples in ("few", "2"):
        study.add_trial(
            optuna.trial.create_trial(
                value=0.3,
                params={"s0.model": "org/M-1B", "s0.samples": samples},
                distributions={
                    "s0.model": CategoricalDistribution(["org/M-1B", "org/M-7B"]),
                    "s0.samples": CategoricalDistribution(["few", "2"]),
                },
            )
        )
    found = recommend(study, task)
    assert (found.trials, found.unreadable) == (1, (0,))
    assert "left out" in str(found)
    assert "Trial 0 is left out" in caplog.text


def test_failed_trials_are_named_and_no_look_of_the_opening():
    """A model whose only trials failed is still to be tried, once the others have run."""
    task = make_task(1, 6, 1.0)
    study = optuna.create_study(sampler=AgentTTSSampler(task))

    def fragile(trial):
        chosen = task.suggest(trial)["s0"]
        if trial.number < 2:
            raise ConnectionError
        return float(chosen.samples)

    study.optimize(fragile, n_trials=9, catch=(ConnectionError,))
    models = [t.params["s0.model"] for t in study.trials[2:]]
    assert set(models[:4]) == {"org/M-1B", "org/M-7B", "org/M-70B"}
    assert recommend(study).failed == (0, 1)
