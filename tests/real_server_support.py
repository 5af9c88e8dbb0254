"""Starts `transformers serve`: a real server that is not ours."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen


@contextmanager
def transformers_serve(folder, *models):
    """Serve one model, or with none named all that lie in `folder`, by their names.

    Args:
        folder: Where the server runs, its log and its home included.
        models: The path of the model that the server is pinned to, if it is to be.

    Yields:
        The server's URL.
    """
    (folder / "home" / "hub").mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [command, "serve", *models, *options],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            for _ in range(240):
                try:
                    urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()[-2000:]
                    time.sleep(0.5)
            else:
                raise TimeoutError((folder / "log").read_text()[-2000:])
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
