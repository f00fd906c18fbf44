"""cluster.yaml is what Ray's launcher accepts, and names the versions that we test with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster.yaml").read_text()


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TEXT)
    return loaded


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    return loaded


def test_ray_accepts_it(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(cluster, schema)


def test_the_schema_would_object(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"max_workers": "many"}, schema)


def test_node_types_hang_together(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] in types
    workers = {name: t for name, t in types.items() if name != cluster["head_node_type"]}
    assert len(workers) == 2
    assert sum(t["max_workers"] for t in workers.values()) <= cluster["max_workers"]
    for worker in workers.values():
        assert worker["min_workers"] == 0
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"], "a head on spot loses every driver with it"


def test_versions_are_those_of_the_tests() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "platform" / "deploy" / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    images = re.findall(r"rayproject/ray:([\d.]+)-py(\d)(\d+)", TEXT)
    assert images
    assert {image[0] for image in images} == {pins["ray"]}
    python = re.search(r'requires-python = ">=(\d)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert python is not None
    assert {image[1:] for image in images} == {python.groups()}
