"""Thousands of broken and hostile bodies against a server process, whose memory and answers are watched.

    python -m benchmarks.serving_fuzz --bodies 10000 --json benchmarks/results/serving_fuzz.json

Each body is a valid one that something was done to, or one that was made to do harm. What is looked for: a 5xx other
than a 503 with Retry-After, an answer that is no JSON, one that takes long, and memory that grows after the first
2,000.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks.serving import make, running
from stmp_platform.serve import free_port
from tests.serving import whole_panel

REGIONS = 40
TIMEOUT_S = 60.0
SETTLED = 2000
"""Bodies after which memory should not grow any more."""
EVERY = 500
"""Memory is looked at after each so many bodies."""
ODD: list[Any] = [
    None, True, -1, 0, 10**30, -(2**63), 1e308, float("nan"), float("inf"), 1e-320, "", "all", "R000001", "\x00",
    "\ud800", "9999-12-31", "0000-00-00", "2022-02-30", "1e9", "x" * 5000, "'; DROP TABLE stmp_observations; --", [],
    {}, [[]], [None], {"$ref": "#"}, ["R000001"] * 200, {"__proto__": {}}, "%s%s%n", "../../etc/passwd",
]  # fmt: skip
TYPES = [
    "text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "é",
    "application/json; charset=utf-16", "application/json; charset=nonsense", "application/problem+json",
]  # fmt: skip


@dataclass
class Bodies:
    """Draws bodies; the same ones from the same seed."""

    draw: random.Random
    regions: list[str]
    past: list[str]
    future: list[str]

    def next(self) -> tuple[str, str, bytes, str]:
        """What was done to it, the address, the body, and its content type."""
        ways: dict[Callable[[Any], bytes], int] = {
            self.left: 8, self.mutated: 40, self.cut: 10, self.noise: 12, self.misencoded: 8, self.nested: 6,
            self.long_number: 4, self.large: 4, self.bytes: 8,
        }  # fmt: skip
        path, valid = self.draw.choice([self.forecast, self.cold, self.observations])()
        way = self.draw.choices(list(ways), list(ways.values()))[0]
        kind = self.draw.choice(TYPES) if self.draw.random() < 0.05 else "application/json"
        return way.__name__, path, way(valid), kind

    # --- valid ones ---------------------------------------------------------------------------------------------

    def forecast(self) -> tuple[str, dict[str, Any]]:
        """Regions that are there, and now and then what is known of their days, and a what-if."""
        some: Any = self.draw.sample(self.regions, 3) if self.draw.random() < 0.8 else "all"
        body: dict[str, Any] = {"regions": some, "horizon": self.draw.randint(1, 14)}
        if self.draw.random() < 0.5:
            body |= {
                "quantiles": [0.1, 0.5],
                "known": [{"date": self.draw.choice(self.future), "values": {"promo": 1}}],
            }
        if self.draw.random() < 0.5:
            body |= {"what_if": [{"column": "price", "scale": 0.9, "first": self.future[2], "last": self.future[5]}]}
        return "/v1/forecasts", body

    def cold(self) -> tuple[str, dict[str, Any]]:
        """A new region with a few days."""
        days = self.draw.sample(self.past, self.draw.randint(0, 10))
        history = [{"date": day, "sales": 10.0, "past": {"customers": 5}} for day in days]
        return "/v1/forecasts:cold", {"region": "new", "like": self.regions[1], "horizon": 7, "history": history}

    def observations(self) -> tuple[str, dict[str, Any]]:
        """New days of some regions."""
        some = [(self.draw.choice(self.regions), self.draw.choice(self.future)) for _ in range(3)]
        days = [{"region": r, "date": day, "sales": self.draw.randint(0, 99)} for r, day in dict.fromkeys(some)]
        return "/v1/observations", {"observations": days, "revise": self.draw.random() < 0.8}

    # --- what is done to them -----------------------------------------------------------------------------------

    def left(self, valid: Any) -> bytes:
        """Nothing."""
        return json.dumps(valid).encode()

    def mutated(self, valid: Any) -> bytes:
        """Some values are others, some keys too."""
        for _ in range(self.draw.randint(1, 3)):
            valid = self._mutate(valid)
        return json.dumps(valid).encode()

    def _mutate(self, value: Any) -> Any:
        if isinstance(value, dict) and value and self.draw.random() < 0.85:
            key = self.draw.choice(list(value))
            rest = {k: v for k, v in value.items() if k != key}
            turn = self.draw.random()
            if turn < 0.1:
                return rest
            return rest | {str(self.draw.choice(ODD))[:50] if turn < 0.2 else key: self._mutate(value[key])}
        if isinstance(value, list) and value and self.draw.random() < 0.85:
            at = self.draw.randrange(len(value))
            return [*value[:at], self._mutate(value[at]), *value[at + self.draw.randint(0, 1) :]]
        return self.draw.choice([*ODD, value, [value], {"x": value}, str(value)])

    def cut(self, valid: Any) -> bytes:
        """Only a beginning."""
        text = json.dumps(valid).encode()
        return text[: self.draw.randrange(len(text))]

    def noise(self, valid: Any) -> bytes:
        """Some bytes are others."""
        text = bytearray(json.dumps(valid).encode())
        for _ in range(self.draw.randint(1, 8)):
            text[self.draw.randrange(len(text))] = self.draw.randrange(256)
        return bytes(text)

    def misencoded(self, valid: Any) -> bytes:
        """Not UTF-8, or hardly."""
        text = json.dumps(valid)
        broken = text.encode().replace(b"R0", self.draw.choice([b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\\ud800"]))
        return self.draw.choice([text.encode("utf-16"), text.encode("utf-32"), b"\xef\xbb\xbf" + text.encode(), broken])

    def nested(self, valid: Any) -> bytes:
        """A value that is very deep, closed or not."""
        depth = self.draw.choice([50, 900, 1100, 5000, 200_000])
        begin, end = self.draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
        deep = begin * depth + b"0" + (end * depth if self.draw.random() < 0.5 else b"")
        key = self.draw.choice(list(valid)).encode()
        return self.draw.choice([deep, b'{"' + key + b'":' + deep + b"}"])

    def long_number(self, valid: Any) -> bytes:
        """Numbers with more digits than anyone reads."""
        digits = self.draw.choice(
            [b"9" * 400, b"9" * 100_000, b"0." + b"1" * 100_000, b"1e" + b"9" * 400, b"-" + b"9" * 4301]
        )
        key = self.draw.choice([*valid, "horizon"]).encode()
        return b'{"regions":["R000001"],"' + key + b'":' + digits + b"}"

    def large(self, valid: Any) -> bytes:
        """Lists up to the limits, and beyond them."""
        size = self.draw.choice([2000, 20_000, 150_000])
        body = dict(valid)
        for key in ("regions", "history", "observations"):
            if isinstance(body.get(key), list) and body[key]:
                body[key] = [self.draw.choice(body[key]) for _ in range(size)]
        if "regions" in body and self.draw.random() < 0.5:
            body["known"] = [{"date": day, "closed": False} for day in self.draw.choices(self.future, k=size)]
            body["what_if"] = [{"column": "promo", "to": 1}] * (size // 100)
        return json.dumps(body).encode()

    def bytes(self, valid: Any) -> bytes:
        """Nothing but noise."""
        return self.draw.randbytes(self.draw.choice([0, 1, 50, 5000, 1_000_000]))


@dataclass
class Found:
    """What was answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    faults: list[str] = field(default_factory=list)
    memory_mb: dict[int, float] = field(default_factory=dict)


async def send_all(url: str, bodies: Bodies, number: int, connections: int, server: psutil.Process) -> Found:
    """Send bodies over some connections."""
    found, sent = Found(), 0

    async def send_on(session: aiohttp.ClientSession) -> None:
        nonlocal sent
        while sent < number:
            sent += 1
            if sent % EVERY == 0:
                found.memory_mb[sent] = round(server.memory_info().rss / 1e6, 1)
                print(sent, found.memory_mb[sent], dict(found.statuses), flush=True)
            name, path, body, kind = bodies.next()
            began = time.perf_counter()
            fault = await send(session, url + path, body, kind, found.statuses)
            found.longest[name] = max(found.longest[name], time.perf_counter() - began)
            if fault:
                found.faults.append(f"{name} {path} {kind!r}: {fault}: {body[:300]!r}")

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        await asyncio.gather(*(send_on(session) for _ in range(connections)))
    return found


async def send(session: aiohttp.ClientSession, address: str, body: bytes, kind: str, statuses: Counter[int]) -> str:
    """What is wrong with an answer, if anything is."""
    try:
        async with session.post(address, data=body, headers={"Content-Type": kind}) as answer:
            content = await answer.read()
    except TimeoutError:
        return "no answer"
    except aiohttp.ClientError as error:
        return f"{type(error).__name__}: {error}"
    statuses[answer.status] += 1
    if answer.status >= 500 and not (answer.status == 503 and "Retry-After" in answer.headers):
        return f"status {answer.status}: {content[:300]!r}"
    try:
        told = json.loads(content)
    except ValueError:
        return f"status {answer.status}, and no JSON: {content[:100]!r}"
    return "" if answer.status == 200 or told.get("detail") else f"status {answer.status} without a reason"


def fuzz(folder: Path, number: int, seed: int, connections: int) -> dict[str, Any]:
    """Serve a model of the default size and send bodies to it."""
    data, model = make(folder, REGIONS)
    ready = folder / "ready.json"
    panel = whole_panel(data)
    last = panel.index_of(panel.last_observed)
    days = panel.dates.astype(str).tolist()
    bodies = Bodies(
        random.Random(seed), [str(r) for r in panel.regions], days[last - 30 : last + 1], days[last + 1 : last + 40]
    )
    command = ["-m", "benchmarks.serving", "--plainly", data, model, str(free_port()), str(ready)]
    with running(command, ready, {"STMP_HOME": str(folder)}) as url:
        (server,) = psutil.Process().children()
        time.sleep(2)
        began = time.time()
        found = asyncio.run(send_all(url, bodies, number, connections, server))
        took = time.time() - began
        end = server.memory_info().rss / 1e6
    memory = found.memory_mb
    return {
        "bodies": number, "seconds": took, "statuses": dict(sorted(found.statuses.items())),
        "faults": found.faults[:50],
        "longest_s": dict(found.longest), "memory_mb": memory, "memory_mb_at_the_end": round(end, 1),
        "growth": end / memory[SETTLED] - 1 if SETTLED in memory else None,
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"}
    with tempfile.TemporaryDirectory() as scratch:
        result |= fuzz(Path(scratch), given.bodies, given.seed, given.connections)
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    raise SystemExit(1 if result["faults"] else 0)


if __name__ == "__main__":
    main()
