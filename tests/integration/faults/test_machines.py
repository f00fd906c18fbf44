"""Jobs on a Ray cluster of several machines, with S3 and MLflow on PostgreSQL, and machines that come and go.

Each machine is a network namespace with an address of its own. A quarter of an hour: STMP_TEST_LARGE=1.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from jobs.cli import run
from stmp.learning.checkpoint import STATE
from stmp_platform.dataset.sources.prepare import prepare_source
from stmp_platform.files import Folder
from stmp_platform.submission import Cluster
from stmp_platform.training import train
from tests.hosts import Hosts, store
from tests.integration.conftest import Tell
from tests.servers import MlflowServer, postgres
from tests.training import SMALL, furthest, small_config, to_numpy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif("STMP_TEST_LARGE" not in os.environ, reason="clusters take minutes: STMP_TEST_LARGE=1"),
]

ROOT = Path(__file__).resolve().parents[3]
BUCKET = "s3://stmp"
CITY = f"{BUCKET}/city"
LONG = (
    "model.hidden=64", "train.batch_regions=13", "train.queries=800", "train.supports=400", "train.max_steps=140",
    "train.validate_every=70", "train.checkpoint_every=5", "train.learning_rate=1e-4",
)  # fmt: skip
"""Steps of about a second, so that a machine can come and go in between. And small ones: over so many large ones the
rounding of sums over other numbers of workers grows to a hundredth, and would hide a step that was left out."""
SAME = 1e-5
"""How far weights may be apart, relatively: one step changes them by 35 times as much, rounding by a fiftieth."""


def sets(*settings: str) -> tuple[str, ...]:
    """Settings for the command line, after those of the small configuration."""
    small = [f"{section}.{key}={value}" for section, values in SMALL.items() for key, value in values.items()]
    return tuple(part for setting in (*small, *settings) for part in ("--set", setting))


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], MlflowServer]]:
    """Yield a function that starts `mlflow server` on PostgreSQL at an address of this machine."""
    servers: list[MlflowServer] = []
    with tempfile.TemporaryDirectory(prefix="stmp-postgres-") as scratch, contextlib.ExitStack() as stack:
        Path(scratch).chmod(0o755)  # the server runs as another user
        uri = stack.enter_context(postgres(Path(scratch) / "server"))

        def start(address: str) -> MlflowServer:
            servers.append(MlflowServer(uri, tmp_path_factory.mktemp("mlflow"), host=address).start())
            return servers[-1]

        yield start
        for server in servers:
            server.kill()


@pytest.fixture(scope="module")
def hosts(mlflow_server: Callable[[str], MlflowServer]) -> Iterator[Hosts]:
    """Yield a head and two machines, whose environment names a store and a tracking server."""
    hosts = Hosts()
    with hosts, store(hosts.gateway) as reached, pytest.MonkeyPatch.context() as patch:
        tracking = mlflow_server(hosts.gateway)
        hosts.env = {**reached, "MLFLOW_TRACKING_URI": tracking.uri, "STMP_CLUSTER_WAIT_S": "60", "STMP_LOG": "INFO"}
        for name, value in hosts.env.items():
            patch.setenv(name, value)
        Folder(BUCKET).fs.mkdir("stmp")
        hosts.start()
        hosts.have(2)
        yield hosts


@pytest.fixture(scope="module")
def city(hosts: Hosts) -> str:
    """Return the dataset of a city, ingested on the cluster."""
    assert submit(hosts, "ingest", "synthetic", "--set", "regions=14", "--set", "years=1.5", "--out", CITY) == 0
    return CITY


@pytest.fixture(scope="module")
def alone(city: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the weights of a long training that nothing happens to."""
    out = tmp_path_factory.mktemp("alone") / "out"
    result = train(city, small_config(*LONG), out=str(out), track=False)
    return to_numpy(load_file(Path(result.model) / "weights.safetensors"))


def address(hosts: Hosts) -> str:
    return f"http://{hosts.head.address}:8265"


def submit(hosts: Hosts, *arguments: str) -> int:
    return run(["submit", *arguments, "--address", address(hosts)])


def training(out: str, workers: str, *settings: str) -> tuple[str, ...]:
    return ("train", "--data", CITY, "--out", out, "--workers", workers, "--name", "city", *sets(*settings))


def weights(out: str, scratch: Path) -> dict[str, Any]:
    folder = Folder(f"{out}/model").download("", scratch / out.rpartition("/")[2])
    return to_numpy(load_file(folder / "weights.safetensors"))


def newest(out: str) -> int:
    """Step of the newest whole checkpoint; 0 where there is none."""
    folder = Folder(f"{out}/checkpoints")
    steps = [int(name.removeprefix("step-")) for name in folder.names() if folder.exists(f"{name}/{STATE}")]
    return max(steps, default=0)


def wait_for(happened: Callable[[], bool], what: str, log: Callable[[], str], limit_s: float = 240) -> float:
    """Wait until something has happened, and return the seconds that it took."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < limit_s, f"{what} has not happened\n{log()[-5000:]}"
        time.sleep(0.25)
    return time.monotonic() - began


def groups(log: str) -> list[int]:
    """Sizes of the groups of workers that a training has had, in order."""
    sizes = [int(size) for size in re.findall(r"rank=0 phase=load regions=\d+ workers=(\d+)", log)]
    return [size for place, size in enumerate(sizes) if place == 0 or size != sizes[place - 1]]


def test_two_machines_end_like_one_process(city: str, hosts: Hosts, tmp_path: Path) -> None:
    """Data and runs on S3, the run and the model in MLflow; and all of it named by the machines' environment."""
    hosts.have(2)
    out = f"{BUCKET}/runs/two"
    assert submit(hosts, *training(out, "2"), "--id", "two") == 0
    log = Cluster(address(hosts)).log("two")
    assert groups(log) == [2]
    one = train(city, small_config(), out=str(tmp_path / "one"), track=False)
    expected = to_numpy(load_file(Path(one.model) / "weights.safetensors"))
    assert furthest(expected, weights(out, tmp_path))[0] < 1e-4
    client = MlflowClient(hosts.env["MLFLOW_TRACKING_URI"])
    version = client.get_model_version("city", "1")
    assert client.get_run(version.run_id).info.status == "FINISHED"
    details = Cluster(address(hosts)).client.get_job_info("two")
    assert hosts.env["AWS_SECRET_ACCESS_KEY"] not in str(details.runtime_env), "secrets belong to the machines"


def test_the_guide_works_line_by_line(hosts: Hosts, tmp_path: Path) -> None:
    """docs/operations.md from raw tables in the bucket to a judged model, with a smaller one than it would be."""
    hosts.have(2)
    guide = (ROOT / "docs" / "operations.md").read_text()
    section = guide.partition("## 2. The first model")[2].partition("\n## ")[0]
    lines = re.findall(r"^stmp submit (.*)$", section, flags=re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["ingest", "train", "promote"]
    raw = Path(prepare_source("synthetic", tmp_path / "raw", regions=14, years=1.5, seed=1)).parent
    Folder(BUCKET).fs.put(f"{raw}/", f"{BUCKET}/raw/", recursive=True)
    more = {"train": sets(), "promote": ("--today", "2022-07-03")}
    for line in lines:
        line = line.replace("s3://BUCKET", BUCKET).replace("2025-10-31", "2022-04-30")  # the city's days end in July
        command, *arguments = shlex.split(line)
        code = submit(hosts, command, *arguments, *more.get(command, ()))
        assert code in ((0, 3) if command == "promote" else (0,)), "so small a model may be refused"
    judged = Cluster(address(hosts)).log("promote")
    assert "stores/1 against" in judged and "windows.least: " not in judged, "the gate has days to judge by"


def test_a_machine_comes_and_another_is_lost(
    city: str, hosts: Hosts, alone: dict[str, Any], tmp_path: Path, tell: Tell
) -> None:
    """`--workers 1:2` takes the new machine in, and does without the lost one; the steps stay the same."""
    (first,) = hosts.have(1)
    out, cluster = f"{BUCKET}/runs/changing", Cluster(address(hosts))
    assert submit(hosts, *training(out, "1:2", *LONG), "--id", "changing", "--no-follow") == 0

    def log() -> str:
        return cluster.log("changing")

    wait_for(lambda: newest(out) > 0, "a first checkpoint", log)
    hosts.add()
    seconds = wait_for(lambda: groups(log()) == [1, 2], "a second worker", log)
    tell("a machine is added, `--workers 1:2`", "steps since the last checkpoint, made again", seconds)
    before = newest(out)
    wait_for(lambda: newest(out) > before, "a checkpoint of two", log)
    before = newest(out)
    first.lose()
    seconds = wait_for(lambda: newest(out) > before + 5, "a checkpoint after the loss", log)
    tell("a machine is lost, `--workers 1:2`", "steps since the last checkpoint, made again", seconds)
    assert cluster.follow("changing", lambda _: None).status == "SUCCEEDED", log()
    assert groups(log()) == [1, 2, 1], log()[-5000:]
    assert furthest(alone, weights(out, tmp_path))[0] < SAME


def test_the_head_is_lost_and_the_command_repeated(
    city: str, hosts: Hosts, alone: dict[str, Any], tmp_path: Path, tell: Tell
) -> None:
    """With the head go the driver and the list of jobs; the output folder stays, and the same command goes on."""
    out = f"{BUCKET}/runs/headless"
    hosts.have(1)
    given = (*training(out, "1", *LONG), "--id", "headless", "--no-follow")
    assert submit(hosts, *given) == 0
    wait_for(lambda: newest(out) > 0, "a first checkpoint", lambda: Cluster(address(hosts)).log("headless"))
    for host in hosts.hosts:
        host.kill()
    reached = newest(out)
    began = time.monotonic()
    hosts.start()
    hosts.add()
    assert submit(hosts, *given) == 0
    cluster = Cluster(address(hosts))
    wait_for(lambda: newest(out) > reached, "a checkpoint after the restart", lambda: cluster.log("headless"))
    tell("the head is lost and started again", "steps since the last checkpoint, made again", time.monotonic() - began)
    assert cluster.follow("headless", lambda _: None).status == "SUCCEEDED"
    assert f"Going on from step {reached}" in cluster.log("headless")
    assert furthest(alone, weights(out, tmp_path))[0] < SAME
