"""Expected scores by the settings of two stages (Insight 3)."""

from __future__ import annotations

from dataclasses import dataclass

from optuna_agenttts.planner.evidence import Floats


@dataclass(frozen=True, slots=True)
class MapPanel:
    """Expected scores for one model in each of two stages.

    Args:
        earlier_model: Model of the earlier stage.
        later_model: Model of the later stage.
        values: Expected values, in units of the metric, shape (later samples, earlier samples);
            NaN over the budget.
        best_later: For each number of earlier samples the best number of later ones; None where
            none is within the budget.
        trials: Numbers of trials in the panel, with their earlier and later samples and value.
    """

    earlier_model: str
    later_model: str
    values: Floats
    best_later: tuple[int | None, ...]
    trials: tuple[tuple[int, int, int, float], ...]


@dataclass(frozen=True, slots=True)
class AllocationMap:
    """Expected scores by models and samples of two stages; other stages are as recommended.

    Args:
        earlier: Name of the earlier stage.
        later: Name of the later stage.
        earlier_samples: Numbers of samples of the earlier stage, increasing.
        later_samples: Numbers of samples of the later stage, increasing.
        panels: One panel for each pair of models, the later stage's model changing last.
    """

    earlier: str
    later: str
    earlier_samples: tuple[int, ...]
    later_samples: tuple[int, ...]
    panels: tuple[MapPanel, ...]
