"""The job behind `stmp trace`: where a forecast comes from."""

from __future__ import annotations

from typing import Any

from jobs.screen import say, table


def trace(forecast_id: str, *, data: str | None = None, tracking_uri: str | None = None) -> dict[str, Any]:
    """Tell which model made a forecast, from which data, and how that model came to be.

    Parameters
    ----------
    forecast_id : str
        As a forecast carries it.
    data : str, optional
        The dataset; by default the one that the model was trained on.

    Raises
    ------
    ConfigError, DataError, RegistryError
        If the id is none, or what it names is not there.
    """
    from stmp_platform.settings import Settings
    from stmp_platform.trace import trace as find

    found = find(forecast_id, data, Settings.from_env(tracking_uri))
    forecast, model, used = found["forecast"], found["model"], found["data"]
    gate, code = model["gate"], model["code"]
    since = "" if used["unchanged"] else "; the dataset has changed since"
    rows = [
        ("forecast from", f"{used['uri']} as of {forecast['day']}, fingerprint {used['fingerprint']}"),
        ("last brought in", ", ".join(map(str, used["source"].values()))),
        (
            "written",
            f"{used['created_at']} by {used['created_by']}{since}",
        ),
        ("model", f"{model['version']}, registered {model['registered'] or 'nowhere'}"),
        ("trained on", f"{model['data']} until {model['until']}, fingerprint {model['dataset_fingerprint']}"),
        ("from", " from ".join(found["lineage"]) or "scratch"),
        ("code", ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in code.items())),
        ("run", model["run_id"]),
        ("gate", None if gate is None else f"{'passed' if gate['passed'] else 'refused'} {gate['at']} by {gate['by']}"),
        ("champion since", ", ".join(move["at"] for move in model["promoted"]) or None),
        ("retraining", model["retraining"] or None),
    ]
    if forecast["sequence"]:
        rows.insert(1, ("observations", f"those of the API up to change {forecast['sequence']}"))
    for name, text in rows:
        if text:
            say(f"{name + ':':17}{text}")
    if found["retraining"]:
        steps = [(name, r["began"], r["seconds"], r["by"]) for name, r in found["retraining"].items()]
        table(("step", "began", "seconds", "by"), steps)
    return found
