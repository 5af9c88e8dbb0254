"""What all of the paper's tasks have in common."""

import pytest
from test_software_development import RECORDS

from optuna_agenttts_integrations import DataError
from optuna_agenttts_integrations.tasks import chat_dev


def lengths(max_tokens):
    """Return the maximum length of replies of each stage."""
    pipeline = chat_dev(RECORDS, search=1, max_tokens=max_tokens).pipeline
    return {program.name: program.max_tokens for program in pipeline.programs}


def test_lengths_of_replies_can_be_given():
    """Of all stages or of some; the others keep theirs."""
    own = lengths(None)
    assert lengths(9000) == dict.fromkeys(own, 9000)
    assert lengths({"coding": 9000}) == {**own, "coding": 9000}


@pytest.mark.parametrize("given", [0, True, 1.5, {"code": 1}, {"coding": -1}, "many"])
def test_invalid_lengths_are_errors(given):
    """Names of other stages, and what is no positive integer."""
    with pytest.raises(DataError, match="`max_tokens`"):
        lengths(given)
