"""Faults that a loopback server injects into its replies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.testing.serving_http import Delivery, RefusedError

Fault = Literal["429", "429 with Retry-After", "500", "503", "hang-up", "slow", "drip", "cut"]
"""Kind of fault; see `Faults`."""

FAULTS: tuple[Fault, ...] = get_args(Fault)
"""All kinds of faults."""

_SLOW_SECONDS = 0.2
"""Delay of a ``"slow"`` reply, in seconds. Chosen by hand: noticeable, but fast enough."""

_ERROR_TYPES = {"429": "overloaded", "500": "incomplete_generation", "503": "healthcheck"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Rate and kinds of the faults that a loopback server injects.

    * ``"429"``, ``"429 with Retry-After"`` (of 0 seconds), ``"500"``, ``"503"``: an error status.
      The model is not called.
    * ``"hang-up"``: the connection closes without a reply. The model is not called.
    * ``"slow"``: a correct reply, 0.2 s late.
    * ``"drip"``: a correct reply, in about 25 pieces over 0.2 s.
    * ``"cut"``: the connection closes after half of the body.

    For any other misbehavior, subclass `HttpServer`.

    Args:
        rate: Fraction of the requests for completions and embeddings that get a fault, 0 to 1.
        kinds: Kinds of faults to inject, all equally likely.
        seed: Seed that selects the requests and the kinds.

    Raises:
        PipelineError: A value is out of range or unknown.
    """

    rate: float = 0.2
    kinds: Sequence[Fault] = FAULTS
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.rate <= 1:
            raise PipelineError(f"Faults: `rate` must be from 0 to 1, got {self.rate!r}.")
        if not self.kinds:
            raise PipelineError(f"Faults: `kinds` is empty: give one or more of {FAULTS!r}.")
        if unknown := [kind for kind in self.kinds if kind not in FAULTS]:
            raise PipelineError(f"Faults: `kinds` must be among {FAULTS!r}, got {unknown!r}.")

    def draw(self, rng: random.Random) -> Fault | None:
        """Draw the fault of the next request, or None.

        Args:
            rng: Source of randomness.
        """
        return rng.choice(list(self.kinds)) if rng.random() < self.rate else None


async def inject(fault: Fault | None) -> Delivery:
    """Apply a fault before a request is processed.

    Args:
        fault: The fault; None for none.

    Returns:
        How to send the reply.

    Raises:
        RefusedError: The fault is an error status.
    """
    if fault == "slow":
        await asyncio.sleep(_SLOW_SECONDS)
    if fault is None or fault == "slow":
        return "whole"
    if fault in get_args(Delivery):
        return cast(Delivery, fault)
    status = fault[:3]
    headers = {"retry-after": "0"} if fault == "429 with Retry-After" else {}
    raise RefusedError(int(status), fault, _ERROR_TYPES[status], headers)
