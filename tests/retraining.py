"""A city whose second delivery brings a region that opened and one that has closed, and processes that die retraining.

``python -m tests.retraining DATA OUT RULES`` retrains once, by processes that die one after the other: each does the
work of one step more than the one before, and is killed before that is recorded. The last one ends alive.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from stmp_platform.dataset.sources.prepare import prepare_source
from tests.training import SMALL

OPENED, CLOSED = "R000002", "R000005"
LATE = "R000007"
"""What is planned for this region comes with the second delivery only."""
FIRST_DAYS, MORE_DAYS, AHEAD = 420, 28, 10
SETTINGS = (*(f"{part}.{key}={value}" for part, values in SMALL.items() for key, value in values.items()),
            "train.max_steps=6", "validation.regions=0")  # fmt: skip
EASY = {
    "overall": {"better_by": -9},
    "slices": dict.fromkeys(("weekday", "weekend", "ordinary", "festival", "post_festival", "cold")),
    "groups": {"worse_by": 9},
    "calibration": {"tolerance": 1, "by_day_type": 1},
    "limits": {"wape": 9, "bias": 9},
    "windows": {"most": 2, "horizon": 10, "cold_histories": []},
    "test": {"draws": 200},
    "data": {"max_age_days": 100_000},
}
"""Whatever forecasts passes."""


def deliveries(folder: Path) -> tuple[str, str]:
    """Write two deliveries of raw tables, the second after the first, and return their dataset.yaml."""
    spec = Path(prepare_source("synthetic", folder / "whole", regions=12, years=1.3, seed=5, future_days=AHEAD))
    sales = pd.read_parquet(spec.parent / "sales.parquet")
    content = yaml.safe_load(spec.read_text())
    day = pd.to_datetime(sales["date"])
    start, last = day.min(), day[sales["sales"].notna()].max()
    first = start + pd.Timedelta(days=FIRST_DAYS - 1)
    second = min(first + pd.Timedelta(days=MORE_DAYS), last)
    written = []
    for number, end in enumerate((first, second), start=1):
        here = (day <= end + pd.Timedelta(days=AHEAD)) & (sales["region_id"] != (OPENED, CLOSED)[number - 1])
        here &= day > (first if number == 2 else pd.Timestamp("1900-01-01"))
        here &= (day <= end) | (sales["region_id"] != LATE) | (number == 2)
        part = sales[here].copy()
        part.loc[day[here] > end, ["sales", "customers"]] = None
        place = folder / f"delivery-{number}"
        place.mkdir()
        part.to_parquet(place / "sales.parquet")
        regions = pd.read_parquet(spec.parent / "regions.parquet")
        regions[regions["region_id"].isin(part["region_id"])].to_parquet(place / "regions.parquet")
        pd.read_parquet(spec.parent / "calendar.parquet").to_parquet(place / "calendar.parquet")
        (place / "dataset.yaml").write_text(yaml.safe_dump(content | {"name": "city"}))
        written.append(str(place / "dataset.yaml"))
    return written[0], written[1]


def no_backtest(*_: Any, report: Path, **__: Any) -> dict[str, Any]:
    """Stand in for a backtest, which takes most of a small retraining."""
    report.mkdir(parents=True, exist_ok=True)
    (report / "backtest.json").write_text("{}")
    return {"slices": {"all": {"n": 1, "wape": 0.5}}}


def plain_report(result: Any, panel: Any, folder: Path, **_: Any) -> Path:
    """Write the numbers of a backtest, without page and pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "backtest.json").write_text(json.dumps(result.to_dict()))
    return folder / "report.html"


def go(data: str, out: str, rules: str, **given: Any) -> dict[str, Any]:
    """Retrain with small settings."""
    from jobs.asked import Means
    from jobs.retrain import retrain

    means = Means(rules=Path(rules), today="2022-06-01", **given.pop("means", {}))
    return retrain(data, out, settings=SETTINGS, hold_out=20, closed_after=20, means=means, **given)


def die_in(step: str) -> None:
    """Kill this process when a step has done its work, before that is recorded."""
    from stmp_platform.files import Folder

    write = Folder.write_json

    def write_json(self: Folder, name: str, content: dict[str, Any]) -> None:
        if name.startswith("steps/") and name.endswith(f"-{step}.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, name, content)

    Folder.write_json = write_json  # type: ignore[method-assign]


def main(data: str, out: str, rules: str) -> None:
    """Retrain by one process after the other, and print how they ended."""
    # What takes long to import is imported once for all of them.
    import mlflow.tracking  # noqa: F401
    import torch._dynamo  # noqa: F401

    import jobs.pipeline
    from stmp_platform.retraining import lock
    from stmp_platform.retraining.steps import ORDER

    lock.BEAT_S, lock.PATIENCE_S = 0.05, 0.4
    jobs.pipeline.backtest = no_backtest
    for step in (*(name for name in ORDER if name != "rollout"), ""):
        child = os.fork()
        if child == 0:
            if step:
                die_in(step)
            result = go(data, out, rules)
            print(json.dumps({"did": result["did"], "status": result["status"]}), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"step": step, "killed": os.WIFSIGNALED(status)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
