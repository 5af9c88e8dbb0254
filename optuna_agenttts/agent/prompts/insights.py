"""Text of the paper's three insights (arXiv 2508.00890, Section 3), and of thinking efforts."""

from __future__ import annotations

from collections.abc import Collection

from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.task.stage import has_efforts

INSIGHTS = {
    1: (
        "Stages prefer different models. Some stages need what only a large model can do, and do "
        "best with it and few samples; others do as well with a small model that is sampled "
        "often. Find out for each stage by itself."
    ),
    2: (
        "Samples saturate. The score of a stage rises with the number of samples up to some "
        "number, then stays or falls; with small models it falls sooner, because putting many "
        "candidates together is hard for them too. Samples beyond saturation are wasted budget."
    ),
    3: (
        "Earlier spend moves later optima. Where earlier stages deliver better material, later "
        "stages saturate with fewer samples or a smaller model; where they deliver worse, later "
        "stages need more. Judge allocations as wholes."
    ),
}


THINKING = (
    "Thinking: it is a third way to spend, beside larger models and more samples. The score of a "
    "stage rises with the tokens of its thoughts up to some effort, then stays or falls: models "
    "talk themselves out of right answers, small ones sooner, and where nothing has to be worked "
    "out thoughts gain little. One sample that thinks costs as much as many that do not, and "
    "several with short thoughts often beat one with long thoughts. Efforts of one model are "
    "alike: a trial of one says much about the next, so begin with those in the middle."
)
"""Literature: scores peak and then decline with the length of thoughts, and a vote over short
ones is better for the same tokens (arXiv 2506.04210, 2512.19585, 2504.09858); gains are small
outside of mathematics and logic (arXiv 2409.12183)."""


def insights_text(insights: Collection[int], *, thinking: bool = False) -> str:
    """Return the text of these insights; empty if there are none.

    Args:
        insights: Numbers of the insights.
        thinking: Whether models have thinking efforts.
    """
    chosen = [number for number in sorted(INSIGHTS) if number in insights]
    if not chosen:
        return ""
    lines = [f"Insight {number}: {INSIGHTS[number]}" for number in chosen]
    lines += [THINKING] * thinking
    heading = "What is known of such pipelines in general (this one may differ; evidence wins):"
    return "\n".join([heading, *lines])


def insights_block(data: PromptData) -> str:
    """Return the text of the insights in use."""
    return insights_text(data.insights, thinking=has_efforts(data.task.stages))
