"""The blocks of the page about confirmation, which search the playground, run as they stand."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "confirming.md"

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.slow,
    pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree"),
]


def blocks():
    """Return the Python blocks of the page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)


def test_the_blocks_of_the_page_run(capsys):
    """A search of the playground recommends its best retriever; its records are the store's."""
    first, second = blocks()
    names = {}
    exec(compile(first, "confirming.md", "exec"), names)
    found, study, objective = names["found"], names["study"], names["objective"]
    assert found.recommendation.allocation["retrieval"].model == "retriever-96k"
    assert found.evaluations <= 600
    assert found.confirmation.looks
    assert {*found.search_instances, *found.fresh_instances} == set(objective.instances)
    # What the store holds is what the study recorded.
    for trial in (study.trials[0], study.trials[-1]):
        shown = objective.inspect(trial, study=study)
        known = [each for each in shown if each.recorded is not None]
        assert len(known) == len(trial.intermediate_values)
        assert all(each.computed == each.recorded for each in known)
    exec(compile(second, "confirming.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "confirmed on" in printed
    assert printed.count("stopped because") == 2
