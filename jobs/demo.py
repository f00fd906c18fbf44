"""The job behind `stmp demo`: the whole way on real stores, with the same jobs that the other commands run."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.backtest import backtest
from jobs.forecast import forecast
from jobs.ingest import describe, ingest
from jobs.models import models
from jobs.promote import promote
from jobs.screen import say, table
from jobs.serve import serve, wait
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
    """Ingest, train, backtest, forecast, promote and serve the grocery stores of The Complete Journey (sales of 2017).

    On a terminal the served model goes on answering, and its page can be opened, until Ctrl-C.

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
    from stmp_platform.serve import free_port, stop

    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    times: dict[str, float] = {}
    data, run, file = (str(out / name) for name in ("data", "run", "forecast.parquet"))
    tracking = f"sqlite:///{(out / 'mlflow.db').resolve()}"

    with _step("1/6 Ingest: real sales of grocery stores, by department", times):
        ingested = ingest("completejourney", data)
        describe(data)
    with _step(f"2/6 Train on days up to {UNTIL}, track and register", times):
        trained = train(data, run, settings=settings, workers=workers, until=UNTIL, name=NAME, tracking_uri=tracking)
    with _step(f"3/6 Backtest from {START} to {END}, beside the baselines", times):
        tested = backtest(data, run, start=START, end=END, horizon=HORIZON, step=STEP, report=out / "run" / "report")
        track(run, tracking_uri=tracking)  # the report belongs to the run, and is younger than it
    registered = f"models:/{NAME}/{trained['version']}"
    with _step(f"4/6 Forecast all stores over Christmas, as of {ORIGIN}", times):
        forecasted = forecast(data, registered, file, origin=ORIGIN, horizon=HORIZON, tracking_uri=tracking)
    with _step("5/6 Make it champion, if it passes the gate", times):
        decided = promote(registered, data, report=out / "run" / "gate", today=END, tracking_uri=tracking)
        models(tracking_uri=tracking)
    with _step(f"6/6 Serve it as of {ORIGIN}, and ask for the first store's Christmas", times):
        champion = f"models:/{NAME}@champion" if decided["promoted"] else registered
        served = serve(data, champion, port=free_port(), until=ORIGIN, tracking_uri=tracking)
        answered = _ask(served["url"])
    say("")
    _headline(tested)
    places = {
        "report": tested["report"],
        "forecast": file,
        "model": str(Path(run) / "model"),
        "registered": f"{registered} in {tracking}",
        "gate": str(out / "run" / "gate"),
        "dataset": data,
    }
    seconds = time.monotonic() - began
    table(("what", "where"), list(places.items()), f"Done in {seconds / 60:.1f} minutes. Everything lies in {out}:")
    if sys.stdout.isatty():
        say(f"The page: {served['url']} (Ctrl-C ends it)")
        wait()
    else:
        say(f"The page was {served['url']}. Again: stmp serve --data {data} --model {champion} --until {ORIGIN} "
            f"--tracking-uri {tracking}")  # fmt: skip
    stop()
    return {
        "seconds": seconds,
        "times": times,
        "places": places,
        "ingest": ingested,
        "train": trained,
        "backtest": {key: tested[key] for key in ("slices", "baselines")},
        "forecast": forecasted,
        "promoted": decided["promoted"],
        "served": answered,
    }


def _ask(url: str) -> dict[str, Any]:
    """Ask the API for the forecast of one store, as any client would."""
    with urllib.request.urlopen(f"{url}/v1/regions?limit=1") as answer:
        region = json.load(answer)["regions"][0]["id"]
    body = json.dumps({"regions": [region], "horizon": HORIZON, "quantiles": [0.1, 0.9]}).encode()
    request = urllib.request.Request(f"{url}/v1/forecasts", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        content = json.load(answer)
    first = content["forecasts"][0]
    low, high = first["quantiles"]["0.1"], first["quantiles"]["0.9"]
    days = [day for day in range(HORIZON) if first["events"][day]] or list(range(HORIZON))
    rows = [(first["dates"][k], first["events"][k], first["mean"][k], low[k], high[k]) for k in days]
    title = f"Store {first['region']}, {first['series']}, answered by {content['model_version']}"
    table(("date", "festival", "mean", "10 %", "90 %"), rows, title)
    return {"region": region, "model_version": content["model_version"], "forecast": first}


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
