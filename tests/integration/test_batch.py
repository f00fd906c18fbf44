"""Batch forecasts in a folder of parts: the same as one file, gone on with after a death, on Ray, on object storage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs import batch
from jobs import forecast as job
from jobs.batch import Batch
from jobs.cli import run
from stmp.errors import ConfigError, DataError
from stmp.forecaster import Forecaster
from stmp_platform.dataset import ingest, load_manifest
from stmp_platform.dataset.sources.prepare import prepare_source
from stmp_platform.files import Folder
from stmp_platform.forecast_id import ForecastId
from stmp_platform.monitoring.log import read_log
from tests.serving import HORIZON, whole_panel

KEY = ["region", "series", "date"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PART_REGIONS", 5)


@pytest.fixture(scope="module")
def one_file(shop: str, first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return what `stmp forecast` writes into one file."""
    out = str(tmp_path_factory.mktemp("one") / "f.parquet")
    job.forecast(shop, str(first_model), out)
    return pd.read_parquet(out).sort_values(KEY, ignore_index=True)


def in_order(path: str) -> pd.DataFrame:
    return pd.read_parquet(path).sort_values(KEY, ignore_index=True)


def test_parts_on_ray_are_the_one_file(
    ray_here: None, shop: str, first_model: Path, one_file: pd.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "forecasts"
    job.forecast(shop, str(first_model), f"{out}/", workers=2)
    assert sorted(p.name for p in out.iterdir() if p.name.startswith("part-")) == [
        "part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(in_order(str(out)), one_file, rtol=1e-5)
    told = json.loads((out / "_SUCCESS").read_text())
    assert sum(told["files"].values()) == told["rows"] == len(one_file)
    identity = ForecastId.parse(told["forecast_id"])
    assert set(one_file["forecast_id"]) == {str(identity)}
    assert identity.version == told["model_version"] == str(first_model)
    assert told["dataset_fingerprint"].startswith(identity.data)
    assert len(read_log(str(out))[0]) == len(one_file), "the monitor reads the folder"


def test_an_error_of_a_task_is_the_error_of_the_job(
    ray_here: None, shop: str, first_model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(shop, copy)
    for file in copy.rglob("sales/*.parquet"):
        file.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read") as error:
        job.forecast(str(copy), str(first_model), f"{tmp_path}/f/", workers=2)
    assert "Traceback" not in str(error.value)


def test_parts_are_of_one_state_of_the_dataset(
    shop: str, first_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ingest between two parts would shift which regions each holds."""
    data, other = tmp_path / "data", tmp_path / "other"
    shutil.copytree(shop, data)
    spec = prepare_source("synthetic", tmp_path / "raw", regions=20, years=1.2, seed=4)
    ingest(str(spec), str(other))
    part = Batch.part

    def meanwhile(self: Batch, forecaster: Any, shard: int) -> tuple[pd.DataFrame, dict[str, str]]:
        made = part(self, forecaster, shard)
        shutil.rmtree(data)
        shutil.copytree(other, data)
        return made

    monkeypatch.setattr(Batch, "part", meanwhile)
    with pytest.raises(DataError, match="has changed since this forecast began"):
        job.forecast(str(data), str(first_model), f"{tmp_path}/f/")
    assert not (tmp_path / "f" / "_SUCCESS").exists()


@pytest.mark.parametrize("storage", ["disk", "objects"])
def test_a_forecast_that_died_goes_on_and_is_made_once(
    shop: str,
    first_model: Path,
    second_model: Path,
    one_file: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    storage: str,
) -> None:
    out = str(tmp_path / "f") if storage == "disk" else f"memory://{tmp_path.name}"
    whole, made = Batch.part, list[int]()

    def dying(self: Batch, forecaster: Any, shard: int) -> tuple[pd.DataFrame, dict[str, str]]:
        if shard == 2 and 2 not in made:
            made.append(shard)
            raise KeyboardInterrupt
        made.append(shard)
        return whole(self, forecaster, shard)

    monkeypatch.setattr(Batch, "part", dying)
    with pytest.raises(KeyboardInterrupt):
        job.forecast(shop, str(first_model), f"{out}/")
    folder = Folder(out)
    assert folder.exists("part-00001.parquet") and not folder.exists("_SUCCESS")
    with pytest.raises(ConfigError, match="another forecast: forecast_id was"):
        job.forecast(shop, str(second_model), f"{out}/")
    for _ in range(2):
        assert job.forecast(shop, str(first_model), f"{out}/")["rows"] == len(one_file)
    assert made == [0, 1, 2, 2], "what was there is not made again"
    frames = [pd.read_parquet(folder.fs.open(f"{folder.path}/part-{i:05d}.parquet")) for i in range(3)]
    pd.testing.assert_frame_equal(
        pd.concat(frames).sort_values(KEY, ignore_index=True), one_file, check_exact=False, rtol=1e-5
    )


def test_the_last_day_knows_what_follows_it(shop: str, first_model: Path, tmp_path: Path) -> None:
    """A day is read with its neighbours: each is forecast as where the data go on, and no day more."""
    panel, out = whole_panel(shop), str(tmp_path / "f.parquet")
    at = panel.index_of(panel.last_observed) - HORIZON - 1
    origin = str(panel.dates[at])
    job.forecast(shop, str(first_model), out, origin=origin)
    model = Forecaster.load(first_model).with_version(str(first_model))
    whole = model.predict(panel, origin, HORIZON)
    table = whole.to_frame().sort_values(KEY, ignore_index=True)
    pd.testing.assert_frame_equal(in_order(out)[table.columns], table, check_dtype=False, rtol=1e-5)
    cut = model.predict(panel.window(0, at + 1 + HORIZON), origin, HORIZON)
    assert np.abs(cut.mean - whole.mean)[:, -1].max() > 0.1, "nothing follows that a forecast would mind"


@pytest.fixture(scope="module")
def half_planned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a city of twelve regions, where plans are unknown of one of the first five and of all the next five."""
    folder = tmp_path_factory.mktemp("half")
    spec = Path(prepare_source("synthetic", folder / "raw", regions=12, years=1.2, seed=3, future_days=HORIZON))
    sales = pd.read_parquet(spec.parent / "sales.parquet")
    late = sales["sales"].isna() & (sales["date"] > sales.loc[sales["sales"].notna(), "date"].max())
    sales[~(late & sales["region_id"].isin(UNPLANNED))].to_parquet(spec.parent / "sales.parquet")
    ingest(str(spec), str(folder / "data"))
    return str(folder / "data")


UNPLANNED = ["R000002", *(f"R{number:06d}" for number in range(5, 10))]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_regions_of_unknown_plans_are_listed_and_the_others_forecast(
    ray_here: None,
    half_planned: str,
    first_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    workers: str,
) -> None:
    out, asked = f"{tmp_path}/f/", ["forecast", "--data", half_planned, "--model", str(first_model), "--out"]
    for _ in range(2):
        assert run([*asked, out, "--workers", workers, "--json", str(tmp_path / "told.json")]) == 3
        told = capsys.readouterr()
        assert "of 6 of 12 regions" in told.out
        assert "6 of 12 regions could not be forecast (R000002: no value of promo, price, open for 10 d" in told.err
        assert "--known FILE" in told.err and f"are in {out}_SUCCESS" in told.err
    missing = json.loads(Path(out, "_SUCCESS").read_text())["missing"]
    assert list(missing) == UNPLANNED and json.loads((tmp_path / "told.json").read_text())["missing"] == missing
    others = sorted({f"R{number:06d}" for number in range(12)} - set(UNPLANNED))
    job.forecast(half_planned, str(first_model), str(tmp_path / "f.parquet"), regions=others)
    pd.testing.assert_frame_equal(in_order(out), in_order(str(tmp_path / "f.parquet")), rtol=1e-5)
    assert len(read_log(out)[0]) == len(in_order(out)), "a part without any row hides no other"


def test_a_file_lacks_no_region(half_planned: str, first_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in 1 of 2 rows, such as R000002"):
        job.forecast(half_planned, str(first_model), str(tmp_path / "f.csv"), regions=["R000001", "R000002"])
    assert not list(tmp_path.iterdir())


def test_plans_of_the_day_after_are_not_asked_for(half_planned: str, first_model: Path, tmp_path: Path) -> None:
    """They are read where they are there, in the dataset or in a table, whose last row may lack values."""
    days = pd.date_range(load_manifest(half_planned).last_sales_date, periods=HORIZON + 2)[1:]
    means = []
    for promo, price in ((0.0, 2.0), (1.0, 2.0), (1.0, None)):
        plans = pd.DataFrame({"date": days, "promo": 0.0, "price": 2.0, "open": 1.0})
        plans.loc[HORIZON, ["promo", "price"]] = promo, price
        plans.to_csv(tmp_path / "known.csv", index=False)
        told = job.forecast(half_planned, str(first_model), f"{tmp_path}/f/", known=str(tmp_path / "known.csv"),
                            replace=True)  # fmt: skip
        assert not told["missing"]
        means.append(in_order(f"{tmp_path}/f/").pivot(index="region", columns="date", values="mean").to_numpy())
    usual, promoted, unknown = means
    assert usual.shape == (12, HORIZON)
    np.testing.assert_allclose(promoted[:, :-1], usual[:, :-1], rtol=1e-5)
    assert (np.abs(promoted[:, -1] - usual[:, -1]) > 1e-4 * usual[:, -1]).any()
    np.testing.assert_allclose(unknown, usual, rtol=1e-5)  # it counts as a day like the last


def test_where_no_region_can_be_forecast_nothing_is_left_in_the_way(
    half_planned: str, first_model: Path, tmp_path: Path
) -> None:
    out = f"{tmp_path}/f/"
    with pytest.raises(DataError, match=r"Nothing was forecast. 2 of 2 regions .*R000005: no value"):
        job.forecast(half_planned, str(first_model), out, regions=UNPLANNED[:2])
    assert not list(Path(out).iterdir())
    assert job.forecast(half_planned, str(first_model), out, regions=["R000001"])["missing"] == {}


def test_another_forecast_is_replaced_only_where_that_is_asked_for(
    shop: str, first_model: Path, second_model: Path, tmp_path: Path
) -> None:
    out = f"{tmp_path}/f/"
    job.forecast(shop, str(first_model), out)
    with pytest.raises(ConfigError, match="another forecast"):
        job.forecast(shop, str(second_model), out, regions=["R000001"])
    job.forecast(shop, str(second_model), out, regions=["R000001"], replace=True)
    assert set(in_order(out)["region"]) == {"R000001"}


def test_regions_can_be_chosen(shop: str, first_model: Path, one_file: pd.DataFrame, tmp_path: Path) -> None:
    some = ["R000003", "R000007"]
    job.forecast(shop, str(first_model), str(tmp_path / "f.parquet"), regions=some)
    wanted = one_file[one_file["region"].isin(some)].reset_index(drop=True)
    pd.testing.assert_frame_equal(in_order(str(tmp_path / "f.parquet")), wanted, rtol=1e-5)


def test_totals_are_added_to_a_file_and_to_a_folder(
    shop: str, first_model: Path, one_file: pd.DataFrame, tmp_path: Path
) -> None:
    told = job.forecast(shop, str(first_model), str(tmp_path / "f.parquet"), totals=["district"])
    frame = in_order(str(tmp_path / "f.parquet"))
    is_total = frame["region"].isin(told["totals"])
    pd.testing.assert_frame_equal(frame[~is_total].reset_index(drop=True), one_file, rtol=1e-5)
    assert set(frame["region"][is_total]) == set(told["totals"]) > {"total"}
    assert set(told["shared"]) == {"total", "district"}
    sums = one_file.groupby("date")["mean"].sum()
    for chosen in (frame["region"] == "total", frame["region"].str.startswith("district=")):
        np.testing.assert_allclose(frame[chosen].groupby("date")["mean"].sum(), sums, rtol=1e-5)
    wide = one_file.groupby("date")[["q0.1", "q0.9"]].sum().diff(axis=1)["q0.9"]
    total = frame[frame["region"] == "total"].set_index("date")
    assert ((total["q0.9"] - total["q0.1"]) < 1.1 * wide).all()
    assert set(frame["forecast_id"]) == set(one_file["forecast_id"])

    out = tmp_path / "parts"
    for _ in range(2):  # the second finds it finished
        job.forecast(shop, str(first_model), f"{out}/", totals=["district"])
    pd.testing.assert_frame_equal(in_order(str(out)), frame, rtol=1e-5)
    assert json.loads((out / "_SUCCESS").read_text())["files"]["part-totals.parquet"] == is_total.sum()
    with pytest.raises(ConfigError, match=r"totals was \['district'\], now None"):
        job.forecast(shop, str(first_model), f"{out}/")


def test_totals_of_chosen_regions_and_by_no_such_column(shop: str, first_model: Path, tmp_path: Path) -> None:
    some = ["R000003", "R000007"]
    told = job.forecast(shop, str(first_model), str(tmp_path / "f.csv"), regions=some, totals=[])
    frame = pd.read_csv(tmp_path / "f.csv").pivot(index="date", columns="region", values="mean")
    assert told["totals"] == ("total",)
    np.testing.assert_allclose(frame["total"], frame[some].sum(axis=1), rtol=1e-5)
    with pytest.raises(ConfigError, match="no columns \\['planet'\\]"):
        job.forecast(shop, str(first_model), str(tmp_path / "g.csv"), totals=["planet"])
    assert not (tmp_path / "g.csv").exists()


def test_there_are_no_totals_of_regions_that_are_missing(
    half_planned: str, first_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = job.forecast(half_planned, str(first_model), f"{tmp_path}/f/", totals=[])
    assert list(told["missing"]) == UNPLANNED and "totals" not in told
    assert "no totals without them" in " ".join("".join(capsys.readouterr()).split())
    assert not (tmp_path / "f" / "part-totals.parquet").exists()


def test_workers_need_a_folder(shop: str, first_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a folder"):
        job.forecast(shop, str(first_model), str(tmp_path / "f.parquet"), workers=2)


def test_ids_are_read_as_they_are_written() -> None:
    for text in ("stores/3:1a2b3c4d5e6f:2025-01-31", "s3://b/run:1a2b:2025-01-31+17"):
        assert str(ForecastId.parse(text)) == text
    assert ForecastId.parse("s3://b/run:1a2b:2025-01-31+17").version == "s3://b/run"
    with pytest.raises(ConfigError, match="no forecast's id"):
        ForecastId.parse("stores/3")
