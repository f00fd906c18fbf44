"""Appending: new days and regions join a dataset, contradictions are refused, all is as if ingested at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stmp.errors import ConfigError, DataError
from stmp_platform.dataset import generations, ingest, load_manifest, read_panel
from stmp_platform.dataset.manifest import Manifest
from stmp_platform.files import Folder
from tests.raw_tables import DAYS, LAST_SALE, RawTables, shops

ingesting = importlib.import_module("stmp_platform.dataset.ingest")  # the package's name for it is the function's


@pytest.fixture(scope="module")
def raw() -> RawTables:
    return shops()


@pytest.fixture(scope="module")
def whole(raw: RawTables, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("whole")
    return ingest(raw.write(folder / "raw"), str(folder / "data"))


def _append(part: RawTables, tmp_path: Path, name: str, suffix: str = "parquet", revise: bool = False) -> Manifest:
    return ingest(part.write(tmp_path / name, suffix), str(tmp_path / "data"), append=True, revise=revise)


def _begin(part: RawTables, tmp_path: Path) -> Manifest:
    return ingest(part.write(tmp_path / "first"), str(tmp_path / "data"))


def _same_data(one: Manifest, two: Manifest) -> None:
    """All that is said of the data is the same; where files lie and when they were written may differ."""
    ignored = {
        "created_at",
        "data",
        "source",
        "spec",
        "tables",
        "warnings",
        "regions_file",
        "defaults_file",
        "replaces",
    }
    assert one.model_dump(exclude=ignored) == two.model_dump(exclude=ignored)
    told = [[fault.what for fault in manifest.warnings if "negative" not in fault.what] for manifest in (one, two)]
    assert told[0] == told[1]


def test_days_appended_one_by_one_are_as_if_ingested_at_once(raw: RawTables, whole: Manifest, tmp_path: Path) -> None:
    first = _begin(raw.until(DAYS[20]), tmp_path)
    assert first.fingerprint != whole.fingerprint
    cuts = [DAYS[20], DAYS[21], DAYS[33], DAYS[-1]]
    for number, (before, last) in enumerate(pairwise(cuts)):
        part = raw.until(last, before + pd.Timedelta(days=1))
        manifest = _append(part, tmp_path, f"next{number}", "csv" if number == 1 else "parquet")
    assert manifest.fingerprint == whole.fingerprint
    _same_data(manifest, whole)


def test_rows_delivered_again_are_passed_over(raw: RawTables, whole: Manifest, tmp_path: Path) -> None:
    _begin(raw.until(DAYS[30]), tmp_path)
    manifest = _append(raw, tmp_path, "all of it again")
    _same_data(manifest, whole)
    assert manifest.fingerprint == whole.fingerprint
    assert _append(raw, tmp_path, "and again").fingerprint == whole.fingerprint


def test_new_regions_and_series_find_their_place(raw: RawTables, whole: Manifest, tmp_path: Path) -> None:
    part = raw.until(DAYS[25])
    sales, regions = part.tables["sales"], part.tables["regions"]
    part.tables["sales"] = sales[~sales["shop"].isin(["2", "10"]) & (sales["item"] == "pears")]
    part.tables["regions"] = regions[~regions["shop"].isin(["2", "10"])]
    part.tables["plans"] = part.tables["plans"][part.tables["plans"]["shop"] == "1"]
    first = _begin(part, tmp_path)
    assert first.regions == 3
    assert first.series == ["pears"]
    manifest = _append(raw, tmp_path, "rest")
    assert manifest.fingerprint == whole.fingerprint
    _same_data(manifest, whole)


def test_contradictions_are_refused_and_listed(raw: RawTables, tmp_path: Path) -> None:
    before = _begin(raw, tmp_path)
    other = raw.copy()
    sales = other.tables["sales"]
    at = sales.index[(sales["shop"] == "10") & (sales["item"] == "pears") & (sales["day"] == "2021-02-09")][0]
    old = sales.loc[at, "units"]
    sales.loc[at, "units"] = old + 7
    sales.loc[at + 3, "price"] = 99
    other.tables["weather"].loc[2, "rain"] = 1234.0
    with pytest.raises(DataError) as caught:
        _append(other, tmp_path, "other")
    told = str(caught.value)
    assert "sales: 2 rows contradict what the dataset holds" in told
    assert f"{{region: 10, series: pears, date: 2021-02-09, units: {old} in the dataset, now {old + 7}}}" in told
    assert "covariates[0]: 1 rows contradict" in told
    assert "now 1234.0" in told
    assert "--revise" in told
    assert load_manifest(str(tmp_path / "data")) == before
    assert len(read_panel(str(tmp_path / "data")).regions) == 5


def test_revising_is_as_if_ingested_that_way(raw: RawTables, tmp_path: Path) -> None:
    _begin(raw.until(DAYS[35]), tmp_path)
    other = raw.copy()
    other.tables["sales"].loc[5:9, "units"] += 3
    other.tables["weather"].loc[2, "rain"] = 1234.0
    other.tables["regions"].loc[0, "area"] = 5.0
    revised = _append(other, tmp_path, "other", revise=True)
    at_once = ingest(other.write(tmp_path / "at once"), str(tmp_path / "at-once"))
    assert revised.fingerprint == at_once.fingerprint
    _same_data(revised, at_once)


def test_changed_features_of_a_region_are_refused(raw: RawTables, tmp_path: Path) -> None:
    _begin(raw, tmp_path)
    other = raw.copy()
    other.tables["regions"].loc[0, "area"] = 5.0
    other.tables["regions"].loc[1, "kind"] = "z"
    with pytest.raises(DataError) as caught:
        _append(other, tmp_path, "other")
    assert "regions.area: 1 regions have another value" in str(caught.value)
    assert "{region: 1, in dataset: 120.0, new: 5.0}" in str(caught.value)
    assert "regions.kind: 1 regions" in str(caught.value)


def test_plans_may_change_until_they_are_sold(raw: RawTables, whole: Manifest, tmp_path: Path) -> None:
    early = raw.until(DAYS[34])
    sales = early.tables["sales"]
    planned = sales["day"] > DAYS[30]
    sales.loc[planned, ["units", "visitors"]] = np.nan
    sales.loc[planned, "price"] = 77.0  # another price was planned then
    early.tables["weather"].loc[early.tables["weather"]["day"] > DAYS[30], "forecast"] = -9.0
    first = _begin(early, tmp_path)
    assert first.last_sales_date == str(DAYS[30].date())
    manifest = _append(raw.until(DAYS[-1], DAYS[31]), tmp_path, "later")
    assert manifest.fingerprint == whole.fingerprint


def test_duplicates_among_new_rows_are_no_repetition(raw: RawTables, tmp_path: Path) -> None:
    _begin(raw.until(DAYS[20]), tmp_path)
    part = raw.until(DAYS[30], DAYS[21])
    part.tables["sales"] = pd.concat([part.tables["sales"], part.tables["sales"].head(2)])
    with pytest.raises(DataError, match="4 rows share their keys and date"):
        _append(part, tmp_path, "double")


def test_appending_needs_the_same_meaning(raw: RawTables, tmp_path: Path) -> None:
    _begin(raw.until(DAYS[20]), tmp_path)
    part = raw.until(DAYS[30], DAYS[21])
    part.spec["day_types"]["weekend"] = ["sunday"]
    part.spec["tables"]["sales"]["known"].remove("deal")
    part.spec["units"] = {"units": "boxes"}  # says nothing about the numbers
    with pytest.raises(ConfigError, match=r"another tables\.sales, day_types"):
        _append(part, tmp_path, "other")


def test_appending_needs_a_dataset(raw: RawTables, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no dataset"):
        ingest(raw.write(tmp_path / "raw"), str(tmp_path / "none"), append=True)
    with pytest.raises(ConfigError, match="together with append"):
        ingest(raw.write(tmp_path / "raw"), str(tmp_path / "none"), revise=True)


def test_appending_days_of_few_regions_and_a_text_column_of_numbers(raw: RawTables, tmp_path: Path) -> None:
    copy = raw.until(LAST_SALE)
    copy.tables["sales"]["deal"] = copy.tables["sales"]["deal"].replace({"leaflet": "1", "online": "2"})
    at_once = ingest(copy.write(tmp_path / "at once"), str(tmp_path / "at-once"))
    _begin(copy.until(DAYS[33]), tmp_path)
    part = copy.until(DAYS[39], DAYS[34])
    # a delivery without a "none" looks like numbers
    numbers = part.copy()
    numbers.tables["sales"] = part.tables["sales"][part.tables["sales"]["deal"] != "none"]
    _append(numbers, tmp_path, "numbers", "csv")
    manifest = _append(part, tmp_path, "rest", "csv")
    assert manifest.column("deal").kind == "text"
    assert manifest.fingerprint == at_once.fingerprint


# --- several at once -----------------------------------------------------------------------------------------------


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """What is done when the next ingest has written its files, and before they become the dataset."""

    def then(work: Callable[[], object]) -> None:
        def late(*arguments: Any) -> Any:
            monkeypatch.setattr(ingesting, "publish", generations.publish)
            work()
            return generations.publish(*arguments)

        monkeypatch.setattr(ingesting, "publish", late)

    return then


def test_of_two_who_append_at_once_the_later_one_is_refused(
    raw: RawTables, tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    _begin(raw.until(DAYS[20]), tmp_path)
    meanwhile(lambda: _append(raw.until(DAYS[21], DAYS[21]), tmp_path, "first to end"))
    with pytest.raises(DataError, match=r"changed by another ingest while this one was at work.*run it again"):
        _append(raw.until(DAYS[22], DAYS[21]), tmp_path, "too late")
    there = load_manifest(str(tmp_path / "data"))
    assert there.last_sales_date == str(DAYS[21].date()), "what the first has written is not lost"
    assert len(read_panel(str(tmp_path / "data")).regions) == there.regions
    assert sorted(p.name for p in (tmp_path / "data" / "data").iterdir()) == sorted(
        Path(name).name for name in (there.data, there.replaces or "")
    )
    again = _append(raw.until(DAYS[22], DAYS[22]), tmp_path, "again")
    assert again.last_sales_date == str(DAYS[22].date())


def test_of_two_who_write_it_anew_both_do(
    raw: RawTables, tmp_path: Path, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    _begin(raw.until(DAYS[20]), tmp_path)
    meanwhile(lambda: _begin(raw.until(DAYS[25]), tmp_path))
    last = _begin(raw.until(DAYS[22]), tmp_path)
    assert load_manifest(str(tmp_path / "data")) == last
    assert len(read_panel(str(tmp_path / "data")).regions) == last.regions
    assert len(list((tmp_path / "data" / "data").iterdir())) == 2


def test_what_a_process_wrote_that_died_before_the_manifest_is_gone_on_from(raw: RawTables, tmp_path: Path) -> None:
    manifest = tmp_path / "data" / "manifest.json"
    _begin(raw.until(DAYS[20]), tmp_path)
    before = manifest.read_bytes()
    _append(raw.until(DAYS[21], DAYS[21]), tmp_path, "killed")
    manifest.write_bytes(before)  # as if it had died just before
    found = _append(raw.until(DAYS[22], DAYS[22]), tmp_path, "next")
    assert found.last_sales_date == str(DAYS[22].date())
    dates = read_panel(str(tmp_path / "data")).observed.any(dim=2).any(dim=0)
    assert dates[20:23].all()


def test_what_a_dead_ingest_left_goes_after_a_week(raw: RawTables, tmp_path: Path) -> None:
    _begin(raw.until(DAYS[20]), tmp_path)
    for stamp in ("20200101T000000", f"{datetime.now(UTC):{generations.STAMP}}"):
        (tmp_path / "data" / "data" / f"{stamp}-0000").mkdir()
    _begin(raw.until(DAYS[20]), tmp_path)
    assert [p.name[:8] for p in (tmp_path / "data" / "data").glob("*-0000")] == [f"{datetime.now(UTC):%Y%m%d}"]


def test_a_dataset_stays_where_what_is_old_cannot_be_removed(
    raw: RawTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        _begin(raw.until(DAYS[20]), tmp_path)

    remove, refused = Folder.remove_folder, list[str]()

    def refuse_once(self: Folder, name: str) -> None:
        if refused:
            remove(self, name)
            return
        refused.append(name)
        raise PermissionError(name)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove_folder", refuse_once)
        with pytest.raises(PermissionError):
            _append(raw.until(DAYS[21], DAYS[21]), tmp_path, "next")
    assert load_manifest(str(tmp_path / "data")).last_sales_date == str(DAYS[21].date())
    assert read_panel(str(tmp_path / "data")).observed.any(dim=2).any(dim=0)[21]


@pytest.mark.parametrize("lost", ["manifest.json", generations.SUCCESSOR])
@pytest.mark.parametrize("error", [OSError("no answer"), KeyboardInterrupt()], ids=repr)
def test_what_was_written_stays_where_only_the_answer_was_lost(
    raw: RawTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, error: BaseException
) -> None:
    """The dataset is readable afterwards, and the next ingest goes on from it."""
    _begin(raw.until(DAYS[20]), tmp_path)

    def unanswered(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Folder, name: str, data: bytes) -> Any:
            answer = real(self, name, data)
            if name.endswith(lost):
                raise error
            return answer

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", unanswered(Folder.write))
        patch.setattr(Folder, "create", unanswered(Folder.create))
        with pytest.raises(type(error)):
            _append(raw.until(DAYS[21], DAYS[21]), tmp_path, "unanswered")
    assert len(read_panel(str(tmp_path / "data")).regions) > 0
    _append(raw.until(DAYS[22], DAYS[22]), tmp_path, "next")
    dates = read_panel(str(tmp_path / "data")).observed.any(dim=2).any(dim=0)
    assert dates[20:23].all(), "and so is what the first of them has written"


def test_a_damaged_successor_is_told_and_can_be_written_over(raw: RawTables, tmp_path: Path) -> None:
    first = _begin(raw.until(DAYS[20]), tmp_path)
    (tmp_path / "data" / first.data / generations.SUCCESSOR).write_text("{")
    with pytest.raises(DataError, match=r"successor\.json is corrupt"):
        _append(raw.until(DAYS[21], DAYS[21]), tmp_path, "next")
    assert _begin(raw.until(DAYS[22]), tmp_path) == load_manifest(str(tmp_path / "data"))
