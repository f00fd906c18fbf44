"""The job behind `stmp rollback`: the previous champion again."""

from __future__ import annotations

from typing import Any

from jobs.screen import say


def rollback(champion: str, *, tracking_uri: str | None = None) -> dict[str, Any]:
    """Make the previous champion champion again.

    Raises
    ------
    RegistryError
        If there is none that still exists.
    """
    from stmp_platform.gate import rollback as go_back
    from stmp_platform.settings import Settings

    move = go_back(champion, Settings.from_env(tracking_uri))
    say(f"Version {move.after} is champion again, in place of version {move.before}.")
    return {"champion": champion, **vars(move)}
