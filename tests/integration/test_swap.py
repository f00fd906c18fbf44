"""A replica's side of a rollout: another model takes the old one's place in one step, or not at all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from serving.model import ServedModel
from serving.replica import Replica
from stmp.forecaster import Forecaster
from tests.serving import HORIZON, whole_panel
from tests.training import make_trainer, small_config, small_panel


def swap(replica: Replica, model: Path) -> str | None:
    """Tell a replica another model, wait, and return why it was not taken."""
    replica.want(str(model))
    replica.rollout.wait(60)
    return replica.rollout.error


def mean_of(client: TestClient, region: str = "R000003") -> tuple[str, list[float]]:
    answer = client.post("/v1/forecasts", json={"regions": [region]})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content["model_version"], content["forecasts"][0]["mean"]


def batch(shop: str, model: Path, region: int = 3) -> np.ndarray:
    panel = whole_panel(shop)
    return Forecaster.load(model).predict(panel.select([region]), panel.last_observed, HORIZON).mean[0, :, 0]


def test_a_good_model_takes_over(
    replica: tuple[Replica, TestClient], shop: str, first_model: Path, second_model: Path
) -> None:
    served, client = replica
    assert mean_of(client)[0] == str(first_model)
    assert swap(served, second_model) is None
    version, mean = mean_of(client)
    assert version == str(second_model)
    np.testing.assert_allclose(mean, batch(shop, second_model), rtol=1e-4, atol=1e-4)
    assert f'stmp_serve_model_info{{version="{second_model}"}} 1.0' in client.get("/metrics").text
    assert swap(served, first_model) is None
    np.testing.assert_allclose(mean_of(client)[1], batch(shop, first_model), rtol=1e-4, atol=1e-4)


def broken(model: Path, to: Path, fault: str) -> Path:
    """A model that was saved, and must not be served."""
    if fault == "missing":
        return to
    if fault == "other columns":
        trainer = make_trainer(small_panel(), small_config())
        Forecaster.from_trainer(trainer, regions=(), until="2024-01-01", fingerprint="y").save(to)
        return to
    forecaster = Forecaster.load(model)
    if fault == "short horizon":
        config = forecaster.config.model_copy(
            update={"model": forecaster.config.model.model_copy(update={"horizon": HORIZON - 1})}
        )
        weights = forecaster.model.state_dict()
        Forecaster(config, forecaster.schema, forecaster.feature_size, weights, forecaster.provenance).save(to)
        return to
    forecaster.save(to)
    weights = load_file(to / "weights.safetensors")
    if fault == "nan":
        name = next(name for name in weights if name.startswith("head"))
        weights[name] = weights[name] * float("nan")
    else:
        weights.popitem()
    save_file(weights, to / "weights.safetensors")
    return to


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("missing", "There is no folder"),
        ("nan", "not finite"),
        ("damaged", "do not fit"),
        ("other columns", "trained on other columns"),
        ("short horizon", "longer horizon"),
    ],
)
def test_a_bad_model_is_told_and_the_old_one_stays(
    replica: tuple[Replica, TestClient], first_model: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    served, client = replica
    before = mean_of(client)
    bad = broken(first_model, tmp_path / "bad", fault)
    error = swap(served, bad)
    assert error is not None
    assert reason in error
    assert mean_of(client) == before
    card = client.get("/v1/model").json()
    assert (card["wanted"], card["model_version"]) == (str(bad), str(first_model))
    assert reason in card["error"]
    assert client.get("/readyz").json()["ready"]
    assert swap(served, first_model) is None, "going back mends it"


def test_a_model_that_raises_is_told(
    replica: tuple[Replica, TestClient], second_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, client = replica
    before = mean_of(client)

    def explode(self: ServedModel) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(ServedModel, "try_out", explode)
    assert swap(served, second_model) == "RuntimeError: boom"
    assert mean_of(client) == before


def test_no_request_fails_or_mixes_versions_while_models_change(
    replica: tuple[Replica, TestClient], shop: str, first_model: Path, second_model: Path
) -> None:
    served, client = replica
    right = {str(model): batch(shop, model) for model in (first_model, second_model)}
    seen: list[str] = []
    wrong: list[Any] = []
    end = threading.Event()

    def ask() -> None:
        while not end.is_set():
            version, mean = mean_of(client)
            seen.append(version)
            if not np.allclose(mean, right[version], rtol=1e-4, atol=1e-4):
                wrong.append((version, mean))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for model in (second_model, first_model, second_model):
        assert swap(served, model) is None
    end.set()
    for asker in askers:
        asker.join()
    assert not wrong
    assert set(seen) == set(right)
    assert mean_of(client)[0] == str(second_model), "whoever asks after a swap is answered by the new model"


def test_what_was_observed_while_a_model_was_loaded_is_not_lost(
    replica: tuple[Replica, TestClient], shop: str, second_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, client = replica
    panel = whole_panel(shop)
    tomorrow = str(panel.dates[panel.index_of(panel.last_observed) + 1])
    load = served.rollout.load

    def slowly(reference: str, data: Any) -> ServedModel:
        new = load(reference, data)
        day = {"region": "R000003", "date": tomorrow, "sales": 70.0}
        assert client.post("/v1/observations", json={"observations": [day]}).status_code == 200
        return new

    monkeypatch.setattr(served.rollout, "load", slowly)
    assert swap(served, second_model) is None
    answer = client.post("/v1/forecasts", json={"regions": ["R000003"]}).json()
    assert answer["sequence"] == 1
    assert answer["forecasts"][0]["data_date"] == tomorrow
