"""An event loop for callers that have none: Optuna's samplers and objectives are synchronous."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class LoopThread:
    """An event loop in a daemon thread of its own, started when it is first needed."""

    def __init__(self) -> None:
        """See the class."""
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine from any thread, without waiting for it."""
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._loop.run_forever, daemon=True)
                thread.start()
                self._finalizer = weakref.finalize(self, _stop, self._loop, thread)
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine from any thread, and wait for it."""
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C in the calling thread: what is under way there must not go on spending.
            future.cancel()
            raise

    def close(self) -> None:
        """Stop the loop; the next run starts another one."""
        with self._guard:
            if self._loop is not None:
                self._finalizer()
                self._loop = None


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(_cancel_all, loop)
    thread.join(timeout=5)
    if not loop.is_running():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Let what is under way clean up, then stop: its connections would leak otherwise."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    gathered = asyncio.gather(*tasks, return_exceptions=True)
    gathered.add_done_callback(lambda _: loop.stop())
