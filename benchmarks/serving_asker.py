"""A client that asks all the while and checks every answer: the numbers of the version that it names, and of no other.

`serving_endurance.py` runs it as a process of its own; SIGTERM ends it, and it writes what it found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
TIMEOUT_S = 60.0
REFUSED_PAUSE_S = 0.05
"""Where nobody listens, an answer comes at once; whoever asks waits a little before asking again."""


@dataclass(frozen=True)
class Truth:
    """What each version forecasts, in batch.

    Attributes
    ----------
    mean : mapping
        By version: ndarray [R, H].
    quantiles : mapping
        By version: ndarray [R, H, Q].
    """

    regions: list[str]
    levels: list[float]
    data_date: str
    mean: dict[str, np.ndarray]
    quantiles: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write it for another process."""
        arrays = {f"mean {v}": a for v, a in self.mean.items()} | {f"levels {v}": a for v, a in self.quantiles.items()}
        told = np.asarray(json.dumps([self.regions, self.levels, self.data_date]))
        np.savez(path, told=told, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Read what another process wrote."""
        with np.load(path) as arrays:
            told = json.loads(str(arrays["told"]))
            mean, quantiles = (
                {name.removeprefix(kind): arrays[name] for name in arrays if name.startswith(kind)}
                for kind in ("mean ", "levels ")
            )
        return cls(*told, mean, quantiles)

    def fault(self, answer: dict[str, Any], asked: dict[str, Any]) -> str:
        """What is wrong with an answer; empty where nothing is."""
        version, found = answer["model_version"], answer["forecasts"]
        if version not in self.mean:
            return f"it names a version that was never registered: {version}"
        wanted = self.regions if asked["regions"] == "all" else asked["regions"]
        if [one["region"] for one in found] != wanted:
            return "other regions than asked for"
        for one in found:
            row, periods = self.regions.index(one["region"]), slice(0, asked["horizon"])
            columns = [self.levels.index(level) for level in asked["quantiles"]]
            levels = np.asarray([one["quantiles"][f"{level:g}"] for level in asked["quantiles"]]).T
            if one["data_date"] != self.data_date:
                return f"{one['region']} begins after {one['data_date']}"
            if not np.allclose(one["mean"], self.mean[version][row, periods], **TOLERANCE):
                return f"the mean of {one['region']} is not that of {version}"
            if not np.allclose(levels, self.quantiles[version][row, periods][:, columns], **TOLERANCE):
                return f"a quantile of {one['region']} is not that of {version}"
        return ""


@dataclass
class Found:
    """What was asked and answered.

    Attributes
    ----------
    seconds : list of float
        Of each right answer.
    wrong : list of str
    failures : list of (time, kind, detail)
        Whatever was no answer with status 200, with the seconds since the epoch when it ended.
    """

    seconds: list[float] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failures: list[tuple[float, str, str]] = field(default_factory=list)


class Asker:
    """Connections that ask one request after the other."""

    def __init__(self, url: str, truth: Truth) -> None:
        self.url, self.truth, self.found = url, truth, Found()
        self.end = asyncio.Event()

    async def run(self, connections: int) -> Found:
        """Ask until the end is set."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end.set)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._ask_on(session, random.Random(seed)) for seed in range(connections)))
        return self.found

    async def _ask_on(self, session: aiohttp.ClientSession, draw: random.Random) -> None:
        while not self.end.is_set():
            asked = self._draw(draw)
            began = time.time()
            failure = await self._ask(session, asked)
            if failure is not None:
                self.found.failures.append((time.time(), *failure))
                if failure[0] == "refused":
                    await asyncio.sleep(REFUSED_PAUSE_S)
            else:
                self.found.seconds.append(time.time() - began)

    def _draw(self, draw: random.Random) -> dict[str, Any]:
        """One region mostly, several sometimes, all of them now and then."""
        regions, horizon = self.truth.regions, next(iter(self.truth.mean.values())).shape[1]
        number = draw.choices([1, draw.randint(2, 6), len(regions)], [0.7, 0.2, 0.1])[0]
        some: Any = "all" if number == len(regions) else draw.sample(regions, number)
        levels = sorted(draw.sample(self.truth.levels, draw.randint(1, len(self.truth.levels))))
        return {"regions": some, "horizon": draw.randint(1, horizon), "quantiles": levels}

    async def _ask(self, session: aiohttp.ClientSession, asked: dict[str, Any]) -> tuple[str, str] | None:
        """How a request failed, if it did; a POST is sent once, and never again by the library."""
        try:
            async with session.post(f"{self.url}/v1/forecasts", json=asked) as response:
                body = await response.read()
                if response.status != 200:
                    return f"status {response.status}", body[:300].decode("utf-8", "replace")
        except aiohttp.ClientConnectorError as error:
            return "refused", str(error)
        except TimeoutError:
            return "timeout", f"no answer in {TIMEOUT_S:.0f} s"
        except (aiohttp.ClientError, ConnectionError) as error:
            return "cut", f"{type(error).__name__}: {error}"
        answer = json.loads(body)
        fault = self.truth.fault(answer, asked)
        if fault:
            self.found.wrong.append(fault)
        self.found.versions[answer["model_version"]] += 1
        return None


def main() -> None:
    """Ask, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("truth", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--connections", type=int, default=4)
    given = parser.parse_args()

    async def ask() -> Found:
        return await Asker(given.url, Truth.load(given.truth)).run(given.connections)

    found = asyncio.run(ask())
    given.out.write_text(json.dumps(vars(found)))


if __name__ == "__main__":
    main()
