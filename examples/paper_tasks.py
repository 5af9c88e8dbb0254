"""Tune the pipelines of the paper's task families on its data sets or on small samples.

Shows: the six data sets of the paper, from the file to a score on held-out records. Without
    arguments it takes two_wiki, questions over several passages of Wikipedia.
Needs: `pip install .`, nothing else: models are simulated and served on 127.0.0.1, and samples of
    the data come with the package. ``--places hf`` uses Hugging Face Inference Providers (set
    HF_TOKEN), ``--places http://127.0.0.1:8080`` a TGI or OpenAI-compatible server; ``--data`` is
    a file or a data set of the Hub, such as ``hf:framolfese/2WikiMultihopQA`` (extra `datasets`).
Takes: about ten seconds with simulated models.
"""

import argparse
import contextlib
from functools import partial

import optuna

from optuna_agenttts import AgentTTSSampler, PrintTrials, recommend
from optuna_agenttts_integrations import CompletionStore, DataError
from optuna_agenttts_integrations.tasks import (
    chat_dev,
    cwq,
    hotpot_qa,
    sample_path,
    task_bench,
    two_wiki,
    web_qsp,
)
from optuna_agenttts_integrations.testing.serving import LoopbackServer
from optuna_agenttts_integrations.testing.simulation import simulated_models

FAMILIES = {  # name: constructor, sample
    "two_wiki": (two_wiki, "two_wiki.json"),
    "hotpot_qa": (hotpot_qa, "hotpot_qa.json"),
    "cwq": (cwq, "cwq.json"),
    "web_qsp": (web_qsp, "web_qsp.json"),
    "task_bench": (task_bench, "task_bench.json"),
    "chat_dev": (chat_dev, "software.csv"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="?", default="two_wiki", choices=FAMILIES)
    parser.add_argument("--data", help="default: a sample of the package")
    parser.add_argument("--tools", help="TaskBench's tool_desc.json")
    parser.add_argument("--split", default="validation", help="of a data set of the Hub")
    parser.add_argument("--skip-unusable", action="store_true", help="leave out invalid records")
    parser.add_argument("--search", type=int, help="records; default: 50, or 8 of a sample")
    parser.add_argument("--places", default="simulated", help="simulated, hf, or a URL")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--store", default=":memory:", help="SQLite file of completions")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    make, sample = FAMILIES[options.family]
    if make is task_bench:
        make = partial(task_bench, tools=options.tools or sample_path("task_bench_tools.json"))
    # 50 records are for the search, as in the paper, and 200 held out; few of a sample.
    try:
        benchmark = make(
            options.data or sample_path(sample),
            search=options.search or (50 if options.data else 8),
            split=options.split,
            **({"skip_unusable": True} if options.skip_unusable else {}),
        )
    except DataError as error:
        parser.error(f"{error} `--search` is the number of records to search on.")
    print(benchmark)
    task, held_out = benchmark.task, benchmark.held_out[: 200 if options.data else 12]

    with contextlib.ExitStack() as stack:
        simulated = options.places == "simulated"
        if simulated:
            server = LoopbackServer(simulated_models(benchmark))
            options.places = stack.enter_context(server).url
        store = stack.enter_context(contextlib.closing(CompletionStore(options.store)))
        objective = stack.enter_context(benchmark.objective(options.places, store=store))
        if not simulated:
            report = objective.check()
            print(report)
            report.raise_for_errors()
        study = optuna.create_study(
            study_name=f"paper_tasks {options.family}",
            storage="sqlite:///paper_tasks.db",
            load_if_exists=True,
            direction="maximize",
            sampler=AgentTTSSampler(task, seed=0),
        )
        study.optimize(objective, n_trials=options.trials, callbacks=[PrintTrials()])
        best = recommend(study)
        print(best)
        scored = objective.evaluate(best.allocation, held_out, baseline=task.complete({}))
        print("Held out, compared with the cheapest allocation:", scored)
    print("\nNext:  agenttts report paper_tasks.db --html paper_tasks.html  (a web page)")
    print("       optuna-dashboard sqlite:///paper_tasks.db  (the study in a browser)")
    others = " ".join(name for name in FAMILIES if name != options.family)
    print(f"       the other data sets: {others}")
    print("       --places and --data take real models and the whole data set")


if __name__ == "__main__":
    main()
