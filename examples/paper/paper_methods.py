"""The searches that the paper compares, as Optuna samplers (not an example by itself).

The published loop and the methods of the LLM are those of this repository's benchmarks. Without a
language model, their prompts are answered by a script that follows them (`follower`).
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import optuna

from optuna_agenttts import AgentTTSSampler

sys.path.append(
    str(Path(__file__).resolve().parents[2] / "tests" / "benchmarks" / "search_quality")
)

from paper_loop import Copilot, CreatorExecutor, PaperLoop, ZeroShot, experience_lines

PUBLISHED, PACKAGE = "published AgentTTS", "optuna-agenttts"
"""The paper's loop as published, and this package's sampler."""
METHODS = ("Random", "BO", "LLM_ZS", "AgentHPO", "MLCopilot", PUBLISHED, PACKAGE)
"""The methods of Table 1, and this package's sampler."""
ABLATIONS = {
    "": (1, 2, 3),
    ", without Insight 1": (2, 3),
    ", without Insight 2": (1, 3),
    ", without Insight 3": (1, 2),
}
"""Insights that are used, by what follows the name of `PUBLISHED` or `PACKAGE`."""
BO_SAMPLER = "GPSampler" if find_spec("torch") else "TPESampler"
"""Optuna's Gaussian process needs PyTorch."""
EXPERIENCE_TRIALS = 10
"""Random trials of the similar task that MLCopilot begins with."""


def make_sampler(method, task, seed, *, llm=None, n_trials=None, experience=()):
    """Create the sampler of a method.

    Args:
        method: One of `METHODS`; the last two may have a key of `ABLATIONS` after the name.
        task: The task.
        seed: Seed of the sampler.
        llm: Language model, as `connect` takes it; None for the script.
        n_trials: Trials of the search.
        experience: Trials of a similar task: its task, and pairs of score and choices.
    """
    if method == "Random":
        return optuna.samplers.RandomSampler(seed=seed)
    if method == "BO":
        return getattr(optuna.samplers, BO_SAMPLER)(seed=seed)
    if method.startswith(PACKAGE):
        insights = ABLATIONS[method.removeprefix(PACKAGE)]
        return AgentTTSSampler(
            task,
            seed=seed,
            llm=llm,
            n_trials=n_trials,
            insights=insights,
            prior_insights=insights,
            explain=False,
        )
    loops = {"LLM_ZS": ZeroShot, "AgentHPO": CreatorExecutor, "MLCopilot": Copilot}
    sampler = loops.get(method, PaperLoop)(task, seed, llm=llm)
    if method.startswith(PUBLISHED):
        sampler.insights = ABLATIONS[method.removeprefix(PUBLISHED)]
    if method == "MLCopilot":
        lines = experience_lines("A", *experience)
        sampler.experience = lambda: tuple(lines)
    return sampler
