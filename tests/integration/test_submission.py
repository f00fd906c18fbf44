"""Commands of `stmp` on a Ray cluster of its own processes: code, log, exit code, and names that are kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cli import run
from stmp_platform.serve import free_port
from stmp_platform.submission import Cluster, SubmissionError

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield the job server of a Ray head, as `ray start` makes it on any machine."""
    if not (BIN / "ray").exists():
        pytest.skip("there is no `ray` beside this Python")
    port = free_port()
    # The path of a socket may be no longer than 107 bytes.
    scratch = Path("/tmp") / f"ray-{os.getpid()}"
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}",
        f"--dashboard-port={port}", f"--temp-dir={scratch}", "--disable-usage-stats",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    env.pop("RAY_ADDRESS", None)
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("w") as output:
        head = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True, cwd=log.parent)
    try:
        yield _connect(f"http://127.0.0.1:{port}", head, log)
    finally:
        for process in (*psutil.Process(head.pid).children(recursive=True), head):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _connect(address: str, head: subprocess.Popen[bytes], log: Path) -> Cluster:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        try:
            found = Cluster(address)
            found.list()
        except SubmissionError:
            time.sleep(0.5)
        else:
            return found
    raise TimeoutError(log.read_text())


def submit(cluster: Cluster, *arguments: str) -> int:
    return run(["submit", *arguments, "--address", cluster.address])


def test_a_command_runs_there_as_it_would_here(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files are written, its log is shown, its exit code is passed on; a name that has succeeded stays so."""
    out = tmp_path / "city"
    given = ("ingest", "synthetic", "--set", "regions=4", "--set", "years=0.2", "--out", str(out), "--id", "city")
    assert submit(cluster, *given) == 0
    shown = capsys.readouterr().out
    assert "Submitted city" in shown
    assert f"Wrote {out}: 4 regions" in shown
    assert (out / "manifest.json").exists()
    written = (out / "manifest.json").stat().st_mtime_ns

    assert submit(cluster, *given) == 0
    shown = capsys.readouterr().out
    assert "Already there: city" in shown
    assert f"Wrote {out}" in shown, "the log of then"
    assert (out / "manifest.json").stat().st_mtime_ns == written

    assert submit(cluster, "data", "describe", str(out), "--id", "city") == 2
    assert "runs another command" in capsys.readouterr().err


def test_a_failure_is_passed_on_and_tried_again(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("data", "describe", str(tmp_path / "nothing"), "--id", "look")
    assert submit(cluster, *given) == 2
    assert "error:" in capsys.readouterr().out, "the message is in the log"
    assert cluster.get("look").status == "FAILED"
    assert submit(cluster, *given) == 2
    shown = capsys.readouterr().out
    assert "Submitted look-2" in shown
    assert "error:" in shown


@pytest.mark.skipif("STMP_TEST_LARGE" not in os.environ, reason="waiting takes a minute: STMP_TEST_LARGE=1")
def test_more_than_the_cluster_has_is_told(
    cluster: Cluster, city: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STMP_CLUSTER_WAIT_S", "2")
    given = ("train", "--data", city, "--out", str(tmp_path / "run"), "--workers", "3", "--env", "STMP_CLUSTER_WAIT_S")
    assert submit(cluster, *given) == 2
    assert "3 workers need 3 CPUs (it has 2)" in capsys.readouterr().out


def test_jobs_are_listed_read_and_stopped(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    job = cluster.client.submit_job(entrypoint="echo begun; sleep 600", submission_id="sleeper")
    deadline = time.monotonic() + 60
    while "begun" not in cluster.log(job) and time.monotonic() < deadline:
        time.sleep(0.2)
    at = ("--address", cluster.address)
    assert run(["jobs", "list", *at]) == 0
    assert "sleeper" in capsys.readouterr().out
    assert run(["jobs", "logs", job, *at]) == 0
    assert "begun" in capsys.readouterr().out
    assert run(["jobs", "stop", job, *at]) == 0
    assert cluster.follow(job, print).status == "STOPPED"
    assert run(["jobs", "logs", "nobody", *at]) == 1
    assert "has no job 'nobody'" in capsys.readouterr().err


def test_what_cannot_be_submitted_is_told(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(cluster, "serve", "--data", "x", "--model", "y") == 2
    assert "cannot be submitted" in capsys.readouterr().err
    assert submit(cluster, "data", "describe", "x", "--env", "STMP_IS_NOT_SET") == 2
    assert "STMP_IS_NOT_SET" in capsys.readouterr().err
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert run(["submit", "data", "describe", "x", "--address", nowhere]) == 1
    assert f"No Ray cluster answers at {nowhere}" in capsys.readouterr().err
