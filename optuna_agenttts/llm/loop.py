"""Event loop in a background thread: Optuna's samplers and objectives are synchronous."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from optuna_agenttts.support.forking import keep_inherited, on_fork

_T = TypeVar("_T")

_JOIN_TIMEOUT = 5
"""Seconds to wait for the thread, or a cancelled coroutine, to stop; chosen by hand."""


async def gather(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines concurrently; if one fails or the caller is cancelled, cancel the rest."""
    running = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*running)
    finally:
        for future in running:
            future.cancel()
        # Cancelled calls count what they have spent before the caller reads it.
        await asyncio.gather(*running, return_exceptions=True)


class LoopThread:
    """Event loop in its own daemon thread, started on first use.

    Args:
        on_stop: Coroutine function that runs on the loop when it stops, to close resources.
    """

    def __init__(self, on_stop: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """See the class."""
        self._on_stop = on_stop
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        on_fork(self, LoopThread._reset)

    def _reset(self) -> None:
        """Forget the loop: a forked process inherits it, but not the thread that runs it."""
        self._lock = threading.Lock()
        if self._loop is not None:
            # Closing the inherited loop would remove sockets from the parent's selector.
            self._finalizer.detach()
            keep_inherited(self._loop)
            self._loop = None

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        """Start a coroutine from any thread and return its future."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_run, args=(self._loop, self._on_stop), daemon=True
                )
                thread.start()
                self._finalizer = weakref.finalize(self, _stop, self._loop, thread)
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine from any thread and return its result."""
        ended = threading.Event()

        async def run() -> _T:
            try:
                return await coroutine
            finally:
                ended.set()

        future = self.submit(run())
        try:
            return future.result()
        except BaseException:
            # On Ctrl-C in the calling thread, calls in progress must not keep spending.
            if future.cancel():
                ended.wait(_JOIN_TIMEOUT)
            raise

    def close(self) -> None:
        """Stop the loop; the next call starts a new one."""
        with self._lock:
            if self._loop is not None:
                self._finalizer()
                self._loop = None


def _run(
    loop: asyncio.AbstractEventLoop, on_stop: Callable[[], Coroutine[Any, Any, None]] | None
) -> None:
    try:
        while True:
            try:
                loop.run_forever()
                break
            except (SystemExit, KeyboardInterrupt):
                # A coroutine raised it. Its future has it too, and passes it to the caller, who
                # would otherwise wait forever for a loop that no longer runs.
                continue
    finally:
        if on_stop is not None:
            loop.run_until_complete(on_stop())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(_cancel_all, loop)
    # The garbage collector may run this on the loop's own thread, which cannot join itself.
    if thread is not threading.current_thread():
        thread.join(timeout=_JOIN_TIMEOUT)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel all tasks and stop the loop after their cleanup, which closes their connections."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    gathered = asyncio.gather(*tasks, return_exceptions=True)
    gathered.add_done_callback(lambda _: loop.stop())
