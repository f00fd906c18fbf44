"""The registry: what is registered, what a reference means, and that a fresh process can forecast with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stmp import Config, Forecaster, Panel, train
from stmp.errors import ConfigError, DataError, RegistryError
from stmp_platform import registry
from stmp_platform.files import Folder
from stmp_platform.frames import frame_of, panel_of
from stmp_platform.pyfunc import ForecastFunction, example_of
from stmp_platform.settings import Settings
from stmp_platform.tracking import Tracker, sync
from tests.servers import MlflowServer, free_port

ORIGIN = "2023-07-05"
TINY = {
    "model": {
        "horizon": 7, "context": 28, "hidden": 8, "psi_size": 4, "heads": 2, "level_window": 14, "skip_periods": [7],
    },
    "train": {"max_steps": 2, "batch_regions": 4, "queries": 4, "supports": 8, "supports_forecast": 50, "ema": 0.0},
    "validation": {"periods": 7, "regions": 0.25},
}  # fmt: skip


def make_panel(series: tuple[str, ...] = ("bakery", "dairy")) -> Panel:
    """Four regions over 200 days, of which the last 14 have covariates only."""
    rng = np.random.default_rng(0)
    dates = pd.date_range("2023-01-01", periods=200)
    parts = []
    for region in range(4):
        for name in series:
            promo = (rng.random(200) < 0.2).astype(float)
            sales = rng.poisson(20 * (1 + 0.5 * promo)).astype(float)
            customers = rng.poisson(50, 200).astype(float)
            parts.append(
                pd.DataFrame(
                    {
                        "region": f"r{region}",
                        "series": name,
                        "date": dates,
                        "sales": np.where(dates <= ORIGIN, sales, np.nan),
                        "promo": promo,
                        "customers": customers,
                        "shut": (dates.dayofweek == 6) & (region == 3),
                    }
                )
            )
    events = pd.DataFrame({"date": pd.to_datetime(["2023-02-14", "2023-07-09"]), "event": ["valentine", "fair"]})
    static = pd.DataFrame({"region": [f"r{i}" for i in range(4)], "size": [1.0, 2, 3, np.nan], "kind": list("xyxy")})
    return Panel.from_frame(
        pd.concat(parts, ignore_index=True),
        region="region", date="date", target="sales", series="series" if len(series) > 1 else None,
        past=["customers"], known=["promo"], static=static, events=events, closed="shut",
    )  # fmt: skip


@pytest.fixture(scope="module")
def panel() -> Panel:
    return make_panel()


@pytest.fixture(scope="module")
def forecaster(panel: Panel) -> Forecaster:
    return train(panel, Config.from_mapping(TINY))


@pytest.fixture(scope="module")
def model(forecaster: Forecaster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    forecaster.save(folder)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    return Settings.from_env(env={"STMP_HOME": str(home), "STMP_CACHE": str(home / "cache")})


@pytest.fixture(scope="module")
def registered(model: Path, settings: Settings) -> registry.Version:
    return registry.register(
        model, "stores", tags={"stmp.dataset_fingerprint": "f00d"}, metrics={"validation/wape": 0.25}, settings=settings
    )


# Tables and panels


@pytest.mark.parametrize("series", [("bakery", "dairy"), ("sales",)])
@pytest.mark.parametrize("mode", ["split", "joint"])
def test_a_table_gives_the_same_forecast_as_the_panel_it_came_from(series: tuple[str, ...], mode: str) -> None:
    panel = make_panel(series)
    forecaster = train(panel, Config.from_mapping({**TINY, "model": {**TINY["model"], "series": mode}}))
    expected = forecaster.predict(panel, ORIGIN, 7).to_frame()
    table = frame_of(panel).sample(frac=1, random_state=0)  # the order of rows means nothing
    got = ForecastFunction(forecaster).predict(table, {"horizon": 7, "origin": ORIGIN})
    pd.testing.assert_frame_equal(got, expected)
    assert (got.loc[(got["region"] == "r3") & (got["date"] == "2023-07-09"), "mean"] == 0).all()  # closed
    assert len(ForecastFunction(forecaster).predict(table)) == 2 * len(expected)  # as far as the rows go: 14 days


def test_holidays_may_be_given_by_name_on_their_date(panel: Panel, forecaster: Forecaster) -> None:
    full = frame_of(panel)
    simple = full.drop(columns=["day_type", "event_offset", "days_to_event", "days_since_event"])
    simple["event"] = full["event"].where(full["event_offset"] == 0, "")
    again = panel_of(simple, forecaster.schema)
    assert again.calendar.day_types == panel.calendar.day_types
    assert (again.day_type == panel.day_type).all()
    assert (again.calendar.days_to[0] == panel.calendar.days_to[0]).all()
    assert (again.calendar.offset[0] == panel.calendar.offset[0]).all()


def test_one_hot_features_may_be_given_as_text(panel: Panel, forecaster: Forecaster) -> None:
    full = frame_of(panel)
    texts = full.drop(columns=["kind=x", "kind=y"]).assign(kind=np.where(full["kind=x"] == 1, "x", "y"))
    assert panel_of(texts, forecaster.schema).static.nan_to_num(-1).equal(panel.static.nan_to_num(-1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.drop(columns=["promo", "size"]), r"lacks the columns \['promo', 'size'\]"),
        (lambda f: pd.concat([f, f.iloc[[3]]]), "1 rows repeat a region, date and series, such as region r0"),
        (lambda f: f.assign(series="fish"), r"holds \['fish'\]; the model knows \['bakery', 'dairy'\]"),
        (lambda f: f.assign(sales=np.nan), "'sales' is empty in all"),
        (lambda f: f.assign(date="soon"), "not dates"),
        (lambda f: f.assign(day_type="carnival"), "holds .'carnival'.; the model knows"),
        (lambda f: f.iloc[:0], "has no rows"),
    ],
)
def test_unusable_tables_are_refused(forecaster: Forecaster, panel: Panel, spoil: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        panel_of(spoil(frame_of(panel)), forecaster.schema)  # type: ignore[operator]


# Versions


def test_a_version_holds_no_pickle_and_no_code(registered: registry.Version, settings: Settings, model: Path) -> None:
    folder = registry.resolve("models:/stores/1", settings)
    packaged = folder.parent.parent
    files = sorted(str(p.relative_to(packaged)) for p in packaged.rglob("*") if p.is_file())
    assert not [f for f in files if f.endswith((".pkl", ".pickle", ".joblib", ".pt", ".pth", ".py", ".bin"))]
    assert {"MLmodel", "data/model/forecaster.json", "data/model/weights.safetensors", "input_example.json"} <= set(
        files
    )
    for path in model.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert registered.version == "1"
    assert registered.aliases == ()
    requirements = (packaged / "requirements.txt").read_text()
    assert "torch==" in requirements


def test_a_fresh_process_forecasts_with_plain_mlflow(
    registered: registry.Version, settings: Settings, panel: Panel, forecaster: Forecaster, tmp_path: Path
) -> None:
    table = frame_of(panel)
    table["promo"] = table["promo"].astype(int)  # a table read from CSV has integers where values are whole
    table.to_parquet(tmp_path / "table.parquet")
    code = f"""
import mlflow, pandas as pd
mlflow.set_tracking_uri({settings.shown_uri!r})
model = mlflow.pyfunc.load_model("models:/stores/1")
table = pd.read_parquet({str(tmp_path / "table.parquet")!r})
model.predict(table, params={{"horizon": 7, "origin": {ORIGIN!r}}}).to_parquet({str(tmp_path / "got.parquet")!r})
assert len(model.predict(model.input_example)) == 2 * 2 * 7
assert len(model.predict(model.input_example, params={{"horizon": 3}})) == 2 * 2 * 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    got = pd.read_parquet(tmp_path / "got.parquet")
    expected = forecaster.predict(panel, ORIGIN, 7).to_frame()
    assert set(got["model_version"]) != {""}
    pd.testing.assert_frame_equal(
        got.drop(columns="model_version"), expected.drop(columns="model_version"), check_dtype=False
    )


def test_the_example_is_made_up_and_can_be_forecast(forecaster: Forecaster) -> None:
    example = example_of(forecaster)
    assert set(example["region"]) <= set(forecaster.trained_regions)
    assert len(ForecastFunction(forecaster).predict(example)) == 2 * 2 * 7
    pd.testing.assert_frame_equal(example, example_of(forecaster))


def test_the_same_model_is_registered_once(registered: registry.Version, settings: Settings, model: Path) -> None:
    assert registry.register(model, "stores", settings=settings).version == registered.version


def test_versions_are_listed_with_aliases_and_metrics(
    registered: registry.Version, settings: Settings, forecaster: Forecaster, tmp_path: Path
) -> None:
    forecaster.with_version("other").save(tmp_path / "model")
    second = registry.register(tmp_path / "model", "stores", settings=settings)
    assert second.version == "2"
    registry.set_alias("stores", "champion", 1, settings)
    newest, oldest = registry.list_versions("stores", settings)
    assert (newest.version, newest.aliases) == ("2", ())
    assert (oldest.version, oldest.aliases) == ("1", ("champion",))
    assert oldest.metrics == {"validation/wape": 0.25}
    assert oldest.dataset_fingerprint == "f00d"
    assert oldest.created is not None
    assert registry.get_alias("stores", "champion", settings) == "1"
    assert registry.resolve("models:/stores@champion", settings) == registry.resolve("models:/stores/1", settings)
    registry.set_alias("stores", "champion", 2, settings)
    assert registry.get_alias("stores", "champion", settings) == "2"
    assert len(registry.list_versions(settings=settings)) == 2


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("models:/shops/1", "no registered model 'shops'. Registered: stores"),
        ("models:/stores/99", "no version 99. It has: 1"),
        ("models:/stores@best", "no alias 'best'. It has: "),
        ("models:/shops@best", "no registered model 'shops'"),
    ],
)
def test_references_to_nothing_say_what_there_is(
    registered: registry.Version, settings: Settings, reference: str, message: str
) -> None:
    with pytest.raises(RegistryError, match=message):
        registry.resolve(reference, settings)


def test_aliases_are_checked(registered: registry.Version, settings: Settings) -> None:
    with pytest.raises(RegistryError, match="no version 99"):
        registry.set_alias("stores", "champion", 99, settings)
    for name in ("latest", "v1", "a b"):
        with pytest.raises(ConfigError, match="cannot be an alias"):
            registry.set_alias("stores", name, 1, settings)


@pytest.mark.parametrize("reference", ["models:/stores", "models:stores/1", "models:/stores/one", "models:/a/b/1"])
def test_other_forms_of_reference_are_refused(settings: Settings, reference: str) -> None:
    with pytest.raises(ConfigError, match="models:/name/version or models:/name@alias"):
        registry.resolve(reference, settings)


def test_folders_are_references_too(model: Path, settings: Settings, tmp_path: Path) -> None:
    assert registry.resolve(str(model), settings) == model
    assert registry.resolve(str(model.parent), settings) == model
    with pytest.raises(ConfigError, match="There is no folder"):
        registry.resolve(str(tmp_path / "nothing"), settings)
    with pytest.raises(ConfigError, match="holds no trained model"):
        registry.resolve(str(tmp_path), settings)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="Repeat its command"):
        registry.resolve(str(tmp_path), settings)


def test_a_model_on_object_storage_is_fetched_once(model: Path, settings: Settings) -> None:
    bucket = Folder("memory://bucket/run", settings)
    for path in model.iterdir():
        bucket.write(f"model/{path.name}", path.read_bytes())
    local = registry.resolve("memory://bucket/run", settings)
    assert local.is_relative_to(settings.cache)
    assert Forecaster.load(local).horizon == 7
    assert registry.resolve("memory://bucket/run/model", settings) == local
    bucket.write("model/forecaster.json", (model / "forecaster.json").read_bytes() + b"\n")
    assert registry.resolve("memory://bucket/run", settings) != local


def test_reading_makes_no_database(tmp_path: Path) -> None:
    nothing = Settings.from_env(env={"STMP_HOME": str(tmp_path)})
    assert registry.list_versions(settings=nothing) == []
    with pytest.raises(RegistryError, match="There is no registry at sqlite"):
        registry.resolve("models:/stores/1", nothing)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_server_is_told_in_seconds(model: Path) -> None:
    dead = Settings.from_env(f"http://127.0.0.1:{free_port()}", env={})
    for call in (
        lambda: registry.resolve("models:/stores/1", dead),
        lambda: registry.list_versions(settings=dead),
        lambda: registry.register(model, "stores", settings=dead),
    ):
        with pytest.raises(RegistryError, match="is the tracking server running"):
            call()


def test_files_that_vanished_are_told(registered: registry.Version, settings: Settings, model: Path) -> None:
    lost = registry.register(model, "lost", settings=settings)
    shutil.rmtree(registry.resolve(lost.uri, settings).parent.parent)
    with pytest.raises(RegistryError, match="its files are not at"):
        registry.resolve(lost.uri, settings)


# With a server


def test_a_training_registers_its_model_when_the_server_is_back(
    sqlite_server: MlflowServer, model: Path, forecaster: Forecaster, tmp_path: Path
) -> None:
    dead = Settings.from_env(f"http://127.0.0.1:{free_port()}", env={"STMP_TRACKING_FLUSH_S": "1"})
    out = tmp_path / "run"
    with Tracker(str(out), dead, config={}, dataset_fingerprint="f00d", register_as="on server") as tracker:
        tracker.log.append(1, [{"phase": "validation", "wape": 0.5, "day_type": "festival"}])
        shutil.copytree(model, out / "model")
    assert not tracker.finish().complete
    alive = Settings.from_env(sqlite_server.uri, env={"STMP_CACHE": str(tmp_path / "cache")})
    sent = sync(str(out), alive)
    assert sent.version == "1"
    assert sync(str(out), alive) == sent
    (version,) = registry.list_versions("on server", alive)
    assert version.run_id == sent.run_id
    assert version.metrics == {"validation/festival/wape": 0.5}
    assert version.dataset_fingerprint == "f00d"
    folder = registry.resolve("models:/on server/1", alive)
    assert folder.is_relative_to(tmp_path / "cache")
    assert Forecaster.load(folder).trained_until == forecaster.trained_until
    assert registry.resolve("models:/on server/1", alive) == folder
    assert json.loads((out / "forwarded.json").read_text())["version"] == "1"
