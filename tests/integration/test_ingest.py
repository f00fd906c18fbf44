"""From raw tables to a Dataset and back as a Panel, against plain loops over the raw rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from stmp.errors import ConfigError, DataError
from stmp_platform.dataset import describe, ingest, load_manifest, read_panel, render
from stmp_platform.dataset.storage import Reader
from tests.raw_tables import DAYS, ITEMS, LAST_SALE, RawTables, shops

REGIONS = ["1", "2", "3", "10", "20"]


@pytest.fixture(scope="module")
def raw() -> RawTables:
    return shops()


@pytest.fixture(scope="module")
def uri(raw: RawTables, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shops")
    ingest(raw.write(folder / "raw"), str(folder / "data"))
    return str(folder / "data")


def test_sales_and_covariates_are_where_the_rows_say(raw: RawTables, uri: str) -> None:
    panel = read_panel(uri)
    assert panel.regions.tolist() == REGIONS  # numbers are sorted as numbers
    assert panel.series == ITEMS
    assert panel.dates[0] == np.datetime64("2021-01-20")
    assert panel.dates[-1] == np.datetime64(DAYS[-1])  # plans reach past the last day of sales
    assert panel.last_observed == np.datetime64(LAST_SALE)
    seen = np.zeros(panel.shape, bool)
    for row in raw.tables["sales"].itertuples():
        r, t, g = REGIONS.index(row.shop), panel.index_of(row.day), ITEMS.index(row.item)
        shut = row.open == 0
        sold = not np.isnan(row.units) and not shut
        seen[r, t, g] = sold
        assert bool(panel.closed[r, t]) == shut
        assert panel.sales[r, t, g] == (row.units if sold else 0)
        if not np.isnan(row.price):
            assert panel.known[r, t, panel.known_names.index(f"price@{row.item}")] == np.float32(row.price)
        for value in ("leaflet", "none", "online"):
            assert panel.known[r, t, panel.known_names.index(f"deal={value}")] == (row.deal == value)
        if not np.isnan(row.visitors):
            assert panel.past[r, t, panel.past_names.index("visitors")] == row.visitors
    assert np.array_equal(panel.observed.numpy(), seen)
    assert (panel.sales.numpy()[~seen] == 0).all()


def test_names_of_columns_say_what_they_hold(uri: str) -> None:
    panel = read_panel(uri)
    assert panel.past_names == ("visitors", "rain")
    assert panel.known_names == (
        "price@apples", "price@pears", "open", "deal=leaflet", "deal=none", "deal=online", "forecast", "budget",
        "school_holiday",
    )  # fmt: skip
    assert panel.static_names == ("area", "kind=a", "kind=b", "kind=c")
    assert np.isnan(panel.static[2, 0])
    assert panel.static[3].tolist() == [300.0, 0.0, 0.0, 0.0]  # no kind: none of them
    manifest = load_manifest(uri)
    assert manifest.column("price").per_series
    assert not manifest.column("visitors").per_series
    assert manifest.column("units").unit == "pieces"


def test_missing_known_values_of_the_history_are_the_median_of_that_date(raw: RawTables, uri: str) -> None:
    panel = read_panel(uri)
    prices = raw.tables["sales"].pivot_table(index="day", columns=["item", "shop"], values="price")
    missing = 0
    for g, item in enumerate(ITEMS):
        k = panel.known_names.index(f"price@{item}")
        for t, day in enumerate(DAYS):
            for r, region in enumerate(REGIONS):
                value = prices[item].reindex(columns=REGIONS).loc[day, region]
                if np.isnan(value):
                    missing += 1
                    value = np.nanmedian(prices[item].loc[day])
                assert panel.known[r, t, k] == np.float32(value), (item, region, day)
        assert g == ITEMS.index(item)
    assert missing > 20
    manifest = load_manifest(uri)
    assert manifest.column("price").missing == missing
    told = [str(fault) for fault in manifest.warnings]
    assert any("price" in text and f"{missing} of" in text and "median" in text for text in told)
    # a state that has no weather rows: the median over the other regions (not over the table's states)
    forecast = panel.known[:, :, panel.known_names.index("forecast")].numpy()
    assert np.allclose(forecast[4, :40], np.median(forecast[:4, :40], axis=0))
    assert np.isnan(forecast[4, 40:]).all()  # of the future nothing is made up


def test_fill_is_used_in_the_history_and_in_the_future(raw: RawTables, uri: str) -> None:
    panel = read_panel(uri, end="2021-03-20")
    budget = panel.known[:, :, panel.known_names.index("budget")].numpy()
    plans = raw.tables["plans"].set_index(["shop", "day"])["budget"]
    for r, region in enumerate(REGIONS):
        for t, day in enumerate(panel.dates):
            assert budget[r, t] == plans.get((region, pd.Timestamp(day)), 5)
    assert len(panel.dates) == 60
    assert np.isnan(panel.known[:, -1, panel.known_names.index("price@pears")]).all()


def test_calendar_follows_scopes_and_filters(uri: str) -> None:
    panel = read_panel(uri)
    calendar = panel.calendar

    def event(region: str, day: str) -> str:
        return calendar.events[calendar.event[panel.calendar_index[REGIONS.index(region)], panel.index_of(day)]]

    assert event("1", "2021-02-10") == event("2", "2021-02-10") == "Market day"
    assert event("2", "2021-02-11") == event("10", "2021-02-11") == "Carnival"
    assert event("1", "2021-02-11") == ""
    assert event("1", "2021-02-20") == ""  # transferred: not celebrated on that day
    assert event("20", "2021-02-14") == "valentine"
    holiday = panel.known[:, :, panel.known_names.index("school_holiday")].numpy()
    assert holiday[:, panel.index_of("2021-02-11")].tolist() == [0, 1, 0, 1, 0]
    assert holiday[:, panel.index_of("2021-02-12")].tolist() == [0, 1, 0, 1, 0]  # by city
    assert holiday[:, panel.index_of("2021-02-13")].tolist() == [0, 0, 0, 0, 0]


def test_shards_put_together_are_the_whole(uri: str) -> None:
    whole = read_panel(uri)
    for count in (2, 3, 7):
        for number in range(count):
            part = read_panel(uri, shard=(number, count))
            index = np.flatnonzero(np.arange(len(REGIONS)) * count // len(REGIONS) == number)
            assert part.regions.tolist() == whole.regions[index].tolist()
            expected = whole.select(index)
            for name in ("sales", "observed", "closed", "past", "known", "static", "day_type"):
                assert np.array_equal(
                    getattr(part, name), getattr(expected, name), equal_nan=name in ("past", "known", "static")
                )
    chosen = read_panel(uri, regions=["20", "1"])
    assert chosen.regions.tolist() == ["1", "20"]
    assert np.array_equal(chosen.known, whole.select([0, 4]).known, equal_nan=True)
    with pytest.raises(DataError, match=r"1 of 2 regions are not in.*99"):
        read_panel(uri, regions=["1", "99"])


def test_a_shard_reads_only_its_own_files(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = load_manifest(uri)
    assert len(manifest.table("sales").files) == len(REGIONS)
    opened: list[str] = []
    original = Reader.table

    def table(self: Reader, file, columns=None):
        opened.append(file.path)
        return original(self, file, columns)

    monkeypatch.setattr(Reader, "table", table)
    read_panel(uri, shard=(1, 3))
    assert sorted(path for path in opened if path.startswith("sales/")) == [
        "sales/part-00002.parquet",
        "sales/part-00003.parquet",
    ]


@pytest.mark.parametrize(("suffix", "shuffle"), [("parquet", 3), ("csv", None), ("csv.gz", 4), ("tsv", None)])
def test_fingerprint_is_of_the_content(
    raw: RawTables, uri: str, tmp_path: Path, suffix: str, shuffle: int | None
) -> None:
    copy = raw.copy()
    copy.spec["name"] = "other"
    if suffix == "tsv":
        copy.tables["sales"]["units"] += (copy.tables["sales"].index == 7).astype(float)
        suffix = "parquet"
        same = False
    else:
        same = True
    manifest = ingest(copy.write(tmp_path / "elsewhere", suffix, shuffle), str(tmp_path / "data"))
    assert (manifest.fingerprint == load_manifest(uri).fingerprint) == same
    if same:
        one, two = read_panel(uri), read_panel(str(tmp_path / "data"))
        for name in ("sales", "observed", "past", "known", "static"):
            assert np.array_equal(getattr(one, name), getattr(two, name), equal_nan=name in ("past", "known", "static"))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.spec.update(day_types={"weekend": ["saturday"]}),
        lambda raw: raw.spec["fill"].update(budget=6),
        lambda raw: raw.tables["calendar"].loc.__setitem__((1, "name"), "Another day"),
        lambda raw: raw.tables["regions"].loc.__setitem__((1, "area"), 81.0),
        lambda raw: raw.tables["weather"].loc.__setitem__((3, "rain"), 77.0),
    ],
    ids=["rules", "fill", "event", "static", "covariate"],
)
def test_fingerprint_changes_with_what_a_model_sees(raw: RawTables, uri: str, tmp_path: Path, change) -> None:
    copy = raw.copy()
    change(copy)
    assert ingest(copy.write(tmp_path / "raw"), str(tmp_path / "data")).fingerprint != load_manifest(uri).fingerprint


def test_weekly_data_and_no_optional_table(tmp_path: Path) -> None:
    weeks = pd.date_range("2022-01-07", periods=30, freq="7D")
    sales = pd.MultiIndex.from_product([["b", "a"], weeks], names=["r", "d"]).to_frame(index=False)
    sales["y"] = np.arange(len(sales), dtype=float)
    sales.to_csv(tmp_path / "s.csv", index=False)
    spec = {"frequency": "W", "tables": {"sales": {"path": "s.csv", "region": "r", "date": "d", "target": "y"}}}
    (tmp_path / "dataset.yaml").write_text(json.dumps(spec))
    manifest = ingest(tmp_path / "dataset.yaml", str(tmp_path / "out"))
    assert manifest.warnings == []
    assert manifest.name == tmp_path.name
    panel = read_panel(str(tmp_path / "out"))
    assert panel.regions.tolist() == ["a", "b"]
    assert panel.series == ("sales",)
    assert panel.shape == (2, 30, 1)
    assert panel.sales[0, :, 0].tolist() == list(range(30, 60))
    assert panel.calendar.day_types == ("ordinary", "festival")


def test_ids_that_differ_in_type_between_tables_still_join(raw: RawTables, uri: str, tmp_path: Path) -> None:
    copy = raw.copy()
    copy.tables["sales"]["shop"] = copy.tables["sales"]["shop"].astype(float)  # as pandas makes of a column with gaps
    copy.tables["regions"]["shop"] = copy.tables["regions"]["shop"].astype(int)
    copy.tables["sales"]["day"] = copy.tables["sales"]["day"].dt.strftime("%Y%m%d")
    copy.tables["weather"]["day"] = copy.tables["weather"]["day"].dt.strftime("%Y%m%d").astype(int)
    manifest = ingest(copy.write(tmp_path / "raw"), str(tmp_path / "data"))
    assert manifest.fingerprint == load_manifest(uri).fingerprint


def test_describe_tells_what_is_there(uri: str, raw: RawTables) -> None:
    content = describe(uri)
    json.dumps(content, allow_nan=False)
    assert content["regions"]["count"] == 5
    assert content["dates"] == {
        "first": "2021-01-20",
        "last_sales": "2021-02-28",
        "last_known": "2021-03-05",
        "periods": 45,
    }
    assert content["gaps"] == {"count": 3, "regions": 1}
    assert content["late_regions"] == 1
    assert content["fingerprint"] == load_manifest(uri).fingerprint
    festivals = {item["event"]: item for item in content["festivals"]}
    assert festivals["Carnival"] == {"event": "Carnival", "dates": ["2021-02-11"], "scopes": ["south"]}
    assert festivals["valentine"]["dates"] == ["2021-02-14"]
    assert "Epiphany" not in festivals  # before the first day
    panel = read_panel(uri)
    for number, name in enumerate(panel.calendar.day_types):
        days = (panel.day_type[:, :40] == number).numpy()
        assert content["day_types"][name] == {"dates": int(days.any(axis=0).sum()), "region_days": int(days.sum())}
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(content))
    text = console.export_text()
    for word in (content["fingerprint"], "Carnival", "price (by series)", "median"):
        assert word in text


def test_a_failed_ingest_leaves_nothing_behind(raw: RawTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raw.write(tmp_path / "raw")
    calls = 0
    original = pq.write_table

    def full_disk(*args, **kwargs) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError("No space left on device")
        original(*args, **kwargs)

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        ingest(path, str(tmp_path / "data"))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["raw"]

    monkeypatch.setattr(pq, "write_table", original)
    first = ingest(path, str(tmp_path / "data"))
    before = sorted(str(item) for item in (tmp_path / "data").rglob("*"))
    calls = 0
    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        ingest(path, str(tmp_path / "data"))
    assert sorted(str(item) for item in (tmp_path / "data").rglob("*")) == before
    assert load_manifest(str(tmp_path / "data")) == first


def test_ingesting_again_replaces_and_tidies(raw: RawTables, tmp_path: Path) -> None:
    path, out = raw.write(tmp_path / "raw"), str(tmp_path / "data")
    prints = {ingest(path, out).fingerprint for _ in range(4)}
    assert len(prints) == 1
    # the generation before stays, for readers that are at work
    assert len(list((tmp_path / "data" / "data").iterdir())) == 2
    assert len(read_panel(out).regions) == 5


def test_unusable_datasets_are_told_apart(uri: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no dataset: it has no manifest\.json"):
        read_panel(str(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(uri, copy)
    manifest = copy / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(DataError, match="schema version 99, this platform reads up to 2: update"):
        load_manifest(str(copy))
    manifest.write_text(json.dumps(content)[:500])
    with pytest.raises(DataError, match="corrupt"):
        load_manifest(str(copy))
    manifest.write_text(json.dumps({key: value for key, value in content.items() if key != "series"}))
    with pytest.raises(DataError, match="the first at series"):
        load_manifest(str(copy))
    manifest.write_text(json.dumps(content))
    sales = next((copy / "data").rglob("part-00000.parquet"))
    sales.write_bytes(sales.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        read_panel(str(copy))


def test_a_wrong_fill_is_told(raw: RawTables, tmp_path: Path) -> None:
    copy = raw.copy()
    copy.spec["fill"]["budget"] = "much"
    with pytest.raises((ConfigError, DataError), match="budget"):
        ingest(copy.write(tmp_path / "raw"), str(tmp_path / "data"))


# --- object storage ------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    import fsspec
    import s3fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    s3fs.S3FileSystem.clear_instance_cache()
    fsspec.filesystem("s3").mkdir("shops")
    yield "s3://shops"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_object_storage_holds_raw_tables_and_datasets(raw: RawTables, uri: str, tmp_path: Path, bucket: str) -> None:
    import fsspec

    fs = fsspec.filesystem("s3")
    fs.put(str(raw.until(DAYS[20]).write(tmp_path / "one", "csv").parent) + "/", "shops/one/", recursive=True)
    fs.put(str(raw.until(DAYS[-1], DAYS[21]).write(tmp_path / "two").parent) + "/", "shops/two/", recursive=True)
    ingest(f"{bucket}/one/dataset.yaml", f"{bucket}/data")
    manifest = ingest(f"{bucket}/two/dataset.yaml", f"{bucket}/data", append=True)
    assert manifest.fingerprint == load_manifest(uri).fingerprint
    one, two = read_panel(uri, shard=(0, 2)), read_panel(f"{bucket}/data", shard=(0, 2))
    assert np.array_equal(one.sales, two.sales)
    assert describe(f"{bucket}/data")["regions"]["count"] == 5
    broken = raw.copy()
    broken.tables["sales"].loc[3, "units"] = np.inf
    with pytest.raises(DataError, match="infinite"):
        ingest(broken.write(tmp_path / "three"), f"{bucket}/new")
    assert not fs.exists("shops/new")


# --- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "total"),
    [
        ("rossmann", (1115, 942, 1), 5_873_180_623),
        ("favorita_transactions", (54, 1688, 1), 141_478_945),
        ("walmart_weekly", (45, 182, 81), 6_737_218_987.11),
        ("dominicks_orangejuice", (83, 121, 11), None),
        ("uci_online_retail", (38, 374, 1), None),
    ],
)
def test_real_data_keeps_its_published_sums(
    real_data: Path, tmp_path: Path, name: str, shape: tuple[int, int, int], total: float | None
) -> None:
    ingest(real_data / name / "dataset.yaml", str(tmp_path / name))
    panel = read_panel(str(tmp_path / name))
    assert panel.shape == shape
    if total is not None:
        assert float(panel.sales.double().sum()) == pytest.approx(total, rel=1e-7)


def test_covariates_by_item_and_values_from_two_tables(raw: RawTables, tmp_path: Path) -> None:
    copy = raw.copy()
    days = pd.date_range(DAYS[0], periods=60)
    costs = pd.MultiIndex.from_product([ITEMS, days], names=["item", "day"]).to_frame(index=False)
    costs["cost"] = np.arange(len(costs)) / 10
    copy.tables["costs"] = costs
    # the shop table knows what was open, a plan by state and item knows what will be
    opening = pd.MultiIndex.from_product([["north"], days], names=["state", "day"]).to_frame(index=False)
    copy.tables["opening"] = opening.assign(open=1)
    copy.tables["sales"] = copy.tables["sales"][copy.tables["sales"]["day"] <= LAST_SALE]
    copy.spec["tables"]["covariates"] += [
        {"path": "costs", "keys": ["item", "day"], "known": ["cost"]},
        {"path": "opening", "keys": ["state", "day"], "known": ["open"]},
    ]
    manifest = ingest(copy.write(tmp_path / "raw"), str(tmp_path / "data"))
    assert manifest.column("open").tables == ["sales", "covariates-3"]
    panel = read_panel(str(tmp_path / "data"))
    assert len(panel.dates) == 60
    for g, item in enumerate(ITEMS):
        cost = panel.known[:, :, panel.known_names.index(f"cost@{item}")].numpy()
        assert np.allclose(cost, (np.arange(60) + 60 * g) / 10)
    opened = panel.known[:, :, panel.known_names.index("open")].numpy()
    sunday = panel.index_of("2021-01-24")
    assert opened[0, sunday] == 0  # what the shop says counts before what the state says
    assert opened[0, 40:].tolist() == [1.0] * 20
    assert np.isnan(opened[1, 40:]).all()


def test_months_and_a_known_column_of_the_calendar_everywhere(tmp_path: Path) -> None:
    months = pd.date_range("2019-01-31", periods=30, freq=pd.offsets.MonthEnd())
    sales = pd.DataFrame({"r": "a", "d": months, "y": np.arange(30.0)})
    calendar = pd.DataFrame({"d": months[[11, 23]], "season": [1, 2], "event": ["Xmas", "Xmas"]})
    raw = RawTables(
        {"sales": sales, "calendar": calendar},
        {
            "frequency": "M",
            "tables": {
                "sales": {"path": "sales", "region": "r", "date": "d", "target": "y"},
                "calendar": {"path": "calendar", "date": "d", "events": ["event"], "known": ["season"]},
            },
        },
    )
    ingest(raw.write(tmp_path / "raw", "csv"), str(tmp_path / "data"))
    panel = read_panel(str(tmp_path / "data"), end="2021-12-31")
    assert panel.sales[0, :, 0].tolist() == [*range(30), *[0] * 6]
    assert panel.known_names == ("season",)
    season = panel.known[0, :, 0].numpy()
    assert season[11] == 1
    assert season[23] == 2
    assert (np.delete(season[11:24], [0, 12]) == 0).all()  # between the table's first and last row nothing is special
    assert np.isnan(season[30:]).all()
    assert np.flatnonzero(panel.day_type[0] == 1).tolist() == [11, 23]
