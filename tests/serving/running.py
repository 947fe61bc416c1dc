"""A real server around an application, in a thread of its own, and a client of it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import uvicorn


class Client:
    """Asks a server."""

    def __init__(self, url: str):
        self.url, self.session = url, requests.Session()
        self.session.trust_env = False  # no proxy of the machine's

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=60, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> requests.Response:
        return self.session.post(self.url + path, json=body, timeout=60, **more)


@contextmanager
def running(app: Any) -> Iterator[Client]:
    """Serve for a while."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Client(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(20)
