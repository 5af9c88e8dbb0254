"""Samples per second through the objective's machinery, beside a bare asyncio client; and memory.

    python tests/benchmarks/throughput.py [--samples 3000] [--rounds 7] [--concurrency 8 64]

All ask the same loopback server, in turns: a bare client, a URL, and a model on the Hub whose host
is redirected to this machine. The server runs in a process of its own and answers at once, which
is the worst case: a server that has to think hides the rest. A stall is the time that the event
loop was late for a timer of 1 ms. On a busy machine that is mostly the time of other processes:
compare the processor time that the loop took meanwhile, and the processor time per call. Objects
of imported modules are frozen, as each full collection of them takes 30 to 50 ms of any client.
Memory is the resident set while 100,000 samples go through, of a model in process.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import httpx2
from huggingface_hub.inference._providers._common import TaskProviderHelper

from optuna_agenttts.llm import ChatRequest, Completion, Message, Usage
from optuna_agenttts_integrations import CompletionStore, Endpoint, connect_endpoints
from optuna_agenttts_integrations.calls.completions import Completions
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.playground import PlaygroundServer, make_problems
from optuna_agenttts_integrations.playground.pipeline import make_pipeline
from optuna_agenttts_integrations.testing.serving import LoopbackServer

PER_REQUEST = 20
WORDS = 1500
"""About 2,000 tokens: a prompt of the paper's retrieval stage."""


class Instant:
    """Answers at once."""

    async def complete(self, request, *, seed):
        """Say something short."""
        return Completion("Answer: 42", Usage(2000, 4))


def instant_requests(count):
    """Prompts of a retrieval stage."""
    return [
        ChatRequest(
            model="instant",
            messages=(Message("user", f"{'word ' * WORDS}{number}"),),
            max_tokens=64,
            temperature=0.7,
        )
        for number in range(count)
    ]


def playground_requests(count):
    """Prompts of the playground's first stage."""
    program = make_pipeline().programs[0]
    problems = make_problems("search", count)
    return [program.request("retriever-9k", State(problem)) for problem in problems]


async def watch(stalls):
    """Note how late the event loop is, and the processor time that it took meanwhile."""
    while True:
        begun, worked = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0.001)
        stalls.append((time.perf_counter() - begun - 0.001, time.thread_time() - worked))


async def watched(work):
    """Return calls per second, processor time per call, and the largest stalls, in ms."""
    stalls = []
    watching = asyncio.ensure_future(watch(stalls))
    await asyncio.sleep(0)
    begun = time.process_time()
    rate, calls = await work
    busy = 1000 * (time.process_time() - begun) / calls
    watching.cancel()
    return rate, busy, *(1000 * max(column) for column in zip(*stalls))


async def bare(url, requests, concurrency):
    """Measure the samples per second of a client that does nothing else."""
    bodies = iter(
        [
            {
                "model": request.model,
                "messages": [{"role": "user", "content": request.messages[0].content}],
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "seed": index + 1,
            }
            for request in requests
            for index in range(PER_REQUEST)
        ]
    )

    async def work(client):
        for body in bodies:
            reply = await client.post(f"{url}/v1/chat/completions", json=body)
            assert json.loads(reply.content)["choices"]

    limits = httpx2.Limits(max_connections=concurrency)
    async with httpx2.AsyncClient(limits=limits, timeout=60) as client:
        started = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
        calls = len(requests) * PER_REQUEST
        return calls / (time.perf_counter() - started), calls


def redirect_hub(url):
    """Redirect the hosts of Inference Providers; the rest is huggingface_hub's own."""
    TaskProviderHelper._prepare_base_url = lambda self, key: url
    TaskProviderHelper._prepare_mapping_info = lambda self, model: types.SimpleNamespace(
        provider_id=model, task="conversational", status="live"
    )


async def ours(place, requests, path, concurrency):
    """Measure samples per second through seeds, retries, validation and a store on disk."""
    model = requests[0].model
    options = {"api_key": "hf_of-nobody", "concurrency": concurrency}
    endpoint = connect_endpoints([model], place, **options)[model]
    store = CompletionStore(path)
    completions = Completions(store=store, seed=0, rng=random.Random(0))
    started = time.perf_counter()
    drawn = await asyncio.gather(
        *(completions.sample(request, endpoint, PER_REQUEST) for request in requests)
    )
    seconds = time.perf_counter() - started
    assert all(found.generated == PER_REQUEST for found in drawn)
    await endpoint.chat.aclose()
    store.close()
    calls = len(requests) * PER_REQUEST
    return calls / seconds, calls


def resident():
    """Return this process's resident set size in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def memory(path, samples):
    """Measure the resident set size while the given number of samples goes through."""
    store = CompletionStore(path)
    completions = Completions(store=store, seed=0, rng=random.Random(0))
    endpoint = Endpoint(chat=Instant(), identity="instant", concurrency=64)
    batch = 50
    for start in range(0, samples // PER_REQUEST, batch):
        requests = [
            ChatRequest(
                model="instant",
                messages=(Message("user", f"{'word ' * 50}{start + number}"),),
                max_tokens=64,
                temperature=0.7,
            )
            for number in range(batch)
        ]
        await asyncio.gather(
            *(completions.sample(request, endpoint, PER_REQUEST) for request in requests)
        )
        done = (start + batch) * PER_REQUEST
        if done % (samples // 5) == 0:
            print(f"  {done:>7,} samples  {resident():6.1f} MB")
    store.close()


def compare(name, requests, rounds, folder, concurrency):
    """Measure in turns, against a server in a process of its own."""
    serve = subprocess.Popen(
        [sys.executable, __file__, "--serve", name], stdout=subprocess.PIPE, text=True
    )
    url = serve.stdout.readline().strip()
    redirect_hub(url)
    rates = []
    gc.collect()
    gc.freeze()
    try:
        for number in range(rounds):
            found = [asyncio.run(watched(bare(url, requests, concurrency)))]
            for place in (url, "hf:cerebras"):
                path = folder / f"{name}-{concurrency}-{number}-{len(found)}.db"
                found.append(asyncio.run(watched(ours(place, requests, path, concurrency))))
            # The first round warms up the server and the imports.
            rates += [found] if number else []
    finally:
        serve.kill()
        serve.wait()
    print(f"{name}, {concurrency} at a time; medians (ranges) of {len(rates)} rounds:")
    for index, (label, base) in enumerate([("bare", 0), ("URL", 0), ("Hub beside URL", 1)]):
        rate, busy, late, worked = zip(*(found[index] for found in rates))
        print(
            f"  {label:<14} {_shown(rate)}/s, ratio "
            f"{_shown([found[index][0] / found[base][0] for found in rates], '.2f')}; "
            f"processor {_shown(busy, '.2f')} ms a call, ratio "
            f"{_shown([found[base][1] / found[index][1] for found in rates], '.2f')}; "
            f"largest stall {_shown(late)} ms, {_shown(worked)} ms of processor"
        )


def _shown(values, form=".0f"):
    low, high = min(values), max(values)
    return f"{statistics.median(values):{form}} ({low:{form}} to {high:{form}})"


def main():
    """Run all of it, or serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--serve", choices=("instant", "playground"))
    options = parser.parse_args()
    if options.serve:
        server = (
            LoopbackServer({"instant": Instant()})
            if options.serve == "instant"
            else PlaygroundServer(["retriever-9k"])
        )
        with server:
            print(server.url, flush=True)
            server.wait()
    count = options.samples // PER_REQUEST
    with tempfile.TemporaryDirectory() as folder:
        for name, requests in (
            ("instant", instant_requests(count)),
            ("playground", playground_requests(count)),
        ):
            for concurrency in options.concurrency:
                compare(name, requests, options.rounds, Path(folder), concurrency)
        print("memory")
        asyncio.run(memory(Path(folder) / "memory.db", 100_000))


if __name__ == "__main__":
    main()
