"""An event loop for callers that have none: Optuna's samplers and objectives are synchronous."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")


async def together(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines side by side; where one raises, or all are given up, none goes on."""
    running = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*running)
    finally:
        for future in running:
            future.cancel()


class LoopThread:
    """An event loop in a daemon thread of its own, started when it is first needed.

    Args:
        at_end: Runs on the loop when it is stopped, to close what belongs to it.
    """

    def __init__(self, at_end: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """See the class."""
        self._at_end = at_end
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine from any thread, without waiting for it."""
        with self._guard:
            if self._loop is None or self._process != os.getpid():
                # A forked process inherits the loop, but not the thread that runs it.
                self._process = os.getpid()
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_run, args=(self._loop, self._at_end), daemon=True
                )
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


def _run(
    loop: asyncio.AbstractEventLoop, at_end: Callable[[], Coroutine[Any, Any, None]] | None
) -> None:
    try:
        loop.run_forever()
    finally:
        if at_end is not None:
            loop.run_until_complete(at_end())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(_cancel_all, loop)
    # The garbage collector may call this on the loop's own thread.
    if thread is not threading.current_thread():
        thread.join(timeout=5)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Let what is under way clean up, then stop: its connections would leak otherwise."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    gathered = asyncio.gather(*tasks, return_exceptions=True)
    gathered.add_done_callback(lambda _: loop.stop())
