"""The application on Ray Serve: ``serving.deployment:build`` is the `import_path` of a Serve config."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from ray import serve
from ray.serve import Application, Deployment

from serving.app import make_app
from serving.auth import Guard
from serving.replica import Replica
from serving.settings import Settings
from serving.trial import TrialSettings
from stmp_platform.registry import pin
from stmp_platform.settings import Settings as Surroundings

DEPLOYMENT = "Api"


@serve.deployment(
    name=DEPLOYMENT,
    # More than the model's largest batch, so that one fills while another is worked on.
    max_ongoing_requests=100,
    max_queued_requests=400,
    backpressure_config={"status_code": 503, "retry_after_s": 1},
    health_check_period_s=2,  # a killed replica is missed, and started anew, that much later
    max_surge_percent=100,
)
@serve.ingress()
class Api:
    """A replica behind Ray Serve. Its `user_config` says which model it answers with."""

    def __init__(self, settings: Settings) -> None:
        logging.getLogger("serving").setLevel(logging.INFO)
        torch.set_num_threads(1)  # a decode is too small to share; more cores are for more replicas
        self.replica = Replica(settings, serve.get_replica_context().replica_id.unique_id)
        self.begun = False

    def __serve_build_asgi_app__(self) -> Any:
        """The ASGI application, which Serve asks for after the constructor."""
        return make_app(self.replica)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Load the first model; later be told another one, or one to try beside it, and return at once.

        The replica stays in rotation while the new model is loaded beside the old one. A model that cannot be loaded
        is told by ``GET /v1/model``, never by an exception: Serve would take the replica away.
        """
        if self.begun:
            self.replica.want(user_config["model"])
        else:
            self.replica.begin(user_config["model"])
            self.begun = True
        trial = user_config.get("trial")
        self.replica.want_trial(TrialSettings.model_validate(trial) if trial else None)


def build(args: dict[str, Any]) -> Application:
    """Build the application.

    Parameters
    ----------
    args : dict
        `Settings`, and ``model``: the reference to begin with. An alias is resolved here, once for all replicas. A
        ``user_config`` of the deployment comes in its place.

    Raises
    ------
    StmpError
        If a setting cannot be used, tokens are missing, or there is no such model.
    """
    values = dict(args)
    model = str(values.pop("model", ""))
    settings = Settings.read(values)
    Guard.from_env(settings.rate, loopback=settings.loopback)  # a fault is told once, not by each replica
    deployment: Deployment = Api  # type: ignore[assignment]  # which the decorator makes of the class
    if model:
        deployment = deployment.options(user_config={"model": pin(model, Surroundings.from_env())})
    return deployment.bind(settings)
