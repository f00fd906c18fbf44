"""What is deployed holds together: one image, one Ray, references that resolve, commands that exist."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from jobs.cli import app

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "platform" / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
PINS = dict(line.split("==") for line in (DEPLOY / "constraints.txt").read_text().splitlines() if "==" in line)
VERSION = re.search(r'^version = "(.+)"', PROJECT, re.M)[1]  # type: ignore[index]

MANIFESTS = {
    (path.name, number): manifest
    for path in sorted((DEPLOY / "kuberay").glob("*.yaml"))
    for number, manifest in enumerate(yaml.safe_load_all(path.read_text()))
}
KINDS = {"RayCluster", "RayJob", "RayService"}
SECRETS = {m["metadata"]["name"]: m["stringData"] for m in MANIFESTS.values() if m["kind"] == "Secret"}
OURS = pytest.mark.parametrize(
    "manifest", [m for m in MANIFESTS.values() if m["kind"] in KINDS], ids=lambda m: next(iter(m["metadata"].values()))
)
EVERY = pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=[f"{name}-{n}" for name, n in MANIFESTS])


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a manifest."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        yield from itertools.chain.from_iterable(parts(item) for item in value)


def clusters() -> dict[str, dict[str, Any]]:
    """The cluster of each manifest that has one, by the manifest's kind."""
    found = {m["kind"]: m["spec"] for m in MANIFESTS.values() if m["kind"] == "RayCluster"}
    for manifest in MANIFESTS.values():
        for place in ("rayClusterSpec", "rayClusterConfig"):
            if place in manifest.get("spec", {}):
                found[manifest["kind"]] = manifest["spec"][place]
    return found


# The image


def stages() -> dict[str, str]:
    """The Dockerfile's stages, by name."""
    found = re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]
    return {re.match(r"\S+ AS (\w+)\n", stage)[1]: stage for stage in found}  # type: ignore[index]


def test_the_image_stands_on_the_ray_of_the_tests() -> None:
    bases = [re.match(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-(\w+) ", stage) for stage in stages().values()]
    assert all(bases)
    assert {(base[1], f"{base[2]}.{base[3]}") for base in bases if base} == {(PINS["ray"], "3.11")}
    assert [base[4] for base in bases if base] == ["cpu", "cpu", "gpu"]
    requirement = next(r for r in re.findall(r'"(ray\[.+?)"', PROJECT))
    assert Version(PINS["ray"]) in Requirement(requirement).specifier


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_each_target_is_locked_and_not_root(target: str) -> None:
    stage = stages()[target]
    assert "--constraint /home/ray/needs/constraints.txt" in stage
    assert ("download.pytorch.org/whl/cpu" in stage) == (target == "cpu")
    users = re.findall(r"^USER (\S+)$", stage, flags=re.M)
    assert users and users[-1] == "1000:100"
    assert "--requirement /home/ray/needs/base.txt" in stage, "the base's packages must agree with ours"
    assert "[s3,gcs,baselines]" in stage, "stmp backtest measures against the baselines"
    assert stage.count("pip install") == 2 and stage.count("--no-deps") == 1
    assert re.findall(r"#   docker build .*--target (\w+)", DOCKERFILE) == ["cpu", "cuda"]


def test_what_is_copied_is_there_and_sent_to_docker() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    for line in re.findall(r"^COPY --chown=\S+ (.+) /home/ray/needs/$", DOCKERFILE, flags=re.M):
        for file in line.split():
            assert (ROOT / file).is_file()
            assert file.split("/")[0] in kept
    deploy = ignored.index("platform/deploy")
    assert ignored[deploy + 1 :][:1] == ["!platform/deploy/constraints.txt"], "secrets are filled in beside it"
    assert ignored.index("!platform") < deploy
    assert kept >= {"jobs", "platform", "serving", "stmp", "pyproject.toml", "README.md"}


def test_filled_in_secrets_stay_out_of_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"stmp.env", "platform/deploy/kuberay/secret.yaml"} <= set(ignored)


# The manifests


def test_all_kinds_are_there() -> None:
    assert [m["kind"] for m in MANIFESTS.values()].count("RayJob") == 2
    assert {m["kind"] for m in MANIFESTS.values()} == {*KINDS, "CronJob", "Secret"}


@EVERY
def test_versions_of_the_kinds(manifest: dict[str, Any]) -> None:
    versions = {"CronJob": "batch/v1", "Secret": "v1"}
    assert manifest["apiVersion"] == versions.get(manifest["kind"], "ray.io/v1")


@EVERY
def test_references_resolve(manifest: dict[str, Any]) -> None:
    """Secrets, keys and clusters that are named are in this folder; nothing else is referred to."""
    for part in parts(manifest):
        if "secretRef" in part:
            assert part["secretRef"]["name"] in SECRETS
        if "secretKeyRef" in part:
            assert part["secretKeyRef"]["key"] in SECRETS[part["secretKeyRef"]["name"]]
        if "authOptions" in part:
            assert part["authOptions"]["mode"] == "token"
            name = part["authOptions"].get("secretName")
            assert name is None or "auth_token" in SECRETS[name]
        if "clusterSelector" in part:
            assert MANIFESTS["raycluster.yaml", 0]["metadata"]["name"] == part["clusterSelector"]["ray.io/cluster"]
        for other in ("serviceAccountName", "persistentVolumeClaim", "configMapRef", "configMapKeyRef", "volumeMounts"):
            assert other not in part, f"{other}: say here how it resolves"


@EVERY
def test_images_are_those_that_the_dockerfile_makes(manifest: dict[str, Any]) -> None:
    for part in parts(manifest):
        if "image" not in part:
            continue
        found = re.fullmatch(r"REGISTRY/stmp-platform:(.+)-(\w+)", part["image"])
        assert found is not None and found[1] == VERSION
        assert part["securityContext"] == {"runAsNonRoot": True}
        gpu = "nvidia.com/gpu" in part["resources"].get("limits", {})
        assert found[2] == ("cuda" if gpu else "cpu")
        assert f"--target {found[2]} -t {part['image']} ." in DOCKERFILE


def test_clusters_are_alike() -> None:
    """One head that only schedules, in each of them; the training's GPU workers are the standing cluster's."""
    found = clusters()
    assert found.keys() == KINDS
    for cluster in found.values():
        assert cluster["rayVersion"] == PINS["ray"]
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in cluster["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    training, standing = found["RayJob"], found["RayCluster"]
    gpu = [group for group in standing["workerGroupSpecs"] if group["groupName"] == "gpu"]
    assert training == {**standing, "workerGroupSpecs": gpu}


@EVERY
def test_no_secret_is_written_down(manifest: dict[str, Any]) -> None:
    if manifest["kind"] == "Secret":
        assert all("FILL-IN" in value for value in manifest["stringData"].values())
        return
    for part in parts(manifest):
        if "value" in part and "name" in part:
            assert not re.search("TOKEN$|PASSWORD|SECRET|KEY", part["name"])


def test_launcher_and_kubernetes_know_the_same_surroundings() -> None:
    text = (DEPLOY / "stmp.env.example").read_text()
    lines = dict(re.findall(r"^(\w+)=(.*)$", text, flags=re.M))
    assert lines == SECRETS["stmp"]
    assert "stmp.env" in (ROOT / ".gitignore").read_text().splitlines()


def commands() -> list[str]:
    """Every command of `stmp` in the manifests, as its shell sees it."""
    found = []
    for manifest in MANIFESTS.values():
        for part in parts(manifest):
            texts = [part["entrypoint"]] if "entrypoint" in part else part.get("args", [])
            found += [text.removeprefix("exec ").strip() for text in texts if isinstance(text, str) and "stmp " in text]
    return [text.replace("$(date +%F)", "2026-01-31") for text in found]


def test_there_are_commands() -> None:
    assert [command.split()[1] for command in commands()] == ["retrain", "train", "submit"]


@pytest.mark.parametrize("line", commands())
def test_each_command_parses(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "stmp"
    parsed = parse(arguments)
    if arguments[0] == "submit":  # what it submits is a command as well
        parse([parsed["job"], *parsed["rest"]])


def parse(arguments: list[str]) -> dict[str, Any]:
    """The parameters of a command, and what it leaves to others."""
    group = typer.main.get_command(app)
    command = group.commands[arguments[0]]  # type: ignore[attr-defined]
    context = command.make_context(arguments[0], arguments[1:])
    return {**context.params, "rest": context.args}
