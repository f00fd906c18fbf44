"""The jobs behind `stmp serve` and `stmp rollout`: the forecasting API on Ray Serve, and another model for it."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.screen import say, table

if TYPE_CHECKING:
    from stmp_platform.settings import Settings

OBSERVATIONS = "STMP_OBSERVATIONS"
TOKEN = "STMP_SERVE_TOKEN"
"""Environment variable with the token that a rollout asks the replicas with."""


def serve(
    data: str,
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    observations: str | None = None,
    until: str | None = None,
    replicas: int = 1,
    tracking_uri: str | None = None,
) -> dict[str, Any]:
    """Serve forecasts on this machine, from other processes, until this one ends.

    Parameters
    ----------
    data, model : str
        Dataset and model reference; an alias is resolved once, to the version that it means now.
    observations : str, optional
        Database of the observations; by default $STMP_OBSERVATIONS, or else ``observations-NAME.db`` in the folder of
        the local store.
    until : str, optional
        Last day whose sales are used of the data.
    replicas : int
        Processes that answer.

    Raises
    ------
    ConfigError
        If the model does not exist, the port is taken, or others could reach it without a token.
    ServeError
        If the application does not start.
    """
    from stmp_platform.dataset import load_manifest
    from stmp_platform.registry import pin
    from stmp_platform.serve import config_of, start
    from stmp_platform.settings import Settings

    settings = Settings.from_env(tracking_uri)
    name = load_manifest(data).name
    reference = pin(model, settings)
    tell_replicas(settings, observations, name)
    args: dict[str, Any] = {
        "data": _absolute(data),
        "host": host,
    }
    if until is not None:
        args["until"] = until
    config = config_of(_absolute(reference), args, host=host, port=port, replicas=replicas)
    running = start(config, cpus=replicas)
    say(f"Serving {reference} on {running.url} (API: {running.url}/docs). Ctrl-C ends it.")
    say(f"Another model: stmp rollout --model M --url {running.url} --dashboard {running.dashboard}")
    return {"url": running.url, "dashboard": running.dashboard, "model": reference}


def rollout(
    model: str,
    *,
    url: str,
    dashboard: str,
    canary: tuple[float, ...] = (),
    shadow: bool = False,
    hold_s: float = 60.0,
    max_difference: float = 0.5,
    tracking_uri: str | None = None,
    timeout_s: float = 300.0,
) -> dict[str, Any]:
    """Have a running application answer with another model; it goes back if a replica cannot take it.

    Parameters
    ----------
    canary : tuple of float
        Shares of the regions that it answers for first, one after the other.
    shadow : bool
        Only compare it with the model that answers, and leave that one.
    hold_s : float
        Seconds of the shadow, and of each step of the canary.
    max_difference : float
        Of its forecasts to those of the model that answers, as a share, beyond which a trial ends.

    Raises
    ------
    ServeError
        If the application is not there, a trial was stopped, or a replica cannot take the model.
    RegistryError
        If there is no such model.
    """
    from stmp_platform.canary import try_beside
    from stmp_platform.registry import pin
    from stmp_platform.rollout import roll_out
    from stmp_platform.settings import Settings

    reference = _absolute(pin(model, Settings.from_env(tracking_uri)))
    token = os.environ.get(TOKEN)
    dashboard, url = dashboard.rstrip("/"), url.rstrip("/")
    trials: list[dict[str, Any]] = []
    if shadow or canary:
        shares = (0.0,) if shadow else canary
        found = try_beside(
            dashboard, url, reference, shares,
            hold_s=hold_s, max_difference=max_difference, token=token, timeout_s=timeout_s,
        )  # fmt: skip
        trials = [asdict(step) for step in found]
        columns = ("share of regions", "answered", "compared", "failed", "difference", "time over the champion's")
        rows = [
            (f"{s.share:g}", s.answered, s.compared, s.failed, f"{s.difference:.3f}", f"{s.slowdown:.2f}")
            for s in found
        ]
        table(columns, rows, f"{reference} beside the model that answers")
    if shadow:
        return {"model": reference, "trials": trials}
    rolled = roll_out(dashboard, url, reference, token=token, timeout_s=timeout_s)
    say(
        f"{len(rolled.replicas)} replicas answer with {rolled.after} after {rolled.seconds:.1f} s; "
        f"before it was {rolled.before}"
    )
    return {
        "before": rolled.before, "after": rolled.after, "replicas": dict(rolled.replicas), "seconds": rolled.seconds,
        "trials": trials,
    }  # fmt: skip


def _absolute(reference: str) -> str:
    """A reference that means the same in the working folder of a replica."""
    return reference if "://" in reference or reference.startswith("models:") else str(Path(reference).resolve())


def tell_replicas(settings: Settings, observations: str | None, name: str) -> None:
    """Ray starts its processes with this environment: URIs that may hold passwords are in no config and no log."""
    local = f"sqlite:///{settings.home / f'observations-{name}.db'}"
    os.environ[OBSERVATIONS] = observations or os.environ.get(OBSERVATIONS) or local
    os.environ["MLFLOW_TRACKING_URI"] = settings.tracking_uri.get_secret_value()
    os.environ["MLFLOW_REGISTRY_URI"] = settings.registry_uri.get_secret_value()
    os.environ["STMP_HOME"] = str(settings.home)


def wait() -> None:
    """Until Ctrl-C or SIGTERM."""
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    try:
        while not end.wait(1.0):
            pass
    except KeyboardInterrupt:
        say("Ending.")
