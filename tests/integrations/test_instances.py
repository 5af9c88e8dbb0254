"""IDs of instances, and overlap of held-out instances with those of the search."""

import json
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pipeline_support import allocation, make_objective

from optuna_agenttts_integrations import PipelineError
from optuna_agenttts_integrations.instances import check_disjoint, named_instances


@dataclass
class Question:
    id: str
    text: str
    options: list = field(default_factory=list)


@dataclass(frozen=True)
class Nested:
    id: int
    inner: Any


class Plain:
    def __init__(self, id, text):
        self.id, self.text = id, text


class Printed(Plain):
    """Object with an ID and its own `repr`."""

    def __repr__(self):
        return f"<question {self.id}>"


class ReadOnly(Mapping):
    """Mapping that is not a dict, like rows of some data sets."""

    def __init__(self, **values):
        self._values = values

    def __getitem__(self, key):
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)


Tuple = namedtuple("Tuple", ["id", "text"])


def overlap(search, held_out):
    """Return whether an overlap of two lists of instances is found."""
    try:
        check_disjoint(named_instances(search), named_instances(held_out))
    except PipelineError:
        return True
    return False


class Keyed:
    """Instance with a key of its content."""

    def __init__(self, id, text, key):
        self.id, self.text, self.overlap_key = id, text, key


SAME = {
    "own key": (Keyed(1, "x", "k"), Keyed(2, "y", "k")),
    "dict": ({"id": 1, "q": "x"}, {"id": 2, "q": "x"}),
    "dict without ids": ({"q": "x"}, {"q": "x"}),
    "order of keys": ({"q": "x", "a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}, "q": "x"}),
    "mapping": (ReadOnly(id=1, q="x"), {"id": 2, "q": "x"}),
    "dataclass": (Question("1", "x", [1]), Question("2", "x", [1])),
    "dataclass and dict": (Question("1", "x"), {"id": 2, "text": "x", "options": []}),
    "nested dataclass": (Nested(1, Question("a", "x")), Nested(2, Question("a", "x"))),
    "object": (Plain(1, "x"), Plain(2, "x")),
    "object that prints its id": (Printed(1, "x"), Printed(2, "x")),
    "namespace": (SimpleNamespace(id=1, q="x"), SimpleNamespace(id=2, q="x")),
    "namedtuple": (Tuple(1, "x"), Tuple(2, "x")),
    "string": ("what?", "what?"),
    "number": (3, 3),
    "tuple": (("q", "a"), ("q", "a")),
    "tuple and list": (("q", ["a"]), ["q", ("a",)]),
    "set": ({"s": {f"{i}" for i in range(50)}}, {"s": {f"{i}" for i in reversed(range(50))}}),
    "unhashable": ([{"q": [1]}], [{"q": [1]}]),
    "keys of several types": ({"d": {1: "a", "b": 2}}, {"d": {"b": 2, 1: "a"}}),
    "keys that are tuples": ({"d": {(1, 2): "a"}}, {"d": {(1, 2): "a"}}),
    "array": (np.arange(5), np.arange(5)),
    "dict of arrays": ({"id": 1, "x": np.arange(2000)}, {"id": 2, "x": np.arange(2000)}),
    "numpy's number": ({"x": np.int64(3)}, {"x": 3}),
    "only an id": ({"id": "a"}, {"id": "a"}),
    "dataclass of only an id": (Question("a", ""), Question("a", "")),
    "object of only an id": (SimpleNamespace(id="a"), SimpleNamespace(id="a")),
    "empty": ({}, {}),
    "not a number": ({"x": float("nan")}, {"x": float("nan")}),
    "bytes": ({"x": b"\xff"}, {"x": b"\xff"}),
}
OTHER = {
    "dict": ({"id": 1, "q": "x"}, {"id": 1, "q": "y"}),
    "value under another key": ({"a": "x"}, {"b": "x"}),
    "string": ("what?", "who?"),
    "string and number": ("3", 3),
    "dataclass": (Question("1", "x"), Question("1", "y")),
    "nested": (Nested(1, {"q": [1, 2]}), Nested(1, {"q": [2, 1]})),
    "object": (Plain(1, "x"), Plain(1, "y")),
    "object that prints its id": (Printed(1, "x"), Printed(1, "y")),
    "namedtuple": (Tuple(1, "x"), Tuple(1, "y")),
    "long array": ({"x": np.arange(2000)}, {"x": np.r_[:1000, 0, 1001:2000]}),
    "only an id": ({"id": "a"}, {"id": "b"}),
    "object of only an id": (SimpleNamespace(id="a"), SimpleNamespace(id="b")),
    "an id and none": ({"id": "a"}, {}),
    "tuple": (("q", "a"), ("a", "q")),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_the_same_content_is_found(one, other):
    """IDs, types and the order of keys do not matter, in either direction."""
    assert overlap([one], [other])
    assert overlap([other], [one])


@pytest.mark.parametrize(("one", "other"), OTHER.values(), ids=OTHER)
def test_different_content_is_no_overlap(one, other):
    """Equal positions or IDs do not matter."""
    assert not overlap([one], [other])
    assert not overlap([other], [one])


def test_instances_may_contain_themselves():
    """They are compared by their `repr`."""
    one, other = {"id": 1, "q": "x"}, {"id": 2, "q": "y"}
    one["me"], other["me"] = [one, one], [other]
    assert not overlap([one], [other])
    assert overlap([one], [one])


def test_the_error_has_a_count_and_an_example():
    """The example has its ID in both sets."""
    search = {"s0": {"q": 0}, "s1": {"q": 1}, "s2": {"q": 2}}
    held_out = {"h0": {"q": 5}, "h1": {"q": 2}, "h2": {"q": 1}}
    with pytest.raises(PipelineError, match=r"got 2 .* example 'h1' \('s2' in the search\)"):
        check_disjoint(search, held_out)


def test_names_are_ids_or_positions():
    """IDs come from an attribute, a key or a function; None means the position."""
    assert list(named_instances(["a", {"id": 7}, Plain("x", ""), {"id": None}])) == [
        "0",
        "7",
        "x",
        "3",
    ]
    assert list(named_instances(["a", "b"], str.upper)) == ["A", "B"]
    with pytest.raises(PipelineError, match="got '1' twice"):
        named_instances([{"id": 1}, 7])


def test_ids_of_a_mapping_are_texts():
    """And unique as such."""
    assert named_instances({1: "a", "x": "b"}) == {"1": "a", "x": "b"}
    with pytest.raises(PipelineError, match="got '1' twice"):
        named_instances({1: "a", "1": "b"})


@pytest.mark.parametrize(
    ("wrong", "reason"), [("a\ud800", "unpaired surrogate"), ("a\0", "character NUL")]
)
def test_ids_that_cannot_be_stored_are_refused(wrong, reason):
    """With their position; an ID may have any length."""
    for instances in ({"a": 1, wrong: 2}, [{"id": "a"}, {"id": wrong}]):
        with pytest.raises(PipelineError, match=f"ID of instance 1 .*{reason}"):
            named_instances(instances)
    assert list(named_instances({"x" * 10_000: 1})) == ["x" * 10_000]


def test_an_objective_rejects_instances_of_its_search():
    """`evaluate` raises before any request is sent."""
    objective, chats = make_objective()
    with objective:
        with pytest.raises(PipelineError, match=r"must not occur in the search.* 'q3\.'"):
            objective.evaluate(allocation(), [{"id": "new"}, {"id": "q3."}])
        assert not any(chat.calls for chat in chats.values())
        assert len(objective.evaluate(allocation()).results) == 20


def test_comparing_is_quick():
    """A thousand instances of ten kilobytes take less than a second."""
    search = {str(i): {"id": i, "text": f"{i} " + "x" * 10_000} for i in range(1000)}
    held_out = {str(i): {"id": i, "text": f"{i}! " + "x" * 10_000} for i in range(1000)}
    check_disjoint(search, held_out)
    assert json.dumps(search["0"])
