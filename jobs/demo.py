"""The job behind `stmp demo`: the whole way on real stores, with the same jobs that the other commands run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.backtest import backtest
from jobs.forecast import forecast
from jobs.ingest import describe, ingest
from jobs.models import models
from jobs.screen import say, table
from jobs.track import track
from jobs.train import train

UNTIL = "2017-10-31"  # the last day that is learned from; Thanksgiving and Christmas are still to come
START, END = "2017-10-31", "2017-12-31"
HORIZON, STEP = 14, 7
ORIGIN = "2017-12-17"  # the data's last fortnight: promotions of later days are not in it
NAME = "demo-stores"
SETTINGS = ("train.max_steps=900", "model.horizon=14")
"""Bounded so that the whole demo takes less than 12 minutes on two cores."""
SLICES = ("all", "weekday", "weekend", "festival", "post_festival")


def demo(out: Path, *, workers: int = 0, settings: tuple[str, ...] = SETTINGS) -> dict[str, Any]:
    """Ingest, train, backtest, register and forecast the grocery stores of The Complete Journey (real sales of 2017).

    Parameters
    ----------
    out : Path
        Folder for everything: ``data``, ``run`` with ``model`` and ``report``, ``forecast.parquet`` and the local
        MLflow store.
    workers : int
        Ray workers that train; 0 trains in this process.
    settings : tuple of str
        Settings of the training beside the preset `product`.
    """
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    times: dict[str, float] = {}
    data, run, file = (str(out / name) for name in ("data", "run", "forecast.parquet"))
    tracking = f"sqlite:///{(out / 'mlflow.db').resolve()}"

    with _step("1/5 Ingest: real sales of grocery stores, by department", times):
        ingested = ingest("completejourney", data)
        describe(data)
    with _step(f"2/5 Train on days up to {UNTIL}, track and register", times):
        trained = train(data, run, settings=settings, workers=workers, until=UNTIL, name=NAME, tracking_uri=tracking)
    with _step(f"3/5 Backtest from {START} to {END}, beside the baselines", times):
        tested = backtest(data, run, start=START, end=END, horizon=HORIZON, step=STEP, report=out / "run" / "report")
        track(run, tracking_uri=tracking)  # the report belongs to the run, and is younger than it
    with _step("4/5 Registered models", times):
        models(tracking_uri=tracking)
    with _step(f"5/5 Forecast all stores over Christmas, as of {ORIGIN}", times):
        registered = f"models:/{NAME}/{trained['version']}"
        forecasted = forecast(data, registered, file, origin=ORIGIN, horizon=HORIZON, tracking_uri=tracking)
    say("")
    _headline(tested)
    places = {
        "report": tested["report"],
        "forecast": file,
        "model": str(Path(run) / "model"),
        "registered": f"{registered} in {tracking}",
        "dataset": data,
    }
    seconds = time.monotonic() - began
    table(("what", "where"), list(places.items()), f"Done in {seconds / 60:.1f} minutes. Everything lies in {out}:")
    return {
        "seconds": seconds,
        "times": times,
        "places": places,
        "ingest": ingested,
        "train": trained,
        "backtest": {key: tested[key] for key in ("slices", "baselines")},
        "forecast": forecasted,
    }


@contextmanager
def _step(title: str, times: dict[str, float]) -> Iterator[None]:
    say(f"\n=== {title}")
    began = time.monotonic()
    yield
    times[title] = time.monotonic() - began
    say(f"    {times[title]:.0f} s")


def _headline(tested: dict[str, Any]) -> None:
    """Mean absolute error as a share of sales, by kind of day: the model and its baselines."""
    rows = [("STMP", *(tested["slices"][name]["wape"] for name in SLICES))]
    rows += [(model, *(found[name]["wape"] for name in SLICES)) for model, found in tested["baselines"].items()]
    table(("WAPE", *SLICES), rows, f"Backtest, {HORIZON} days ahead (lower is better)")
