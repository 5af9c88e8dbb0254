"""Searches stay as they are, unless a change means to change them."""

import json

import pytest
from pinned_searches import CHOSEN, PINNED, key, pinned, search


@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda chosen: key(*chosen))
def test_a_search_takes_the_trials_that_are_pinned(chosen):
    """`pinned_searches.py` writes the file anew where a change is meant to change searches."""
    expected = json.loads(PINNED.read_text())[key(*chosen)]
    found = pinned(search(*chosen))
    assert found["trials"] == expected["trials"]
    assert found["origins"] == expected["origins"]
    assert found["recommended"] == expected["recommended"]
    assert found["value"] == pytest.approx(expected["value"], abs=1e-4)
