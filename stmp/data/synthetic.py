"""A seeded city whose truth is known: raw tables as a retailer has them, and what made them.

Every region has a hidden type (office, residential, campus, tourist). The type decides the weekly profile, the yearly
cycle, what a promotion does, and whether a festival lifts or empties the shop. Festivals are mixtures of four *kinds*
(family, gift, travel, crowd), so how a region answers one festival says how it answers another. On top of its type each
region has a gain and tastes of its own, which no static feature and no recent window shows: only its own earlier
festivals do. That is what a meta-learner can find and a single network cannot.

    log E[sales] = level + series + weekly(type) + yearly(type) + trend + festivals(type, region) + promotion(type)

Every region's randomness comes from (seed, region number) alone, so a chunk of regions never depends on the others and
100,000 regions can be written with the memory of one chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from stmp.errors import ConfigError

TYPES = ("office", "residential", "campus", "tourist")
KINDS = ("family", "gift", "travel", "crowd")
TOWN_FAIR = "town_fair"  # the local festival: one date a district and year

# Sales of Monday..Sunday, relative to the mean day of the type.
WEEKLY = np.array(
    [
        [1.20, 1.25, 1.25, 1.25, 1.15, 0.50, 0.40],
        [0.85, 0.80, 0.85, 0.90, 1.10, 1.35, 1.15],
        [1.10, 1.15, 1.15, 1.10, 1.15, 0.80, 0.55],
        [0.75, 0.70, 0.75, 0.85, 1.15, 1.50, 1.30],
    ]
)
# Log amplitude and day of the peak of the yearly cycle, and log amplitude of its second harmonic.
YEARLY = np.array([[0.08, 330, 0.06], [0.10, 350, 0.03], [0.25, 300, 0.20], [0.40, 205, 0.05]])
# Log change of sales at the height of a festival of each kind.
RESPONSE = np.array(
    [
        [-1.00, 0.30, -1.10, 0.20],
        [0.90, 0.60, -0.30, 0.60],
        [-1.20, 0.90, -0.90, 0.30],
        [0.10, 0.10, 1.10, 0.90],
    ]
)
# Log lift by a price cut of 100 %; a promotion of 20 % has a fifth of it.
PROMO_LIFT = np.array([0.8, 2.2, 2.8, 0.5])
# How a festival unfolds, by kind: days from its date -> part of the height. Some leave a slump behind them.
OFFSETS = np.arange(-3, 4)
SHAPE = np.array(
    [
        [0.10, 0.35, 0.80, 1.00, 0.30, -0.15, 0.00],
        [0.20, 0.50, 0.90, 0.60, -0.30, -0.20, -0.10],
        [0.00, 0.20, 0.60, 1.00, 0.80, 0.10, 0.00],
        [0.00, 0.00, 0.20, 1.00, 0.30, 0.00, 0.00],
    ]
)
# What each festival is made of, by kind.
FESTIVALS: dict[str, tuple[float, float, float, float]] = {
    "new_year": (0.5, 0.0, 0.6, 0.0),
    "spring_feast": (1.0, 0.0, 0.5, 0.0),
    "labour_day": (0.0, 0.0, 1.0, 0.0),
    TOWN_FAIR: (0.0, 0.0, 0.0, 1.0),
    "mid_autumn": (0.7, 0.4, 0.0, 0.0),
    "singles_day": (0.0, 1.0, 0.0, 0.0),
    "christmas": (0.6, 0.8, 0.0, 0.0),
}
FIXED = {"new_year": "01-01", "labour_day": "05-01", "singles_day": "11-11", "christmas": "12-25"}
MOVING = {"spring_feast": ("01-24", 28), "mid_autumn": ("09-06", 28)}  # first possible date, days of play
EVERYWHERE = "city"
# Static features: mean by type (rows of TYPES' order), in units of their own standard deviation.
FEATURES: dict[str, tuple[float, float, float, float]] = {
    "poi_offices": (2.0, 0.4, 0.8, 0.6),
    "poi_homes": (0.4, 2.0, 0.7, 0.6),
    "poi_schools": (0.5, 1.0, 2.0, 0.4),
    "poi_sights": (0.8, 0.4, 0.6, 2.0),
    "income": (1.6, 1.0, 0.3, 1.1),
    "share_age_18_25": (0.7, 0.5, 2.0, 0.8),
    "share_age_65_plus": (0.6, 1.6, 0.3, 1.0),
}


@dataclass(frozen=True)
class SyntheticConfig:
    """All settings of a synthetic city. The same settings always give the same city."""

    regions: int = 60
    years: float = 3.0
    start: str = "2021-01-01"
    seed: int = 0
    series: tuple[str, ...] = ("sales",)  # one name: the tables have no series column
    districts: int = 6
    level: float = 150.0  # median daily sales of a region
    level_sigma: float = 0.6  # spread of the log level
    trend_sigma: float = 0.05  # spread of the log growth a year
    gain_sigma: float = 0.3  # spread of the log gain of a region's festivals
    taste_sigma: float = 0.25  # spread of a region's own answer to a kind of festival
    static_noise: float = 0.8  # noise of static features; types differ by 0 to 1.7
    static_missing: float = 0.02  # share of static values that are empty
    promo_rate: float = 0.2  # share of (region, series) weeks on promotion
    shock_sigma: float = 0.06  # log shocks that last (AR(1), 0.8), seen in customers too
    noise: str = "negative_binomial"  # or "lognormal", or "none"
    noise_level: float = 0.12  # relative noise of one day's sales (beside the counting noise)
    late_share: float = 0.1  # regions that open after the start
    sunday_closed_share: float = 0.1  # regions that close on Sundays
    holiday_closed_share: float = 0.15  # regions that close on Christmas Day itself
    works_share: float = 0.1  # regions that close once for 5 to 14 days
    future_days: int = 0  # rows after the end, with known-future columns and empty sales
    min_date_of_opening_share: float = 0.6  # late regions open within this first part of the time

    def __post_init__(self) -> None:
        faults = []
        if self.regions < 1:
            faults.append(f"regions is {self.regions}; it must be at least 1")
        if self.years * 365 < 14:
            faults.append(f"years is {self.years}; it must be at least 14 days, 0.04")
        if self.districts < 1:
            faults.append(f"districts is {self.districts}; it must be at least 1")
        if not self.series or len(set(self.series)) != len(self.series):
            faults.append(f"series is {self.series}; it must name at least one series, none twice")
        if self.noise not in ("negative_binomial", "lognormal", "none"):
            faults.append(f"noise is {self.noise!r}; it must be negative_binomial, lognormal or none")
        if self.future_days < 0:
            faults.append(f"future_days is {self.future_days}; it must not be negative")
        for name in ("promo_rate", "late_share", "sunday_closed_share", "holiday_closed_share", "works_share"):
            if not 0 <= getattr(self, name) <= 1:
                faults.append(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if faults:
            raise ConfigError("synthetic city: " + "; ".join(faults))

    @property
    def dates(self) -> np.ndarray:
        """Days with sales, datetime64[D] [T]."""
        start = np.datetime64(self.start, "D")
        return start + np.arange(round(self.years * 365.25))

    @property
    def all_dates(self) -> np.ndarray:
        """Days with rows: `dates` and `future_days` more, datetime64[D] [T']."""
        return self.dates[0] + np.arange(len(self.dates) + self.future_days)


@dataclass(frozen=True)
class SyntheticTruth:
    """What made the sales; tests hold recovered values against it.

    Attributes
    ----------
    region_type : int8 [R], index into TYPES
    gain : float [R], factor on the type's festival response
    taste : float [R, kinds], the region's own addition to it
    festival : float [R, kinds], log change at the height of each kind: RESPONSE[type] * gain + taste
    promo_lift : float [R], log lift by a price cut of 100 %
    level, trend : float [R], log daily sales at the start; log growth a year
    opened : datetime64[D] [R], the first day with a row
    expected : float32 [R, T', G], sales without noise and shocks; 0 on closed days, NaN before opening
    """

    region_type: np.ndarray
    gain: np.ndarray
    taste: np.ndarray
    festival: np.ndarray
    promo_lift: np.ndarray
    level: np.ndarray
    trend: np.ndarray
    opened: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True)
class SyntheticCity:
    """Raw tables (`sales`, `regions`, `calendar`), settings and the hidden truth."""

    config: SyntheticConfig
    sales: pd.DataFrame  # region_id, date, [series_id,] sales, customers, promo, price, open
    regions: pd.DataFrame  # region_id, district, store_format, FEATURES
    calendar: pd.DataFrame  # scope, date, event
    truth: SyntheticTruth


def configure(config: SyntheticConfig | None = None, **settings: Any) -> SyntheticConfig:
    """Settings of `config` (by default SyntheticConfig()) with some replaced.

    Raises
    ------
    ConfigError : a setting is unknown or out of range
    """
    unknown = sorted(set(settings) - set(SyntheticConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(SyntheticConfig.__dataclass_fields__)
        raise ConfigError(f"synthetic city: unknown setting {', '.join(unknown)}; settings are {known}")
    return replace(config or SyntheticConfig(), **settings)


def generate(config: SyntheticConfig | None = None, **settings: Any) -> SyntheticCity:
    """Make a whole city in memory.

    Parameters
    ----------
    config : settings; default SyntheticConfig()
    settings : fields of SyntheticConfig that replace those of `config`, e.g. regions=60, years=3, seed=0

    Raises
    ------
    ConfigError : a setting is unknown or out of range
    """
    config = configure(config, **settings)
    chunks = list(generate_chunks(config, chunk=config.regions))
    return chunks[0]


def generate_chunks(config: SyntheticConfig, chunk: int = 1000) -> Iterator[SyntheticCity]:
    """Make the city `chunk` regions at a time; each chunk is the same whatever the chunk size."""
    if chunk < 1:
        raise ConfigError(f"synthetic city: chunk is {chunk}; it must be at least 1")
    calendar = festival_calendar(config)
    kernel = _festival_kernel(config, calendar)
    for first in range(0, config.regions, chunk):
        yield _generate_regions(config, calendar, kernel, np.arange(first, min(first + chunk, config.regions)))


def festival_calendar(config: SyntheticConfig) -> pd.DataFrame:
    """Festival dates (scope, date, event) of the city and its districts, to a year past the last day."""
    rng = np.random.default_rng([config.seed, 0])
    years = range(int(config.start[:4]) - 1, int(str(config.all_dates[-1])[:4]) + 2)
    rows = []
    for year in years:
        for event, day in FIXED.items():
            rows.append((EVERYWHERE, np.datetime64(f"{year}-{day}"), event))
        for event, (first, play) in MOVING.items():
            rows.append((EVERYWHERE, np.datetime64(f"{year}-{first}") + rng.integers(play), event))
    for district in range(config.districts):
        week = rng.integers(12)
        for year in years:
            # A Saturday of summer: the same week each year, another date.
            june = np.datetime64(f"{year}-06-01")
            saturday = june + (5 - _weekday(june)) % 7 + 7 * week
            rows.append((_district(district), saturday, TOWN_FAIR))
    frame = pd.DataFrame(rows, columns=["scope", "date", "event"])
    frame["date"] = pd.to_datetime(frame["date"])
    horizon = pd.Timestamp(config.all_dates[-1]) + pd.Timedelta(days=365)
    keep = (frame["date"] >= pd.Timestamp(config.all_dates[0])) & (frame["date"] <= horizon)
    return frame[keep].sort_values(["date", "scope"]).reset_index(drop=True)


def festival_effects() -> pd.DataFrame:
    """Log change of sales by (type, festival, offset in days) for a region of gain 1 and taste 0."""
    rows = [
        (kind_of_region, festival, int(offset), float(RESPONSE[t] * load @ SHAPE[:, o]))
        for t, kind_of_region in enumerate(TYPES)
        for festival, load in ((name, np.asarray(mix)) for name, mix in FESTIVALS.items())
        for o, offset in enumerate(OFFSETS)
    ]
    return pd.DataFrame(rows, columns=["type", "festival", "offset", "log_effect"])


def write(city: SyntheticCity | SyntheticConfig, folder: str | Path, chunk: int = 1000, truth: bool = True) -> Path:
    """Write raw tables, `dataset.yaml` and the truth, as a user would have them (and could not have it).

    Parameters
    ----------
    city : a city, or settings; from settings it is made and written `chunk` regions at a time
    folder : where the files go; made if absent
    truth : write truth.parquet (a row a region) and expected.parquet (a row a sales row) too

    Returns
    -------
    Path of dataset.yaml, beside sales.parquet, regions.parquet, calendar.parquet, truth.json.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = city.config if isinstance(city, SyntheticCity) else city
    chunks = iter([city]) if isinstance(city, SyntheticCity) else generate_chunks(config, chunk)
    writers: dict[str, pq.ParquetWriter] = {}
    try:
        for part in chunks:
            frames = {"sales": part.sales, "regions": part.regions}
            if truth:
                frames |= {"truth": truth_frame(part), "expected": expected_frame(part)}
            for name, frame in frames.items():
                table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
                if name not in writers:
                    writers[name] = pq.ParquetWriter(folder / f"{name}.parquet", table.schema, compression="zstd")
                writers[name].write_table(table)
    finally:
        for writer in writers.values():
            writer.close()
    festival_calendar(config).to_parquet(folder / "calendar.parquet", index=False)
    if truth:
        known = {
            "config": asdict(config),
            "types": TYPES,
            "kinds": KINDS,
            "weekly": WEEKLY.tolist(),
            "yearly": YEARLY.tolist(),
            "response": RESPONSE.tolist(),
            "promo_lift": PROMO_LIFT.tolist(),
            "offsets": OFFSETS.tolist(),
            "shape": SHAPE.tolist(),
            "festivals": FESTIVALS,
        }
        (folder / "truth.json").write_text(json.dumps(known, indent=2), encoding="utf-8")
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(dataset_yaml(config), sort_keys=False), encoding="utf-8")
    return path


def dataset_yaml(config: SyntheticConfig) -> dict[str, Any]:
    """The `dataset.yaml` of a written city, as a mapping."""
    sales: dict[str, Any] = {"path": "sales.parquet", "region": "region_id", "date": "date", "target": "sales"}
    if len(config.series) > 1:
        sales["series"] = "series_id"
    sales |= {"past": ["customers"], "known": ["promo", "price", "open"]}
    return {
        "name": "synthetic",
        "frequency": "D",
        "tables": {
            "sales": sales,
            "regions": {
                "path": "regions.parquet",
                "region": "region_id",
                "numeric": list(FEATURES),
                "categorical": ["district", "store_format"],
                "scopes": ["district"],
            },
            "calendar": {
                "path": "calendar.parquet",
                "date": "date",
                "scope": "scope",
                "everywhere": [EVERYWHERE],
                "events": ["event"],
            },
        },
        "closed": {"column": "open", "equals": 0},
        "day_types": {
            "festival": [{"event": "any", "before": 2, "after": 1}],
            "weekend": ["saturday", "sunday"],
        },
    }


def truth_frame(city: SyntheticCity) -> pd.DataFrame:
    """The truth, one row a region."""
    truth = city.truth
    frame = pd.DataFrame(
        {
            "region_id": city.regions["region_id"],
            "type": np.array(TYPES, dtype=object)[truth.region_type],
            "gain": truth.gain,
            "promo_lift": truth.promo_lift,
            "level": truth.level,
            "trend": truth.trend,
            "opened": pd.to_datetime(truth.opened),
        }
    )
    for k, kind in enumerate(KINDS):
        frame[f"festival_{kind}"] = truth.festival[:, k]
    return frame


def expected_frame(city: SyntheticCity) -> pd.DataFrame:
    """Noise-free expected sales, row by row of `city.sales`."""
    keys = [c for c in ("region_id", "date", "series_id") if c in city.sales.columns]
    frame = city.sales[keys].copy()
    expected = city.truth.expected.reshape(-1)
    frame["expected"] = expected[~np.isnan(expected)]
    return frame


# --- inside ---------------------------------------------------------------------------------------------------------


def _district(number: int) -> str:
    return f"district_{number:02d}"


def _weekday(dates: np.ndarray | np.datetime64) -> Any:
    """Monday = 0; 1970-01-01 was a Thursday."""
    return (np.asarray(dates, dtype="datetime64[D]").astype(np.int64) + 3) % 7


def _festival_kernel(config: SyntheticConfig, calendar: pd.DataFrame) -> np.ndarray:
    """How much of each kind of festival is in the air, float [districts, T', kinds]."""
    dates = config.all_dates
    kernel = np.zeros((config.districts, len(dates), len(KINDS)))
    districts = {_district(d): [d] for d in range(config.districts)} | {EVERYWHERE: list(range(config.districts))}
    for scope, date, event in calendar.itertuples(index=False):
        day = int((np.datetime64(date, "D") - dates[0]).astype(int))
        for o, offset in enumerate(OFFSETS):
            if 0 <= day + offset < len(dates):
                kernel[districts[scope], day + offset] += np.asarray(FESTIVALS[event]) * SHAPE[:, o]
    return kernel


def _generate_regions(
    config: SyntheticConfig, calendar: pd.DataFrame, kernel: np.ndarray, numbers: np.ndarray
) -> SyntheticCity:
    dates = config.all_dates
    draws = [_draw_region(config, int(number)) for number in numbers]
    stack = {key: np.stack([draw[key] for draw in draws]) for key in draws[0]}
    kind, district = stack["type"], stack["district"]
    festival = RESPONSE[kind] * stack["gain"][:, None] + stack["taste"]  # [R, kinds]

    weekday = _weekday(dates)
    day_of_year = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    amplitude, peak, second = (YEARLY[kind, i][:, None] for i in range(3))
    angle = 2 * np.pi * (day_of_year[None] - peak) / 365.25
    years = (dates - dates[0]).astype(int) / 365.25
    festivals = np.einsum("rtk,rk->rt", kernel[district], festival)
    log_mean = (
        stack["level"][:, None]
        + stack["trend"][:, None] * years
        + np.log(WEEKLY[kind][:, weekday])
        + amplitude * np.cos(angle)
        + second * np.cos(2 * angle)
    )  # [R, T']
    log_mean = log_mean[:, :, None] + np.log(stack["share"])[:, None, :]  # [R, T', G]
    log_mean = log_mean + festivals[:, :, None] * _series_response(config)
    log_mean = log_mean + stack["promo_lift"][:, None, None] * stack["depth"]

    christmas = kernel_dates(calendar, "christmas", dates)
    closed = stack["works"] | (stack["sunday_closed"][:, None] & (weekday == 6))
    closed = closed | (stack["holiday_closed"][:, None] & christmas)
    exists = dates >= stack["opened"][:, None]  # [R, T']
    expected = np.where(closed[:, :, None], 0.0, np.exp(log_mean))
    actual = expected * np.exp(stack["shock"])[:, :, None]
    sales, customers = _noise(config, numbers, actual)
    if config.future_days:
        sales[:, len(config.dates) :] = np.nan
        customers[:, len(config.dates) :] = np.nan

    truth = SyntheticTruth(
        region_type=kind.astype(np.int8),
        gain=stack["gain"],
        taste=stack["taste"],
        festival=festival,
        promo_lift=stack["promo_lift"],
        level=stack["level"],
        trend=stack["trend"],
        opened=stack["opened"],
        expected=np.where(exists[:, :, None], expected, np.nan).astype(np.float32),
    )
    regions = _regions_frame(config, numbers, stack)
    frame = _sales_frame(config, regions["region_id"].to_numpy(), exists, sales, customers, stack["depth"], closed)
    return SyntheticCity(config, frame, regions, calendar, truth)


def _draw_region(config: SyntheticConfig, number: int) -> dict[str, Any]:
    """All that is random of one region but its daily noise; the order of draws is part of the format."""
    rng = np.random.default_rng([config.seed, 1, number])
    days, g = len(config.all_dates), len(config.series)
    kind = rng.integers(len(TYPES))
    draw: dict[str, Any] = {
        "type": kind,
        "district": rng.integers(config.districts),
        "format": rng.integers(3),
        "level": np.log(config.level) + config.level_sigma * rng.standard_normal(),
        "trend": 0.02 + config.trend_sigma * rng.standard_normal(),
        "gain": np.exp(config.gain_sigma * rng.standard_normal()),
        "taste": config.taste_sigma * rng.standard_normal(len(KINDS)),
        "promo_lift": PROMO_LIFT[kind] * np.exp(0.2 * rng.standard_normal()),
        "share": rng.dirichlet(np.full(g, 8.0)) if g > 1 else np.ones(1),
        "features": np.array([means[kind] for means in FEATURES.values()])
        + config.static_noise * rng.standard_normal(len(FEATURES)),
        "missing": rng.random(len(FEATURES)) < config.static_missing,
        "sunday_closed": rng.random() < config.sunday_closed_share,
        "holiday_closed": rng.random() < config.holiday_closed_share,
    }
    late = rng.random() < config.late_share
    wait = int(rng.integers(30, max(31, int(len(config.dates) * config.min_date_of_opening_share))))
    draw["opened"] = config.dates[min(wait, len(config.dates) - 1)] if late else config.dates[0]
    works = np.zeros(days, dtype=bool)
    has_works, first, length = rng.random() < config.works_share, rng.integers(days), rng.integers(5, 15)
    if has_works:
        works[first : first + length] = True
    draw["works"] = works
    # Promotions run for whole weeks, Monday to Sunday, so that they are planned and not a daily coin.
    week = (config.all_dates.astype(np.int64) + 3) // 7
    week = week - week[0]
    promoted = rng.random((week[-1] + 1, g)) < config.promo_rate
    depth = np.where(promoted, rng.choice([0.1, 0.2, 0.3], size=promoted.shape), 0.0)
    draw["depth"] = depth[week]  # [T', G]
    draw["shock"] = _ar1(config.shock_sigma * rng.standard_normal(days), 0.8)
    return draw


def _ar1(steps: np.ndarray, rho: float) -> np.ndarray:
    """x_t = rho x_(t-1) + sqrt(1 - rho^2) e_t as a convolution cut where rho^k < 1e-6; no loop over days."""
    powers = rho ** np.arange(int(np.ceil(np.log(1e-6) / np.log(rho))))
    return np.convolve(steps, powers * np.sqrt(1 - rho**2))[: len(steps)]


def _series_response(config: SyntheticConfig) -> np.ndarray:
    """How strongly each series answers festivals, float [G]; 1 where there is one series."""
    g = len(config.series)
    return np.linspace(1.3, 0.5, g) if g > 1 else np.ones(1)


def _noise(config: SyntheticConfig, numbers: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sales [R, T', G] around `actual`, and customers [R, T']."""
    sales, customers = np.empty_like(actual), np.empty(actual.shape[:2])
    for row, number in enumerate(numbers):
        rng = np.random.default_rng([config.seed, 2, int(number)])
        mean = actual[row]
        if config.noise == "none":
            sales[row] = mean
        elif config.noise == "lognormal":
            factor = np.exp(config.noise_level * rng.standard_normal(mean.shape) - config.noise_level**2 / 2)
            sales[row] = np.round(mean * factor, 2)
        else:
            # Negative binomial as a gamma mixture of Poissons: variance = mean + (noise_level * mean)^2.
            shape = 1 / max(config.noise_level, 1e-6) ** 2
            sales[row] = rng.poisson(mean * rng.gamma(shape, 1 / shape, size=mean.shape))
        customers[row] = rng.poisson(mean.sum(axis=1) / 2.5)
    return sales, customers


def kernel_dates(calendar: pd.DataFrame, event: str, dates: np.ndarray) -> np.ndarray:
    """Where `dates` is a date of `event`, bool [T']."""
    of_event = calendar.loc[calendar["event"] == event, "date"].to_numpy().astype("datetime64[D]")
    return np.isin(dates, of_event)


def _regions_frame(config: SyntheticConfig, numbers: np.ndarray, stack: dict[str, np.ndarray]) -> pd.DataFrame:
    # Counts, money and shares as a retailer has them; all grow with the feature behind them.
    units = {"poi": 12.0, "income": 18_000.0, "share": 0.12}
    features = np.where(stack["missing"], np.nan, stack["features"])
    frame = pd.DataFrame(
        {
            "region_id": [f"R{number:06d}" for number in numbers],
            "district": [_district(d) for d in stack["district"]],
            "store_format": np.array(["A", "B", "C"], dtype=object)[stack["format"]],
        }
    )
    for i, name in enumerate(FEATURES):
        frame[name] = np.round(np.log1p(np.exp(features[:, i])) * units[name.split("_")[0]], 3)
    return frame


def _sales_frame(
    config: SyntheticConfig,
    ids: np.ndarray,
    exists: np.ndarray,
    sales: np.ndarray,
    customers: np.ndarray,
    depth: np.ndarray,
    closed: np.ndarray,
) -> pd.DataFrame:
    """The long table: a row a region, date and series, none before the opening."""
    dates = config.all_dates
    r, t, g = sales.shape
    keep = np.repeat(exists.reshape(-1), g)

    def rows(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values, (r, t, g)).reshape(-1)[keep]

    columns: dict[str, np.ndarray] = {
        "region_id": rows(ids[:, None, None]),
        "date": rows(dates.astype("datetime64[ns]")[None, :, None]),
    }
    if g > 1:
        columns["series_id"] = rows(np.array(config.series, dtype=object))
    columns |= {
        "sales": rows(sales),
        "customers": rows(customers[:, :, None]),
        "promo": rows(depth > 0).astype(np.int8),
        "price": np.round(10.0 * (1 - rows(depth)), 2),
        "open": rows(~closed[:, :, None]).astype(np.int8),
    }
    return pd.DataFrame(columns)
