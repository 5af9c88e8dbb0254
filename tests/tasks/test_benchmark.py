"""What all of the paper's tasks have in common."""

from dataclasses import replace

import pytest
from test_software_development import RECORDS

from optuna_agenttts_integrations import DataError
from optuna_agenttts_integrations.tasks import (
    chat_dev,
    cwq,
    hotpot_qa,
    sample_path,
    task_bench,
    two_wiki,
    web_qsp,
)


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


FAMILIES = {
    "two_wiki": (two_wiki, "two_wiki.json", {}),
    "hotpot_qa": (hotpot_qa, "hotpot_qa.json", {}),
    "cwq": (cwq, "cwq.json", {}),
    "web_qsp": (web_qsp, "web_qsp.json", {}),
    "task_bench": (task_bench, "task_bench.json", {"tools": "task_bench_tools.json"}),
    "chat_dev": (chat_dev, "software.csv", {}),
}


def temperatures(name, temperature):
    """Return the temperature of each stage."""
    make, sample, files = FAMILIES[name]
    files = {key: sample_path(file) for key, file in files.items()}
    benchmark = make(sample_path(sample), search=2, temperature=temperature, **files)
    return {program.name: program.temperature for program in benchmark.pipeline.programs}


@pytest.mark.parametrize("name", FAMILIES)
def test_temperatures_can_be_given(name):
    """Of all stages, as in the paper, or of some; the others keep theirs."""
    own = temperatures(name, None)
    assert temperatures(name, 0.9) == dict.fromkeys(own, 0.9)
    last = list(own)[-1]
    assert temperatures(name, {last: 0}) == {**own, last: 0}


@pytest.mark.parametrize(
    "given", [-0.1, float("nan"), "hot", {"code": 1}, {"answer": None, "": 1}]
)
def test_invalid_temperatures_are_errors(given):
    """Names of other stages, and what is no number of 0 or more."""
    with pytest.raises(DataError, match="`temperature` must be numbers of 0 or more"):
        temperatures("two_wiki", given)


def test_instances_of_both_parts_are_refused():
    """By content, whatever their IDs; the short form names the records that were left out."""
    benchmark = chat_dev(RECORDS, search=1)
    (one,) = benchmark.search
    twin = replace(one, id="another")
    with pytest.raises(DataError, match=r"`held_out\[0\]`, which is `search\[0\]`"):
        replace(benchmark, held_out=(twin,))
    counted = replace(benchmark, left_out={"no answer": 3})
    assert repr(counted).endswith("held out, 3 left out: no answer>")
