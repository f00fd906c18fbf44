"""A trial of another model in a running application, before it is rolled out: in the shadow, or for growing shares.

The replicas compare, and stop by themselves; here they are told what to try, watched, and told to end it. Whatever
happens to a trial, the model that answered before it answers afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stmp_platform.rollout import RolloutError, ask_card, model_in, replicas_of, running_config, with_model
from stmp_platform.serve import POLL_S, connect

COUNTS = ("answered", "compared", "failed", "difference", "sales", "seconds", "champion_seconds")


@dataclass(frozen=True)
class Compared:
    """What one step of a trial has found, over all replicas.

    Attributes
    ----------
    share : float
        Of the regions that the challenger answered for; 0 in the shadow.
    answered, compared, failed : int
        Requests that it answered, that both answered, and that it could not answer.
    difference : float
        Mean absolute difference of the two models' means, over the champion's.
    slowdown : float
        Its time over the champion's.
    """

    share: float
    answered: int
    compared: int
    failed: int
    difference: float
    slowdown: float


def try_beside(
    dashboard: str,
    url: str,
    model: str,
    shares: Sequence[float],
    *,
    hold_s: float,
    max_difference: float = 0.5,
    token: str | None = None,
    timeout_s: float = 300.0,
) -> list[Compared]:
    """Have replicas try a model beside the one that answers, for one share of the regions after another.

    Parameters
    ----------
    dashboard, url : str
        Addresses of Ray's dashboard and of the application.
    model : str
        A pinned version, or a folder that all replicas see.
    shares : sequence of float
        Shares of the regions that it answers for; 0 answers for none and only compares.
    hold_s : float
        Seconds of each step.
    max_difference : float
        Mean absolute difference of the two models' means, over the champion's, beyond which the trial is ended.
    token : str, optional
        With the scope ``read``.

    Raises
    ------
    RolloutError
        If a replica cannot load the model, has stopped the trial, or nothing was asked in a step; the old model
        answers again.
    ServeError
        If the application is not there.
    """
    client = connect(dashboard)
    config = running_config(client.get_serve_details())
    before = model_in(config)
    if before == model:
        raise RolloutError(f"{model} answers already. Name another version to try beside it.")
    found = []
    try:
        for share in shares:
            trial = {"model": model, "share": share, "max_difference": max_difference}
            client.deploy_applications(with_model(config, before, trial))
            _until_loaded(client, url, model, share, token, timeout_s)
            found.append(_watch(client, url, model, share, token, hold_s))
    finally:
        client.deploy_applications(with_model(config, before))
    return found


def _until_loaded(client: Any, url: str, model: str, share: float, token: str | None, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        cards, alive = _trials(client, url, model, share, token)
        if alive and cards.keys() >= alive and all(card["loaded"] for card in cards.values()):
            return
        time.sleep(POLL_S)
    raise RolloutError(f"{model} was not loaded by all replicas within {timeout_s:.0f} s. The old model answers.")


def _watch(client: Any, url: str, model: str, share: float, token: str | None, hold_s: float) -> Compared:
    """What replicas have counted when the step is over."""
    cards: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + hold_s
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        cards |= _trials(client, url, model, share, token)[0]
    total = {name: sum(card[name] for card in cards.values()) for name in COUNTS}
    if total["compared"] == 0:
        raise RolloutError(
            f"No forecast was asked for in the {hold_s:g} s that {model} was on trial, so nothing is known of it. The "
            "old model answers. Hold for longer, or roll out without a trial."
        )
    return Compared(
        share, total["answered"], total["compared"], total["failed"],
        total["difference"] / max(total["sales"], 1e-9), total["seconds"] / max(total["champion_seconds"], 1e-9),
    )  # fmt: skip


def _trials(
    client: Any, url: str, model: str, share: float, token: str | None
) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """What replicas say of the trial, and which there are; the first one that has stopped it ends it for all."""
    alive = replicas_of(client)
    cards: dict[str, dict[str, Any]] = {}
    for _ in range(max(2, 4 * len(alive))):  # which replica answers is the router's choice
        told = ask_card(url, token)
        trial = (told or {}).get("trial")
        if told is None or trial is None or trial["model_version"] != model.removeprefix("models:/"):
            continue
        if trial["share"] != share:
            continue
        if trial["stopped"]:
            raise RolloutError(
                f"The trial of {model} was ended by replica {told['replica']}: {trial['stopped']}. The old model "
                "answers everything again."
            )
        cards[told["replica"]] = trial
        if cards.keys() >= alive:
            break
    return cards, alive
