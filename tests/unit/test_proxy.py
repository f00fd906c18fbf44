"""A request whose replica dies is asked again: from its first byte, and only if nothing was answered."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serving import proxy
from serving.proxy import TRIES, AskAgain

SCOPE = {"type": "http", "method": "POST", "path": "/v1/forecasts", "headers": []}
PARTS = [b"one", b"two", b"three"]


class Dying:
    """A proxy whose replicas die a few times, each after it has read some messages, and then one echoes the body."""

    def __init__(self, *reads: int, begins: bool = False) -> None:
        self.reads, self.begins = list(reads), begins
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        if self.reads:
            for _ in range(self.reads.pop(0)):
                await receive()
            if self.begins:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def ask(app: Dying, *, leaves: bool = False) -> list[Message]:
    """Send the parts of a body; return what is answered."""
    coming: list[Message] = [
        {"type": "http.request", "body": part, "more_body": i + 1 < len(PARTS)} for i, part in enumerate(PARTS)
    ]
    if leaves:
        coming[-1] = {"type": "http.disconnect"}
    sent: list[Message] = []

    async def receive() -> Message:
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(AskAgain(app)(SCOPE, receive, send))
    return sent


@pytest.mark.parametrize("reads", [(), (0,), (2,), (3,), (1, 3)])
def test_another_replica_answers_the_whole_request(reads: tuple[int, ...]) -> None:
    app = Dying(*reads)
    assert [message.get("body") for message in ask(app)] == [None, b"onetwothree"]
    assert app.asked == len(reads) + 1


def test_who_always_dies_is_told_of() -> None:
    app = Dying(*[3] * 10)
    start, body = ask(app)
    assert app.asked == TRIES
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert json.loads(body["body"])["type"] == "urn:stmp:problem:busy"


def test_what_has_begun_is_not_repeated() -> None:
    app = Dying(3, begins=True)
    assert len(ask(app)) == 1
    assert app.asked == 1


def test_nobody_is_asked_for_a_client_that_left() -> None:
    app = Dying(3)
    assert ask(app, leaves=True) == []
    assert app.asked == 1


def test_what_is_too_large_to_keep_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "MOST_KEPT", 8)
    app = Dying(3)
    assert ask(app)[0]["status"] == 503
    assert app.asked == 1
    assert [message.get("body") for message in ask(Dying(2))] == [None, b"onetwothree"]
