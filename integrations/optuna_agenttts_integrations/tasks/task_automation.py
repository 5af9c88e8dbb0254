"""Task automation: the three domains of TaskBench (arXiv 2311.18760).

Three stages, as in AgentTTS (section 5.1): break a request down into steps, select tools, write
their calls. The prompts are not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts.llm import Message
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.pipeline.aggregation import Aggregation, medoid, normalized_vote
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import (
    Pipeline,
    StageCheck,
    StageProgram,
    State,
)
from optuna_agenttts_integrations.scoring.metrics import rouge_l
from optuna_agenttts_integrations.scoring.tool_metrics import argument_f1
from optuna_agenttts_integrations.tasks.answering import prompt_messages
from optuna_agenttts_integrations.tasks.benchmark import (
    LLAMA,
    Benchmark,
    MaxTokens,
    Temperature,
    with_sampling,
)
from optuna_agenttts_integrations.tasks.records import Source, read_records, split_instances
from optuna_agenttts_integrations.tasks.tool_calls import (
    Tool,
    ToolChoice,
    ToolPlan,
    comparable_calls,
    index_tools,
)
from optuna_agenttts_integrations.tasks.tool_replies import (
    parse_choice,
    parse_plan,
    parse_steps,
)
from optuna_agenttts_integrations.tasks.tool_requests import (
    ToolRequest,
    read_requests,
    read_tools,
)
from optuna_agenttts_integrations.tasks.tool_scores import (
    has_tools,
    request_scores,
    step_score,
)

__all__ = ["Domain", "Tool", "ToolRequest", "task_bench"]

Domain = Literal["dailylife", "multimedia", "huggingface"]
"""TaskBench's domains. Only in the first do arguments have names."""

_DECOMPOSE = "You break a user's request down into steps, each of which one tool can take."
_SELECT = "You choose, from a list of tools, those that a user's request needs."
_PREDICT = "You write the tool calls that carry out a user's request, with all their arguments."

_NAMED = (
    "The keys of `arguments` are names of the tool's parameters. Write dates as YYYY-MM-DD. Reply "
    "with JSON and nothing else, in a form such as\n"
    '{"calls": [{"tool": "name of a tool", "arguments": {"name of a parameter": "value"}}]}'
)
_PLAIN = (
    "`arguments` are values in the order in which the tool takes them: texts and names of files "
    'from the request, or "<node-0>" for what the first call gives, "<node-1>" for what the '
    "second gives, and so on. Reply with JSON and nothing else, in a form such as\n"
    '{"calls": [{"tool": "name of a tool", "arguments": ["value"]}, '
    '{"tool": "name of another", "arguments": ["<node-0>", "value"]}]}'
)


def task_bench(
    source: Source,
    *,
    tools: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    domain: Domain = "dailylife",
    search: int = 50,
    seed: int = 0,
    split: str = "test",
    revision: str | None = None,
    metric: str = "argument F1",
    fusion: bool = True,
    skip_unusable: bool = False,
    decomposers: Sequence[Model] = LLAMA[1:],
    selectors: Sequence[Model] = LLAMA[1:],
    predictors: Sequence[Model] = LLAMA[1:],
    budget: float | None = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> Benchmark:
    """Create a benchmark from TaskBench (Shen et al., 2023).

    Args:
        source: TaskBench's ``data.json`` of the domain, other files or records with its fields,
            or a configuration of the data set on the Hub, such as
            ``"hf:microsoft/Taskbench:dailylifeapis"``; see `read_records`.
        tools: TaskBench's ``tool_desc.json`` of the domain, its decoded content, or its list.
        domain: The domain: ``"dailylife"``, ``"multimedia"`` or ``"huggingface"``.
        search: Number of requests for the search; the others are held out.
        seed: Seed of the split.
        split: Split of a data set of the Hub.
        revision: Revision of a data set of the Hub.
        metric: The maximized metric; see `request_scores`. Default: the F1 of parameter names and
            values, averaged over requests. It is the p-F1 of AgentTTS (Table 1, appendix A.4),
            except that values that mean the same are equal; ``"p-F1"`` compares them as printed,
            as the script of the authors.
        fusion: Whether samples are fused by the model, as in the paper, or voted on.
        skip_unusable: Whether to leave out invalid records, such as those of TaskBench that call
            tools outside the list, instead of raising an error.
        decomposers: Models of the first stage.
        selectors: Models of the second stage.
        predictors: Models of the third stage.
        budget: The task's budget. Default: one sample of the largest model per stage (1977.33).
        max_tokens: Maximum length of replies, of all stages or by stage; see `with_sampling`.
        temperature: Sampling temperature, of all stages or by stage; see `with_sampling`.

    Raises:
        DataError: Records or tools have another format, or an argument is not among its choices.
    """
    if domain not in get_args(Domain):
        raise DataError(f"`domain` must be one of {', '.join(get_args(Domain))}; got {domain!r}.")
    named = domain == "dailylife"
    listed = read_tools(tools, named=named)
    scores, counts = request_scores(listed, named=named)
    if metric not in scores:
        raise DataError(f"`metric` must be one of {', '.join(scores)}; got {metric!r}.")
    records = read_records(source, split=split, revision=revision, keep_unreadable=True)
    requests, left_out = read_requests(
        records, listed, named=named, source=source, skip_unusable=skip_unusable
    )
    searched, held_out = split_instances(
        requests, search=search, seed=seed, content=attrgetter("overlap_key")
    )
    return Benchmark(
        task=Task(
            name=f"TaskBench, {domain}",
            description="Break a request down into steps, choose tools, write their calls.",
            stages=_stages(decomposers, selectors, predictors, fusion),
            budget=budget,
            metric=metric,
            metric_range=(0, 1),
        ),
        pipeline=Pipeline(
            stages=with_sampling(_programs(listed, named, fusion), max_tokens, temperature),
            score=scores[metric],
            metrics={**scores, **counts},
        ),
        search=searched,
        held_out=held_out,
        left_out=left_out,
    )


def _stages(
    decomposers: Sequence[Model],
    selectors: Sequence[Model],
    predictors: Sequence[Model],
    fusion: bool,
) -> list[Stage]:
    samples = "samples are fused by the model." if fusion else "samples are voted on."
    return [
        Stage(
            "decomposition",
            models=decomposers,
            prompt_tokens=1024,
            generation_tokens=64,
            description=f"Break the request down into steps; {samples}",
        ),
        Stage(
            "selection",
            models=selectors,
            prompt_tokens=1024,
            generation_tokens=256,
            description=f"Choose tools for the steps; {samples}",
        ),
        Stage(
            "parameters",
            models=predictors,
            prompt_tokens=1024,
            generation_tokens=2048,
            description=f"Write the calls with all arguments; {samples}",
        ),
    ]


def _programs(tools: Sequence[Tool], named: bool, fusion: bool) -> list[StageProgram]:
    # Temperatures and maximum lengths are chosen by hand.
    def aggregation(vote: Aggregation) -> Aggregation | LLMFusion:
        return LLMFusion(temperature=0.3, fallback=vote) if fusion else vote

    program = partial(StageProgram, temperature=0.5, required=True)
    return [
        program(
            name="decomposition",
            prompt=_decomposition_prompt,
            parse=_parse_steps,
            aggregate=aggregation(medoid(_step_similarity)),
            max_tokens=512,
            check=StageCheck("steps are like those of the reference (ROUGE-L)", step_score),
        ),
        program(
            name="selection",
            prompt=_selection_prompt,
            parse=partial(_parse_choice, tools),
            aggregate=aggregation(normalized_vote(attrgetter("names"))),
            max_tokens=512,
            check=StageCheck("every tool of the reference is chosen", has_tools),
        ),
        program(
            name="parameters",
            prompt=partial(_parameters_prompt, named=named),
            parse=partial(_parse_plan, tools, named),
            aggregate=aggregation(medoid(partial(_call_similarity, index_tools(tools), named))),
            max_tokens=2048,
        ),
    ]


def _parse_steps(text: str, state: State) -> tuple[str, ...] | None:
    return parse_steps(text)


def _parse_choice(tools: Sequence[Tool], text: str, state: State) -> ToolChoice | None:
    return parse_choice(text, tools)


def _parse_plan(tools: Sequence[Tool], named: bool, text: str, state: State) -> ToolPlan | None:
    return parse_plan(text, tools, named=named)


def _step_similarity(one: Sequence[str], other: Sequence[str]) -> float:
    return rouge_l("\n".join(one), "\n".join(other))


def _call_similarity(
    tools: Mapping[str, Tool], named: bool, one: ToolPlan, other: ToolPlan
) -> float:
    return argument_f1(
        comparable_calls(one.calls, tools, named=named),
        comparable_calls(other.calls, tools, named=named),
    )


def _steps(state: State) -> tuple[str, ...]:
    steps: tuple[str, ...] | None = state["decomposition"]
    return steps or ()


def _choice(state: State) -> ToolChoice:
    return state["selection"] or ToolChoice(())


def _decomposition_prompt(state: State) -> tuple[Message, ...]:
    return prompt_messages(
        _DECOMPOSE,
        f"Request: {state.instance.request}\n\n"
        "Write the steps in order, as few as the request needs, each with the details that it "
        "needs. Reply with JSON and nothing else, in a form such as\n"
        '{"steps": ["Step 1: what is done first", "Step 2: what is done then"]}',
    )


def _selection_prompt(state: State) -> tuple[Message, ...]:
    gold: ToolRequest = state.instance
    return prompt_messages(
        _SELECT,
        f"Tools:\n{_format_tools(gold.tools)}\n\n{_request_and_steps(state)}\n\n"
        "Choose the tools that the steps need, and no others, by their names in the list. Reply "
        "with JSON and nothing else, in a form such as\n"
        '{"tools": ["name of a tool", "name of another"]}',
    )


def _parameters_prompt(state: State, *, named: bool) -> tuple[Message, ...]:
    gold: ToolRequest = state.instance
    chosen = [tool for tool in gold.tools if tool.name in _choice(state).names]
    return prompt_messages(
        _PREDICT,
        f"Tools:\n{_format_tools(chosen, detailed=True)}\n\n{_request_and_steps(state)}\n\n"
        f"Write one call after the other, of the tools above. {_NAMED if named else _PLAIN}",
    )


def _request_and_steps(state: State) -> str:
    steps = "\n".join(_steps(state)) or "(none)"
    return f"Request: {state.instance.request}\n\nSteps:\n{steps}"


def _format_tools(tools: Sequence[Tool], detailed: bool = False) -> str:
    lines = []
    for tool in tools:
        lines.append(f"- {tool.name}: {tool.description}")
        if tool.inputs or tool.outputs:
            kinds = (", ".join(types).lower() for types in (tool.inputs, tool.outputs))
            takes, gives = (listed or "nothing" for listed in kinds)
            lines[-1] += f" (takes {takes}; gives {gives})"
        if detailed:
            lines += [f"    {p.name} ({p.type}): {p.description}" for p in tool.parameters]
    return "\n".join(lines) or "(none was chosen)"
