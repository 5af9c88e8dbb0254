"""Tune a pipeline whose models are served over HTTP: TGI, or any OpenAI-compatible server.

Shows: an endpoint for each model, with its own URL and concurrency.
Needs: `pip install .`, nothing else: the playground's tiny models are served on 127.0.0.1, with
    the API of TGI. Replace `urls` by those of your servers.
Takes: about twenty seconds.
"""

import argparse
import contextlib

import optuna

from optuna_agenttts import AgentTTSSampler, HuggingFaceChat, PrintTrials, recommend
from optuna_agenttts_integrations import Endpoint, MultiStageObjective
from optuna_agenttts_integrations.playground import (
    PlaygroundServer,
    make_pipeline,
    make_problems,
    make_task,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = make_task()
    names = [model.name for stage in task.stages for model in stage.models]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(PlaygroundServer([name], dialect="tgi")) for name in names]
        urls = {name: server.url for name, server in zip(names, servers)}
        endpoints = {
            name: Endpoint(
                chat=HuggingFaceChat(name, base_url=url, concurrency=64),
                identity=f"my servers: {name}",
                concurrency=64,
            )
            for name, url in urls.items()
        }
        objective = stack.enter_context(
            MultiStageObjective(
                make_pipeline(), make_problems("search", 20), task=task, endpoints=endpoints
            )
        )
        study = optuna.create_study(
            study_name="served",
            storage="sqlite:///served.db",
            load_if_exists=True,
            direction="maximize",
            sampler=AgentTTSSampler(task),
        )
        study.optimize(objective, n_trials=options.trials, callbacks=[PrintTrials()])
        requests = sum(server.served["/v1/chat/completions"] for server in servers)
    print(f"{requests} requests for {options.trials} trials")
    print(recommend(study))
    print("\nNext:  agenttts report served.db --html served.html  (a web page)")
    print("       optuna-dashboard sqlite:///served.db  (the study in a browser)")
    print("       agenttts doctor URL  (checks a server of yours before it is used)")


if __name__ == "__main__":
    main()
