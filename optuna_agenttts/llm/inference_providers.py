"""Requests to Hugging Face Inference Providers.

`huggingface_hub` resolves a provider's route, its name of the model and the host that a key
belongs to. The requests are sent by `ServerClient`: a new `AsyncInferenceClient` (2.4.0) for each
call would load the certificates, which takes 60 ms of the event loop, and open a connection.

`huggingface_hub` is imported on first use: its classes of providers take a quarter of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna_agenttts.llm.error_replies import hub_error
from optuna_agenttts.llm.port import ChatRefusedError

if TYPE_CHECKING:
    from huggingface_hub.inference._common import RequestParameters

_resolved: set[tuple[str | None, str, str | None]] = set()
"""Routes that `huggingface_hub` has looked up, and therefore keeps."""


async def provider_request(
    inputs: Any,
    parameters: Mapping[str, Any],
    *,
    provider: str | None,
    task: str,
    model: str | None,
    key: str | None,
    headers: Mapping[str, str],
    where: str,
) -> tuple[str, Mapping[str, str], Any]:
    """Return URL, headers and JSON body of a request for a task of a provider (None: any).

    Raises:
        ChatError: The provider does not serve the model, or the Hub is unreachable.
    """
    from huggingface_hub import is_offline_mode
    from huggingface_hub.inference._providers import get_provider_helper

    if is_offline_mode():
        raise ChatRefusedError(
            f"{where}: HF_HUB_OFFLINE is set: unset it, or pass the URL of a server",
            kind="offline",
        )

    def prepare() -> RequestParameters:
        helper = get_provider_helper(provider, task=task, model=model)  # type: ignore[arg-type]
        return helper.prepare_request(
            inputs=inputs,
            parameters=dict(parameters),
            headers=dict(headers),
            model=model,
            api_key=key,
        )

    route = (provider, task, model)
    try:
        # The first request of a model may look it up on the Hub, which blocks.
        request = prepare() if route in _resolved else await asyncio.to_thread(prepare)
    # It looks models up on the Hub, and documents no exceptions.
    except Exception as error:
        raise hub_error(error, key=key, where=where) from None
    _resolved.add(route)
    return request.url, request.headers, request.json


def billing(bill_to: str | None) -> dict[str, str]:
    """Return the header that names the organization to bill."""
    if bill_to is None:
        return {}
    from huggingface_hub.constants import HUGGINGFACE_HEADER_X_BILL_TO

    return {HUGGINGFACE_HEADER_X_BILL_TO: bill_to}
