"""cluster.yaml and its variants are what Ray's launcher accepts, and name the versions that we test with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "platform" / "deploy"
FILES = [ROOT / "cluster.yaml", DEPLOY / "cluster-gcp.yaml", DEPLOY / "cluster-onprem.yaml"]
SPOT = {
    "aws": lambda machine: machine.get("InstanceMarketOptions") == {"MarketType": "spot"},
    "gcp": lambda machine: machine.get("scheduling", {}).get("provisioningModel") == "SPOT",
}


def read(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(file.read_text())
    return loaded


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


@pytest.fixture(params=FILES[:2], ids=lambda file: file.stem)
def cloud(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    return loaded


def test_ray_accepts_it(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(cluster, schema)


def test_the_schema_would_object(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"max_workers": "many"}, schema)


def test_the_launcher_takes_it_up(cluster: dict[str, Any]) -> None:
    """With Ray's own defaults for the provider; an unknown or missing part of one ends it."""
    full = prepare_config(cluster)
    validate_config(full)
    assert full["head_start_ray_commands"] == cluster["head_start_ray_commands"]


def test_node_types_hang_together(cloud: dict[str, Any]) -> None:
    types, spot = cloud["available_node_types"], SPOT[cloud["provider"]["type"]]
    assert cloud["head_node_type"] in types
    workers = {name: t for name, t in types.items() if name != cloud["head_node_type"]}
    assert workers.keys() == {"cpu", "gpu"}
    assert sum(t["max_workers"] for t in workers.values()) <= cloud["max_workers"]
    for worker in workers.values():
        assert worker["min_workers"] == 0
        assert spot(worker["node_config"])
    assert types["head"]["resources"] == {"CPU": 0}
    assert not spot(types["head"]["node_config"]), "a head on spot loses every driver with it"


def test_the_variants_differ_in_their_machines_alone() -> None:
    """The same files, commands and container; the head of machines that are there is told that it only schedules."""
    aws, gcp, onprem = (read(file) for file in FILES)
    for part in ("docker", "file_mounts", "rsync_exclude", "rsync_filter", "worker_start_ray_commands"):
        assert aws[part] == gcp[part], part
        assert part == "docker" or aws[part] == onprem[part], part
    assert aws["head_start_ray_commands"] == gcp["head_start_ray_commands"]
    stop, start = aws["head_start_ray_commands"]
    assert onprem["head_start_ray_commands"] == [stop, f"{start} --num-cpus=0"]
    assert aws["setup_commands"] == onprem["setup_commands"]
    assert [line.replace("[s3,", "[gcs,") for line in aws["setup_commands"]] == gcp["setup_commands"]
    assert set(onprem["docker"]["run_options"]) <= set(aws["docker"]["run_options"])


def test_the_surroundings_reach_ray(cluster: dict[str, Any]) -> None:
    assert cluster["file_mounts"]["/home/ray/stmp.env"] == "stmp.env"
    for when in ("head", "worker"):
        stop, start = cluster[f"{when}_start_ray_commands"]
        assert stop == "ray stop"
        assert start.startswith("set -a; . /home/ray/stmp.env; ")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_versions_are_those_of_the_tests(file: Path) -> None:
    pins = dict(line.split("==") for line in (DEPLOY / "constraints.txt").read_text().splitlines() if "==" in line)
    images = re.findall(r"rayproject/ray:([\d.]+)-py(\d)(\d+)", file.read_text())
    assert images
    assert {image[0] for image in images} == {pins["ray"]}
    python = re.search(r'requires-python = ">=(\d)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert python is not None
    assert {image[1:] for image in images} == {python.groups()}
