"""Curves of the stages of the paper's pipelines (not an example by itself)."""

import numpy as np
from paper_data import family_models
from paper_output import table
from paper_searches import case_of

METRIC_OF = {"retrieval": "retrieval F1", "decomposition": "ROUGE-L", "selection": "node F1"}
"""The metric of a stage by Appendix A.4; of other stages it is the score."""


def largest(stage):
    return max(stage.models, key=lambda model: model.parameters)


def smallest(stage):
    return min(stage.models, key=lambda model: model.parameters)


def score_of(stage, point):
    """Return what a stage is judged by, of the score and the metrics of an allocation."""
    score, metrics = point
    return metrics.get(METRIC_OF.get(stage.name), score)


def stage_curves(runs, case):
    """Vary one stage; the others take one sample of their largest models (Appendix A.5).

    Stages after the first are varied after each model of the stage before, whose own metric then
    is the quality of what they get.

    Returns:
        For each panel its title, unit, metric, and by model the samples, FLOPs, costs and scores.
    """
    task = runs.benchmark(case).task
    single = {stage.name: (largest(stage).name, 1) for stage in task.stages}
    results = []
    for before, stage in zip((None, *task.stages), task.stages):
        if before is None:
            results.append(_panel(runs, case, stage, single)[0])
            continue
        for earlier in sorted(before.models, key=lambda model: -model.parameters):
            fixed = {**single, before.name: (earlier.name, 1)}
            result, point = _panel(runs, case, stage, fixed)
            result["title"] += f" after {_short(earlier.name)}"
            if METRIC_OF.get(before.name) in point[1]:
                result["title"] += f" ({METRIC_OF[before.name]} {score_of(before, point):.2f})"
            results.append(result)
    return results


def _panel(runs, case, stage, fixed):
    """Return the scores of a stage beside fixed settings of the others, and one of the points."""
    task, grid, lines = runs.benchmark(case).task, runs.setting.scale.grid, {}
    for model in stage.models:
        allocations = [{**fixed, stage.name: (model.name, samples)} for samples in grid]
        points = runs.curve(case, allocations)
        costs = task.cost_model.stage_cost(stage, model, np.array(grid))
        tokens = [stage.prompt_tokens + n * stage.generation_tokens for n in grid]
        lines[model.name] = {
            "samples": list(grid),
            "flops": [2 * model.parameters * count for count in tokens],
            "cost": costs.tolist(),
            "score": [score_of(stage, point) for point in points],
        }
    metric = METRIC_OF.get(stage.name, task.metric)
    head = {"title": stage.name, "metric": metric, "unit": task.cost_model.unit}
    return {**head, "lines": lines}, points[0]


def _short(name):
    return name.rpartition("/")[2].removesuffix("-Instruct")


def curve_table(result, axis):
    """Return a table of a panel, one row for each number of samples."""
    lines = result["lines"]
    first = next(iter(lines.values()))
    columns = ["samples", *(_short(model) for model in lines)]
    if axis != "samples":
        columns += [f"{axis}: {_short(model)}" for model in lines]
    rows = []
    for i, samples in enumerate(first["samples"]):
        row = [samples, *(line["score"][i] for line in lines.values())]
        rows.append(
            row + ([line[axis][i] for line in lines.values()] if axis != "samples" else [])
        )
    return table(columns, rows)


def curve_panel(result, axis, title, *, log=False):
    """Return the panel of a stage's scores over one of its axes."""
    lines = [[_short(model), line[axis], line["score"]] for model, line in result["lines"].items()]
    head = {"title": result["title"], "x": title, "y": result["metric"], "log": log}
    return {**head, "lines": lines}


def families(runs, output, names):
    """Write Figure 8: models of four families in every stage, one sample each."""
    found, text, panels = {}, "", []
    keys = {
        "2Wiki": ("retrievers", "answerers"),
        "Hotpot": ("retrievers", "answerers"),
        "CWQ": ("retrievers", "answerers"),
        "WebQSP": ("retrievers", "answerers"),
        "TaskBench": ("decomposers", "selectors", "predictors"),
    }
    models = tuple(model for family in family_models().values() for model in family)
    for name in (name for name in names if name in keys):
        case = case_of(name, **dict.fromkeys(keys[name], models))
        task = runs.benchmark(case).task
        others = next(m.name for m in models if m.name.endswith("3.1-70B-Instruct"))
        found[name], rows = {}, []
        for stage in task.stages:
            allocations = [
                {**{s.name: (others, 1) for s in task.stages}, stage.name: (model.name, 1)}
                for model in models
            ]
            points = runs.curve(case, allocations)
            scores = [score_of(stage, point) for point in points]
            found[name][stage.name] = dict(zip((m.name for m in models), scores))
        rows = [
            [_short(model.name), *(found[name][stage.name][model.name] for stage in task.stages)]
            for model in models
        ]
        text += f"## {name}\n\n{table(['model', *(s.name for s in task.stages)], rows)}\n"
        for stage in task.stages:
            lines = [
                [
                    family,
                    [m.parameters / 1e9 for m in members],
                    [found[name][stage.name][m.name] for m in members],
                ]
                for family, members in family_models().items()
            ]
            head = {"title": f"{name}, {stage.name}", "x": "parameters in 1e9", "y": "score"}
            panels.append({**head, "log": True, "lines": lines})
    title = "Figure 8: families of models"
    output.write("families", title, results=found, text=text, panels=panels)


def pilot(runs, output, names):
    """Write Figures 1 and 9 to 14: scores of each stage by samples, FLOPs and budget."""
    found, text, panels = {}, "", []
    for name in names:
        found[name] = stage_curves(runs, case_of(name))
        for result in found[name]:
            title = f"{name}, {result['title']}"
            text += f"## {title}\n\n{curve_table(result, 'samples')}\n"
            panels.append(curve_panel(result | {"title": title}, "samples", "samples"))
            panels.append(curve_panel(result | {"title": title}, "flops", "FLOPs", log=True))
            axis = f"cost of the stage, {result['unit']}"
            panels.append(curve_panel(result | {"title": title}, "cost", axis))
    title = "Figures 1 and 9 to 14: curves of the stages"
    output.write("pilot", title, results=found, text=text, panels=panels)
