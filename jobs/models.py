"""The job behind `stmp models`: what is in the registry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jobs.screen import say, table, warn

if TYPE_CHECKING:
    from stmp_platform.gate import Champions
    from stmp_platform.registry import Version

VALIDATION = "validation/"


def models(name: str | None = None, *, tracking_uri: str | None = None) -> dict[str, Any]:
    """List registered versions, newest first, and the champions of one model in their order.

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
    from stmp_platform.gate import Champions
    from stmp_platform.registry import list_versions
    from stmp_platform.settings import Settings

    settings = Settings.from_env(tracking_uri)
    versions = list_versions(name, settings)
    moves = [
        move
        for model in dict.fromkeys(v.name for v in versions)
        for move in _moves(Champions(model, settings=settings))
    ]
    if versions:
        _print(versions, moves)
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
                "gate": _outcome(v),
                "tags": dict(v.tags),
            }
            for v in versions
        ],
        "champions": moves,
    }


def _print(versions: list[Version], moves: list[dict[str, Any]]) -> None:
    columns = ("model", "version", "aliases", "gate", "asked by", "created", "dataset", "validation")
    rows = [
        (
            v.name,
            v.version,
            ", ".join(v.aliases) or None,
            *_gate(v),
            v.created.strftime("%Y-%m-%d %H:%M") if v.created else None,
            v.dataset_fingerprint[:12] or None,
            ", ".join(f"{k.removeprefix(VALIDATION)} {x:.4g}" for k, x in list(v.metrics.items())[:3]) or None,
        )
        for v in versions
    ]
    table(columns, rows)
    if moves:
        shown = ("model", "kind", "before", "after", "by", "at")
        table(shown, [tuple(move[key] for key in shown) for move in moves], "Champions, in their order")
    for move in {move["model"]: move for move in moves}.values():  # the last of each model
        if not move["settled"]:
            warn(
                f"{move['model']}: the {move['kind']} of version {move['after']} was cut off, and the alias has not "
                "followed. The next `stmp promote` or `stmp rollback` moves it on."
            )


def _outcome(version: Version) -> dict[str, Any] | None:
    from stmp_platform.gate import GATE_TAG

    text = version.tags.get(GATE_TAG)
    return json.loads(text) if text else None


def _gate(version: Version) -> tuple[str | None, str | None]:
    """How the gate judged a version, and who asked and when."""
    outcome = _outcome(version)
    if outcome is None:
        return None, None
    said = "passed" if outcome["passed"] else f"refused: {len(outcome['failed'])} rules"
    return said, f"{outcome['by']} {outcome['at'][:16].replace('T', ' ')}"


def _moves(champions: Champions) -> list[dict[str, Any]]:
    return [{"model": champions.name, **vars(move)} for move in champions.history()]
