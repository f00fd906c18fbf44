"""What the synthetic city is made of: its settings, its types of regions, its festivals and their dates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

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
            saturday = june + (5 - weekday_of(june)) % 7 + 7 * week
            rows.append((district_name(district), saturday, TOWN_FAIR))
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


def district_name(number: int) -> str:
    """Name of a district, as regions and scopes have it."""
    return f"district_{number:02d}"


def weekday_of(dates: np.ndarray | np.datetime64) -> Any:
    """Monday = 0; 1970-01-01 was a Thursday."""
    return (np.asarray(dates, dtype="datetime64[D]").astype(np.int64) + 3) % 7
