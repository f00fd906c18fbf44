"""Ray Serve behind a small seam: start it, deploy an application by its config, and see what became of it.

Models are rolled out through Serve's config API: a changed ``user_config`` reaches running replicas, while `serve.run`
would replace them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stmp.errors import ConfigError, StmpError

if TYPE_CHECKING:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

APPLICATION, DEPLOYMENT = "stmp", "Api"
IMPORT_PATH = "serving.deployment:build"
SURROUNDINGS = {
    # Ray's processes give way to all others by default; these have people who wait for them.
    "RAY_worker_niceness": "0",
    # A request whose replica dies is sent to another one.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.proxy:middlewares",
    # A proxy that has died is found dead by three checks in a row, and nobody is answered until then.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # On a busy machine a proxy takes longer to start than Serve waits, which then kills it and starts another.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}
"""Environment of Ray's processes, which only their environment can tell."""
DEPLOY_TIMEOUT_S = 300.0
POLL_S = 0.25
STOP_S = 20.0


class ServeError(StmpError):
    """The application cannot be deployed, or does not answer."""


@dataclass(frozen=True)
class Running:
    """Ray Serve on this machine.

    Attributes
    ----------
    dashboard : str
        Address of the API that takes configs.
    url : str
        Address of the application.
    """

    dashboard: str
    url: str


def config_of(model: str, args: Mapping[str, Any], *, host: str, port: int, replicas: int = 1) -> dict[str, Any]:
    """A Serve config with one application, as `serve deploy` takes it.

    Parameters
    ----------
    model : str
        A pinned version or a folder; an alias would be another model after a restart.
    args : mapping
        The application's settings.
    """
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": host, "port": port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": dict(args),
                "deployments": [{"name": DEPLOYMENT, "num_replicas": replicas, "user_config": {"model": model}}],
            }
        ],
    }


def start(config: Mapping[str, Any], *, cpus: int | None = None) -> Running:
    """Start Ray with its dashboard on this machine, deploy an application, and wait until it answers.

    Raises
    ------
    ConfigError
        If the port is taken.
    ServeError
        If the application does not start; the message is the reason that a replica gave.
    """
    import ray
    from ray import serve

    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    options = config["http_options"]
    _check_free(options["host"], options["port"])
    context = ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=free_port(),
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # The proxies' address is fixed by whoever starts Serve first.
    serve.start(proxy_location=config["proxy_location"], http_options=dict(options))
    running = Running(f"http://{context.dashboard_url}", f"http://{options['host']}:{options['port']}")
    deploy(running.dashboard, config)
    return running


def stop() -> None:
    """End Serve and Ray, if this process has started them."""
    import ray
    from ray import serve

    if ray.is_initialized():
        # Requests that run are answered. Whoever ends a whole group of processes has ended Ray's own too, and then
        # nothing answers here.
        ending = threading.Thread(target=serve.delete, args=(APPLICATION,), daemon=True)
        ending.start()
        ending.join(STOP_S)
        ray.shutdown()


def deploy(dashboard: str, config: Mapping[str, Any], timeout_s: float = DEPLOY_TIMEOUT_S) -> None:
    """Send a config, and wait until its applications run.

    Raises
    ------
    ServeError
        If one does not, with the reason.
    """
    client = connect(dashboard)
    client.deploy_applications(dict(config))
    names = {application["name"] for application in config["applications"]}
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        states = {name: state for name, state in client.get_serve_details()["applications"].items() if name in names}
        failed = [state for state in states.values() if state["status"] in ("DEPLOY_FAILED", "UNHEALTHY")]
        if failed:
            raise ServeError(f"The application does not start: {_reason(failed[0])}")
        if states.keys() == names and all(state["status"] == "RUNNING" for state in states.values()):
            return
        time.sleep(POLL_S)
    raise ServeError(f"The application has not started within {timeout_s:.0f} s. Look at {dashboard} for the reason.")


def connect(dashboard: str) -> ServeSubmissionClient:
    """A client of Serve's config API.

    Raises
    ------
    ServeError
        If nothing answers there.
    """
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    try:
        return ServeSubmissionClient(dashboard)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ServeError(
            f"No Ray dashboard answers at {dashboard}: {error}. `stmp serve` prints its address; on a cluster it is "
            "port 8265 of the head."
        ) from error


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} on {host} cannot be had: {error.strerror}. Choose another --port."
            ) from None


def _reason(state: Mapping[str, Any]) -> str:
    """The last line of what Serve says went wrong, which is the error itself."""
    texts = [state.get("message", ""), *(d.get("message", "") for d in state.get("deployments", {}).values())]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error:" in line]
    return (errors or lines or ["no reason was given"])[-1]
