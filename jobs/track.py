"""The job behind `stmp track`: send a tracking store what it has not got of a training."""

from __future__ import annotations

from typing import Any

from jobs.screen import say


def track(out: str, *, tracking_uri: str | None = None) -> dict[str, Any]:
    """Send a training's metrics, report and model to a tracking store; what is there already is not sent again.

    Raises
    ------
    TrackingError, RegistryError
        If the store cannot be reached or refuses, or the folder holds no training.
    """
    from stmp_platform.settings import Settings
    from stmp_platform.tracking import sync

    settings = Settings.from_env(tracking_uri)
    sent = sync(out, settings)
    say(f"{settings.shown_uri} has everything of {out}: run {sent.run_id}")
    return {"out": out, "tracking_uri": settings.shown_uri, "run_id": sent.run_id, "version": sent.version}
