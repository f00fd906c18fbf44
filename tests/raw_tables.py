"""A small raw data set with everything that dataset.yaml can describe, to be spoilt by tests as they need."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

SPEC: dict[str, Any] = {
    "name": "shops",
    "frequency": "D",
    "tables": {
        "sales": {
            "path": "sales", "region": "shop", "date": "day", "series": "item", "target": "units",
            "past": ["visitors"], "known": ["price", "open", "deal"],
        },
        "regions": {
            "path": "regions", "region": "shop", "numeric": ["area"], "categorical": ["kind"],
            "scopes": ["state", "city"],
        },
        "covariates": [
            {"path": "weather", "keys": ["state", "day"], "past": ["rain"], "known": ["forecast"]},
            {"path": "plans", "keys": ["shop", "day"], "known": ["budget"]},
        ],
        "calendar": {
            "path": "calendar", "date": "day", "scope": "where", "everywhere": ["land"], "events": ["name"],
            "known": ["school_holiday"], "where": {"moved": [False]},
        },
    },
    "closed": {"column": "open", "equals": 0},
    "day_types": {
        "festival": [{"event": "any", "before": 1}, {"every": "02-14", "name": "valentine"}],
        "weekend": ["saturday", "sunday"],
    },
    "fill": {"budget": 5},
    "units": {"units": "pieces"},
}  # fmt: skip

STATES = {"1": "north", "2": "south", "3": "north", "10": "south", "20": "west"}
ITEMS = ("apples", "pears")
DAYS = pd.date_range("2021-01-20", periods=45)  # sales for 40 of them, then plans for 5
LAST_SALE = DAYS[39]


@dataclass
class RawTables:
    """Raw tables in memory, and the spec that describes them."""

    tables: dict[str, pd.DataFrame]
    spec: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(SPEC))

    def copy(self) -> RawTables:
        """Return the same tables, to be changed freely."""
        return RawTables({name: table.copy() for name, table in self.tables.items()}, copy.deepcopy(self.spec))

    def until(self, last: pd.Timestamp | str, first: pd.Timestamp | str = "1900-01-01") -> RawTables:
        """Return the dated rows of the sales and covariate tables in a span of days; regions and calendar are whole."""
        part = self.copy()
        for name in ("sales", "weather", "plans"):
            day = part.tables[name]["day"]
            part.tables[name] = part.tables[name][(day >= pd.Timestamp(first)) & (day <= pd.Timestamp(last))]
        return part

    def write(self, folder: Path, suffix: str = "parquet", shuffle: int | None = None) -> Path:
        """Write the tables and dataset.yaml, and return where the latter lies."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables.items():
            frame = table.sample(frac=1, random_state=shuffle) if shuffle is not None else table
            path = folder / f"{name}.{suffix}"
            if suffix == "parquet":
                frame.to_parquet(path, index=False)
            else:
                frame.to_csv(path, index=False, sep=";" if suffix == "csv.gz" else ",")
        spec = copy.deepcopy(self.spec)
        tables = spec["tables"]
        for table in [tables["sales"], tables.get("regions"), tables.get("calendar"), *tables.get("covariates", [])]:
            if table is not None and "." not in table["path"]:
                table["path"] = f"{table['path']}.{suffix}"
        path = folder / "dataset.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path


def shops(seed: int = 0) -> RawTables:
    """Five shops with two items over 40 days and 5 days of plans; a late opening, gaps, closed days, missing prices."""
    rng = np.random.default_rng(seed)
    sales = pd.MultiIndex.from_product([STATES, ITEMS, DAYS], names=["shop", "item", "day"]).to_frame(index=False)
    sales["units"] = rng.poisson(20, len(sales)).astype(float)
    sales["visitors"] = sales.groupby(["shop", "day"])["units"].transform("sum") * 3
    sales["price"] = rng.integers(1, 9, len(sales)) / 4
    sales["open"] = ((sales["day"].dt.day_of_week != 6) | (sales["shop"] == "20")).astype(int)
    sales["deal"] = np.where(
        sales["day"].dt.day % 7 == 0, "leaflet", np.where(sales["day"].dt.day % 5 == 0, "online", "none")
    )
    sales.loc[sales["open"] == 0, ["units", "visitors"]] = 0
    future = sales["day"] > LAST_SALE
    sales.loc[future, ["units", "visitors"]] = np.nan
    sales.loc[rng.choice(np.flatnonzero(~future), 12, replace=False), "price"] = np.nan
    late = (sales["shop"] == "10") & (sales["day"] < "2021-02-01")
    gap = (sales["shop"] == "2") & (sales["item"] == "pears") & sales["day"].between("2021-02-03", "2021-02-05")
    sales = sales[~late & ~gap].reset_index(drop=True)
    regions = pd.DataFrame(
        {
            "shop": list(STATES), "area": [120.0, 80.5, np.nan, 300.0, 55.0], "kind": ["a", "b", "a", None, "c"],
            "state": list(STATES.values()), "city": ["x", "y", "z", "y", "w"],
        }
    )  # fmt: skip
    weather = pd.MultiIndex.from_product([["north", "south", "east"], DAYS], names=["state", "day"]).to_frame(
        index=False
    )
    weather["rain"] = rng.gamma(1.0, 2.0, len(weather)).round(2)
    weather["forecast"] = rng.normal(size=len(weather)).round(2)
    plans = pd.MultiIndex.from_product([["1", "10"], DAYS[::2]], names=["shop", "day"]).to_frame(index=False)
    plans["budget"] = rng.integers(0, 50, len(plans)).astype(float)
    calendar = pd.DataFrame(
        [
            ("2021-01-06", "land", "Epiphany", False, 0),
            ("2021-02-10", "land", "Market day", False, 0),
            ("2021-02-11", "south", "Carnival", False, 1),
            ("2021-02-12", "y", None, False, 1),
            ("2021-02-20", "land", "Moved feast", True, 1),
            ("2021-03-02", "south", "Spring feast", False, 0),
            ("2021-04-01", "land", "Far away", False, 0),
        ],
        columns=["day", "where", "name", "moved", "school_holiday"],
    )
    calendar["day"] = pd.to_datetime(calendar["day"])
    return RawTables({"sales": sales, "regions": regions, "weather": weather, "plans": plans, "calendar": calendar})
