"""optuna-dashboard on loopback, and a headless Chromium that opens its pages."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Chromium as root in a container, without requests of its own."""

SIZE = {"width": 1500, "height": 1100}
"""Size of the window in pixels."""


_HEIGHT = """() => {
    const scrolls = e => /auto|scroll/.test(getComputedStyle(e).overflowY);
    const inner = [...document.querySelectorAll("*")].filter(scrolls);
    const ends = inner.map(e => e.getBoundingClientRect().top + e.scrollHeight + 20);
    return Math.ceil(Math.max(document.documentElement.scrollHeight, ...ends));
}"""
"""Height of a window that shows a page without scrolling."""


@contextmanager
def chromium():
    """Start the system's Chromium; skip the test if it or Playwright is not installed."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        """Log nothing."""


@contextmanager
def dashboard(storage):
    """Serve a storage by optuna-dashboard, and return the address of its first page."""
    app = pytest.importorskip("optuna_dashboard").wsgi(storage)
    server = make_server("127.0.0.1", 0, app, server_class=_Server, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dashboard"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Visitor:
    """Opens pages, keeps pictures of them, and collects what went wrong.

    Args:
        browser: The browser.
        folder: Where pictures are kept.
        offline: Whether every request beyond the page itself is a problem.
    """

    def __init__(self, browser, folder, *, offline=False):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.problems = []
        self._offline = offline
        self._context = browser.new_context(viewport=SIZE)
        self.page = self._context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._note(f"error: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._response)
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._context.close()

    def open(self, address, name):
        """Open a page, wait until it is drawn, and keep a picture of all of it."""
        self.page.goto(address)
        self.settle()
        return self.keep(name)

    def settle(self):
        """Wait until nothing is loaded and figures are drawn."""
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.js-plotly-plot')]"
            ".every(plot => plot.querySelector('.main-svg'))"
        )
        # Menus and charts move into place for a third of a second.
        self.page.wait_for_timeout(400)

    def keep(self, name):
        """Keep a picture of the whole page, also of what scrolls within it."""
        path = self.folder / f"{name}.png"
        height = self.page.evaluate(_HEIGHT)
        self.page.set_viewport_size({**SIZE, "height": min(max(SIZE["height"], height), 8000)})
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=path, full_page=True)
        self.page.set_viewport_size(SIZE)
        return path

    @property
    def text(self):
        """Text that the page shows."""
        return self.page.inner_text("body")

    def check(self):
        """Raise if a page logged an error, or a request failed."""
        assert not self.problems, "\n".join(self.problems)

    def _note(self, problem):
        self.problems.append(f"{self.page.url}: {problem}")

    def _console(self, message):
        if message.type == "error":
            self._note(f"console: {message.text}")

    def _failed(self, request):
        # Polls that leaving the page ends are no failures.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"request {request.url}: {request.failure}")

    def _response(self, response):
        if response.status >= 400:
            self._note(f"request {response.url}: status {response.status}")

    def _dialog(self, dialog):
        self._note(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request):
        own = request.url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:"))
        if not own or (self._offline and not request.is_navigation_request()):
            self._note(f"request to {request.url[:200]}")
