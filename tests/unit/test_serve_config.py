"""What is deployed on clusters is what Ray Serve and the application accept, with the versions that we test with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

import jobs.serve
from serving.settings import OBSERVATIONS, Settings
from stmp.errors import ConfigError
from stmp_platform import rollout
from stmp_platform.rollout import model_in, with_model
from stmp_platform.serve import APPLICATION, DEPLOYMENT, IMPORT_PATH, SURROUNDINGS, ServeError, config_of
from stmp_platform.settings import Settings as PlatformSettings

ROOT = Path(__file__).resolve().parents[2]
PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
SERVICE = ROOT / "platform" / "deploy" / "kuberay" / "rayservice.yaml"


def read(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


CONFIG = read((ROOT / "serving" / "config.yaml").read_text())
ONE_MACHINE = config_of("models:/stores/1", {"data": "data/stores"}, host="127.0.0.1", port=8000)


@pytest.mark.parametrize("config", [CONFIG, ONE_MACHINE], ids=["cluster", "one machine"])
def test_serve_accepts_it(config: dict[str, Any]) -> None:
    parsed = ServeDeploySchema.model_validate(config)
    (application,) = parsed.applications
    assert (application.name, application.import_path) == (APPLICATION, IMPORT_PATH)
    assert [deployment.name for deployment in application.deployments] == [DEPLOYMENT]
    assert Settings.read(application.args).data.endswith("stores")
    assert model_in(config) == "models:/stores/1"
    with pytest.raises(ValidationError):
        ServeDeploySchema.model_validate(config | {"applications": [{"name": "x"}]})


@pytest.mark.parametrize("path", [IMPORT_PATH, SURROUNDINGS[PROXY_CALLBACK]])
def test_the_import_path_is_there(path: str) -> None:
    module, _, name = path.partition(":")
    assert f"def {name}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()


def test_more_are_asked_for_than_a_batch_holds() -> None:
    (deployment,) = CONFIG["applications"][0]["deployments"]
    assert deployment["max_ongoing_requests"] >= 2 * 32
    assert deployment["autoscaling_config"]["min_replicas"] >= 2


def test_a_rollout_changes_the_model_and_nothing_else() -> None:
    changed = with_model(CONFIG, "models:/stores/2")
    assert model_in(changed) == "models:/stores/2"
    assert with_model(changed, "models:/stores/1") == CONFIG
    with pytest.raises(ServeError, match="user_config"):
        model_in({"applications": []})


@pytest.mark.parametrize("error", [ServeError("401"), KeyboardInterrupt()], ids=repr)
def test_a_rollout_that_nobody_watches_goes_back(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    sent: list[str] = []

    class Client:
        def get_serve_details(self) -> dict[str, Any]:
            return {"applications": {APPLICATION: {"deployed_app_config": CONFIG["applications"][0]}}}

        def deploy_applications(self, config: dict[str, Any]) -> None:
            sent.append(model_in(config))

    def ask(url: str, token: str | None) -> None:
        if sent:
            raise error

    monkeypatch.setattr(rollout, "connect", lambda dashboard: Client())
    monkeypatch.setattr(rollout, "ask_card", ask)
    monkeypatch.setattr(rollout, "replicas_of", lambda client: {"one"})
    with pytest.raises(type(error)):
        rollout.roll_out("", "", "models:/stores/2")
    assert sent == ["models:/stores/2", "models:/stores/1"]

    def refused(url: str, token: str | None) -> None:
        raise ServeError("403")

    monkeypatch.setattr(rollout, "ask_card", refused)
    with pytest.raises(ServeError):
        rollout.roll_out("", "", "models:/stores/2")
    assert len(sent) == 2, "nothing is sent where the token is refused"


def test_the_observations_of_the_environment_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PlatformSettings.from_env(f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "STMP_HOME", OBSERVATIONS):
        monkeypatch.setenv(name, "before")
    monkeypatch.setenv(OBSERVATIONS, "postgresql+psycopg2://there/o")
    jobs.serve.tell_replicas(settings, None, "stores")
    assert os.environ[OBSERVATIONS] == "postgresql+psycopg2://there/o"
    jobs.serve.tell_replicas(settings, "sqlite:///mine.db", "stores")
    assert os.environ[OBSERVATIONS] == "sqlite:///mine.db"
    monkeypatch.delenv(OBSERVATIONS)
    jobs.serve.tell_replicas(settings, None, "stores")
    assert os.environ[OBSERVATIONS].endswith("observations-stores.db")


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="observatoins"):
        Settings.read({"data": "d", "observatoins": "x"})


def test_the_kubernetes_manifest_is_of_one_piece() -> None:
    """The same application, and replicas on more than one node; tests/unit/test_kuberay.py looks at the rest."""
    service = read(SERVICE.read_text())
    assert read(service["spec"]["serveConfigV2"]) == CONFIG
    cluster = service["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "serve", "containerPort": 8000} in container["ports"]
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        assert env.keys() >= {PROXY_CALLBACK}
        assert env.items() & SURROUNDINGS.items() == {(n, v) for n, v in env.items() if n.startswith("RAY_SERVE_")}
    (workers,) = cluster["workerGroupSpecs"]
    assert 2 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
