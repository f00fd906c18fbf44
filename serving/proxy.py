"""What runs in Ray Serve's HTTP proxies: a request whose replica has died is sent to another one.

Serve itself does that only until a replica has taken the request; one that dies later is a 500. All of our requests can
be repeated: forecasts change nothing, and observations that are there already stay as they are. Proxies find this by
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serving.proxy:middlewares``, which `stmp serve` sets.
"""

from __future__ import annotations

import logging

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.problems import ApiError, problem

logger = logging.getLogger("ray.serve")

TRIES = 3
MOST_KEPT = 16 * 2**20
"""Bytes of a body that are kept, to be sent again; the application takes none that is as large."""


def middlewares() -> list[Middleware]:
    """What Serve puts around each of its proxies."""
    return [Middleware(AskAgain)]


class AskAgain:
    """Repeat a request that ended without an answer.

    That is how the proxy tells of a replica's death: it returns, and has sent nothing. Every fault of the application
    is an answer with a status.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, again if need be."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive)
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        for _ in range(TRIES):
            await self.app(scope, body.replay(), watched)
            if begun or body.gone:
                return
            if body.size > MOST_KEPT:
                break
            logger.warning("No answer to %s %s: its replica has died.", scope["method"], scope["path"])
        error = ApiError(503, "Whatever was asked has died. Try again.", headers={"Retry-After": "1"})
        await problem(error, scope["path"])(scope, body.replay(), send)


class _Body:
    """What a client sends, kept so that it can be read from its beginning again."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.heard: list[Message] = []
        self.size = 0
        self.gone = False

    def replay(self) -> Receive:
        """Receive all from the first message on."""
        position = 0

        async def receive() -> Message:
            nonlocal position
            if position < len(self.heard):
                position += 1
                return self.heard[position - 1]
            message = await self.receive()
            self.gone |= message["type"] == "http.disconnect"
            self.size += len(message.get("body", b""))
            if self.size <= MOST_KEPT:
                self.heard.append(message)
                position += 1
            return message

        return receive
