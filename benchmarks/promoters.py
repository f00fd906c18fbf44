"""Promoters that race, and are killed at random: how often the registry is left in a state that it must not be in.

``python benchmarks/promoters.py --rounds 50`` (about ten minutes). In each round three processes try to replace the
same champion, and each is killed (SIGKILL) with probability a half, at a random moment of the time that the round
before took. After each round:

- the alias points at the champion before the round, or at one of the three;
- what the next reader settles is what the log says, and the alias follows it;
- no more than one of the three has replaced the champion, and who was told so is champion.

Every other round runs on a SQLite file that the processes write themselves; the others on an `mlflow server`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
RACERS = 3


def racer(uri: str, name: str, version: str, before: str | None, die_after_s: float | None) -> int:
    """Fork a promoter; its exit code is 0 if it was told that it promoted."""
    child = os.fork()
    if child:
        return child
    from tests.promoters import conclude

    if die_after_s is not None:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, die_after_s)
    told = conclude(uri, name, version, before)
    os._exit(0 if told == "promoted" else 1)


def in_child(work: str, *arguments: str) -> str:
    """Run one of the functions below in a fork, since no fork may inherit a connection; return what it printed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, json.dumps({"prepare": prepare, "look": look}[work](*arguments)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        text = lines.read()
    os.waitpid(child, 0)
    return text


def prepare(uri: str, name: str, model: str, rounds: str) -> bool:
    """Register a model, and versions of the racers that point at it."""
    from stmp_platform import registry
    from stmp_platform.settings import Settings

    settings = Settings.from_env(uri)
    first = registry.register(model, f"{name} source", settings=settings)
    with registry.registry_client(settings, "copying") as client:
        client.create_registered_model(name)
        for _ in range(int(rounds) * RACERS):
            client.create_model_version(name, source=first.uri)
    return True


def look(uri: str, name: str) -> dict[str, object]:
    """The alias as it was left, the champion after settling, the alias then, and the champions so far."""
    from stmp_platform import registry
    from stmp_platform.gate import Champions
    from stmp_platform.settings import Settings

    settings = Settings.from_env(uri)

    def alias() -> str | None:
        aliased = [v.version for v in registry.list_versions(name, settings) if "champion" in v.aliases]
        assert len(aliased) <= 1, f"two champions: {aliased}"
        return aliased[0] if aliased else None

    champions = Champions(name, settings=settings)
    left = alias()
    settled = champions.current()
    history = [(move.kind, move.before, move.after) for move in champions.history()]
    return {"left": left, "settled": settled, "alias": alias(), "history": history}


def play(uri: str, champion: str | None, versions: list[str], deaths: list[float | None]) -> tuple[list[str], int]:
    """Let the versions race; those that were told that they promoted, and how many were killed."""
    racers = {racer(uri, "stores", v, champion, death): v for v, death in zip(versions, deaths, strict=True)}
    ended = {version: os.waitpid(child, 0)[1] for child, version in racers.items()}
    return [v for v, status in ended.items() if status == 0], sum(map(os.WIFSIGNALED, ended.values()))


def holds(found: dict[str, Any], moves: list[list[Any]], champion: str | None, versions: list[str]) -> bool:
    """Whether a registry is in a state that it may be in, whoever was told what."""
    return (
        found["left"] in (champion, *versions)
        and found["settled"] == found["alias"]
        and len(moves) <= 1
        and found["settled"] == (moves[0][2] if moves else champion)
        and all(kind == "promotion" for kind, *_ in moves)
    )


def run(rounds: int, rng: random.Random, uris: list[str]) -> dict[str, int]:
    """Play the rounds, on each registry in turn, and count what came of them."""
    counts = dict.fromkeys(("promoted", "killed", "promoted by a killed promoter", "nobody", "violations"), 0)
    champions: dict[str, str | None] = dict.fromkeys(uris)
    seen = dict.fromkeys(uris, 0)
    took = 3.0
    for number in range(rounds):
        uri = uris[number % len(uris)]
        champion = champions[uri]
        versions = [str(number * RACERS + i + 1) for i in range(RACERS)]
        started = time.monotonic()
        deaths = [rng.uniform(0.0, took) if rng.random() < 0.5 else None for _ in versions]
        told, killed = play(uri, champion, versions, deaths)
        took = time.monotonic() - started
        found = json.loads(in_child("look", uri, "stores"))
        moves = found["history"][seen[uri] :]
        seen[uri], champions[uri] = len(found["history"]), found["settled"]
        fine = holds(found, moves, champion, versions) and told in ([], [found["settled"]])
        counts["violations"] += not fine
        counts["promoted"] += len(told)
        counts["killed"] += killed
        counts["promoted by a killed promoter"] += bool(moves) and not told
        counts["nobody"] += not moves
        if not fine:
            print(f"round {number}: {champion} -> {found}, told {told}", file=sys.stderr)
        print(json.dumps({"rounds": number + 1, **counts}), file=sys.stderr)  # a run that is cut off tells this much
    return counts


def main() -> None:
    """Make the registries, run the rounds and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    import mlflow.tracking  # noqa: F401  # once, for all forks

    import stmp
    from tests.servers import MlflowServer
    from tests.training import small_config, small_panel

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["STMP_CACHE"] = str(folder / "cache")
        stmp.train(small_panel(), small_config("train.max_steps=2")).save(folder / "model")
        server = MlflowServer(f"sqlite:///{folder / 'server.db'}", folder).start()
        uris = [f"sqlite:///{folder / 'file.db'}", server.uri]
        for uri in uris:
            in_child("prepare", uri, "stores", str(folder / "model"), str(asked.rounds))
        began = time.monotonic()
        counts = run(asked.rounds, random.Random(asked.seed), uris)
        server.kill()
        print(json.dumps({"rounds": asked.rounds, **counts, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
