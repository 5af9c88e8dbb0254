"""Random replies, servers, tasks and studies, of which only named errors may come."""

import asyncio
import json
import math
import random
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import optuna
from llm_support import BEHAVIOURS, AdversarialServer, ask, chat_reply
from optuna.trial import TrialState, create_trial

from optuna_agenttts import (
    AgentTTSError,
    AgentTTSSampler,
    FlopsCost,
    LatencyCost,
    Model,
    PriceCost,
    Stage,
    Task,
    recommend,
    summarize,
)
from optuna_agenttts.agent.validation import read_plan
from optuna_agenttts.llm import ChatError, HuggingFaceChat
from optuna_agenttts.llm.error_replies import parse_refusal
from optuna_agenttts.llm.replies import parse_completion

PIECES = [
    *(
        "<think>",
        "</think>",
        "</s>",
        "```",
        "[",
        "]",
        "{",
        "}",
        '"',
        "\\",
        "\n",
        "\x00",
        "é",
        "😀",
    ),
    *(
        "Answer: [1, 2]",
        "data: {}\n",
        "analysis",
        "assistantfinal",
        "<|im_end|>",
        "\ud800",
        "1e999",
    ),
    *('{"candidates": [', '"guidelines": ["', "null", "-1", "NaN", "exceeded context", "quota"),
]
ODD = [
    None,
    True,
    -1,
    0,
    1,
    1e308,
    math.nan,
    math.inf,
    10**30,
    "",
    "12",
    "x",
    [],
    {},
    [None],
    [{}],
]


def odd_text(rng):
    """Return a text of pieces that parsers look for."""
    piece = rng.choice(PIECES)
    repeated = piece * rng.choice([1, 10, 1000, 20_000 // len(piece)])
    return "".join(rng.choices([*PIECES, repeated], k=rng.randrange(1, 30)))


def odd_value(rng, depth=0):
    """Return a random JSON value."""
    if depth > 3 or rng.random() < 0.5:
        return rng.choice([*ODD, odd_text(rng)])
    if rng.random() < 0.5:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = ["choices", "message", "content", "usage", "error", "code", "delta", "text", "type"]
    return {rng.choice(names): odd_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def odd_body(rng):
    """Return the body of a reply: a valid one with a random change, or random bytes."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(2000))
    values = chat_reply(odd_text(rng))
    for _ in range(rng.randrange(3)):
        inner = rng.choice([values, values["choices"][0], values["usage"]])
        if isinstance(inner, dict) and inner:
            inner[rng.choice(list(inner))] = odd_value(rng)
        if not isinstance(values.get("choices"), list) or not isinstance(
            values.get("usage"), dict
        ):
            break
        if not (values["choices"] and isinstance(values["choices"][0], dict)):
            break
    body = json.dumps(values).encode()
    if rng.random() < 0.3:
        at = rng.randrange(len(body))
        body = body[:at] + rng.randbytes(rng.randrange(3)) + body[at + rng.randrange(3) :]
    return body[: rng.randrange(len(body))] if rng.random() < 0.1 else body


def replies(count, rng):
    """Read random replies as completions, as errors and as plans."""
    task = odd_task(random.Random(0), plain=True)
    completions = errors = 0
    others, slowest = [], 0.0
    request = ask("hello " * 20, schema='{"type": "object"}')
    for _ in range(count):
        body = odd_body(rng)
        text = body.decode(errors="replace")
        started = time.process_time()
        for read in (
            lambda body=body: parse_completion(body, request, "m at s"),
            lambda text=text: parse_refusal(rng.choice([400, 429, 500]), {}, text, request, "m"),
            lambda text=text: read_plan(text, task, ()),
        ):
            try:
                read()
                completions += 1
            except ChatError:
                errors += 1
            except Exception as error:
                others.append(f"{type(error).__name__}: {str(error)[:100]}")
        slowest = max(slowest, time.process_time() - started)
    text = (
        f"{count:,} replies, read as completion, error and plan: {completions:,} values, "
        f"{errors:,} named errors, {len(others)} other exceptions; the slowest took "
        f"{1000 * slowest:.0f} ms"
    )
    return text + (f" ({others[0]})" if others else ""), bool(others)


def servers(scale):
    """Run a search whose agent is each bad server; the server decides nothing but the plan."""
    names = sorted(BEHAVIOURS)[:: max(1, round(1 / scale))]
    # Most of them keep a client waiting.
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(_search_with, names))
    failed = [f"{name}: {problem}" for name, (_, problem) in zip(names, results) if problem]
    text = (
        f"{len(names)} bad servers: 1 call and a search of 4 trials each, {len(failed)} failures; "
        f"the slowest call ended after {max(seconds for seconds, _ in results):.1f} s"
    )
    return text + (f" ({failed[0]})" if failed else ""), bool(failed)


def _search_with(name):
    """Call a bad server, and let it plan a search; return the call's seconds, and an error."""
    task = odd_task(random.Random(0), plain=True)
    problem = ""
    with AdversarialServer(BEHAVIOURS[name]) as server:
        chat = HuggingFaceChat("m", base_url=server.url, timeout=1.0)
        started = time.monotonic()
        try:
            asyncio.run(_complete(chat))
        except ChatError:
            pass
        except Exception as error:
            problem = type(error).__name__
        seconds = time.monotonic() - started
        sampler = AgentTTSSampler(task, llm=chat, llm_timeout=2.0, explain=False)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(partial(_suggest, task), n_trials=4)
        if [trial.state for trial in study.trials] != [TrialState.COMPLETE] * 4:
            problem = "a trial failed"
    return seconds, problem


async def _complete(chat):
    await chat.complete(ask(), seed=1)
    await chat.aclose()


def odd_task(rng, plain=False):
    """Return a random task; with odd names and values unless it is a plain one."""

    def name(start):
        return start if plain or rng.random() < 0.95 else f"{start}{odd_text(rng)[:300]}"

    def number(value):
        return value if plain or rng.random() < 0.995 else rng.choice(ODD)

    stages = [
        Stage(
            name(f"stage{position}"),
            models=[
                Model(
                    name(f"model{index}"),
                    parameters=number(rng.choice([1e9, 7e9, 70e9])),
                    input_price=number(rng.random()),
                    output_price=number(rng.random()),
                    prompt_tokens_per_second=number(1000.0),
                    generation_tokens_per_second=number(50.0),
                )
                for index in range(rng.randrange(1, 5))
            ],
            prompt_tokens=number(rng.randrange(1, 5000)),
            generation_tokens=number(rng.randrange(1, 500)),
            max_samples=number(rng.choice([1, 5, 50, 300])),
            description=name(""),
        )
        for position in range(rng.randrange(1, 5))
    ]
    cost = rng.choice([FlopsCost(), PriceCost(), LatencyCost()])
    budget = None if plain else number(rng.choice([None, None, None, 1.0, 1000.0]))
    return Task(name=name("task"), stages=stages, cost=cost, budget=budget, metric=name("metric"))


def odd_trial(rng, task):
    """Return a random finished trial of a task's study."""
    choices = [
        (rng.randrange(len(stage.models)), rng.randrange(1, stage.max_samples + 1))
        for stage in task.stages
    ]
    allocation = task.allocation(choices)
    params = task.params(allocation)
    distributions = {}
    for stage in task.stages:
        names = [model.name for model in stage.models]
        distributions[stage.model_parameter] = optuna.distributions.CategoricalDistribution(names)
        distributions[stage.samples_parameter] = optuna.distributions.IntDistribution(
            1, stage.max_samples
        )
    if rng.random() < 0.1:
        dropped = rng.choice(list(params))
        del params[dropped], distributions[dropped]
    state = rng.choices([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL], [8, 1, 1])[0]
    value = rng.choice([rng.random(), rng.random(), 0.0, 1.0, 1e300, -1e300, math.inf])
    steps = {i: rng.choice([0.0, 1.0, math.nan]) for i in range(rng.randrange(5))}
    attributes = {"spend": rng.choice(ODD[:13]), "outcomes": rng.choice(ODD[:13])}
    return create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params=params,
        distributions=distributions,
        intermediate_values=steps if rng.random() < 0.5 else {},
        user_attrs=attributes if rng.random() < 0.3 else {},
    )


def _suggest(task, trial):
    return len(task.suggest(trial))


def tasks(count, rng):
    """Make random tasks, and studies of them with random trials; ask, recommend and summarize."""
    refused = searched = 0
    others = []
    for number in range(count):
        try:
            task = odd_task(rng)
            study = optuna.create_study(
                direction=rng.choice(["minimize", "maximize"]),
                sampler=AgentTTSSampler(task, seed=number, explain=False),
            )
            study.add_trials([odd_trial(rng, task) for _ in range(rng.randrange(12))])
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                study.optimize(partial(_suggest, task), n_trials=2)
                recommend(study)
                str(summarize(study))
            searched += 1
        except AgentTTSError:
            refused += 1
        except Exception as error:
            last = error.__traceback__
            while last.tb_next is not None:
                last = last.tb_next
            where = f"{last.tb_frame.f_code.co_name}:{last.tb_lineno}"
            others.append(f"{number} {type(error).__name__} in {where}: {str(error)[:100]}")
    text = (
        f"{count:,} tasks with studies: {searched:,} searched, recommended from and summarized, "
        f"{refused:,} refused with a named error, {len(others)} other exceptions"
    )
    return text + (f" ({others[0]})" if others else ""), bool(others)
