"""The API on a real Ray Serve: the documentation's requests, a rollout under load, a bad model, a killed replica."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stmp_platform.registry import register, set_alias
from stmp_platform.serve import connect, free_port
from stmp_platform.settings import Settings
from tests.e2e.conftest import Stmp
from tests.retraining import EASY, SETTINGS
from tests.serving import make_data, make_model

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Served:
    """`stmp serve` in a process of its own."""

    stmp: Stmp
    url: str
    dashboard: str
    env: dict[str, str]
    process: subprocess.Popen[str]

    def get(self, path: str, body: Any = None) -> dict[str, Any]:
        """Ask, and read the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=90) as answer:  # longer than a replica takes to start
            content: dict[str, Any] = json.load(answer)
            return content

    def replicas(self) -> dict[str, int]:
        """Process id of each replica."""
        details = connect(self.dashboard).get_serve_details()["applications"]["stmp"]["deployments"]["Api"]
        return {r["replica_id"]: r["pid"] for r in details["replicas"] if r["state"] == "RUNNING"}


@pytest.fixture(scope="module")
def served(stmp: Stmp) -> Iterator[Served]:
    """Yield the API, answering with version 1 of the model `city`."""
    data = make_data(stmp.folder, years=2.0)
    env = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{stmp.folder / 'mlflow.db'}",
        "STMP_HOME": str(stmp.folder),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy machine may take longer than 5 s
    }
    settings = Settings.from_env(env=env)
    for seed in (0, 1):
        register(make_model(data, stmp.folder / f"model-{seed}", seed=seed), "city", settings=settings)
    set_alias("city", "champion", 1, settings)
    ready, port = stmp.folder / "ready.json", free_port()
    process = stmp.start(
        "serve", "--model", "models:/city@champion", "--data", data, "--port", str(port), "--json", str(ready), **env
    )
    try:
        until(ready.exists, limit_s=200, alive=process)
        started = json.loads(ready.read_text())
        yield Served(stmp, started["url"], started["dashboard"], env, process)
    finally:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Serving models:/city/1" in output


def until(is_so: Callable[[], bool], limit_s: float = 60.0, alive: subprocess.Popen[str] | None = None) -> None:
    """Wait until something is so; an address that does not answer yet is not."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        assert alive is None or alive.poll() is None, alive.communicate()[1] if alive else ""
        with contextlib.suppress(urllib.error.URLError, OSError):
            if is_so():
                return
        time.sleep(0.2)
    raise TimeoutError(f"not so after {limit_s:.0f} s")


def requests_of_the_page() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("curl") and "localhost:8000" in block]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_the_requests_of_the_page_are_answered(served: Served) -> None:
    assert len(requests_of_the_page()) >= 5
    for block in requests_of_the_page():
        line = block.replace("localhost:8000", served.url.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", line], cwd=served.stmp.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if " -o " not in line:
            assert json.loads(done.stdout)
    assert (served.stmp.folder / "forecasts.parquet").stat().st_size > 1000
    assert served.get("/readyz")["sequence"] == 1


@contextlib.contextmanager
def asking(served: Served) -> Iterator[list[tuple[str, int]]]:
    """Ask all the while; yields version and number of forecasts of each answer, or what went wrong."""
    answers: list[tuple[str, int]] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            try:
                answer = served.get("/v1/forecasts", {"regions": ["R000001", "R000002"], "horizon": 3})
                answers.append((answer["model_version"], len(answer["forecasts"])))
            except (urllib.error.URLError, OSError) as error:
                answers.append((repr(error), 0))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    yield answers
    end.set()
    for asker in askers:
        asker.join()


def test_a_rollout_changes_the_model_under_load_or_leaves_it(served: Served) -> None:
    rollout = ("rollout", "--url", served.url, "--dashboard", served.dashboard)
    before = served.replicas()
    assert served.get("/v1/model")["model_version"] == "city/1"
    with asking(served) as answers:
        done = served.stmp.json(*rollout, "--model", "models:/city/2", **served.env)
        assert (done["before"], done["after"]) == ("models:/city/1", "models:/city/2")
        assert served.get("/v1/model")["model_version"] == "city/2"
        bad = served.stmp.folder / "bad"
        shutil.copytree(served.stmp.folder / "model-0", bad)
        (bad / "weights.safetensors").write_bytes(b"no weights")
        message = served.stmp.refused(*rollout, "--model", str(bad), code=1, **served.env)
        assert "was not taken" in message
        assert "All replicas answer with models:/city/2 again" in message
    assert served.get("/v1/model")["model_version"] == "city/2"
    assert set(answers) == {("city/1", 2), ("city/2", 2)}, "a request failed"
    assert served.replicas() == before, "no replica was started anew"


def test_a_challenger_is_compared_then_answers_for_some_and_then_for_all(served: Served) -> None:
    rollout = ("rollout", "--url", served.url, "--dashboard", served.dashboard, "--hold", "2", "--model")
    before = served.get("/v1/model")["model_version"]
    other = {"city/1": "city/2", "city/2": "city/1"}[before]
    any_difference = ("--max-difference", "99")  # of models that have hardly learned
    with asking(served) as answers:
        (shadow,) = served.stmp.json(*rollout, f"models:/{other}", "--shadow", *any_difference, **served.env)["trials"]
        assert (shadow["answered"], shadow["failed"]) == (0, 0)
        assert shadow["compared"] > 0
        assert {version for version, _ in answers} == {before}, "nothing of it was returned"
        message = served.stmp.refused(
            *rollout, f"models:/{other}", "--canary", "0.5", "--max-difference", "0.001", code=1, **served.env
        )
        assert "differ by" in message
        assert served.get("/v1/model")["trial"] is None
        done = served.stmp.json(*rollout, f"models:/{other}", "--canary", "0.5,1", *any_difference, **served.env)
    assert done["after"] == f"models:/{other}"
    assert [step["share"] for step in done["trials"]] == [0.5, 1.0]
    assert done["trials"][1]["answered"] > 0
    assert set(answers) == {(before, 2), (other, 2)}, "a request failed"
    message = served.stmp.refused(*rollout, f"models:/{before}", "--canary", "0.5,0.2", code=2, **served.env)
    assert "growing shares" in message


def test_a_killed_replica_fails_no_request_and_comes_back_with_all_that_was_answered(served: Served) -> None:
    """With the model of the last rollout, and with the observations."""
    version, sequence = (served.get("/readyz")[what] for what in ("model_version", "sequence"))
    last = served.get("/v1/regions/R000005?history=1")
    tomorrow = last["dates"][1]
    day = {"region": "R000005", "date": tomorrow, "sales": 12.0}
    assert served.get("/v1/observations", {"observations": [day]})["sequence"] == sequence + 1
    ((replica, pid),) = served.replicas().items()
    with asking(served) as answers:
        until(lambda: len(answers) > 4)
        os.kill(pid, signal.SIGKILL)
        until(lambda: served.get("/v1/model")["replica"] != replica)
    assert set(answers) == {(version, 2)}, "what the killed replica was asked, another one answers"
    assert served.get("/readyz") == {
        "ready": True, "model_version": version, "sequence": sequence + 1, "error": None,
    }  # fmt: skip
    assert served.get("/v1/regions/R000005?history=1")["history"][0]["sales"] == [12.0]


@pytest.mark.skipif("STMP_TEST_LARGE" not in os.environ, reason="a whole retraining: STMP_TEST_LARGE=1")
def test_a_retraining_rolls_its_champion_out_under_load(served: Served) -> None:
    """As each night: trained, judged, promoted, and answering, while visitors ask; repeated, it does nothing."""
    rules = served.stmp.folder / "rules.yaml"
    rules.write_text(json.dumps(EASY))
    command = [
        "retrain", "--data", "data", "--out", "retrainings", "--name", "night", "--today", "2023-01-15",
        "--rules", str(rules), "--hold-out", "20", "--url", served.url, "--dashboard", served.dashboard,
        *(part for setting in SETTINGS for part in ("--set", setting)),
    ]  # fmt: skip
    before, replicas = served.get("/v1/model")["model_version"], served.replicas()
    with asking(served) as answers:
        done = served.stmp.json(*command, **served.env)
        asked_before = len(answers)
        until(lambda: len(answers) > asked_before + 4)
    assert (done["status"], done["version"]) == ("promoted", "night/1")
    assert done["steps"]["rollout"]["before"] == f"models:/{before}"
    assert list(done["steps"]["rollout"]["replicas"].values()) == ["night/1"]
    assert set(answers) == {(before, 2), ("night/1", 2)}, "a request failed"
    assert answers[-1] == ("night/1", 2) and served.replicas() == replicas
    again = served.stmp.json(*command, **served.env)
    assert again["did"] == [] and again["steps"] == done["steps"]
