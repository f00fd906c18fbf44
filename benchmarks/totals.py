"""Whether the ranges of totals hold: coverage of their 80 % range on rolling origins, beside two extremes.

``python -m benchmarks.totals --data DATA --model MODEL --totals state,city --start DATE [--horizon 14] [--out FILE]``
forecasts from rolling origins, adds the regions up, and counts the days whose total lay between the 0.1 and the 0.9
quantile. Beside the dependence that is measured at each origin (`stmp.hierarchy`) stand regions that share no luck, and
regions that share all. Only region-days that were sold on are added up, forecast and sale alike. Days on which less
than half of a group's regions sold are counted apart: such a total is little more than those regions' own forecasts.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from jobs.load import load_forecaster
from stmp.forecast import Forecast
from stmp.hierarchy import Dependence, Groups, Totals
from stmp_platform.dataset import read_panel
from stmp_platform.dataset.storage import read_regions
from stmp_platform.settings import Settings


def main() -> None:
    """Forecast from each origin, add up in three ways, and print shares of days inside, and widths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "model", "totals", "start"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--horizon", type=int, default=14)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    model, panel = load_forecaster(given.model, Settings.from_env()), read_panel(given.data)
    groups = Groups.by(read_regions(given.data).set_index("_region"), given.totals.split(","))
    first, last = panel.index_of(given.start), panel.index_of(panel.last_observed)
    kinds = np.asarray([name.partition("=")[0] for name in groups.names])
    inside, width = defaultdict[str, list[np.ndarray]](list), defaultdict[str, list[float]](list)
    for origin in range(first, last - given.horizon + 1, given.horizon):
        date, days = panel.dates[origin], slice(origin + 1, origin + 1 + given.horizon)
        observed, sold = panel.observed[:, days].cpu().numpy(), panel.sales[:, days].cpu().numpy()
        forecast = only(model.predict(panel.until(date), date, given.horizon), observed)
        hit = (sold >= forecast.quantiles[..., 0]) & (sold <= forecast.quantiles[..., -1])
        inside["region"].append(hit[observed])
        measured = Dependence.measure(model, panel, date, given.horizon, groups)
        none = (0.0,) * len(groups.columns)
        ways = {"measured": measured, "independent": Dependence((0.0, *none)), "as one": Dependence((1.0, *none))}
        actual, open_regions = (added(values, groups) for values in (np.where(observed, sold, 0.0), observed))
        half = 2 * open_regions >= added(np.ones_like(observed), groups)
        for way, dependence in ways.items():
            totals = Totals(groups, dependence)
            totals.add(forecast)
            found = totals.forecast()
            low, high = found.quantiles[..., 0], found.quantiles[..., -1]
            for kind in dict.fromkeys(kinds):
                of_kind = (kinds == kind)[:, None, None]
                for part, chosen in (("", half), (" (few open)", (open_regions > 0) & ~half)):
                    rows = chosen & of_kind
                    inside[f"{kind}{part}: {way}"].append(((actual >= low) & (actual <= high))[rows])
                    width[f"{kind}{part}: {way}"].append(float((high - low)[rows].sum() / max(1, actual[rows].sum())))
        print(
            date, {k: round(v, 3) for k, v in zip(("all", *groups.columns), measured.shares, strict=True)}, flush=True
        )
    result = {
        name: {"days": int(hits.size), "coverage_80": float(hits.mean()), "width": float(np.mean(width[name] or [0.0]))}
        for name, parts in inside.items()
        if (hits := np.concatenate(parts)).size
    }
    for name, row in result.items():
        print(f"{name:32s} {row['days']:7d} days, {row['coverage_80']:.2f} inside, {row['width']:.3f} wide")
    if given.out:
        given.out.write_text(json.dumps({"arguments": vars(given) | {"out": None}, "result": result}, indent=1) + "\n")


def only(forecast: Forecast, observed: np.ndarray) -> Forecast:
    """A forecast of 0 where nothing could be sold."""
    quantiles = np.where(observed[..., None], forecast.quantiles, 0.0)
    return replace(forecast, mean=np.where(observed, forecast.mean, 0.0), quantiles=quantiles)


def added(values: np.ndarray, groups: Groups) -> np.ndarray:
    """Sums [K, H, G] of values of the regions [R, H, G]."""
    total = np.zeros((len(groups.names), *values.shape[1:]))
    for group in groups.of:
        np.add.at(total, group, values)
    return total


if __name__ == "__main__":
    main()
