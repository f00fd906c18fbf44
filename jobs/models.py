"""The job behind `stmp models`: what is in the registry."""

from __future__ import annotations

from typing import Any

from jobs.screen import say, table

VALIDATION = "validation/"


def models(name: str | None = None, *, tracking_uri: str | None = None) -> dict[str, Any]:
    """List registered versions, newest first.

    Parameters
    ----------
    name : str, optional
        Only the versions of this model.
    tracking_uri : str, optional
        Tracking server or database; from the environment if not given.

    Raises
    ------
    RegistryError
        If the registry cannot be reached, or holds no model of that name.
    """
    from stmp_platform.registry import list_versions
    from stmp_platform.settings import Settings

    settings = Settings.from_env(tracking_uri)
    versions = list_versions(name, settings)
    if versions:
        columns = ("model", "version", "aliases", "created", "dataset", "validation")
        rows = [
            (
                v.name,
                v.version,
                ", ".join(v.aliases) or None,
                v.created.strftime("%Y-%m-%d %H:%M") if v.created else None,
                v.dataset_fingerprint[:12] or None,
                ", ".join(f"{k.removeprefix(VALIDATION)} {x:.4g}" for k, x in list(v.metrics.items())[:3]) or None,
            )
            for v in versions
        ]
        table(columns, rows)
    else:
        say(f"No models are registered in {settings.shown_registry}. `stmp train` registers the models that it trains.")
    return {
        "registry": settings.shown_registry,
        "versions": [
            {
                "name": v.name,
                "version": v.version,
                "uri": v.uri,
                "aliases": list(v.aliases),
                "created": v.created.isoformat() if v.created else None,
                "run_id": v.run_id,
                "dataset_fingerprint": v.dataset_fingerprint,
                "metrics": dict(v.metrics),
                "tags": dict(v.tags),
            }
            for v in versions
        ],
    }
