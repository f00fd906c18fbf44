"""Photograph the planner's page for README and docs: `python docs/page_picture.py FOLDER`, or `make screenshot`.

A made-up city is served as of two weeks before Christmas: by a model that passed the gate, with another in its shadow.
The city and the models are kept in FOLDER; with them there, only the picture is taken anew.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from pathlib import Path

import httpx
import uvicorn
from playwright.sync_api import sync_playwright

from jobs.ingest import ingest
from jobs.promote import promote
from jobs.train import train
from serving.app import make_app
from serving.replica import Replica
from serving.settings import Settings
from serving.trial import TrialSettings
from stmp_platform.registry import pin

PICTURE = Path(__file__).resolve().parent / "images" / "page.png"
CITY = ("regions=24", "years=3", "future_days=60")
TRAINING = ("model.horizon=28", "model.hidden=32", "train.batch_regions=24")
UNTIL, ORIGIN, TODAY = "2023-10-15", "2023-12-10", "2023-12-31"
REGION, DAY = "R000006", "23 Dec 2023"
WIDTH, HEIGHT, MARGIN = 1280, 900, 18


def make(folder: Path) -> None:
    """Make the city, its champion and a challenger, unless they are there."""
    data, runs = str(folder / "data"), (folder / "first", folder / "second")
    if not Path(data).exists():
        ingest("synthetic", data, settings=CITY)
    versions = []
    for seed, (run, steps) in enumerate(zip(runs, (350, 250), strict=True)):
        settings = (*TRAINING, f"train.max_steps={steps}")
        versions.append(train(data, str(run), settings=settings, seed=seed, until=UNTIL, name="city")["version"])
    promote(f"models:/city/{versions[0]}", data, today=TODAY)


def photograph(url: str, to: Path) -> None:
    """Take the picture as soon as the trial has something to tell."""
    for region in httpx.get(f"{url}/v1/regions").json()["regions"]:
        httpx.post(f"{url}/v1/forecasts", json={"regions": [region["id"]]}).raise_for_status()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{url}/#region={REGION}")
        page.locator("#chart path.other").wait_for(state="attached")
        day = page.get_by_role("slider", name="Day")
        while DAY not in (day.get_attribute("aria-valuetext") or ""):
            day.press("ArrowRight")
        day.blur()
        last = page.locator("#trial-card").bounding_box()
        assert last is not None
        size = {"x": 0, "y": 0, "width": WIDTH, "height": round(last["y"] + last["height"]) + MARGIN}
        page.screenshot(path=to, full_page=True, clip=size)
        browser.close()


def main(folder: Path) -> None:
    """Make what is to be seen, serve it, and photograph it."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"STMP_HOME": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    make(folder)
    observations = f"sqlite:///{folder / 'observations.db'}"
    settings = Settings.read({"data": str(folder / "data"), "until": ORIGIN, "observations": observations})
    replica = Replica(settings, "picture").begin(pin("models:/city@champion"))
    replica.want_trial(TrialSettings(model="models:/city/2"))
    replica.trials.wait()
    server = uvicorn.Server(uvicorn.Config(make_app(replica), log_level="warning"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            photograph(f"http://127.0.0.1:{listener.getsockname()[1]}", PICTURE)
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
