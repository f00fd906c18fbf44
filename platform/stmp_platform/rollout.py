"""A rollout: every replica of a running application is told the same pinned version, and asked what came of it.

Replicas load the new model beside the old one, and keep the old one if it fails. The rollout is over when each replica
answers with the new version; if one cannot, all are told the old version again.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stmp_platform.serve import APPLICATION, DEPLOYMENT, POLL_S, ServeError, connect


class RolloutError(ServeError):
    """The new version was not taken; the old one answers."""


@dataclass(frozen=True)
class Rolled:
    """How a rollout ended.

    Attributes
    ----------
    before, after : str
        References of the models.
    replicas : mapping
        Version that each replica answers with.
    seconds : float
    """

    before: str
    after: str
    seconds: float
    replicas: Mapping[str, str] = field(default_factory=dict)


def roll_out(dashboard: str, url: str, model: str, *, token: str | None = None, timeout_s: float = 300.0) -> Rolled:
    """Have a running application answer with a model.

    Parameters
    ----------
    dashboard : str
        Address of Ray's dashboard.
    url : str
        Address of the application.
    model : str
        A pinned version, ``models:/name/3``, or a folder that all replicas see.
    token : str, optional
        With the scope ``read``, where the application asks for one.

    Raises
    ------
    RolloutError
        If a replica cannot take the model; all answer with the old one again.
    ServeError
        If the application is not there, or refuses the token.
    """
    began = time.monotonic()
    client = connect(dashboard)
    config = running_config(client.get_serve_details())
    before = model_in(config)
    ask_card(url, token)  # a token that is refused is to be known before anything is sent
    client.deploy_applications(with_model(config, model))
    try:
        failure, replicas = _settle(client, url, model, token, timeout_s)
    except BaseException:  # nobody watches it any more
        client.deploy_applications(with_model(config, before))
        raise
    if failure:
        client.deploy_applications(with_model(config, before))
        undone, _ = _settle(client, url, before, token, timeout_s)
        state = f"All replicas answer with {before} again." if not undone else f"And going back failed: {undone}"
        raise RolloutError(f"{model} was not taken: {failure} {state}")
    return Rolled(before, model, time.monotonic() - began, replicas)


def model_in(config: Mapping[str, Any]) -> str:
    """The model that a config asks for."""
    for application in config["applications"]:
        for deployment in application.get("deployments", []):
            if application["name"] == APPLICATION and deployment["name"] == DEPLOYMENT:
                return str((deployment.get("user_config") or {}).get("model", ""))
    raise ServeError(
        f"The config that runs has no user_config for '{DEPLOYMENT}' of '{APPLICATION}': deploy serving/config.yaml."
    )


def with_model(config: Mapping[str, Any], model: str, trial: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The same config with another model and trial, and nothing else changed, so that no replica is started anew."""
    copy: dict[str, Any] = json.loads(json.dumps(config))
    for application in copy["applications"]:
        for deployment in application.get("deployments", []):
            if application["name"] == APPLICATION and deployment["name"] == DEPLOYMENT:
                others = {**(deployment.get("user_config") or {}), "model": model}
                others.pop("trial", None)
                deployment["user_config"] = others | ({"trial": dict(trial)} if trial else {})
    return copy


def running_config(details: Mapping[str, Any]) -> dict[str, Any]:
    """The config that was deployed last, from what Serve tells of itself."""
    running = details.get("applications", {})
    if APPLICATION not in running:
        there = ", ".join(sorted(running)) or "none"
        raise ServeError(f"No application '{APPLICATION}' is running; there are: {there}. Start it with `stmp serve`.")
    configs = [state["deployed_app_config"] for state in running.values() if state.get("deployed_app_config")]
    config = {"applications": configs}
    for name in ("proxy_location", "http_options", "grpc_options"):
        if details.get(name):
            config[name] = details[name]
    return config


def _settle(client: Any, url: str, model: str, token: str | None, timeout_s: float) -> tuple[str, dict[str, str]]:
    """Ask until every replica that Serve knows has spoken; the first failure, or what each answers with."""
    wanted = model.removeprefix("models:/")
    deadline = time.monotonic() + timeout_s
    said: dict[str, str] = {}
    while time.monotonic() < deadline:
        alive = replicas_of(client)
        said = {replica: version for replica, version in said.items() if replica in alive}
        for _ in range(max(4, 4 * len(alive))):  # which replica answers is the router's choice
            card = ask_card(url, token)
            if card is None or card["wanted"] != wanted:
                continue
            if card["error"]:
                return f"replica {card['replica']}: {card['error']}", said
            if card["model_version"] == wanted:
                said[card["replica"]] = wanted
        if alive and alive <= said.keys():
            return "", said
        time.sleep(POLL_S)
    return f"after {timeout_s:.0f} s only {len(said)} of {len(replicas_of(client))} replicas answer with it.", said


def replicas_of(client: Any) -> set[str]:
    deployments = client.get_serve_details()["applications"].get(APPLICATION, {}).get("deployments", {})
    return {
        replica["replica_id"]
        for replica in deployments.get(DEPLOYMENT, {}).get("replicas", [])
        if replica["state"] not in ("STOPPING", "STOPPED")
    }


def ask_card(url: str, token: str | None) -> dict[str, Any] | None:
    """What one replica says of its model; None where there was no answer."""
    request = urllib.request.Request(f"{url}/v1/model", headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            card: dict[str, Any] = json.load(answer)
            return card
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ServeError(
                f"{url} wants a token with the scope `read` (status {error.code}). Set STMP_SERVE_TOKEN."
            ) from error
        return None
    except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException, ValueError):
        return None
