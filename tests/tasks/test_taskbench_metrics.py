"""TaskBench's metrics have the values of its script, and p-F1 that of AgentTTS's authors.

`taskbench_scores.json` has made-up plans, with values as scripts meet them: objects, lists,
numbers and references that lead nowhere. Its scores were computed by ``taskbench/evaluate.py`` of
microsoft/JARVIS and by ``code_others/archon_taskbench.py`` of FairyFali/AgentTTS_Code.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from optuna_agenttts_integrations.scoring.taskbench_metrics import parameter_f1, taskbench_scores

CASES = json.loads(Path(__file__).with_name("taskbench_scores.json").read_text("utf-8"))


def scored(case, predicted, gold, **options):
    """Compute the scores of a case."""
    outputs = None
    if not case["named"]:
        outputs = {tool["id"]: (tool["output-type"] or ["none"])[0] for tool in case["tools"]}
    names = [tool["id"] for tool in case["tools"]]
    return taskbench_scores(predicted, gold, tools=names, outputs=outputs, **options)


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_script(case):
    """Over a set of requests, and also if predictions are in lines as the script writes them."""
    lines = [{"id": "1", "result": plan} for plan in case["predicted"]]
    for predicted in (case["predicted"], lines):
        assert asdict(scored(case, predicted, case["gold"])) == pytest.approx(case["scores"])


@pytest.mark.parametrize("case", CASES)
def test_parameter_f1_is_that_of_the_papers_authors(case):
    """For each request for which their script has one."""
    assert sum(score is not None for score in case["parameter_f1"]) >= 8
    for predicted, gold, score in zip(case["predicted"], case["gold"], case["parameter_f1"]):
        if score is not None:
            found = parameter_f1(predicted, gold, named=case["named"])
            assert found == pytest.approx(score)


@pytest.mark.parametrize("case", CASES)
def test_gold_scores_one_and_nothing_zero(case):
    """The limit cases; tools that are never used keep the macro F1 below 1, as in the script."""
    best = scored(case, case["gold"], case["gold"])
    used = {node["task"] for plan in case["gold"] for node in plan["task_nodes"]}
    assert best.node_micro_f1 == best.argument_name_f1 == best.argument_value_f1 == 1
    assert best.node_macro_f1 == pytest.approx(len(used) / len(case["tools"]))
    nothing = scored(case, [None] * len(case["gold"]), case["gold"], empty=1)
    assert (nothing.scored, nothing.requests, nothing.edge_f1) == (0, 10, 1)
    for gold in case["gold"]:
        # As in the authors' script, repeated arguments count once if they are right.
        printed = [
            (node["task"], str(argument))
            for node in gold["task_nodes"]
            for argument in node["arguments"]
        ]
        expected = len(set(printed)) / len(printed) if printed else 1
        assert parameter_f1(gold, gold, named=case["named"]) == pytest.approx(expected)
        assert parameter_f1(None, gold, named=case["named"]) == 0
