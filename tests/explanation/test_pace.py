"""Explaining takes a small share of the time of a search."""

from explained_studies import Clock
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts.explanation import pace as pace_module
from optuna_agenttts.explanation.pace import SHARE, START, Pace, has_figures, has_note

LENGTHS = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from(("note", "frontier", "trial")), st.floats(0, 3)),
    max_size=200,
)


@given(LENGTHS)
def test_explaining_exceeds_its_share_by_one_surprise_at_most(parts):
    """Each part is expected to take as long as last time."""
    clock, spent, surprise = Clock(), 0.0, 0.0
    pace, last = Pace(clock, SHARE), {}
    for trial, name, seconds in parts:
        clock.now += trial
        if pace.allows(name):
            with pace.measured(name):
                clock.now += seconds
            spent += seconds
            surprise = max(surprise, seconds - last.get(name, 0.0))
            last[name] = seconds
    assert spent <= START + SHARE * clock.now + surprise + 1e-6


def test_time_comes_back_as_the_search_goes_on(monkeypatch):
    monkeypatch.setattr(pace_module, "START", START)
    clock = Clock()
    pace = Pace(clock, SHARE)
    assert pace.allows("note")
    with pace.measured("note"):
        clock.now += START + 1
        assert not pace.allows("trial")
    assert not pace.allows("note")
    clock.now = (START + 2) / SHARE
    assert pace.allows("note")


def test_notes_follow_the_first_trial_and_every_fifth_and_figures_powers_of_ten():
    assert [n for n in range(1, 31) if has_note(n)] == [1, 5, 10, 15, 20, 25, 30]
    assert [n for n in range(1, 2001) if has_figures(n)] == [
        *(10, 20, 50, 100, 200, 500, 1000, 2000)
    ]
