"""What is kept in a study's storage."""

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from optuna_agenttts.storage import read_study_value, register, registered, write_study_value

KEY = "agenttts:test"


@pytest.fixture(params=["memory", "sqlite", "journal"])
def storage(request, tmp_path):
    if request.param == "memory":
        yield InMemoryStorage()
    elif request.param == "sqlite":
        database = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
        yield database
        database.engine.dispose()
    else:
        file = str(tmp_path / "journal")
        yield JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))


VALUES = [
    {"short": 1},
    "x" * 2043,
    "x" * 2044,
    "x" * 50_000,
    "日本語ñ🙂" * 2000,
    {"nested": [{"list": list(range(3000))}, None, True, 0.1]},
    "",
    [],
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_round_trip(storage, value):
    """What is written is read, however long and in any script."""
    study = optuna.create_study(storage=storage)
    write_study_value(storage, study._study_id, KEY, value)
    assert read_study_value(storage.get_study_system_attrs(study._study_id), KEY) == value


def test_no_piece_is_longer_than_storages_allow(storage):
    """Every attribute is short, non-ASCII text included."""
    study = optuna.create_study(storage=storage)
    write_study_value(storage, study._study_id, KEY, "日本語" * 3000)
    values = storage.get_study_system_attrs(study._study_id).values()
    assert all(len(str(value)) <= 2045 and str(value).isascii() for value in values)


def test_new_value_replaces_the_old_one(storage):
    """A shorter value leaves nothing of a longer one behind."""
    study = optuna.create_study(storage=storage)
    for value in ("a" * 9000, "b"):
        write_study_value(storage, study._study_id, KEY, value)
    assert read_study_value(storage.get_study_system_attrs(study._study_id), KEY) == "b"


class Interrupted(InMemoryStorage):
    """A storage whose writer dies after some writes."""

    left = 10**9

    def set_study_system_attr(self, study_id, key, value):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().set_study_system_attr(study_id, key, value)


@pytest.mark.parametrize("writes", range(6))
def test_torn_write_leaves_the_old_value(writes):
    """A writer that dies midway changes nothing for readers."""
    storage = Interrupted()
    study_id = optuna.create_study(storage=storage)._study_id
    write_study_value(storage, study_id, KEY, "a" * 9000)
    storage.left = writes
    if writes < 6:
        with pytest.raises(KeyboardInterrupt):
            write_study_value(storage, study_id, KEY, "b" * 12_000)
    assert read_study_value(storage.get_study_system_attrs(study_id), KEY) == "a" * 9000


def test_first_write_torn_reads_as_nothing():
    """Pieces without a record are nothing."""
    storage = Interrupted()
    study_id = optuna.create_study(storage=storage)._study_id
    storage.left = 3
    with pytest.raises(KeyboardInterrupt):
        write_study_value(storage, study_id, KEY, "b" * 12_000)
    assert read_study_value(storage.get_study_system_attrs(study_id), KEY) is None


@pytest.mark.parametrize("missing", range(3))
def test_record_that_points_to_a_missing_piece_reads_as_nothing(missing):
    """A lost piece loses the value, never mixes it."""
    storage = InMemoryStorage()
    study_id = optuna.create_study(storage=storage)._study_id
    write_study_value(storage, study_id, KEY, "a" * 5000)
    attributes = dict(storage.get_study_system_attrs(study_id))
    pieces = sorted(name for name in attributes if name.startswith(f"{KEY}:"))
    del attributes[pieces[missing]]
    assert read_study_value(attributes, KEY) is None


@pytest.mark.parametrize("attributes", [{}, {KEY: None}, {KEY: "text"}, {KEY: 3}])
def test_absent_or_foreign_record_reads_as_nothing(attributes):
    """A missing record, or one that other code wrote, has no value."""
    assert read_study_value(attributes, KEY) is None


def test_interleaved_writers_never_mix():
    """Whoever writes the record last wins whole."""
    storage = InMemoryStorage()
    study_id = optuna.create_study(storage=storage)._study_id

    class Nested(InMemoryStorage):
        def set_study_system_attr(self, owner, key, value):
            storage.set_study_system_attr(owner, key, value)
            if key.endswith(":1"):
                write_study_value(storage, owner, KEY, "b" * 7000)

    write_study_value(Nested(), study_id, KEY, "a" * 7000)
    assert read_study_value(storage.get_study_system_attrs(study_id), KEY) == "a" * 7000


def test_registering_returns_what_it_replaced(storage):
    """The first registration replaces nothing, the same one neither."""
    study = optuna.create_study(storage=storage)
    answers = [register(study, text) for text in ('{"a":1}', '{"a":1}', '{"a":2}')]
    assert (answers, registered(study)) == ([None, None, {"a": 1}], {"a": 2})


def test_copied_study_keeps_its_registration(storage):
    """`optuna.copy_study` takes the task along."""
    study = optuna.create_study(storage=storage, study_name="from")
    register(study, '{"a":1}')
    optuna.copy_study(
        from_study_name="from", from_storage=storage, to_storage=storage, to_study_name="to"
    )
    assert registered(optuna.load_study(study_name="to", storage=storage)) == {"a": 1}
