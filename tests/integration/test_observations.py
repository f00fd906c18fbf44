"""Observations: kept before they are answered, counted once, used by the next forecast, and outliving kill -9."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from serving.livedata import PARTS, LiveData
from serving.observations import CHUNK, PATIENCE, Conflict, Day, Observations, StoreError, _patience
from stmp.errors import ConfigError
from stmp.forecaster import Forecaster
from tests.killed_store import kill_while_writing
from tests.serving import HORIZON, served, settings, whole_panel


def day(sales: float | None = 1.0, region: str = "a", after: int = 0, **given: Any) -> Day:
    return Day(region, "sales", date(2024, 1, 1) + timedelta(days=after), sales, **given)


@pytest.fixture
def store(tmp_path: Path) -> Observations:
    """Return an empty store."""
    return Observations(f"sqlite:///{tmp_path / 'o.db'}", "city")


def test_what_is_there_counts_once(store: Observations) -> None:
    first = store.write([day(), day(2.0, after=1)])
    assert (first.added, first.unchanged, first.sequence) == (2, 0, 1)
    again = store.write([day(2.0, after=1), day()])
    assert (again.added, again.unchanged, again.sequence) == (0, 2, 1)
    mixed = store.write([day(), day(3.0, after=2)])
    assert (mixed.added, mixed.unchanged, mixed.sequence) == (1, 1, 2)
    assert store.since(1) == (2, [day(3.0, after=2)])
    assert len(store.since(0)[1]) == 3


def test_another_value_is_a_conflict_and_nothing_is_written(store: Observations) -> None:
    store.write([day()])
    with pytest.raises(Conflict):
        store.write([day(after=5), day(9.0)])
    assert store.since(0) == (1, [day()])
    revised = store.write([day(after=5), day(9.0, past=(("customers", 3.0),))], revise=True)
    assert (revised.added, revised.revised, revised.sequence) == (1, 1, 2)
    assert sorted(d.sales or 0 for d in store.since(1)[1]) == [1.0, 9.0]


def test_writers_at_once_are_numbered_in_the_order_of_their_commits(store: Observations, tmp_path: Path) -> None:
    """A reader that has seen a number has seen all that came before it."""
    seen: list[Day] = []
    end = threading.Event()

    def read() -> None:
        reader, at = Observations(f"sqlite:///{tmp_path / 'o.db'}", "city"), 0
        while not end.is_set() or store.since(at)[1]:
            at, days = reader.since(at)
            seen.extend(days)

    reading = threading.Thread(target=read)
    reading.start()
    others = [Observations(f"sqlite:///{tmp_path / 'o.db'}", "city") for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        numbers = list(pool.map(lambda i: others[i % 3].write([day(region=str(i))]).sequence, range(30)))
    end.set()
    reading.join()
    assert sorted(numbers) == list(range(1, 31))
    assert sorted(int(d.region) for d in seen) == list(range(30))


def test_a_store_belongs_to_one_dataset(store: Observations, tmp_path: Path) -> None:
    store.write([day()])
    with pytest.raises(ConfigError, match="belongs to the dataset 'city'"):
        Observations(f"sqlite:///{tmp_path / 'o.db'}", "town")
    assert Observations(f"sqlite:///{tmp_path / 'o.db'}", "city").since(0) == (1, [day()])
    with pytest.raises(ConfigError, match="cannot be opened"):
        Observations(f"sqlite:///{tmp_path}/nowhere/o.db", "city")


def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    for attempt in range(3):
        answered, kept = kill_while_writing(tmp_path, seed=attempt)
        assert answered > 0
        assert kept >= answered


def post(client: TestClient, status: int = 200, revise: bool = False, **values: Any) -> dict[str, Any]:
    body = {"observations": [{"region": "R000004", **values}], "revise": revise}
    answer = client.post("/v1/observations", json=body)
    assert answer.status_code == status, answer.text
    content: dict[str, Any] = answer.json()
    return content


def test_the_next_forecast_uses_what_was_observed(shop: str, first_model: Path, tmp_path: Path) -> None:
    """And is the batch's forecast of a panel with that day in it, also after a restart."""
    panel = whole_panel(shop)
    t = panel.index_of(panel.last_observed) + 1
    on = str(panel.dates[t])
    asked = {"regions": ["R000004", "R000005"], "horizon": HORIZON}
    values = {"date": on, "sales": 400.0, "past": {"customers": 90.0}, "known": {"promo": 1.0}}
    with served(first_model, settings(shop, tmp_path)) as client:
        before = client.post("/v1/forecasts", json=asked).json()
        assert post(client, **values) == {"added": 1, "revised": 0, "unchanged": 0, "sequence": 1}
        assert post(client, **values)["unchanged"] == 1
        after = client.post("/v1/forecasts", json=asked).json()
        assert post(client, 409, **(values | {"sales": 1.0}))["errors"]
        assert post(client, revise=True, **(values | {"sales": 1.0}))["revised"] == 1
        assert post(client, revise=True, **values)["revised"] == 1
    mine, other = after["forecasts"]
    assert (before["sequence"], after["sequence"]) == (0, 1)
    assert mine["data_date"] == on
    np.testing.assert_allclose(other["mean"], before["forecasts"][1]["mean"], rtol=1e-4, atol=1e-4)
    panel.sales[4, t, 0], panel.observed[4, t, 0], panel.past[4, t, 0] = 400.0, True, 90.0
    panel.known[4, t, panel.known_names.index("promo")] = 1.0
    batch = Forecaster.load(first_model).predict(panel.select([4]), panel.dates[t], HORIZON)
    np.testing.assert_allclose(mine["mean"], batch.mean[0, :, 0], rtol=1e-4, atol=1e-4)
    with served(first_model, settings(shop, tmp_path)) as client:
        again = client.post("/v1/forecasts", json=asked).json()
        np.testing.assert_allclose(again["forecasts"][0]["mean"], mine["mean"], rtol=1e-4, atol=1e-4)
        assert again["sequence"] == 3


def test_days_of_the_dataset_are_held_against_it(shop: str, first_model: Path, tmp_path: Path) -> None:
    panel = whole_panel(shop)
    t = panel.index_of(panel.last_observed)
    sold = float(panel.sales[4, t, 0])
    on = str(panel.dates[t])
    with served(first_model, settings(shop, tmp_path)) as client:
        assert post(client, date=on, sales=sold)["unchanged"] == 1
        assert "the data has" in post(client, 409, date=on, sales=sold + 1)["errors"][0]["reason"]
        assert post(client, revise=True, date=on, sales=sold + 1)["added"] == 1
        region = client.get("/v1/regions/R000004", params={"history": 1}).json()
        assert region["history"][0]["sales"] == [pytest.approx(sold + 1)]


def test_other_covariates_of_a_day_of_the_dataset_are_told(shop: str, first_model: Path, tmp_path: Path) -> None:
    """The same sales with another promotion are no known day."""
    panel = whole_panel(shop)
    t = panel.index_of(panel.last_observed)
    promo = float(panel.known[4, t, panel.known_names.index("promo")])
    values = {"date": str(panel.dates[t]), "sales": float(panel.sales[4, t, 0])}
    with served(first_model, settings(shop, tmp_path)) as client:
        assert post(client, known={"promo": promo}, **values)["unchanged"] == 1
        problem = post(client, 409, known={"promo": 1 - promo}, **values)
        assert "other covariates" in problem["errors"][0]["reason"]
        assert post(client, revise=True, known={"promo": 1 - promo}, **values)["added"] == 1


def test_a_revised_day_is_the_same_on_a_replica_that_starts_anew(shop: str, first_model: Path, tmp_path: Path) -> None:
    """Nothing stays of what it was before: covariates that are not sent again, a closed day that was open."""
    panel = whole_panel(shop)
    days = [str(day) for day in panel.dates[panel.index_of(panel.last_observed) + 1 :][:3]]
    running = LiveData.read(settings(shop, tmp_path))
    store = Observations(f"sqlite:///{tmp_path / 'observations.db'}", running.name)
    rich = {"past": (("customers", 41.0),), "known": (("promo", 1.0),)}
    region, series = str(panel.regions[4]), panel.series[0]
    for given in (
        Day(region, series, date.fromisoformat(days[0]), 9.0, **rich),
        Day(region, series, date.fromisoformat(days[1]), 8.0),
        Day(region, series, date.fromisoformat(days[2]), None, closed=True),
        Day(region, series, date.fromisoformat(days[0]), 7.0),
        Day(region, series, date.fromisoformat(days[1]), None, closed=True),
        Day(region, series, date.fromisoformat(days[2]), 6.0, **rich),
    ):
        store.write([given], revise=True)
        running.apply(*store.since(running.sequence))
        running = running.copy()
    anew = LiveData.read(settings(shop, tmp_path))
    anew.apply(*store.since(0))
    for name in PARTS:
        one, other = getattr(running.panel, name), getattr(anew.panel, name)
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=name)
    assert running.origin.tolist() == anew.origin.tolist()


def test_a_store_that_does_not_answer_is_left_alone_for_a_while(
    shop: str, first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def silent(self: Observations, sequence: int) -> tuple[int, list[Day]]:
        asked.append(sequence)
        raise StoreError("gone")

    with served(first_model, settings(shop, tmp_path)) as client:
        monkeypatch.setattr(Observations, "since", silent)
        for _ in range(3):
            assert client.post("/v1/forecasts", json={"regions": ["R000004"]}).status_code == 200
        assert len(asked) == 1, "each question may take seconds"


def test_a_database_that_vanished_is_given_up_after_seconds() -> None:
    assert _patience("postgresql+psycopg2://me@there/o") == PATIENCE == _patience("postgresql://there/o")
    assert _patience("postgresql+psycopg2://there/o?connect_timeout=60")["tcp_user_timeout"] == 5000
    assert "connect_timeout" not in _patience("postgresql+psycopg2://there/o?connect_timeout=60")
    assert not _patience("sqlite:///o.db") and not _patience("postgresql+pg8000://there/o")
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes the connection and says nothing
        with pytest.raises(ConfigError, match="cannot be opened"):
            Observations(f"postgresql+psycopg2://me@127.0.0.1:{mute.getsockname()[1]}/o", "city")
    assert time.monotonic() - began < 30


def test_many_days_are_looked_up_together(store: Observations) -> None:
    days = [day(float(i), region=f"r{i % 7}", after=i // 7) for i in range(2 * CHUNK + 3)]
    statements: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    assert store.write(days).added == len(days)
    assert sum(text.startswith("SELECT stmp_observations") for text in statements) == 3
    assert store.write(days).unchanged == len(days)


def test_observations_that_cannot_be_are_refused(shop: str, first_model: Path, tmp_path: Path) -> None:
    panel = whole_panel(shop)
    t = panel.index_of(panel.last_observed)
    tomorrow, far = str(panel.dates[t + 1]), str(panel.dates[t] + np.timedelta64(200, "D"))
    with served(first_model, settings(shop, tmp_path)) as client:
        for values, field in (
            ({"region": "nowhere", "date": tomorrow, "sales": 1}, "region"),
            ({"date": far, "sales": 1}, "date"),
            ({"date": "1999-01-01", "sales": 1}, "date"),
            ({"date": tomorrow, "sales": 1, "series": "bread"}, "series"),
            ({"date": tomorrow, "sales": 1, "closed": True}, "sales"),
            ({"date": tomorrow, "sales": 1, "past": {"rain": 1}}, "past.rain"),
            ({"date": tomorrow, "sales": -1}, "sales"),
        ):
            problem = post(client, 422, **values)
            assert problem["errors"][0]["field"] == f"body.observations.0.{field}", problem
        twice = [{"region": "R000004", "date": tomorrow, "sales": sales} for sales in (1, 2)]
        assert client.post("/v1/observations", json={"observations": twice}).status_code == 422
        assert client.get("/readyz").json()["sequence"] == 0
