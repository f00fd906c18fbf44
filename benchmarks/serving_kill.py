"""Kill -9 a server at random moments while observations are posted to it, and look for each that it had acknowledged.

    python -m benchmarks.serving_kill --kills 50 --json benchmarks/results/serving_kill.json

The server is the application on uvicorn. Each client writes one region: request after request it revises the same days,
all of them to the request's number. After each kill the server is started again, and asked for what every region sold:
that must be what was acknowledged last, or else what was under way when the server died, and either of them whole.
With `--writer` the store alone is written and killed, without HTTP, which is faster and hits the commit more often.
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
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks.serving import running
from stmp_platform.serve import free_port
from tests.killed_store import kill_while_writing
from tests.serving import make_data, make_model, whole_panel

CLIENTS, DAYS = 4, 30
LONGEST_S = 2.0
"""A server is killed after this long at most."""


@dataclass
class Writer:
    """One client, and the region that it alone writes.

    Attributes
    ----------
    sent, acknowledged : int
        Number of the last request, and of the last one that was answered with 200.
    answers : int
        Requests that were answered.
    """

    region: str
    days: list[str]
    sent: int = 0
    acknowledged: int = 0
    answers: int = 0

    async def write_on(self, session: aiohttp.ClientSession, url: str) -> None:
        """Write until the server is gone."""
        while True:
            self.sent += 1
            days = [{"region": self.region, "date": day, "sales": self.sent} for day in self.days]
            try:
                async with session.post(
                    f"{url}/v1/observations", json={"observations": days, "revise": True}
                ) as answer:
                    told = await answer.read()
            except (aiohttp.ClientError, ConnectionError):
                return
            if answer.status != 200:
                raise AssertionError(f"status {answer.status}: {told!r}")
            self.acknowledged, self.answers = self.sent, self.answers + 1

    async def look(self, session: aiohttp.ClientSession, url: str) -> None:
        """See whether all that was acknowledged is there.

        Raises
        ------
        AssertionError
            If it is not.
        """
        async with session.get(f"{url}/v1/regions/{self.region}", params={"history": DAYS}) as answer:
            told = await answer.json()
        sold = dict(zip(told["dates"], told["history"][0]["sales"], strict=False))
        found = {int(sold.get(day) or 0) for day in self.days}
        number = max(found)
        assert found == {number}, f"{self.region}: half of a request is there: {found}"
        assert self.acknowledged <= number <= self.sent, (
            f"{self.region}: {self.acknowledged} was acknowledged, {self.sent} was sent, and {number} is there"
        )
        self.acknowledged = number  # what was under way and is there now must stay, too


async def look_at_all(url: str, writers: list[Writer]) -> None:
    """Look for what was acknowledged before."""
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(writer.look(session, url) for writer in writers))


async def write_and_kill(url: str, writers: list[Writer], server: psutil.Process, after_s: float) -> None:
    """Write, and kill the server in the middle of it."""
    async with aiohttp.ClientSession() as session:
        writing = asyncio.gather(*(writer.write_on(session, url) for writer in writers))
        await asyncio.sleep(after_s)
        server.kill()
        await writing


def kill_servers(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Serve, kill, and serve again."""
    data = make_data(folder)
    model = str(make_model(data, folder / "model"))
    panel, draw = whole_panel(data), random.Random(seed)
    first = panel.index_of(panel.last_observed) + 1
    days = panel.dates[first : first + DAYS].astype(str).tolist()
    writers = [Writer(str(region), days) for region in panel.regions[:CLIENTS]]
    began = time.monotonic()
    for kill in range(kills + 1):
        ready = folder / f"ready-{kill}.json"
        command = ["-m", "benchmarks.serving", "--plainly", data, model, str(free_port()), str(ready)]
        with running(command, ready, {"STMP_HOME": str(folder)}) as url:
            (server,) = psutil.Process().children()
            _until_it_answers(url)
            asyncio.run(look_at_all(url, writers))
            if kill < kills:
                asyncio.run(write_and_kill(url, writers, server, draw.uniform(0.0, LONGEST_S)))
                print(f"{kill + 1} kills, {sum(w.answers for w in writers)} acknowledged", flush=True)
    answers = sum(writer.answers for writer in writers)
    return {
        "kills": kills, "acknowledged": answers, "days_in_each": DAYS, "lost": 0,
        "unacknowledged": sum(writer.sent for writer in writers) - answers, "seconds": time.monotonic() - began,
    }  # fmt: skip


def _until_it_answers(url: str, limit_s: float = 30.0) -> None:
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise TimeoutError(f"no answer within {limit_s:.0f} s")


def kill_writers(folder: Path, kills: int) -> dict[str, Any]:
    """The store alone, killed while it is written."""
    answered = kept = 0
    for seed in range(kills):
        some, there = kill_while_writing(folder, seed)  # raises if anything is lost
        answered, kept = answered + some, kept + there
    return {"kills": kills, "acknowledged": answered, "lost": 0, "written_and_not_acknowledged": kept - answered}


def main() -> None:
    """Kill, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--writer", action="store_true", help="kill a writer of the store, not a server")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        result |= kill_writers(folder, given.kills) if given.writer else kill_servers(folder, given.kills, given.seed)
    print(json.dumps(result, indent=1))
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
