"""A challenger beside the model that answers: compared in the shadow, answering for a share, dropped where it fails."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from serving.app import make_app
from serving.replica import Replica
from serving.trial import TrialSettings
from stmp.forecaster import Forecaster
from tests.serving import HORIZON, REGIONS

EVERY = [f"R{region:06d}" for region in range(REGIONS)]


def begin(replica: Replica, model: Path | str, **given: Any) -> None:
    """Put a model on trial, and wait until it is loaded or refused."""
    replica.want_trial(TrialSettings(model=str(model), **{"max_difference": 99.0, "max_slowdown": 99.0} | given))
    replica.trials.wait(60)


def ask(client: TestClient, **request: Any) -> dict[str, Any]:
    answer = client.post("/v1/forecasts", json=request)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def versions(client: TestClient) -> dict[str, str]:
    """Which model answers for each region, asked one by one."""
    return {region: ask(client, regions=[region])["model_version"] for region in EVERY}


def card(client: TestClient) -> Any:
    return client.get("/v1/model").json()["trial"]


def test_in_the_shadow_both_are_compared_and_one_answers(
    replica: tuple[Replica, TestClient], first_model: Path, second_model: Path
) -> None:
    served, client = replica
    before = ask(client, regions="all")
    assert card(client) is None
    begin(served, second_model)
    assert ask(client, regions="all") == before
    assert set(versions(client).values()) == {str(first_model)}
    found = card(client)
    assert (found["model_version"], found["loaded"], found["stopped"]) == (str(second_model), True, None)
    assert (found["answered"], found["failed"]) == (0, 0)
    assert found["compared"] == 1 + REGIONS
    champion, other = (Forecaster.load(model) for model in (first_model, second_model))
    panel = served.model.data.panel
    means = [model.predict(panel, panel.last_observed, champion.horizon).mean for model in (champion, other)]
    # Each region was compared twice: among all, and on its own.
    assert found["sales"] == pytest.approx(2 * means[0].sum(), rel=1e-3)
    assert found["difference"] == pytest.approx(2 * np.abs(means[0] - means[1]).sum(), rel=1e-3)
    scraped = client.get("/metrics").text
    assert f'stmp_serve_trial_requests{{outcome="compared",version="{second_model}"}}' in scraped


def test_a_canary_answers_for_the_same_regions_and_more_as_its_share_grows(
    replica: tuple[Replica, TestClient], first_model: Path, second_model: Path
) -> None:
    served, client = replica
    begin(served, second_model, share=0.4)
    some = versions(client)
    mine = [region for region, version in some.items() if version == str(second_model)]
    assert 0 < len(mine) < REGIONS
    assert versions(client) == some, "a region does not change its model from request to request"
    others = [region for region in EVERY if region not in mine]
    assert ask(client, regions=mine)["model_version"] == str(second_model)
    assert ask(client, regions=[mine[0], others[0]])["model_version"] == str(first_model), "an answer is of one model"
    loaded = served.trial.model if served.trial else None
    begin(served, second_model, share=0.8)
    assert served.trial is not None
    assert served.trial.model is loaded, "it is not loaded anew for another share"
    more = {region for region, version in versions(client).items() if version == str(second_model)}
    assert set(mine) < more
    begin(served, second_model, share=1.0)
    assert ask(client, regions="all")["model_version"] == str(second_model)
    served.want_trial(None)
    assert set(versions(client).values()) == {str(first_model)}
    assert card(client) is None


def spoiled(model: Path, to: Path) -> Path:
    """A model whose forecasts are not finite."""
    Forecaster.load(model).save(to)
    weights = load_file(to / "weights.safetensors")
    name = next(name for name in weights if name.startswith("head"))
    save_file(weights | {name: weights[name] * float("nan")}, to / "weights.safetensors")
    return to


def test_a_challenger_that_cannot_be_loaded_is_told(
    replica: tuple[Replica, TestClient], first_model: Path, second_model: Path, tmp_path: Path
) -> None:
    served, client = replica
    begin(served, spoiled(second_model, tmp_path / "nan"), share=1.0)
    assert "not finite" in card(client)["stopped"]
    assert set(versions(client).values()) == {str(first_model)}
    begin(served, first_model, share=1.0)
    assert "is the model that answers" in card(client)["stopped"]


@pytest.mark.parametrize("fault", ["raises", "not finite"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_challenger_that_fails_later_is_dropped_and_no_request_with_it(
    replica: tuple[Replica, TestClient],
    first_model: Path,
    second_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    share: float,
) -> None:
    served, client = replica
    before = ask(client, regions="all")
    begin(served, second_model, share=share)
    assert served.trial is not None
    assert served.trial.model is not None
    online = served.trial.model.online
    well = online.decode

    def fail(*given: Any) -> Any:
        if fault == "raises":
            raise RuntimeError("boom")
        decoded = well(*given)
        decoded.mean[...] = np.nan
        return decoded

    monkeypatch.setattr(online, "decode", fail)
    assert ask(client, regions="all") == before
    found = card(client)
    assert not found["loaded"]
    assert "boom" in found["stopped"] or "not finite" in found["stopped"]
    assert found["failed"] == 1
    assert set(versions(client).values()) == {str(first_model)}


def test_a_challenger_that_forecasts_something_else_is_dropped(
    replica: tuple[Replica, TestClient], first_model: Path, second_model: Path
) -> None:
    served, client = replica
    begin(served, second_model, share=1.0, max_difference=1e-6, enough=3)
    said = [ask(client, regions=[region])["model_version"] for region in EVERY]
    assert said[:3] == [str(second_model)] * 3, "as long as too little is known, it answers"
    assert set(said[4:]) == {str(first_model)}
    assert "differ by" in card(client)["stopped"]


def test_a_slow_challenger_is_dropped(
    replica: tuple[Replica, TestClient], second_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, client = replica
    begin(served, second_model, max_slowdown=3.0, enough=2)
    assert served.trial is not None
    assert served.trial.model is not None
    online = served.trial.model.online
    well = online.decode

    def slowly(*given: Any) -> Any:
        time.sleep(0.5)
        return well(*given)

    monkeypatch.setattr(online, "decode", slowly)
    for region in EVERY[:4]:
        ask(client, regions=[region])
    assert "times as long" in card(client)["stopped"]


def test_faults_of_a_request_are_not_the_challengers(replica: tuple[Replica, TestClient], second_model: Path) -> None:
    served, client = replica
    begin(served, second_model, share=1.0)
    assert client.post("/v1/forecasts", json={"regions": ["nowhere"]}).status_code == 422
    assert client.post("/v1/forecasts", json={"regions": "all", "quantiles": [0.0001]}).status_code == 422
    found = card(client)
    assert (found["failed"], found["loaded"]) == (0, True)


def test_either_model_can_be_asked_by_name(
    replica: tuple[Replica, TestClient], first_model: Path, second_model: Path
) -> None:
    served, client = replica
    before = ask(client, regions="all")
    assert ask(client, regions="all", by="champion") == before
    refused = client.post("/v1/forecasts", json={"regions": "all", "by": "challenger"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (409, "body.by")
    begin(served, second_model, share=0.4)
    mine = [region for region, version in versions(client).items() if version == str(second_model)]
    counted = card(client)
    theirs = ask(client, regions="all", by="challenger", what_if=[{"column": "price", "scale": 0.9}])
    assert theirs["model_version"] == str(second_model)
    assert ask(client, regions=mine, by="champion")["model_version"] == str(first_model)
    assert ask(client, regions="all", by="champion") == before
    other = Forecaster.load(second_model)
    panel = served.model.data.panel
    mean = other.predict(panel, panel.last_observed, HORIZON).mean
    found = ask(client, regions=[EVERY[3]], by="challenger")["forecasts"][0]["mean"]
    assert found == pytest.approx(mean[3, :, 0].tolist(), rel=1e-3)
    assert card(client) == counted, "to look at a model is no evidence for or against it"


@pytest.mark.parametrize("fault", [RuntimeError("boom"), None])
def test_a_challenger_asked_by_name_is_not_replaced_where_it_fails(
    replica: tuple[Replica, TestClient], second_model: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    served, _ = replica
    begin(served, second_model)
    assert served.trial is not None
    assert served.trial.model is not None
    online = served.trial.model.online
    well = online.predict

    def fail(*given: Any) -> Any:
        if fault is not None:
            raise fault
        decoded = well(*given)
        return replace(decoded, mean=np.full_like(decoded.mean, np.nan))

    monkeypatch.setattr(online, "predict", fail)
    with TestClient(make_app(served), raise_server_exceptions=False) as client:
        answer = client.post("/v1/forecasts", json={"regions": [EVERY[0]], "by": "challenger"})
        assert answer.status_code == (500 if fault else 422)
        assert card(client)["stopped"]
        again = client.post("/v1/forecasts", json={"regions": [EVERY[0]], "by": "challenger"})
        assert again.status_code == 409
        assert ask(client, regions=[EVERY[0]])["model_version"] != str(second_model)


def test_a_challenger_knows_what_was_observed(replica: tuple[Replica, TestClient], second_model: Path) -> None:
    served, client = replica
    begin(served, second_model, share=1.0)
    panel = served.model.data.panel
    tomorrow = str(panel.dates[panel.index_of(panel.last_observed) + 1])
    day = {"region": "R000003", "date": tomorrow, "sales": 70.0}
    assert client.post("/v1/observations", json={"observations": [day]}).status_code == 200
    answer = ask(client, regions=["R000003"])
    assert (answer["model_version"], answer["sequence"]) == (str(second_model), 1)
    assert answer["forecasts"][0]["data_date"] == tomorrow
