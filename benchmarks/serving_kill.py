"""Kill -9 a writer of observations many times at random moments, and count what was answered and then lost.

python -m benchmarks.serving_kill --kills 50
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.killed_store import kill_while_writing


def main() -> None:
    """Kill, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    kills = parser.parse_args().kills
    answered = kept = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(kills):
            some, there = kill_while_writing(Path(folder), seed)  # raises if anything is lost
            answered, kept = answered + some, kept + there
    print(f"{kills} kills: {answered} writes were answered, all are there; {kept - answered} more were written whole.")


if __name__ == "__main__":
    main()
