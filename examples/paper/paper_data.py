"""Data sets, sizes and servers of the paper's experiments (not an example by itself)."""

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from optuna_agenttts import Model, PriceCost, Stage, Task
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.calls.embeddings import (
    HashingEmbedder,
    HuggingFaceEmbedder,
    StoredEmbedder,
)
from optuna_agenttts_integrations.tasks import (
    LLAMA,
    QWEN,
    chat_dev,
    cwq,
    hotpot_qa,
    sample_path,
    task_bench,
    two_wiki,
    web_qsp,
)
from optuna_agenttts_integrations.tasks.records import read_records
from optuna_agenttts_integrations.testing.simulation import simulated_models

DATA = {  # name in Table 1: constructor, sample of the package
    "2Wiki": (two_wiki, "two_wiki.json"),
    "Hotpot": (hotpot_qa, "hotpot_qa.json"),
    "CWQ": (cwq, "cwq.json"),
    "WebQSP": (web_qsp, "web_qsp.json"),
    "TaskBench": (task_bench, "task_bench.json"),
    "ChatDev": (chat_dev, "software.csv"),
}
SIMILAR = {
    "2Wiki": "Hotpot",
    "Hotpot": "2Wiki",
    "CWQ": "WebQSP",
    "WebQSP": "CWQ",
    "TaskBench": "ChatDev",
    "ChatDev": "TaskBench",
}
"""The task whose trials MLCopilot begins with: the paper says "a similar task"."""


@dataclass(frozen=True)
class Scale:
    """How large the experiments are.

    Args:
        trials: Trials of a search.
        search: Instances of a search.
        test: Instances that its best trial is scored on.
        sizes: Instances of searches that are compared by them (Figure 4 a to c).
        grid: Numbers of samples of curves.
    """

    trials: int
    search: int
    test: int
    sizes: tuple[int, ...]
    grid: tuple[int, ...]


PAPER = Scale(50, 50, 500, (50, 75, 100), (1, *range(10, 100, 10)))
OFFLINE = Scale(20, 20, 20, (20, 30, 40), (1, 3, 10, 30, 90))
"""What fits the samples of 60 records, and some minutes."""


PAPER_RESULTS = json.loads(Path(__file__).with_name("paper.json").read_text())
"""The numbers of the paper."""
PRICES = {k: v for k, v in PAPER_RESULTS["table 10"].items() if k != "comment"}


class Setting:
    """A data set with its servers: builds benchmarks and objectives, and keeps the store open.

    Args:
        folder: Folder of the results.
        scale: How large the experiments are.
        places: Where models are served; None for simulated ones.
        data: File or data set of the Hub by name, where it is not the sample.
        tools: TaskBench's list of tools.
        embedder: Embedding model for ChatDev's consistency, as ``MODEL`` or ``MODEL@URL``.
            Default: a `HashingEmbedder` beside simulated models, else none, and the completeness
            is the score.
        max_spend: Limit on the spend of each study.
    """

    def __init__(
        self, folder, scale, *, places=None, data=None, tools=None, embedder=None, max_spend=None
    ):
        self.folder, self.scale, self.places = folder, scale, places
        self.data, self.tools, self.max_spend = data or {}, tools, max_spend
        self.store = CompletionStore(str(folder / "completions.db"))
        self.embedder = None if places else HashingEmbedder()
        if embedder:
            model, _, url = embedder.partition("@")
            remote = HuggingFaceEmbedder(model, base_url=url or None)
            self.embedder = StoredEmbedder(remote, self.store)
        self._checked = set()

    @property
    def simulated(self):
        """Whether models are simulated."""
        return self.places is None

    @property
    def heading(self):
        """First line of all results."""
        if self.simulated:
            return "Simulated models: this checks the code, not the claims."
        places = self.places if isinstance(self.places, dict) else {"": self.places}
        # Hosts alone, as URLs can contain keys.
        hosts = sorted({urlsplit(place).hostname or place for place in places.values()})
        return f"Models served by {', '.join(hosts)}."

    def benchmark(self, name, *, search=None, in_usd=False, **options):
        """Return a data set's benchmark; instances beyond those of the search are held out.

        Args:
            name: A key of `DATA`.
            search: Number of instances for the search.
            in_usd: Whether costs are API prices; see `priced`.
            options: Arguments of the family.
        """
        make, sample = DATA[name]
        if make is task_bench:
            options["tools"] = self.tools or sample_path("task_bench_tools.json")
        if make is chat_dev and self.embedder is not None:
            options["embedder"] = self.embedder
        source, search = self.data.get(name), search or self.scale.search
        if source is not None:
            options["skip_unusable"] = True
        else:
            source = read_records(sample_path(sample))
            search = min(search, len(source) * 2 // 3)  # a third is held out
        benchmark = make(source, search=search, **options)
        return priced(benchmark, PRICES) if in_usd else benchmark

    def held_out(self, benchmark):
        """Return the instances of the final score, the same for all sizes of a search."""
        return benchmark.held_out[-self.scale.test :]

    @contextlib.contextmanager
    def objective(self, name, benchmark):
        """Open the objective of a benchmark; costs stay those of the declared lengths."""
        places = simulated_models(benchmark) if self.simulated else self.places
        options = {"store": self.store, "progress": False, "measure_after": None}
        with benchmark.objective(places, max_spend=self.max_spend, **options) as objective:
            if not self.simulated and name not in self._checked:
                report = objective.check()
                print(report)
                report.raise_for_errors()
                self._checked.add(name)
            yield objective


def priced(benchmark, prices):
    """Return a benchmark whose costs and budget are in USD.

    Args:
        benchmark: The benchmark.
        prices: USD per million tokens, by model.
    """
    task = benchmark.task

    def with_price(model):
        price = prices[model.name]
        return replace(model, input_price=price, output_price=price)

    stages = [
        Stage(
            stage.name,
            models=[with_price(model) for model in stage.models],
            prompt_tokens=stage.prompt_tokens,
            generation_tokens=stage.generation_tokens,
            max_samples=stage.max_samples,
            description=stage.description,
        )
        for stage in task.stages
    ]
    return replace(
        benchmark,
        task=Task(
            name=f"{task.name} in USD",
            description=task.description,
            stages=stages,
            cost=PriceCost(),
            metric=task.metric,
            metric_range=task.metric_range,
        ),
    )


LENGTHS = {  # Table 4: subtask: tokens of the prompt, of a sample
    "2Wiki-Retrieval": (2048, 128),
    "2Wiki-QA": (256, 64),
    "Hotpot-Retrieval": (2048, 128),
    "Hotpot-QA": (256, 64),
    "CWQ-Retrieval": (1024, 64),
    "CWQ-QA": (256, 64),
    "WebQSP-Retrieval": (1024, 64),
    "WebQSP-QA": (128, 64),
    "TaskBench-Decomposition": (1024, 64),
    "TaskBench-Tool selection": (1024, 256),
    "TaskBench-Parameters": (1024, 2048),
    "ChatDev-Coding": (1024, 1024),
    "ChatDev-Static test": (1024, 512),
    "ChatDev-Dynamic test": (1024, 256),
}
FAMILIES = {  # Tables 5 to 9 and Figure 8: parameters in 1e9, as in the tables
    "Qwen2.5": {"72B": 72, "32B": 32, "7B": 7},
    "LLaMA-3": {"70B": 70, "8B": 8, "3B": 3},
    "Gemma-2": {"27B": 27, "9B": 9, "2B": 2},
    "Phi-3": {"medium 14B": 14, "small 7B": 7, "mini 3.8B": 3.8},
}
IDS = {
    ("Gemma-2", "27B"): "google/gemma-2-27b-it",
    ("Gemma-2", "9B"): "google/gemma-2-9b-it",
    ("Gemma-2", "2B"): "google/gemma-2-2b-it",
    ("Phi-3", "medium 14B"): "microsoft/Phi-3-medium-128k-instruct",
    ("Phi-3", "small 7B"): "microsoft/Phi-3-small-128k-instruct",
    ("Phi-3", "mini 3.8B"): "microsoft/Phi-3-mini-128k-instruct",
}


def family_models():
    """Return the models of Figure 8 by family, largest first."""
    known = dict(zip(FAMILIES, (QWEN[::-1], LLAMA[::-1])))
    return {
        family: known.get(family)
        or tuple(Model(IDS[family, size], parameters=count * 1e9) for size, count in sizes.items())
        for family, sizes in FAMILIES.items()
    }
