"""Promoters as processes that race or die, forked by one process that imports MLflow once and opens no connection.

``python -m tests.promoters`` answers requests, one JSON object a line: ``{"do": "race", ...}`` or ``"die"``,
with the arguments of those functions.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from tests.gating import evidence


def conclude(uri: str, name: str, version: str, before: str | None) -> str:
    """Promote a version that has passed, and say what came of it."""
    from stmp.errors import StmpError
    from stmp_platform.gate import Champions, Rules
    from stmp_platform.gate.promotion import conclude as carry_out
    from stmp_platform.registry import find
    from stmp_platform.settings import Settings

    settings = Settings.from_env(uri, env={})
    found = find(f"models:/{name}/{version}", settings)
    try:
        carry_out(evidence(), Rules(), found, Champions(name, settings=settings), before, None, settings)
    except StmpError as error:
        return type(error).__name__
    return "promoted"


def race(uri: str, name: str, before: str | None, versions: list[str]) -> dict[str, str]:
    """One process a version; all try to replace the same champion at the same moment. Tell what came of each."""
    start, answers = os.pipe(), os.pipe()
    children = []
    for version in versions:
        child = os.fork()
        if child == 0:
            os.close(start[1])
            os.read(start[0], 1)  # until the parent lets go of its end
            os.write(answers[1], f"{version} {conclude(uri, name, version, before)}\n".encode())
            os._exit(0)
        children.append(child)
    os.close(start[0])
    os.close(start[1])
    for child in children:
        os.waitpid(child, 0)
    os.close(answers[1])
    with os.fdopen(answers[0]) as lines:
        return dict(line.split() for line in lines)


def watch(die_before: int | None, tell: Callable[[str], None]) -> None:
    """Count what is written to the registry or to its artifacts, and die by SIGKILL before the n-th of them."""
    from mlflow import MlflowClient

    from stmp_platform.gate import promotion

    done = 0

    def watched(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done == die_before:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            tell(name)
            return original(*args, **kwargs)

        setattr(owner, name, call)

    watched(promotion, "attach")
    for name in ("create_registered_model", "create_model_version", "set_registered_model_alias",
                 "set_model_version_tag"):  # fmt: skip
        watched(MlflowClient, name)


def die(uri: str, name: str, before: str | None, version: str, step: int | None) -> dict[str, Any]:
    """Promote in a process of its own that dies before a step; tell the steps that it took."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        watch(step, lambda name: print(name, file=os.fdopen(writing, "w", closefd=False), flush=True))
        outcome = conclude(uri, name, version, before)
        os.write(writing, f"={outcome}\n".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = lines.read().splitlines()
    _, status = os.waitpid(child, 0)
    return {"killed": os.WIFSIGNALED(status), "steps": told}


def main() -> None:
    """Answer requests, one JSON object a line, until the input ends."""
    import mlflow.store.artifact.artifact_repository_registry
    import mlflow.tracking  # noqa: F401

    import stmp_platform.gate  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        answer = {"race": race, "die": die}[request.pop("do")](**request)  # type: ignore[operator]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
