"""Experimental marks: one warning for each feature, a note, and nothing else changed."""

import dataclasses
import inspect
import pickle
import warnings

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning

from optuna_agenttts import AgentTTSSampler, Hub, StopWhenSettled
from optuna_agenttts.support.experimental import experimental_class, warn_experimental_argument


@experimental_class("0.1.0")
class Marked:
    """Hold a value.

    Args:
        value: Any.
    """

    def __init__(self, *, value):
        self.value = value


def test_notes_follow_the_docstring():
    """The note names the version, without stray indentation."""
    assert Marked.__doc__.startswith("Hold a value.\n\nArgs:\n    value: Any.\n\n.. note::\n")


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


def test_features_that_may_change_are_marked():
    """An argument warns when it is given, a class when it is constructed."""
    study = optuna.create_study()
    with pytest.warns(ExperimentalWarning, match="Argument `experience`"):
        AgentTTSSampler(experience=[study])
    assert ".. note::" in StopWhenSettled.__doc__
    assert ".. note::" in Hub.__doc__
