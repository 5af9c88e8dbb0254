"""Results saved as JSON: equal when read again, readable, versioned, and without secrets."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_cases import draw_outcomes, one_stage, small, study_with_outcomes

from optuna_agenttts import (
    Frontier,
    FrontierPoint,
    Model,
    Recommendation,
    Stage,
    StageAllocation,
    Task,
    TaskError,
    Tie,
    Undecided,
    frontier,
    load_allocation,
    recommend,
    save_allocation,
)

TASK = one_stage(metric_range=(0, 1))
TABLE = draw_outcomes(np.random.default_rng(0), [0.3, 0.6, 0.62], 60)
STUDY = study_with_outcomes(TASK, list(zip(map(small, (2, 8, 32)), TABLE)))

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
numbers = st.floats(allow_nan=False)
counts = st.integers(0, 10**6)
allocations = st.dictionaries(
    names, st.builds(StageAllocation, names, st.integers(1, 10**6)), max_size=3
)
intervals = st.none() | st.tuples(numbers, numbers)
params = st.dictionaries(names, names | counts, max_size=3)
ties = st.builds(Tie, allocations, numbers, numbers, numbers, counts)
undecided = st.builds(Undecided, allocations, numbers, numbers, numbers, counts, counts)
recommendations = st.builds(
    Recommendation,
    params=params,
    allocation=allocations,
    value=numbers,
    interval=intervals,
    cost=numbers,
    unit=names,
    ties=st.lists(ties, max_size=2).map(tuple),
    undecided=st.lists(undecided, max_size=2).map(tuple),
    margin=numbers,
    trials=counts,
    failed=st.lists(counts, max_size=3).map(tuple),
    unreadable=st.lists(counts, max_size=3).map(tuple),
    outliers=st.lists(st.tuples(counts, numbers), max_size=3).map(tuple),
    bound=st.none() | numbers,
    probability=st.none() | numbers,
)
points = st.builds(
    FrontierPoint,
    params=params,
    allocation=allocations,
    value=numbers,
    interval=intervals,
    cost=numbers,
    costs=st.dictionaries(names, numbers, max_size=2),
    tried=st.booleans(),
    instances=counts,
    loss=numbers,
    shared=counts,
)
frontiers = st.builds(
    Frontier,
    points=st.lists(points, min_size=1, max_size=3).map(tuple),
    unit=names,
    budget=numbers,
    missing=st.lists(names, max_size=2).map(tuple),
    maximize=st.booleans(),
    margin=numbers,
    least=counts,
)


@settings(max_examples=200, derandomize=True, database=None)
@given(st.one_of(recommendations, points, frontiers))
def test_what_is_saved_is_read_exactly(saved):
    """Values, types and infinite numbers are equal, and the text is JSON of one version."""
    text = saved.to_json()
    found = type(saved).from_json(text)
    assert found == saved
    assert repr(found) == repr(saved)
    assert found.to_json() == text
    assert json.loads(text)["version"] == 1


@settings(max_examples=50, derandomize=True, database=None)
@given(allocations)
def test_allocations_are_read_exactly(tmp_path_factory, allocation):
    """Also where they were given as plain tuples; the type is that of `Task.allocation`."""
    path = tmp_path_factory.mktemp("saved") / "allocation.json"
    save_allocation({stage: tuple(setting) for stage, setting in allocation.items()}, path)
    found = load_allocation(path)
    assert found == allocation
    assert all(isinstance(setting, StageAllocation) for setting in found.values())


@pytest.mark.parametrize(
    "wrong",
    [None, "answer", {"s": "m"}, {"s": ("m",)}, {"s": ("m", 2.5)}, {"s": ("m", 0)}, {"s": 3}],
)
def test_what_is_no_allocation_is_not_saved(tmp_path, wrong):
    """A file that could not be loaded does not replace one that can."""
    path = tmp_path / "best.json"
    save_allocation(small(2), path)
    with pytest.raises(TaskError):
        save_allocation(wrong, path)
    assert load_allocation(path) == small(2)


def test_numbers_of_numpy_are_saved(tmp_path):
    """As those that they equal."""
    path = tmp_path / "best.json"
    save_allocation({"answer": (np.str_("m"), np.int64(4))}, path)
    assert load_allocation(path) == {"answer": ("m", 4)}
    found = recommend(STUDY, TASK, at_least=np.float32(0.1), margin=np.float32(0.2))
    assert Recommendation.from_json(found.to_json()) == found


def test_files_of_other_editors_are_read(tmp_path):
    """With a byte order mark, and line ends of Windows."""
    path, recommended = tmp_path / "best.json", recommend(STUDY, TASK)
    path.write_bytes(b"\xef\xbb\xbf" + recommended.to_json().replace("\n", "\r\n").encode())
    assert Recommendation.load(path) == recommended


def test_threads_save_the_same_file(tmp_path):
    """No one reads half a file, and nothing else is left."""
    path = tmp_path / "best.json"
    save_allocation(small(1), path)
    with ThreadPoolExecutor(8) as pool:
        saving = [pool.submit(save_allocation, small(n), path) for n in range(1, 200)]
        assert all(load_allocation(path)["answer"].samples for _ in range(50))
        assert not any(each.exception() for each in saving)
    assert [file.name for file in tmp_path.iterdir()] == ["best.json"]


def test_files_are_replaced_and_read(tmp_path):
    """The recommendation and the frontier of a study, and the allocation of each file."""
    path = tmp_path / "best.json"
    recommended, found = recommend(STUDY, TASK), frontier(STUDY, TASK)
    recommended.save(path)
    assert Recommendation.load(path) == recommended
    assert str(Recommendation.load(str(path))) == str(recommended)
    assert load_allocation(path) == recommended.allocation
    found.knee.save(path)
    assert FrontierPoint.load(path) == found.knee
    assert load_allocation(path) == found.knee.allocation
    found.save(path)
    again = Frontier.load(path)
    assert again == found
    assert (again.at(500), again.knee) == (found.at(500), found.knee)
    assert again.cheapest(within=0.1) == found.cheapest(within=0.1)
    assert str(again) == str(found)
    assert [file.name for file in tmp_path.iterdir()] == ["best.json"]


def test_people_can_read_a_file(tmp_path):
    """Stages, models and samples stand by name, one value a line, without escapes."""
    path = tmp_path / "best.json"
    save_allocation({"réponse": ("modèle-7B", 12)}, path)
    assert path.read_text(encoding="utf-8") == (
        '{\n  "optuna-agenttts": "Allocation",\n  "version": 1,\n  "allocation": {\n'
        '    "réponse": {\n      "model": "modèle-7B",\n      "samples": 12\n    }\n  }\n}\n'
    )


def test_loaded_allocations_are_run_by_studies(tmp_path):
    """Its parameters can be enqueued, and the trial suggests the same allocation."""
    path = tmp_path / "best.json"
    recommend(STUDY, TASK).save(path)
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(Recommendation.load(path).params)
    assert TASK.suggest(study.ask()) == load_allocation(path)
    study.enqueue_trial(TASK.params(load_allocation(path)))
    assert TASK.suggest(study.ask()) == load_allocation(path)


def test_files_hold_no_secret(tmp_path):
    """Requests' further fields, prices' sources and descriptions of the task are left out."""
    models = [Model("small-3B", parameters=3e9, extra={"user": "SECRET"})]
    stage = Stage(
        "answer", models=models, prompt_tokens=9, generation_tokens=9, description="SECRET"
    )
    task = Task(name="one", stages=[stage], description="SECRET", budget=100)
    study = study_with_outcomes(task, [(small(n), TABLE[0]) for n in (2, 4)])
    study.set_user_attr("key", "SECRET")
    for saved in (recommend(study, task), frontier(study, task), frontier(study, task).knee):
        saved.save(tmp_path / "file.json")
        assert "SECRET" not in (tmp_path / "file.json").read_text(encoding="utf-8")


def change(**values):
    """Return the JSON of a recommendation with other values; None removes one."""
    data = json.loads(recommend(STUDY, TASK).to_json()) | values
    return json.dumps({key: value for key, value in data.items() if value is not ...})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON of a saved Recommendation, but"),
        ("[]", "expected a saved Recommendation, got other JSON, of type list"),
        (change(**{"optuna-agenttts": "Frontier"}), "saved Recommendation, got Frontier"),
        (change(version=2), "newer optuna-agenttts in version 2 of the format.*upgrade it"),
        (change(version="1"), "`version` must be a whole number above 0, got '1'"),
        (change(value="high"), "`Recommendation.value` must be of type float, got 'high'"),
        (change(value=True), "`Recommendation.value` must be of type float, got True"),
        (change(trials=1.5), "`Recommendation.trials` must be of type int, got 1.5"),
        (change(interval=[0.1]), "`Recommendation.interval` must be of type tuple, got"),
        (change(cost=...), "`Recommendation` lacks cost"),
        (change(allocation={"answer": {"model": "m"}}), r"\['answer'\]` lacks samples"),
        ("[" * 100_000, "expected JSON of a saved Recommendation, but maximum recursion"),
        (change(value=10**400), "`Recommendation.value` must be of type float, got 1000"),
        (change(allocation={"a": {"model": "m", "samples": 0}}), "must be 1 or more, got 0"),
        (change(ties=[3]), r"`Recommendation.ties\[0\]` must be an object with fields, got 3"),
    ],
)
def test_other_texts_are_refused_with_a_reason(tmp_path, text, message):
    """The error names the value, and the file if there is one."""
    with pytest.raises(TaskError, match=message):
        Recommendation.from_json(text)
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(TaskError, match=f"(?s)other.json.*{message}"):
        Recommendation.load(path)


def test_fields_that_are_not_known_are_ignored():
    """A later release may add fields without a new version; those it omits have defaults."""
    expected = recommend(STUDY, TASK)
    assert Recommendation.from_json(change(colour="red")) == expected
    assert Recommendation.from_json(change(bound=..., probability=...)) == expected


def test_frontier_has_no_single_allocation(tmp_path):
    """The error names what can be loaded."""
    frontier(STUDY, TASK).save(tmp_path / "f.json")
    with pytest.raises(
        TaskError, match=r"expected a saved Allocation or Recommendation or .*`Frontier.load`"
    ):
        load_allocation(tmp_path / "f.json")


def test_outliers_of_infinite_values_are_saved():
    """JSON has no infinity: it is written as text."""
    study = study_with_outcomes(TASK, [(small(2), TABLE[0])])
    study.add_trial(
        optuna.trial.create_trial(
            params=TASK.params(small(4)),
            distributions=study.trials[0].distributions,
            value=math.inf,
        )
    )
    recommended = recommend(study, TASK)
    assert recommended.outliers == ((1, math.inf),)
    assert Recommendation.from_json(recommended.to_json()) == recommended
