"""Run the experiments of the paper, all or some, and write their tables and figures.

Shows: searches by seven methods on six data sets, at several budgets, sizes of the training set,
    temperatures and in US dollars; ablations of the insights; curves of every stage; budgets.
    docs/paper.md says which table or figure of the paper each experiment is the counterpart of.
Needs: a clone, and the extra `plot` for figures. Without arguments, models are simulated and
    samples of the package are the data: this checks the code, not the claims. ``--endpoint`` takes
    real servers, ``--llm`` the model that plans, ``--data`` files or data sets of the Hub.
Takes: about six minutes with simulated models. A run that was stopped continues.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from paper_curves import (
    curve_panel,
    curve_table,
    families,
    largest,
    pilot,
    smallest,
    stage_curves,
)
from paper_data import (
    DATA,
    FAMILIES,
    LENGTHS,
    OFFLINE,
    PAPER,
    PAPER_RESULTS,
    PRICES,
)
from paper_methods import ABLATIONS, BO_SAMPLER, METHODS, PACKAGE, PUBLISHED
from paper_output import Output, table
from paper_searches import PAPER_TEMPERATURE, Job, Runs, case_of

from optuna_agenttts import FlopsCost, Model, Stage

TEMPERATURES = (0.1, 0.5, 0.9)
SCRIPTS = (
    "Planners are scripts that follow the rules of their prompts, not language models, and "
    f"`{PACKAGE}` has no agent."
)


def compare(runs, experiment, case, methods=None):
    """Run searches of several methods; returns their figures by method, for each seed."""
    methods = methods or runs.methods
    jobs = [Job(experiment, case, m, seed) for m in methods for seed in range(runs.seeds)]
    found = dict(zip(jobs, runs.searches(jobs)))
    return {m: [found[job] for job in jobs if job.method == m] for m in methods}


def rows_of(found):
    """Return the rows of a table of searches: medians over seeds, as far as there are some.

    The best score that any of the searches reached replaces that of the paper's grid search.
    """
    top = max(max(run["scores"]) for runs in found.values() for run in runs)
    rows = []
    for method, runs in found.items():
        reached, costs = [], []
        for run in runs:
            hit = next((i for i, score in enumerate(run["scores"]) if score >= top), None)
            reached.append(float("inf") if hit is None else hit + 1)
            costs.append(float("inf") if hit is None else sum(run["costs"][: hit + 1]))
        rows.append(
            [
                method,
                _median([max(run["scores"]) for run in runs]),
                _finite(_median(reached)),
                _finite(_median(costs)),
                _median([run["test"]["best trial"]["score"] for run in runs]),
                _median([run["test"]["recommended"]["score"] for run in runs]),
            ]
        )
    return rows


_COST = "cost until then"
SEARCH_COLUMNS = [
    "method",
    "best score",
    "trials to the best of all",
    _COST,
    "test: best trial",
    "test: recommended",
]


def columns_of(found):
    """Return the columns of a table of searches, with the unit of their costs."""
    unit = next(iter(found.values()))[0]["unit"]
    return [f"{name}, {unit}" if name == _COST else name for name in SEARCH_COLUMNS]


def search_table(found):
    """Return the table of searches."""
    return table(columns_of(found), rows_of(found))


def note_of(scale, *, seeds, planner):
    """Return how large the experiments are, who plans, and how tables of searches are read."""
    return (
        f"Searches have {scale.trials} trials on {scale.search} instances, unless a title has "
        f"another number, and {_count(seeds, 'seed')}"
        f"{' (values in tables are medians)' if seeds > 1 else ''}. "
        f"Final scores are those of {scale.test} other instances. {planner} `{PUBLISHED}` is the "
        f"paper's loop, `{PACKAGE}` is this package's sampler. \"Trials to the best of all\" and "
        '"cost until then" are when a method reached the best score of all methods; costs are '
        'over all instances, without reuse. "-" means that it did not, or that there is no '
        "number."
    )


def _count(number, noun):
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _median(values):
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


def _finite(value):
    return None if value == float("inf") else float(value)


def search_panel(title, found):
    """Return the panel of the best scores so far, of the first seed."""
    lines = [
        [method, list(range(1, len(runs[0]["curve"]) + 1)), runs[0]["curve"]]
        for method, runs in found.items()
    ]
    return {"title": title, "x": "trial", "y": "best score so far", "lines": lines}


def efficiency(runs, output, names):
    """Write Table 1 and Figure 3: search efficiency by method on every data set."""
    found, text, panels = {}, "", []
    for name in names:
        found[name] = compare(runs, "efficiency", case_of(name))
        columns, rows = columns_of(found[name]), rows_of(found[name])
        if not runs.setting.simulated:
            paper = PAPER_RESULTS["table 1"][name]
            columns += ["paper: hours", "paper: test"]
            rows = [[*row, *paper.get(row[0], (None, None))] for row in rows]
        text += f"## {name}\n\n{table(columns, rows)}\n"
        panels.append(search_panel(name, found[name]))
    title = "Table 1 and Figure 3: search efficiency by method"
    output.write("efficiency", title, results=found, text=text, panels=panels)


def training_sizes(runs, output, names):
    """Write Figure 4 (a to c): searches on training sets of three sizes."""
    found, text, panels = {}, "", []
    for size in runs.setting.scale.sizes:
        case = case_of("2Wiki", search=size)
        label = f"{len(runs.benchmark(case).search)} instances"
        found[label] = compare(runs, f"training size {size}", case)
        text += f"## {label}\n\n{search_table(found[label])}\n"
        panels.append(search_panel(label, found[label]))
    title = "Figure 4 (a to c): sizes of the training set, 2Wiki"
    output.write("training_sizes", title, results=found, text=text, panels=panels)


def ablations(runs, output, names):
    """Write Figure 4 (d): without single insights, at a budget of 900."""
    methods = [name + without for name in (PUBLISHED, PACKAGE) for without in ABLATIONS]
    found = compare(runs, "budget 900", case_of("2Wiki", budget=900), methods)
    columns, rows = columns_of(found), rows_of(found)
    if not runs.setting.simulated:
        paper = PAPER_RESULTS["figure 4d"]
        columns.append("paper: trial of the optimum")
        names = [row[0].removeprefix(f"{PUBLISHED}, ") for row in rows]
        rows = [
            [*row, paper.get(name) or ("never" if name in paper else None)]
            for name, row in zip(names, rows)
        ]
    title = "Figure 4 (d): ablations of the insights, 2Wiki, budget 900"
    panel = search_panel("2Wiki, budget 900", found)
    output.write("ablations", title, results=found, text=table(columns, rows), panels=[panel])


def budgets(runs, output, names):
    """Write Figure 6: searches at a low, medium and high budget."""
    found, text, panels = {}, "", []
    for budget in (500, 900, 2000):
        found[budget] = compare(runs, f"budget {budget}", case_of("2Wiki", budget=budget))
        text += f"## Budget {budget}\n\n{search_table(found[budget])}\n"
        panels.append(search_panel(f"budget {budget}", found[budget]))
    title = "Figure 6: budgets of 500, 900 and 2000, 2Wiki"
    output.write("budgets", title, results=found, text=text, panels=panels)


def price(runs, output, names):
    """Write Figure 7: curves of the answering stage, and searches, with API prices as costs."""
    case = case_of("2Wiki", in_usd=True)
    curves, text, panels = {}, "", []
    for result in stage_curves(runs, case)[1:2]:
        curves[result["title"]] = result
        panels.append(curve_panel(result, "cost", f"cost of the stage, {result['unit']}"))
        text += f"## {result['title']}\n\n{curve_table(result, 'cost')}\n"
    found = compare(runs, "price", case)
    text += f"## Searches\n\n{search_table(found)}\n"
    panels.append(search_panel("searches", found))
    title = "Figure 7: API prices as costs, 2Wiki"
    results = {"curves": curves, "searches": found}
    output.write("price", title, results=results, text=text, panels=panels)


def temperature(runs, output, names):
    """Write Table 2: temperatures by samples; and searches at the lowest and highest of them."""
    grid = runs.setting.scale.grid
    rows, lines, found, scores = [], [], {}, {}
    paper = {} if runs.setting.simulated else PAPER_RESULTS["table 2"]
    shown = [str(value) for value in TEMPERATURES if str(value) in paper]
    for value in TEMPERATURES:
        case = case_of("2Wiki", temperature=value)
        retrieval, answer = runs.benchmark(case).task.stages
        allocations = [
            {
                retrieval.name: (largest(retrieval).name, 1),
                answer.name: (smallest(answer).name, n),
            }
            for n in grid
        ]
        scores[value] = [score for score, _ in runs.curve(case, allocations)]
        lines.append([f"temperature {value}", list(grid), scores[value]])
    for position, samples in enumerate(grid):
        own = [scores[value][position] for value in TEMPERATURES]
        rows.append([samples, *own, *(paper[value].get(str(samples)) for value in shown)])
    columns = ["samples", *map(str, TEMPERATURES), *(f"paper: {value}" for value in shown)]
    text = table(columns, rows) + "\n"
    panels = [{"title": "Table 2", "x": "samples", "y": "score", "lines": lines}]
    for value in (TEMPERATURES[0], TEMPERATURES[-1]):
        experiment = "efficiency" if value == PAPER_TEMPERATURE else f"temperature {value}"
        found[value] = compare(runs, experiment, case_of("2Wiki", temperature=value))
        text += f"## Searches at {value}\n\n{search_table(found[value])}\n"
        panels.append(search_panel(f"searches at {value}", found[value]))
    title = "Table 2: temperatures, 2Wiki"
    results = {"scores": scores, "samples": list(grid), "searches": found}
    output.write("temperature", title, results=results, text=text, panels=panels)


def cases(runs, output, names):
    """Write Figures 5 and 15: what the agents wrote in a search at a budget of 850."""
    case = case_of("2Wiki", budget=850)
    instances = len(runs.benchmark(case).search)
    found = compare(runs, "budget 850", case, (PUBLISHED, "AgentHPO", PACKAGE))
    text = search_table(found) + "\n"
    for method, searches in found.items():
        run = searches[0]
        text += f"## {method}\n\n"
        if not run["replies"] and not run["guidelines"]:
            text += "No language model wrote anything.\n\n"
        for reply in run["replies"]:
            lines = _guideline_lines(reply)
            text += "".join(f"* {line}\n" for line in lines) + ("\n" if lines else "")
        for round_ in run["guidelines"]:
            text += f"Before trial {round_['trial']}:\n\n"
            text += "".join(f"* {line}\n" for line in round_["lines"]) + "\n"
        steps = zip(run["allocations"], run["scores"], run["costs"])
        rows = [
            [number, allocation, score, cost / instances]
            for number, (allocation, score, cost) in enumerate(steps, 1)
        ]
        text += (
            table(["trial", "allocation", "score", f"cost per instance, {run['unit']}"], rows)
            + "\n"
        )
    title = "Figures 5 and 15: guidelines and trials, 2Wiki, budget 850"
    output.write("cases", title, results=found, text=text)


def _guideline_lines(reply):
    """Return the guidelines of a reply, if it has some."""
    try:
        return [" ".join(str(line).split()) for line in json.loads(reply)["guidelines"]]
    except (ValueError, KeyError, TypeError):
        return []


def tables(runs, output, names):
    """Write Tables 4 to 10 and Listing 1: lengths, budgets, prices, numbers of allocations."""
    cost, found, text = FlopsCost(), {}, ""
    rows = [[name, *tokens] for name, tokens in LENGTHS.items()]
    text += "## Table 4: tokens\n\n" + table(["subtask", "prompt", "sample"], rows) + "\n"
    counts = [1, 5, 10, 45, 90]
    for number, samples in enumerate(counts, 5):
        rows = []
        for family, sizes in FAMILIES.items():
            for size, billions in sizes.items():
                model = Model(f"{family} {size}", parameters=billions * 1e9)
                row = []
                for name, (prompt, generated) in LENGTHS.items():
                    stage = Stage(
                        name, models=[model], prompt_tokens=prompt, generation_tokens=generated
                    )
                    row.append(
                        round(float(cost.stage_cost(stage, model, np.array([samples]))[0]), 2)
                    )
                rows.append([model.name, *(float(round(value)) for value in row)])
                found[f"{model.name}, {samples} samples"] = dict(zip(LENGTHS, row))
        text += (
            f"## Table {number}: budget of {_count(samples, 'sample')}, in reference samples\n\n"
        )
        text += table(["model", *LENGTHS], rows) + "\n"
    text += "## Table 10: USD per million tokens\n\n" + table(["model", "price"], PRICES.items())
    rows, default = [], {}
    for name in DATA:
        task = runs.benchmark(case_of(name)).task
        default[name] = {"budget": task.budget, "allocations": task.feasible.count()}
        rows.append([name, round(task.budget, 2), f"{default[name]['allocations']:,}"])
    text += "\n## Listing 1: allocations within the default budget, 1 to 100 samples a stage\n\n"
    text += table(["data set", "budget", "allocations"], rows)
    text += f"\nThe paper counts {PAPER_RESULTS['listing 1']['count']:,} for ChatDev"
    text += ", with samples from 0 and without an upper limit.\n"
    results = {"budgets": found, "prices": PRICES, "default": default}
    title = "Tables 4 to 10 and Listing 1"
    output.write("tables", title, results=results, text=text, searched=False)


EXPERIMENTS = {
    "tables": tables,
    "pilot": pilot,
    "families": families,
    "efficiency": efficiency,
    "training_sizes": training_sizes,
    "ablations": ablations,
    "budgets": budgets,
    "price": price,
    "temperature": temperature,
    "cases": cases,
}


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help=", ".join(EXPERIMENTS)
    )
    parser.add_argument("--out", type=Path, default=Path("paper_experiments"), help="folder")
    parser.add_argument("--names", nargs="+", choices=DATA, default=list(DATA), help="data sets")
    parser.add_argument(
        "--endpoint",
        action="append",
        default=[],
        help="'hf', a URL, or MODEL=URL for each model; default: simulated models",
    )
    parser.add_argument("--llm", help="the planning model, an id of the Hub or a URL")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--embedder", help="for ChatDev's consistency: MODEL or MODEL@URL")
    parser.add_argument("--tools", help="TaskBench's tool_desc.json")
    parser.add_argument("--trials", type=int, help="of each search; default: 50, simulated 20")
    parser.add_argument("--search", type=int, help="instances of a search")
    parser.add_argument("--test", type=int, help="instances of the final score")
    parser.add_argument("--sizes", type=int, nargs="+", help="of training sets")
    parser.add_argument("--grid", type=int, nargs="+", help="samples in curves")
    parser.add_argument("--seeds", type=int, default=1, help="searches of each kind")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, help="of comparisons"
    )
    parser.add_argument("--jobs", type=int, help="processes; default: 1, simulated 2")
    parser.add_argument("--max-spend", type=float, help="limit of each search; see the budgets")
    options = parser.parse_args(arguments)
    unknown = set(options.experiments) - set(EXPERIMENTS)
    if unknown:
        parser.error(f"no experiments named {', '.join(sorted(unknown))}")
    options.experiments = options.experiments or list(EXPERIMENTS)
    return options


def places_of(endpoints):
    """Return one place for all models, or a place for each; None without endpoints."""
    if not endpoints:
        return None
    if len(endpoints) == 1 and "=" not in endpoints[0].partition("://")[0]:
        return endpoints[0]
    return dict(endpoint.split("=", 1) for endpoint in endpoints)


def check_folder(path, options):
    """End the program if results in the folder are of other data, servers or models."""
    kept = ("endpoint", "llm", "data", "tools", "embedder")
    now = {name: getattr(options, name) for name in kept}
    before = json.loads(path.read_text()) if path.exists() else now
    if before != now:
        differing = ", ".join(f"--{name}" for name in kept if before[name] != now[name])
        raise SystemExit(f"{path.parent} has results of another {differing}: give another --out.")
    path.write_text(json.dumps(now, indent=1) + "\n")


def main():
    options = parse()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    places = places_of(options.endpoint)
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("trials", "search", "test", "sizes", "grid")
        if (value := getattr(options, name)) is not None
    }
    scale = replace(PAPER if places else OFFLINE, **given)
    options.out.mkdir(parents=True, exist_ok=True)
    check_folder(options.out / "arguments.txt", options)
    arguments = {
        "folder": options.out,
        "scale": scale,
        "places": places,
        "data": dict(entry.split("=", 1) for entry in options.data),
        "tools": options.tools,
        "embedder": options.embedder,
        "max_spend": options.max_spend,
    }
    jobs = options.jobs or (1 if places else 2)
    runs = Runs(arguments, options.methods, llm=options.llm, seeds=options.seeds, jobs=jobs)
    setting = runs.setting
    planner = f"{options.llm} plans." if options.llm else SCRIPTS
    note = note_of(scale, seeds=options.seeds, planner=planner)
    output = Output(options.out, setting.heading, scale, note)
    print(f"{setting.heading} Bayesian optimization (BO) is Optuna's {BO_SAMPLER}.\n")
    for name in options.experiments:
        started = time.monotonic()
        EXPERIMENTS[name](runs, output, options.names)
        print(f"{name} took {time.monotonic() - started:.0f} s\n")
    runs.close()
    print(f"Next:  {options.out}/*.md are the tables, *.html the figures, *.json all values")
    print(f"       optuna-dashboard {options.out}/studies/NAME.log  (a search in a browser)")
    print("       --endpoint, --llm and --data take real models and whole data sets")


if __name__ == "__main__":
    main()
