"""The API around a replica, in this process: what it answers, what it refuses, and that it agrees with the batch."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from stmp.forecaster import Forecaster
from stmp_platform.forecast_id import ForecastId
from stmp_platform.frames import frame_of
from tests.serving import HORIZON, REGIONS, served, settings, whole_panel

KEYS = {"type", "title", "status", "detail", "instance", "errors"}


@pytest.fixture(scope="module")
def client(shop: str, first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Yield a client of the application."""
    with served(first_model, settings(shop, tmp_path_factory.mktemp("api"), max_regions=20)) as client:
        yield client


def forecast(client: TestClient, path: str = "/v1/forecasts", **asked: Any) -> list[dict[str, Any]]:
    answer = client.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    forecasts: list[dict[str, Any]] = answer.json()["forecasts"]
    return forecasts


def refused(client: TestClient, status: int, path: str = "/v1/forecasts", **asked: Any) -> dict[str, Any]:
    answer = client.post(path, json=asked)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem.keys() == KEYS
    assert problem["status"] == status
    return problem


def test_online_and_batch_agree_for_every_region(client: TestClient, shop: str, first_model: Path) -> None:
    panel = whole_panel(shop)
    batch = Forecaster.load(first_model).predict(panel, panel.last_observed, HORIZON)
    online = forecast(client, regions="all")
    assert [f["region"] for f in online] == panel.regions.tolist()
    np.testing.assert_allclose([f["mean"] for f in online], batch.mean[:, :, 0], rtol=1e-4, atol=1e-4)
    for k, level in enumerate(batch.levels):
        found = [f["quantiles"][f"{level:g}"] for f in online]
        np.testing.assert_allclose(found, batch.quantiles[:, :, 0, k], rtol=1e-4, atol=1e-4)
    assert [f["cold"] for f in online] == [False] * (REGIONS - 2) + [True] * 2
    assert online[0]["dates"] == batch.dates.astype(str).tolist()


def test_days_series_and_levels_can_be_chosen(client: TestClient) -> None:
    (whole,) = forecast(client, regions=["R000001"])
    (some,) = forecast(
        client,
        regions=["R000001"],
        dates=[whole["dates"][4], whole["dates"][2]],
        series=["sales"],
        quantiles=[0.5, 0.25],
    )
    assert some["dates"] == [whole["dates"][2], whole["dates"][4]]
    np.testing.assert_allclose(some["mean"], [whole["mean"][2], whole["mean"][4]], atol=1e-4)
    between = (np.array(whole["quantiles"]["0.2"]) + np.array(whole["quantiles"]["0.3"])) / 2
    np.testing.assert_allclose(some["quantiles"]["0.25"], between[[2, 4]], rtol=1e-4)
    assert list(some["quantiles"]) == ["0.25", "0.5"]


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("application/vnd.apache.parquet", lambda content: pq.read_table(io.BytesIO(content))),
        ("application/vnd.apache.arrow.stream", lambda content: pa.ipc.open_stream(content).read_all()),
    ],
)
def test_tables_hold_what_json_holds(client: TestClient, kind: str, read: Any) -> None:
    asked = {"regions": "all", "horizon": 3, "quantiles": [0.1, 0.9]}
    answer = client.post("/v1/forecasts", json=asked, headers={"Accept": kind})
    assert answer.headers["content-type"] == kind
    frame = read(answer.content).to_pandas()
    rows = forecast(client, **asked)
    np.testing.assert_allclose(frame["mean"], np.concatenate([f["mean"] for f in rows]), atol=1e-4)
    np.testing.assert_allclose(frame["q0.9"], np.concatenate([f["quantiles"]["0.9"] for f in rows]), atol=1e-4)
    assert frame["date"].astype(str).tolist() == [day for f in rows for day in f["dates"]]
    assert frame["region"].tolist() == [f["region"] for f in rows for _ in f["dates"]]
    (identity,) = set(frame["forecast_id"])
    assert identity == client.post("/v1/forecasts", json=asked).json()["forecast_id"]
    assert ForecastId.parse(identity).day == rows[0]["data_date"]


def test_what_ifs_change_the_days_they_name(client: TestClient) -> None:
    (plain,) = forecast(client, regions=["R000002"])
    days = plain["dates"]
    change = {"column": "price", "scale": 3.0, "first": days[5], "last": days[6]}
    (dear,) = forecast(client, regions=["R000002"], what_if=[change])
    moved = np.abs(np.array(dear["mean"]) - plain["mean"]) > 1e-4
    assert moved[5] and moved[6]
    assert not moved[:4].any(), "a day knows no more than its neighbours"
    (known,) = forecast(
        client, regions=["R000002"], known=[{"date": days[5], "region": "R000002", "values": {}, "closed": True}]
    )
    assert known["mean"][5] == 0
    assert known["quantiles"]["0.9"][5] == 0
    (again,) = forecast(client, regions=["R000002"])
    assert again == plain


def test_a_cold_region_is_forecast_from_what_the_request_says(client: TestClient, shop: str, first_model: Path) -> None:
    """The days of a known region, sent as a new one, give the batch's forecast of a region with that history."""
    panel = whole_panel(shop)
    last = panel.index_of(panel.last_observed)
    short = panel.select([3]).with_history(panel.dates[last], 12)
    batch = Forecaster.load(first_model).predict(short, panel.dates[last], HORIZON)
    frame = frame_of(short, start=panel.dates[last - 11]).query("sales == sales or closed == 1")
    frame = frame[frame["date"] <= panel.dates[last]]
    history = [
        {
            "date": str(row.date)[:10],
            **({"closed": True} if row.closed else {"sales": row.sales, "past": {"customers": row.customers}}),
        }
        for row in frame.itertuples()
    ]
    static = {name: float(value) for name, value in zip(panel.static_names, panel.static[3].tolist(), strict=True)}
    (found,) = forecast(client, "/v1/forecasts:cold", history=history, static=static, like=str(panel.regions[3]))
    np.testing.assert_allclose(found["mean"], batch.mean[0, :, 0], rtol=1e-4, atol=1e-4)
    assert found["cold"]
    (nothing,) = forecast(client, "/v1/forecasts:cold", static={"district": "district_01"}, horizon=3)
    assert len(nothing["mean"]) == 3
    assert min(nothing["mean"]) > 0


def test_what_would_hold_up_all_others_is_refused(shop: str, first_model: Path, tmp_path: Path) -> None:
    """Regions, days and quantiles that may be asked for one by one can be too many together."""
    change = {"column": "promo", "to": 1}
    with served(first_model, settings(shop, tmp_path, max_numbers=REGIONS * HORIZON * 9, max_changes=30)) as client:
        assert len(forecast(client, regions="all")) == REGIONS
        problem = refused(client, 413, regions="all", horizon=HORIZON + 1)
        assert problem["errors"][0]["field"] == "body.regions" and "1386 numbers" in problem["errors"][0]["reason"]
        assert len(forecast(client, regions="all", what_if=[change] * 2)) == REGIONS
        assert refused(client, 413, regions="all", what_if=[change] * 3)["errors"][0]["field"] == "body.what_if"


def test_what_is_refused_says_where_and_what_to_do(client: TestClient) -> None:
    day = forecast(client, regions=["R000001"])[0]["dates"][0]
    asked: list[tuple[int, str, dict[str, Any]]] = [
        (422, "body.regions.1", {"regions": ["R000001", "nowhere"]}),
        (422, "body.quantiles.0", {"regions": ["R000001"], "quantiles": [0.99]}),
        (422, "body.series.0", {"regions": ["R000001"], "series": ["bread"]}),
        (422, "body.dates", {"regions": ["R000001"], "dates": ["2021-06-01"]}),
        (422, "body.dates.0", {"regions": ["R000001"], "dates": ["1921-06-01"]}),
        (422, "body.what_if.0.column", {"regions": ["R000001"], "what_if": [{"column": "rain", "to": 1}]}),
        (422, "body.what_if.0.regions.0", {"regions": ["R000001"], "what_if": [
            {"column": "promo", "to": 1, "regions": ["R000002"]}]}),
        (422, "body.known.0.values.rain", {"regions": ["R000001"], "known": [{"date": day, "values": {"rain": 1}}]}),
        (413, "body.horizon", {"regions": ["R000001"], "horizon": 5000}),
        (413, "body.regions", {"regions": [f"r{i}" for i in range(21)]}),
    ]  # fmt: skip
    for status, field, body in asked:
        problem = refused(client, status, **body)
        assert problem["errors"][0]["field"] == field, problem
        assert problem["errors"][0]["remedy"], problem
    problem = refused(client, 422, regions=["R000001"], horizont=3)
    assert problem["errors"][0]["field"] == "body.horizont"
    for body in (
        {"static": {"district": "moon"}},
        {"like": "nowhere"},
        {"history": [{"date": day, "sales": 1}] * 2},
        {"history": [{"date": day, "sales": 1, "past": {"rain": 1}}]},
    ):
        assert refused(client, 422, "/v1/forecasts:cold", **body)["errors"][0]["remedy"]
    assert client.post("/v1/forecasts", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.get("/v1/forecasts").status_code == 405
    wrong = client.post("/v1/forecasts", json={"regions": "all"}, headers={"Accept": "text/csv"})
    assert wrong.status_code == 406


def test_regions_festivals_and_model_are_told(client: TestClient) -> None:
    listed = client.get("/v1/regions", params={"search": "r00000", "offset": 2, "limit": 3}).json()
    assert listed["total"] == 10
    assert [region["id"] for region in listed["regions"]] == ["R000002", "R000003", "R000004"]
    region = client.get("/v1/regions/R000003", params={"history": 7}).json()
    assert len(region["dates"]) == len(region["day_types"]) == 7 + HORIZON
    assert len(region["history"][0]["sales"]) == 7
    assert region["dates"][6] == region["data_date"]
    assert client.get("/v1/regions/nowhere").status_code == 404
    card = client.get("/v1/model").json()
    assert card["wanted"] == card["model_version"]
    assert card["horizon"] == HORIZON
    assert {"name": "promo", "low": 0.0, "high": 1.0, "binary": True, "read": True} in card["known"]
    found = client.get("/v1/festivals", params={"first": "2021-12-01", "last": "2022-01-31"}).json()["festivals"]
    new_year = next(f for f in found if f["name"] == "new_year")
    assert new_year == {
        "name": "new_year", "date": "2022-01-01", "first": "2021-12-30", "last": "2022-01-02", "regions": REGIONS,
    }  # fmt: skip
    assert client.get("/readyz").json()["ready"]
    assert "stmp_serve_requests_total" in client.get("/metrics").text


def test_requests_at_once_get_their_own_answers(client: TestClient) -> None:
    """They are decoded together, and taken apart again."""
    asked = [{"regions": [f"R{i % REGIONS:06d}"], "horizon": 2 + i % 4} for i in range(60)]
    asked[7] = {"regions": ["nowhere"]}
    alone = [client.post("/v1/forecasts", json=body) for body in asked]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda body: client.post("/v1/forecasts", json=body), asked))
    assert together[7].status_code == 422
    for one, other in zip(alone, together, strict=True):
        assert one.status_code == other.status_code
        if one.status_code == 200:
            (mine,), (theirs,) = one.json()["forecasts"], other.json()["forecasts"]
            np.testing.assert_allclose(mine.pop("mean"), theirs.pop("mean"), rtol=1e-4, atol=1e-4)
            assert mine["region"] == theirs["region"]
            assert mine["dates"] == theirs["dates"]
    text = client.get("/metrics").text
    batches = next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("stmp_serve_batch_jobs_count")
    )
    jobs = next(float(line.split()[1]) for line in text.splitlines() if line.startswith("stmp_serve_batch_jobs_sum"))
    assert jobs > batches, "nothing was ever decoded together"


def test_a_body_that_is_too_large_is_not_read(shop: str, first_model: Path, tmp_path: Path) -> None:
    with served(first_model, settings(shop, tmp_path, max_body_mb=0.01)) as client:
        body = {"regions": ["x" * 150] * 100}
        assert refused(client, 413, **body)["title"]
        # without a Content-Length it is counted
        chunked = client.post(
            "/v1/forecasts", content=iter([b'{"regions":', b"[" * 20_000]), headers={"Content-Type": "application/json"}
        )
        assert chunked.status_code == 413
        assert client.post("/v1/forecasts", json={"regions": ["R000001"]}).status_code == 200


def test_tokens_are_asked_for(shop: str, first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = "r" * 20, "w" * 20
    tokens = {"page": {"token": reader, "scopes": ["read"]}, "till": {"token": writer, "scopes": ["write"]}}
    monkeypatch.setenv("STMP_SERVE_TOKENS", json.dumps(tokens))
    with served(first_model, settings(shop, tmp_path, host="0.0.0.0", rate=5)) as client:
        assert client.get("/v1/model").status_code == 401
        assert client.get("/v1/model").headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/model", headers={"Authorization": f"Bearer {reader}x"}).status_code == 401
        assert client.get("/v1/model", headers={"Authorization": f"Bearer {writer}"}).status_code == 403
        assert client.get("/healthz").status_code == 200
        answers = [client.get("/v1/model", headers={"Authorization": f"Bearer {reader}"}) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert {int(a.headers["retry-after"]) for a in answers if a.status_code == 429} == {1}
        for answer in answers:
            assert reader not in answer.text


@pytest.mark.parametrize("seconds", [1_648_080_000, 1_648_080_000.0, "1648080000", "2022-03-24T00:00:00"])
def test_a_date_is_written_out(client: TestClient, seconds: Any) -> None:
    """Pydantic would take each of them for a day that can be forecast: 2022-03-24."""
    assert client.post("/v1/forecasts", json={"regions": ["R000003"], "dates": ["2022-03-24"]}).status_code == 200
    assert "YYYY-MM-DD" in refused(client, 422, regions=["R000003"], dates=[seconds])["detail"]
    answer = client.get("/v1/festivals", params={"first": seconds})
    assert answer.status_code == 422


def test_another_future_of_more_regions_than_are_decoded_at_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [region["id"] for region in client.get("/v1/regions").json()["regions"]]
    monkeypatch.setattr("stmp.online.AT_ONCE", 4)
    asked = {
        "horizon": 7, "known": [{"date": "2022-03-18", "closed": True}, {"date": "2022-03-16", "values": {"price": 2}}],
        "what_if": [{"column": "promo", "to": 1, "first": "2022-03-17"}],
    }  # fmt: skip
    together = client.post("/v1/forecasts", json={"regions": "all"} | asked)
    assert together.status_code == 200, together.text
    for region, found in zip(every, together.json()["forecasts"], strict=True):
        alone = client.post("/v1/forecasts", json={"regions": [region]} | asked).json()["forecasts"][0]
        np.testing.assert_allclose(found["mean"], alone["mean"], rtol=1e-4, atol=1e-4)
    only = {"known": [{"date": "2022-03-18", "region": every[-1], "closed": True}], "horizon": 7}
    means = [one["mean"] for one in client.post("/v1/forecasts", json={"regions": "all"} | only).json()["forecasts"]]
    assert means[-1][3] == 0
    assert all(mean[3] > 0 for mean in means[:-1])


def test_of_a_long_list_the_first_fault_is_told(client: TestClient) -> None:
    days = [{"region": "R000003", "date": "soon"}] * 50_000
    began = time.monotonic()
    problem = refused(client, 422, "/v1/observations", observations=days)
    assert [fault["field"] for fault in problem["errors"]] == ["body.observations.0.date"]
    assert time.monotonic() - began < 3
