"""The edge of the server: every request has an id and a size, is timed and counted, and ends in words.

Plain ASGI, so that a body is looked at before anybody parses it.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from recbole_think.serving.metrics import Metrics

log = logging.getLogger(__name__)
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADER = b"x-request-id"
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Edge:
    """Wraps an application."""

    def __init__(self, app: Any, metrics: Metrics, most_bytes: int, seconds: float, paths: frozenset[str]):
        """Wrap.

        Args:
            app: an ASGI application.
            metrics: where requests are counted.
            most_bytes: of a body.
            seconds: within which a body must be there.
            paths: that are counted by name; all others are counted together.
        """
        self.app, self.metrics, self.paths = app, metrics, paths
        self.most_bytes, self.seconds = most_bytes, seconds

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, headers = time.perf_counter(), dict(scope["headers"])
        given = headers.get(HEADER, b"").decode("latin-1")
        request_id = given if ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def told(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER, request_id.encode())]}
            await send(message)

        try:
            try:
                body = await asyncio.wait_for(self._body(receive), self.seconds)
            except TimeoutError:
                await refuse(told, 408, request_id, f"the body was not there within {self.seconds:g} s")
                return
            if body is None:
                await refuse(told, 413, request_id, f"a body may have {self.most_bytes} bytes, this one has more")
            else:
                await self.app(scope, _again(body, receive), told)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            seconds = time.perf_counter() - began
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            log.info("%s %s %s %d %.1f ms", request_id, scope["method"], path, status, 1000 * seconds)

    async def _body(self, receive: Receive) -> bytes | None:
        """All of a body; None where it is too large, which is known before it is all there."""
        found, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":  # gone
                return b""
            found.append(message.get("body", b""))
            size += len(found[-1])
            if size > self.most_bytes:
                return None
            if not message.get("more_body"):
                return b"".join(found)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever reads it next."""
    given = False

    async def again() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(send: Send, status: int, request_id: str, why: str) -> None:
    """Say no, in JSON."""
    text = json.dumps({"request_id": request_id, "error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
