"""What a search was spent on, its outcomes and its course, and the summary of a study."""

import math
import time

import numpy as np
import optuna
import pytest
from confirmation_cases import FRESH, Evaluate
from confirmation_cases import TASK as CONFIRMED_TASK
from confirmation_cases import searched as searched_to_confirm
from core_support import run, wiki_task
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from study_cases import one_stage, small, study_with_outcomes, trial_of
from test_frontier import searched

from optuna_agenttts import (
    AgentTTSError,
    AgentTTSSampler,
    Model,
    NoTaskError,
    PriceCost,
    Stage,
    Task,
    confirm,
    recommend,
    rounds_dataframe,
    spend,
    storage,
    summarize,
    trials_dataframe,
)
from optuna_agenttts.report import progress
from optuna_agenttts.report.expenditure import expenditure_of
from optuna_agenttts.report.outcomes import outcomes_of_study
from optuna_agenttts.report.progress import progress_of
from optuna_agenttts.report.text import duration_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.fresh import instance_names, note_instances

TASK = wiki_task(metric_range=(0, 1), metric="exact match")
HOSTILE = 'a|b <img src=x onerror=alert(1)> `c` \x1b[31m\n# "d"' + "🙂" * 5 + "e" * 300


@pytest.fixture(scope="module")
def study():
    """Return a search with outcomes."""
    found = searched(task=TASK, n_trials=14)
    TASK.register(found)
    return found


# Spend.


def test_spend_without_a_finite_sum_is_not_read():
    """Other programs may write anything into the user attribute."""
    study = searched(task=TASK, n_trials=3)
    study.add_trials(
        [
            create_trial(
                value=0.5,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={"spend": 1e308},
            )
            for trial in study.trials
        ]
    )
    assert math.isfinite(expenditure_of(StudyView(study, TASK)).total)
    assert str(summarize(study))


def spending_study(drawn, *, stated, stages):
    """Return a study of trials with these spends, some of which are divided among stages."""
    study = optuna.create_study(direction="maximize")
    TASK.register(study)
    for number, (amount, retrieval, answer, fails) in enumerate(drawn):
        allocation = {"retrieval": ("qwen-7B", 1 + number), "answer": ("small-3B", 1 + retrieval)}
        facts = {}
        if stages:
            facts[storage.STAGES] = {"retrieval": [retrieval, 2.0], "answer": [answer, 0.5]}
        study.add_trial(
            trial_of(
                TASK,
                allocation,
                None if fails else 0.5,
                state=TrialState.FAIL if fails else TrialState.COMPLETE,
                user_attrs={"spend": amount} if stated else {},
                system_attrs=facts,
            )
        )
    return study


AMOUNTS = st.floats(0, 1e6).map(lambda value: round(value, 3))
DRAWN = st.lists(
    st.tuples(AMOUNTS, st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=8
)


@given(DRAWN, st.booleans(), st.booleans())
def test_spend_of_stages_and_of_trials_adds_up(drawn, stated, stages):
    """Whatever trials report, and also of failed ones."""
    found_study = spending_study(drawn, stated=stated, stages=stages)
    found = expenditure_of(StudyView(found_study))
    total = spend(found_study).trials
    assert found.total == total
    assert math.fsum(amount for _, amount in found.by_trial) == pytest.approx(total)
    assert math.fsum(expense.spend for expense in found.expenses) == pytest.approx(total)
    assert sum(expense.saved for expense in found.expenses) == 2.5 * len(drawn) * stages
    assert found.measured == (stages and bool(drawn))
    assert found.whole == (stated or not drawn)
    if stages and stated:
        for position, name in enumerate(("retrieval", "answer")):
            shares = [(d[0], d[1 + position], d[1] + d[2]) for d in drawn]
            if all(whole for *_, whole in shares):
                wanted = math.fsum(amount * part / whole for amount, part, whole in shares)
                own = [expense.spend for expense in found.expenses if expense.stage == name]
                assert math.fsum(own) == pytest.approx(wanted)


def test_confirmation_is_a_part_of_the_spend():
    found_study = searched_to_confirm()
    confirm(found_study, Evaluate(), FRESH[:60], evaluations=120, task=CONFIRMED_TASK)
    found = expenditure_of(StudyView(found_study))
    assert 0 < found.confirmation < found.total == spend(found_study).trials
    assert math.fsum(amount for _, amount in found.by_trial) == pytest.approx(found.total)
    summary = summarize(found_study)
    assert 0 < summary.fresh <= 60
    assert summary.states["complete in confirmation"] > 0
    assert "fresh instance" in str(summary)
    # Fresh instances are no rows of the table, and confirmations no columns.
    assert {instance.step for instance in summary.outcomes.instances} == set(range(30))


# Outcomes.


@settings(max_examples=60)
@given(st.data())
def test_outcomes_are_those_of_the_trials(data):
    """Means and correlations are those of a direct computation."""
    trials, count = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    values = rng.choice([0.0, 0.5, 1.0], size=(trials, count))
    seen = {i: data.draw(st.integers(1, count)) for i in range(trials)}
    direction = data.draw(st.sampled_from(["maximize", "minimize"]))
    evidence = [(small(1 + i), values[i]) for i in range(trials)]
    task = one_stage()
    found_study = study_with_outcomes(task, evidence, direction, seen)
    found = outcomes_of_study(StudyView(found_study, task))
    sign = 1 if direction == "maximize" else -1
    means = [sign * instance.mean for instance in found.instances]
    assert means == sorted(means)
    complete = [i for i in range(trials) if seen[i] == count]
    assert set(found.trials[: len(complete)]) == set(complete)
    scores = [sign * values[i].mean() for i in found.trials[: len(complete)]]
    assert scores == pytest.approx(sorted(scores, reverse=True))
    for row, instance in enumerate(found.instances):
        ran = [i for i in range(trials) if instance.step < seen[i]]
        assert instance.trials == len(ran)
        assert instance.mean == pytest.approx(values[ran, instance.step].mean())
        for column, number in enumerate(found.trials):
            given_value = values[number, instance.step] if number in ran else math.nan
            assert found.values[row, column] == pytest.approx(given_value, nan_ok=True)
        if count > 1 and len(complete) > 1:
            own = values[complete, instance.step]
            rest = np.delete(values[complete], instance.step, axis=1).mean(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                wanted = np.nan_to_num(np.corrcoef(own, rest)[0, 1])
            if own.std() > 1e-9 and rest.std() > 1e-9:
                assert instance.decides == pytest.approx(wanted)
            else:
                assert instance.decides == pytest.approx(0)


def test_names_of_instances_are_kept_unless_they_contradict():
    found_study = optuna.create_study()
    name = instance_names(found_study)
    assert [name(step) for step in (-1, 0, 5)] == ["", "", ""]
    note_instances(found_study, ["a", "b"])
    note_instances(found_study, ["a", "b", "c"])
    note_instances(found_study, ["a", "b"])
    assert [instance_names(found_study)(step) for step in range(4)] == ["a", "b", "c", ""]
    # Other instances at the same steps.
    note_instances(found_study, ["x", "b"])
    note_instances(found_study, ["x", "b"])
    assert [instance_names(found_study)(step) for step in range(3)] == ["", "b", "c"]
    # Too long to be read with every attribute of the study.
    note_instances(found_study, ["y" * 60_000, "b", "c", "z" * 100_000])
    assert [instance_names(found_study)(step) for step in range(4)] == ["", "b", "c", ""]


# Course.


@pytest.mark.parametrize("sign", [1, -1])
def test_each_point_is_what_recommend_returned_then(sign):
    whole = searched(task=TASK, n_trials=12, sign=sign)
    view = StudyView(whole, TASK)
    found = progress_of(view)
    assert [point.number for point in found.points] == [0, 1, 2, 3, 4, 5, 7, 9, 11]
    for point in found.points:
        then = optuna.create_study(direction="maximize" if sign > 0 else "minimize")
        then.add_trials(whole.trials[: point.number + 1])
        wanted = recommend(then, TASK)
        for name in ("allocation", "value", "interval", "cost"):
            assert getattr(point, name) == getattr(wanted, name)
    assert [trial.number for trial in found.trials] == list(range(12))


def test_earlier_points_are_computed_once(study, monkeypatch):
    first = progress_of(StudyView(study))
    computed = []
    make = progress.Candidates
    monkeypatch.setattr(
        progress, "Candidates", lambda *a, **k: computed.append(a) or make(*a, **k)
    )
    assert progress_of(StudyView(study)).points == first.points
    assert not computed


def test_points_of_a_deleted_study_are_forgotten(tmp_path):
    """A database gives the numbers of what was deleted to what comes next."""
    storage, task = RDBStorage(f"sqlite:///{tmp_path}/s.db"), one_stage()
    for value in (0.2, 0.9):
        study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
        study.add_trial(trial_of(task, small(4), value))
        assert progress_of(StudyView(study, task)).points[-1].value == pytest.approx(value)
        optuna.delete_study(study_name="s", storage=storage)


def test_numbers_of_points_are_few_and_do_not_move():
    before = []
    for trials in (0, 1, 2, 9, 10, 50, 51, 1000, 30_000):
        counts = progress._counts(trials)
        assert len(counts) <= 30
        assert counts == sorted(set(counts))
        assert counts[-1:] == [trials][: len(counts)]
        if trials < 1000:
            assert set(before[:-1]) <= set(counts)
        before = counts


def test_a_course_without_a_complete_trial_has_no_points():
    failed = optuna.create_study(direction="maximize")
    failed.add_trial(
        trial_of(
            TASK,
            {"retrieval": ("qwen-7B", 1), "answer": ("small-3B", 1)},
            None,
            state=TrialState.FAIL,
        )
    )
    found = progress_of(StudyView(failed, TASK))
    assert found.points == ()
    assert [(t.state, t.value) for t in found.trials] == [("failed", None)]


# Summary.


def assert_readable(text):
    """No control character, no empty part, no number with more digits than people read."""
    for line in text.splitlines():
        assert line.isprintable(), line
    assert text.strip() == text
    assert "nan" not in text.split()


def test_a_summary_answers_a_stranger(study):
    text = str(summarize(study))
    assert_readable(text)
    recommended = recommend(study)
    for stage, setting in recommended.allocation.items():
        assert stage in text
        assert setting.model in text
    for wanted in (
        "exact match",
        "higher is better",
        "900 reference samples per instance",
        "14 complete",
        "40 instances",
        "90 % interval",
        "What matters",
        "What it cost",
        "Which instances fail",
        "confirm(study",
    ):
        assert wanted in text, wanted


@pytest.mark.parametrize("sampler", [TPESampler(seed=0), RandomSampler(seed=0)])
def test_studies_of_other_samplers_are_summarized(sampler):
    found = summarize(run(sampler, n_trials=8))
    assert found.recommendation is not None
    assert found.recommendation.interval is None
    assert any("outcomes of single instances" in line for line in found.warnings)
    assert any("no spend" in line for line in found.warnings)
    assert_readable(str(found))


def test_what_is_minimized_is_summarized():
    searched_study = searched(task=TASK, n_trials=6, sign=-1)
    found = summarize(searched_study, TASK)
    assert found.maximize is False
    assert found.luckiest[1] == min(trial.value for trial in searched_study.trials)
    assert "lower is better" in str(found)


def test_studies_without_a_recommendation_are_summarized():
    """Without trials, with failures only, and with several objectives."""
    empty = optuna.create_study(direction="maximize")
    found = summarize(empty, TASK)
    assert found.recommendation is None
    assert found.without
    assert found.seconds is None
    assert "Trials: none" in str(found)
    failing = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(TASK))

    def broken(trial):
        TASK.suggest(trial)
        raise ValueError

    failing.optimize(broken, n_trials=3, catch=(ValueError,))
    found = summarize(failing)
    assert "3 failed" in str(found)
    assert any("0, 1, 2" in line for line in found.warnings)
    assert any("agenttts doctor" in line for line in found.next_steps)
    several = optuna.create_study(directions=["maximize", "maximize"])
    several.optimize(lambda trial: (len(TASK.suggest(trial)), 1.0), n_trials=3)
    found = summarize(several)
    assert found.maximize is None
    assert found.luckiest is None
    assert "objectives" in found.without
    assert found.outcomes.trials == ()
    values = trials_dataframe(several)["value 1"]
    assert [v for v in values if v == v] == [t.values[1] for t in several.trials if t.values]
    for study_without in (empty, failing, several):
        assert_readable(str(summarize(study_without, TASK)))
    with pytest.raises(NoTaskError):
        summarize(optuna.create_study())


@pytest.mark.parametrize("kind", [list, "\n".join])
def test_replies_that_ended_in_thoughts_are_a_warning(kind):
    """The latest share of each stage, as one text or as the list of earlier versions."""
    trials = [
        trial_of(one_stage(), small(1 + n), 0.5, user_attrs={"thoughts": kind([line, "other"])})
        for n, line in enumerate(["12 % of m's replies", "30 % of m's replies"])
    ]
    found_study = optuna.create_study(direction="maximize")
    found_study.add_trials(trials)
    found = summarize(found_study, one_stage()).warnings
    assert "30 % of m's replies." in found
    assert "12 % of m's replies." not in found
    assert "other." in found


def test_a_budget_that_binds_is_named():
    """If scores still rise at the most samples that it allows, and only then."""
    for budget, binds in ((20, True), (1000, False)):
        task = one_stage(max_samples=40, budget=budget)
        models = [model.name for model in task.stages[0].models]
        evidence = [({"answer": (models[0], n)}, n / 40) for n in (1, 8, 16, 24, 32)]
        found_study = study_with_outcomes(
            task,
            [(a, np.arange(40) < 40 * rate) for a, rate in evidence if task.fits(a)],
        )
        steps = summarize(found_study, task).next_steps
        assert any("larger budget" in line for line in steps) == binds


def test_hostile_names_do_not_break_lines():
    models = [Model(HOSTILE, parameters=7e9), Model("b" + HOSTILE, parameters=70e9)]
    stages = [
        Stage(name, models=models, prompt_tokens=20, generation_tokens=20, max_samples=8)
        for name in (HOSTILE, "x" + HOSTILE)
    ]
    task = Task(name=HOSTILE, stages=stages, budget=500, metric=HOSTILE, description=HOSTILE)
    found_study = optuna.create_study(
        study_name=HOSTILE, direction="maximize", sampler=AgentTTSSampler(task)
    )
    note_instances(found_study, [HOSTILE, "b" + HOSTILE])

    def target(trial):
        allocation = task.suggest(trial)
        outcomes = [float(sum(n for _, n in allocation.values()) > 4), 1.0]
        for step, outcome in enumerate(outcomes):
            trial.report(outcome, step)
        return sum(outcomes) / 2

    found_study.optimize(target, n_trials=6)
    found = summarize(found_study)
    assert_readable(str(found))
    assert found.outcomes.instances[0].name == HOSTILE
    assert max(map(len, str(found).splitlines())) < 2000


def test_prices_have_their_unit():
    models = [Model("m-7B", input_price=1.0, output_price=2.0)]
    stage = Stage("answer", models=models, prompt_tokens=100, generation_tokens=100, max_samples=9)
    task = Task(name="t", stages=[stage], cost=PriceCost(), budget=1.0)
    found = summarize(
        run(
            AgentTTSSampler(task),
            n_trials=4,
            target=lambda trial: 1 - 1 / (1 + task.suggest(trial)["answer"][1]),
        )
    )
    assert found.spend.unit in str(found)
    assert_readable(str(found))


def test_four_stages_and_a_thousand_trials_take_seconds(tmp_path):
    stages = [
        Stage(
            name,
            models=[Model("a-1B", parameters=1e9), Model("b-9B", parameters=9e9)],
            prompt_tokens=100,
            generation_tokens=50,
            max_samples=20,
        )
        for name in ("one", "two", "three", "four")
    ]
    task = Task(name="four", stages=stages, budget=1500)
    rng = np.random.default_rng(0)
    trials = []
    for _ in range(1000):
        allocation = task.project(
            {s.name: (s.models[rng.integers(2)].name, int(rng.integers(1, 21))) for s in stages}
        )
        outcomes = (rng.random(20) < 0.5).astype(float)
        trials.append(
            trial_of(
                task,
                allocation,
                float(outcomes.mean()),
                user_attrs={"spend": 1.0},
                intermediate_values=dict(enumerate(outcomes.tolist())),
            )
        )
    large = optuna.create_study(direction="maximize")
    task.register(large)
    large.add_trials(trials)
    started = time.process_time()
    text = str(summarize(large))
    assert time.process_time() - started < 20
    assert "1000 complete" in text
    assert len(text.splitlines()) < 110


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (5, "5 s"),
        (47.4, "47 s"),
        (150, "2 min"),
        (3599, "60 min"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (86_400 * 2 + 3600 * 5, "2 d 5 h"),
    ],
)
def test_durations_are_short(seconds, text):
    assert duration_text(seconds) == text


# DataFrames.


def test_trials_as_a_dataframe(study, tmp_path):
    """One row a trial, with its allocation, exact cost, spend, origin and instances."""
    frame = trials_dataframe(study)
    assert list(frame.columns[:8]) == [
        *("number", "state", "value"),
        *TASK.params(recommend(study).allocation),
        "cost",
    ]
    for trial, (_, row) in zip(study.trials, frame.iterrows()):
        choices = TASK.choices_from_params(trial.params)
        assert row["cost"] == TASK.cost(TASK.allocation([choices[0], choices[1]]))
        assert row["value"] == trial.value
        assert row["instances"] == 40
        assert row["origin"] == trial.user_attrs["agenttts:origin"]
        assert row["retrieval.model"] == trial.params["retrieval.model"]
    assert not [name for name in frame if name.startswith("agenttts:")]
    # Also of a study without trials or task, and from a file.
    assert list(trials_dataframe(optuna.create_study()).columns[:3]) == [
        "number",
        "state",
        "value",
    ]
    stored = RDBStorage(f"sqlite:///{tmp_path}/s.db")
    optuna.copy_study(
        from_study_name=study.study_name, from_storage=study._storage, to_storage=stored
    )
    copied = optuna.load_study(study_name=study.study_name, storage=stored)
    again = trials_dataframe(copied)
    assert again.drop(columns=["start", "seconds"]).equals(
        frame.drop(columns=["start", "seconds"])
    )
    stored.engine.dispose()


def test_a_pruned_trial_has_the_mean_of_what_it_saw():
    found_study = optuna.create_study(direction="maximize")
    trial = trial_of(
        TASK,
        {"retrieval": ("qwen-7B", 1), "answer": ("small-3B", 1)},
        1.0,
        state=TrialState.PRUNED,
        intermediate_values={0: 0.0, 1: 1.0},
    )
    found_study.add_trial(trial)
    found_study.add_trial(create_trial(state=TrialState.FAIL))
    frame = trials_dataframe(found_study, TASK)
    assert frame["value"][0] == 0.5
    assert math.isnan(frame["value"][1])
    assert math.isnan(frame["cost"][1])
    assert list(frame["state"]) == ["pruned", "failed"]


def test_ties_and_outcomes_as_dataframes(study):
    recommended = recommend(study)
    frame = recommended.to_dataframe()
    others = [*recommended.ties, *recommended.undecided]
    assert list(frame["kind"]) == [
        "recommended",
        *["tie"] * len(recommended.ties),
        *["undecided"] * len(recommended.undecided),
    ]
    assert frame["value"][0] == recommended.value
    assert (frame["low"][0], frame["high"][0]) == recommended.interval
    for other, (_, row) in zip(others, list(frame.iterrows())[1:]):
        assert {name: row[name] for name in recommended.params} == TASK.params(other.allocation)
        assert row["loss"] == other.loss
    table = summarize(study).outcomes
    outcomes = table.to_dataframe()
    assert outcomes.shape == (40, 4 + 14)
    assert np.array_equal(outcomes[list(table.trials)].to_numpy(), table.values, equal_nan=True)


def test_a_study_without_rounds_has_none(study, monkeypatch):
    assert len(rounds_dataframe(study)) == 0
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    for function in (trials_dataframe, rounds_dataframe):
        with pytest.raises(AgentTTSError, match=r"pip install optuna-agenttts\[pandas\]"):
            function(study)


@pytest.mark.parametrize("metric_range", [None, (0, 1)])
@pytest.mark.parametrize("failing", [0, 1, 3])
def test_instances_that_never_fail_are_not_listed(metric_range, failing):
    """And a best score that all trials have is not called luck."""
    task = one_stage(metric_range=metric_range)
    outcomes = [float(n >= failing) for n in range(20)]
    found = study_with_outcomes(task, [(small(samples), outcomes) for samples in (1, 2, 4, 8)])
    summary = summarize(found, task)
    text = str(summary)
    assert len(summary.outcomes.failing) == failing
    assert ("None: all 20 have 1.000 in all trials." in text) == (not failing)
    assert (f"The worst {failing} of 20; the others have 1.000" in text) == bool(failing)
    assert "luck" not in text


@pytest.mark.parametrize(("metric_range", "failing"), [((0, 1), 20), (None, 0)])
def test_instances_that_always_fail_are_listed_where_that_is_known(metric_range, failing):
    """Scores of 0 are the worst ones if the metric's range is known."""
    task = one_stage(metric_range=metric_range)
    found = study_with_outcomes(task, [(small(1), [0.0] * 20)])
    assert len(summarize(found, task).outcomes.failing) == failing
