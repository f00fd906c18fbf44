"""What is deployed on clusters is what Ray Serve and the application accept, with the versions that we test with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from serving.settings import Settings
from stmp.errors import ConfigError
from stmp_platform.rollout import model_in, with_model
from stmp_platform.serve import APPLICATION, DEPLOYMENT, IMPORT_PATH, SURROUNDINGS, ServeError, config_of

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
