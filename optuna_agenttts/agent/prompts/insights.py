"""Text of the paper's three insights (arXiv 2508.00890, Section 3)."""

from __future__ import annotations

from collections.abc import Collection

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


def insights_text(insights: Collection[int]) -> str:
    """Return the text of these insights; empty if there are none."""
    chosen = [number for number in sorted(INSIGHTS) if number in insights]
    if not chosen:
        return ""
    lines = [f"Insight {number}: {INSIGHTS[number]}" for number in chosen]
    heading = "What is known of such pipelines in general (this one may differ; evidence wins):"
    return "\n".join([heading, *lines])
