"""Write constraints.txt: the exact versions that one clean resolution of all our extras gives.

Run with `make pin`. An install under these constraints has nothing to search for, so it takes a minute instead of ten,
and everyone tests with the same versions. `bench` is left out: fev holds pandas below 3, which nothing else needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CUDA = ("nvidia-", "cuda-", "triton")


def resolve(extras: str) -> dict[str, str]:
    """Ask pip what it would install into an empty environment; return versions without their local part (+cpu)."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    answer = subprocess.run([*command, f"{ROOT}[{extras}]"], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {item["metadata"]["name"]: item["metadata"]["version"] for item in json.loads(answer)["install"]}
    found.pop("stmp-platform")
    # What a CUDA build of torch brings along is pinned by torch itself, and a CPU build has none of it.
    return {name: version.split("+")[0] for name, version in found.items() if not name.startswith(CUDA)}


def main() -> None:
    """Resolve anew and write the file."""
    pins = resolve("dev,gcs")
    head = [
        "# The exact versions that the tests have seen. Written by `make pin`; do not edit by hand.",
        f"# Python {sys.version_info.major}.{sys.version_info.minor}",
    ]
    lines = [f"{name}=={pins[name]}" for name in sorted(pins, key=str.lower)]
    (HERE / "constraints.txt").write_text("\n".join([*head, *lines]) + "\n")


if __name__ == "__main__":
    main()
