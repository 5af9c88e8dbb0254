"""Scores of task automation: of one request, and TaskBench's own over many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from optuna_agenttts_integrations.pipeline.stages import Score, State
from optuna_agenttts_integrations.scoring.metrics import rouge_l
from optuna_agenttts_integrations.scoring.taskbench_metrics import (
    TaskBenchScores,
    parameter_f1,
    taskbench_scores,
)
from optuna_agenttts_integrations.scoring.tool_metrics import (
    argument_f1,
    argument_name_f1,
    node_f1,
)
from optuna_agenttts_integrations.tasks.tool_calls import (
    Tool,
    ToolCall,
    ToolChoice,
    ToolPlan,
    comparable_calls,
    index_tools,
)
from optuna_agenttts_integrations.tasks.tool_requests import ToolRequest

_TASKBENCH = {
    "n-F1": "node_micro_f1",
    "e-F1": "edge_f1",
    "t-F1": "argument_name_f1",
    "v-F1": "argument_value_f1",
}


def request_scores(
    tools: Sequence[Tool], *, named: bool
) -> tuple[dict[str, Score], dict[str, Score]]:
    """Return the scores of a request, and the counts that are reported beside them.

    - ``"argument F1"``, ``"argument name F1"``: `argument_f1` and `argument_name_f1` of the calls.
    - ``"node F1"``: `node_f1` of the tools that the second stage chose.
    - ``"ROUGE-L"``: of the steps, joined by new lines.
    - ``"p-F1"``: `parameter_f1` of the calls, that of AgentTTS's authors.
    - ``"n-F1"``, ``"e-F1"``, ``"t-F1"``, ``"v-F1"``: those of TaskBench's paper, of the calls of
      one request, and 1 if there is nothing to compare; `task_bench_scores` computes them over
      many requests together.
    - ``"unknown tools"``: number of chosen or called tools that are not in the tool list.
    - ``"replies read in part"``: number of results of stages two and three that have parts that
      could not be read.

    Args:
        tools: The tool list.
        named: Whether arguments have names.
    """
    index = index_tools(tools)
    scores: dict[str, Score] = {
        "argument F1": partial(_call_score, argument_f1, index, named),
        "argument name F1": partial(_call_score, argument_name_f1, index, named),
        "node F1": _choice_score,
        "ROUGE-L": step_score,
        "p-F1": partial(_parameter_score, named),
        **{name: partial(_taskbench_score, part) for name, part in _TASKBENCH.items()},
    }
    return scores, {"unknown tools": _unknown_tools, "replies read in part": _read_in_part}


def task_bench_scores(
    requests: Iterable[ToolRequest], plans: Iterable[ToolPlan | None], *, empty: float = 0.0
) -> TaskBenchScores:
    """Compute TaskBench's scores over a set of requests, as its script does.

    Values without a name in a reply count by their value. Where arguments have names and a reply
    lists no links, each call is linked to the next one.

    Args:
        requests: The requests.
        plans: Result of each request, in the same order, such as ``objective.predict(requests,
            allocation).answers``; None if there is none.
        empty: See `taskbench_scores`.
    """
    requests, plans = list(requests), list(plans)
    tools = requests[0].tools if requests else ()
    outputs = _outputs(tools)
    return taskbench_scores(
        [
            None if plan is None else _as_record(plan.written or plan.calls, plan.links)
            for plan in plans
        ],
        [_as_record(request.calls, request.links) for request in requests],
        tools=[tool.name for tool in tools],
        outputs=outputs,
        empty=empty,
    )


def _outputs(tools: Iterable[Tool]) -> dict[str, str] | None:
    """Return the type of each tool's first output; None if arguments have names."""
    if not any(tool.inputs or tool.outputs for tool in tools):
        return None
    return {tool.name: tool.outputs[0] if tool.outputs else "none" for tool in tools}


def _as_record(
    calls: Sequence[ToolCall], links: Sequence[tuple[str, str]] | None
) -> dict[str, Any]:
    """Return calls in TaskBench's form."""
    if links is None:
        links = [(one.tool, other.tool) for one, other in pairwise(calls)]
    return {
        "task_nodes": [
            {
                "task": call.tool,
                "arguments": [
                    {"name": name, "value": value} if name else value
                    for name, value in call.arguments
                ],
            }
            for call in calls
        ],
        "task_links": [{"source": source, "target": target} for source, target in links],
    }


def _call_score(
    metric: Callable[..., float], tools: Mapping[str, Tool], named: bool, state: State
) -> float:
    return metric(
        comparable_calls(_plan(state).calls, tools, named=named),
        comparable_calls(state.instance.calls, tools, named=named),
    )


def _choice_score(state: State) -> float:
    return node_f1(_choice(state).names, [call.tool for call in state.instance.calls])


def has_tools(state: State) -> float:
    """Return 1 if every tool of the reference was chosen, else 0."""
    return float({call.tool for call in state.instance.calls} <= set(_choice(state).names))


def step_score(state: State) -> float:
    """Return ROUGE-L of the steps, joined by new lines."""
    steps: tuple[str, ...] = state["decomposition"] or ()
    return rouge_l("\n".join(steps), "\n".join(state.instance.steps))


def _parameter_score(named: bool, state: State) -> float:
    request: ToolRequest = state.instance
    plan = _plan(state)
    return parameter_f1(
        _as_record(plan.written or plan.calls, ()),
        _as_record(request.calls, ()),
        named=named,
    )


def _taskbench_score(part: str, state: State) -> float:
    scores = task_bench_scores([state.instance], [_plan(state)], empty=1.0)
    return float(getattr(scores, part))


def _unknown_tools(state: State) -> float:
    return float(_choice(state).unknown + _plan(state).unknown)


def _read_in_part(state: State) -> float:
    return float((_choice(state).unread > 0) + (_plan(state).unread > 0))


def _choice(state: State) -> ToolChoice:
    return state["selection"] or ToolChoice(())


def _plan(state: State) -> ToolPlan:
    return state["parameters"] or ToolPlan(())
