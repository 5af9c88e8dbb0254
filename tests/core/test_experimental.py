"""Experimental marks: one warning for each feature, a note, and nothing else changed."""

import dataclasses
import inspect
import pickle
import warnings

import pytest
from optuna.exceptions import ExperimentalWarning

from optuna_agenttts._experimental import (
    experimental_class,
    experimental_func,
    warn_experimental_argument,
)


@experimental_class("0.1.0")
class Marked:
    """Hold a value.

    Args:
        value: Any.
    """

    def __init__(self, *, value):
        self.value = value


def make_function():
    """Mark a new function, which has not warned yet."""

    @experimental_func("0.1.0")
    def double(value: int) -> int:
        """Return twice a value."""
        return 2 * value

    return double


def test_a_function_warns_once_and_returns_its_result():
    """The first call warns, at the caller's line; the second is silent."""
    double = make_function()
    with pytest.warns(ExperimentalWarning, match=r"double is experimental .*v0\.1\.0") as caught:
        assert double(2) == 4
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert double(value=3) == 6


def test_features_warn_separately():
    """One feature's warning does not silence another's."""
    for double in (make_function(), make_function()):
        with pytest.warns(ExperimentalWarning):
            double(1)


def test_the_wrapper_keeps_name_and_signature():
    """Documentation tools see what was written."""
    double = make_function()
    assert double.__name__ == "double"
    assert list(inspect.signature(double).parameters) == ["value"]


def test_notes_follow_the_docstring():
    """The note says since when, whether or not there is a docstring, without stray indentation."""
    assert "Return twice a value.\n\n.. note::\n    Added in v0.1.0" in make_function().__doc__
    assert Marked.__doc__.startswith("Hold a value.\n\nArgs:\n    value: Any.\n\n.. note::\n")
    bare = experimental_func("0.1.0")(lambda: None)
    assert "experimental feature" in bare.__doc__


def test_a_class_warns_at_its_first_instance():
    """Constructing warns, at the caller's line; later instances are silent."""

    @experimental_class("0.1.0")
    class Local:
        pass

    with pytest.warns(ExperimentalWarning, match="Local is experimental") as caught:
        Local()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Local()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_marked_class_is_still_the_class():
    """Pickles, subclasses and signatures are those of the class itself."""

    class Child(Marked):
        pass

    assert isinstance(Child(value=1), Marked)
    assert pickle.loads(pickle.dumps(Marked(value=2))).value == 2
    assert list(inspect.signature(Marked).parameters) == ["value"]
    with pytest.raises(TypeError):
        Marked(1)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_frozen_dataclasses_can_be_marked():
    """Values stay values."""

    @experimental_class("0.1.0")
    @dataclasses.dataclass(frozen=True)
    class Value:
        """Hold a number."""

        number: int

    assert Value(1) == Value(1)
    assert dataclasses.replace(Value(1), number=2).number == 2


def test_an_argument_warns_where_the_function_is_called():
    """The warning names the argument and points at the caller."""

    def use(*, fast=False):
        if fast:
            warn_experimental_argument("fast")

    with pytest.warns(ExperimentalWarning, match="Argument `fast`") as caught:
        use(fast=True)
    assert caught[0].filename == __file__
