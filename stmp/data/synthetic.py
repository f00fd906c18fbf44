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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stmp.data.synthetic_settings import (
    EVERYWHERE,
    FEATURES,
    FESTIVALS,
    KINDS,
    OFFSETS,
    PROMO_LIFT,
    RESPONSE,
    SHAPE,
    TYPES,
    WEEKLY,
    YEARLY,
    SyntheticConfig,
    configure,
    district_name,
    festival_calendar,
    weekday_of,
)
from stmp.errors import ConfigError

__all__ = ["SyntheticCity", "SyntheticConfig", "SyntheticTruth", "generate", "generate_chunks"]


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


# --- inside ---------------------------------------------------------------------------------------------------------


def _festival_kernel(config: SyntheticConfig, calendar: pd.DataFrame) -> np.ndarray:
    """How much of each kind of festival is in the air, float [districts, T', kinds]."""
    dates = config.all_dates
    kernel = np.zeros((config.districts, len(dates), len(KINDS)))
    districts = {district_name(d): [d] for d in range(config.districts)} | {EVERYWHERE: list(range(config.districts))}
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

    weekday = weekday_of(dates)
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

    christmas = _is_event(calendar, "christmas", dates)
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


def _is_event(calendar: pd.DataFrame, event: str, dates: np.ndarray) -> np.ndarray:
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
            "district": [district_name(d) for d in stack["district"]],
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
