"""TaskBench's own metrics of plans, as its script computes them.

The source is ``taskbench/evaluate.py`` of the repository microsoft/JARVIS (TaskBench, arXiv
2311.18760, section 4). `parameter_f1` is the p-F1 of AgentTTS (arXiv 2508.00890), from
``code_others/archon_taskbench.py`` of the repository FairyFali/AgentTTS_Code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

# In this order; a value is of the first type one of whose extensions it contains.
_EXTENSIONS = {
    "image": ("jpg", "png", "jpeg", "gif", "bmp", "tiff", "svg", "ico"),
    "audio": ("mp3", "wav", "wma", "ogg", "aac", "flac", "aiff", "au"),
    "video": ("mp4", "avi", "mov", "flv", "wmv", "mkv", "webm", "m4v", "mpg", "mpeg"),
}
_REFERENCE = "<node-"

Plan = Mapping[str, Any]
"""Record or prediction of TaskBench: ``{"task_nodes": [...], "task_links": [...]}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskBenchScores:
    """Scores of TaskBench's script over a set of requests, each from 0 to 1.

    Args:
        node_micro_f1: n-F1: F1 of tools, counted over all requests together.
        node_macro_f1: Mean of the F1 of each tool of the tool list.
        edge_f1: e-F1: F1 of links between tools, counted over all requests together.
        argument_name_f1: t-F1: F1 of tool and parameter, or type of the value.
        argument_value_f1: v-F1: F1 of tool, parameter and value.
        scored: Number of requests whose prediction could be read. As in the script, the others
            do not count.
        requests: Number of requests.
    """

    node_micro_f1: float
    node_macro_f1: float
    edge_f1: float
    argument_name_f1: float
    argument_value_f1: float
    scored: int
    requests: int


@dataclass(frozen=True, slots=True)
class _Compared:
    """Compared parts of a plan: tools, links, and arguments as (tool, name, value)."""

    tools: Sequence[str]
    links: Sequence[tuple[str, str]]
    arguments: Sequence[tuple[str, str, str]]


def taskbench_scores(
    predicted: Iterable[Plan | None],
    gold: Iterable[Plan],
    *,
    tools: Collection[str],
    outputs: Mapping[str, str] | None = None,
    empty: float = 0.0,
) -> TaskBenchScores:
    """Compute TaskBench's scores over a set of requests.

    Three properties of the script that may surprise are kept: an argument that is an object
    counts by its first value; one that cannot be read counts as the one before it; and a
    reference to an output is read up to the first ``>`` of the value.

    Args:
        predicted: Prediction of each request; None if there is none.
        gold: Record of each request, in the same order.
        tools: Names of the tools, as in the tool list.
        outputs: Type of the first output of each tool, in domains whose arguments have no names
            (``--dependency_type resource``). Default: arguments have names, and links are given
            (``temporal``).
        empty: Score of a metric for which there is nothing to compare.

    Raises:
        ValueError: The numbers of predictions and records differ.
    """
    pairs = list(zip(predicted, gold, strict=True))
    read = _Reader(outputs)
    compared = [(found, right) for found, right in map(read.pair, pairs) if found and right]

    def f1(part: Callable[[_Compared], Iterable[Hashable]]) -> float:
        common = total = 0
        for plans in compared:
            found, right = (set(part(plan)) for plan in plans)
            common += len(found & right)
            total += len(found) + len(right)
        return 2 * common / total if total else empty

    return TaskBenchScores(
        node_micro_f1=f1(lambda plan: set(plan.tools).intersection(tools)),
        node_macro_f1=sum(f1(partial(_named, tool)) for tool in tools) / max(1, len(tools)),
        edge_f1=f1(lambda plan: plan.links),
        argument_name_f1=f1(lambda plan: [triple[:2] for triple in plan.arguments]),
        argument_value_f1=f1(lambda plan: plan.arguments),
        scored=len(compared),
        requests=len(pairs),
    )


def parameter_f1(predicted: Plan | None, gold: Plan, *, named: bool) -> float:
    """Compute the p-F1 of one request as AgentTTS's authors do: F1 of tool and argument.

    An argument is compared as it is printed, names included if there are any, so that 2 and
    ``"2"`` differ. References are compared by their number. Precision and recall are the number
    of distinct common arguments per argument, repeated ones included.

    Args:
        predicted: The prediction; None if there is none.
        gold: The record, whose references count from 0. (The authors' script expects them to
            count from 1.)
        named: Whether arguments have names. If not, underscores in names of tools are blanks.

    Returns:
        0 to 1: 1 if neither has arguments, which the authors' script leaves out; 0 if only one
        has, or the prediction cannot be read.
    """
    found, right = (_printed_arguments(plan, named) for plan in (predicted, gold))
    if found is None or right is None:
        return 0.0
    total = len(found) + len(right)
    # The harmonic mean of common / found and common / right.
    return 2 * len(set(found) & set(right)) / total if total else 1.0


def _printed_arguments(plan: Any, named: bool) -> list[tuple[str, str]] | None:
    try:
        return [
            (node["task"] if named else node["task"].replace("_", " "), f"{argument}")
            for node in plan["task_nodes"]
            for argument in node.get("arguments", [])
        ]
    except (KeyError, TypeError, AttributeError):
        return None


def _named(tool: str, plan: _Compared) -> set[str]:
    return {tool}.intersection(plan.tools)


class _Reader:
    """Reader of plans, as the script reads them.

    Args:
        outputs: Type of the first output of each tool; None if arguments have names.
    """

    def __init__(self, outputs: Mapping[str, str] | None) -> None:
        self._outputs = outputs
        self._previous: tuple[str, str] | None = None  # of any plan, as in the script

    def pair(self, plans: tuple[Any, Any]) -> tuple[_Compared | None, _Compared | None]:
        """Read a prediction and its record; None in place of one that cannot be read."""
        predicted, gold = plans
        right = self._plan(gold)
        result = predicted.get("result", predicted) if isinstance(predicted, Mapping) else None
        return self._plan(result), right

    def _plan(self, plan: Any) -> _Compared | None:
        try:
            nodes = plan["task_nodes"]
            tools = [node["task"] for node in nodes]
            if not all(isinstance(tool, str) for tool in tools):
                return None
            if self._outputs is None:
                links = [(link["source"], link["target"]) for link in plan["task_links"]]
                hash(tuple(links))
                return _Compared(tools, links, list(_named_arguments(nodes)))
            tools = [tool.replace("_", " ") for tool in tools]
            links, arguments = [], []
            for position, (tool, node) in enumerate(zip(tools, nodes)):
                for value in node.get("arguments", []):
                    source, argument = self._argument(value, position, tools)
                    if source is not None:
                        links.append((source, node["task"]))
                    if argument is not None:
                        arguments.append((tool, *argument))
            return _Compared(tools, links, arguments)
        except (KeyError, TypeError, AttributeError):
            return None

    def _argument(
        self, value: Any, position: int, tools: Sequence[str]
    ) -> tuple[str | None, tuple[str, str] | None]:
        """Return the tool that a value refers to, and the argument's name and value.

        Both are None for a reference of a call to itself.
        """
        source = None
        try:
            if isinstance(value, Mapping):
                value = next(iter(value.values()))
            if isinstance(value, list):
                value = " ".join(value)
            if _REFERENCE in value:
                start = value.index(_REFERENCE) + len(_REFERENCE)
                node = int(value[start : value.index(">")])
                if node == position:
                    return None, None
                source = tools[node]
                self._previous = (self._outputs or {}).get(source, "other"), source
            else:
                self._previous = _type_of(value), value
        except (StopIteration, TypeError, ValueError, IndexError, AttributeError):
            source = None
        if self._previous is None:
            raise KeyError(value)
        return source, self._previous


def _named_arguments(nodes: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str, str]]:
    for node in nodes:
        for argument in node.get("arguments", []):
            yield node["task"], str(argument["name"]), str(argument["value"])


def _type_of(value: str) -> str:
    value = value.strip("'")
    for media_type, extensions in _EXTENSIONS.items():
        if any(f".{extension}" in value for extension in extensions):
            return media_type
    return "text"
