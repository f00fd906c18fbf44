"""What a fault costs is told where the tests run with -s, and is what docs/operations.md lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Tell = Callable[[str, str, float], None]


@pytest.fixture
def tell() -> Tell:
    """Return a function that prints a fault, what was lost, and the seconds until work went on."""

    def told(fault: str, lost: str, seconds: float) -> None:
        print(f"\n| {fault} | {lost} | {seconds:.1f} s |")

    return told
