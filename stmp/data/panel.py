"""The Panel: a dataset, or a shard of its regions, as tensors.

Everything downstream reads a Panel by index, on whatever device it lies; nothing downstream knows about files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stmp.data.calendar import Calendar, DayRule, build_calendar, period_days
from stmp.errors import ConfigError, DataError

SERIES_SEPARATOR = "@"
"""Joins a covariate's name and a series' name where the covariate differs between the series of one region."""

SERIES_COLUMN = "series="
"""Begins the names of the static features that say which series a row is."""

DateLike = np.datetime64 | str | pd.Timestamp

DEFAULT_RULES = (
    DayRule("festival", event=("*",), before=2, after=1),
    DayRule("weekend", weekdays=(5, 6)),
)


@dataclass(frozen=True)
class Panel:
    """Regions by dates by series, with everything that is known about them.

    Attributes
    ----------
    regions : ndarray of str, shape [R]
    series : tuple of str, length G
    calendar : Calendar
        T dates, which may reach past the last day of sales (the known future).
    calendar_index : Tensor int64, shape [R]
        Which of the calendar's C rows each region follows.
    sales : Tensor float32, shape [R, T, G]
        In the unit of the data; 0 where not observed.
    observed : Tensor bool, shape [R, T, G]
        Days that teach something: False where there is no row, on closed days, and in the future.
    closed : Tensor bool, shape [R, T]
        Days on which the region is known to sell nothing, past or future.
    past : Tensor float32, shape [R, T, P]
        Covariates known up to the forecast origin; NaN where not observed.
    known : Tensor float32, shape [R, T, K]
        Covariates known for future days too; NaN where not known.
    static : Tensor float32, shape [R, S]
        Features of the region; NaN where missing. Categories are one-hot columns named ``column=value``.
    """

    regions: np.ndarray
    series: tuple[str, ...]
    calendar: Calendar
    calendar_index: Tensor
    sales: Tensor
    observed: Tensor
    closed: Tensor
    past: Tensor
    known: Tensor
    static: Tensor
    past_names: tuple[str, ...] = ()
    known_names: tuple[str, ...] = ()
    static_names: tuple[str, ...] = ()
    fingerprint: str = ""

    def __post_init__(self) -> None:
        regions, periods, series = self.shape
        expected = {
            "observed": (regions, periods, series),
            "closed": (regions, periods),
            "past": (regions, periods, len(self.past_names)),
            "known": (regions, periods, len(self.known_names)),
            "static": (regions, len(self.static_names)),
            "calendar_index": (regions,),
        }
        for name, shape in expected.items():
            assert tuple(getattr(self, name).shape) == shape, f"{name} is {getattr(self, name).shape}, not {shape}"
        assert len(self.regions) == regions and len(self.dates) == periods and len(self.series) == series

    @property
    def shape(self) -> tuple[int, int, int]:
        """Regions R, periods T, series G."""
        regions, periods, series = self.sales.shape
        return regions, periods, series

    @property
    def series_number(self) -> int:
        """Number N of the dataset's series, also where each row holds one of them (`split_series`)."""
        return max(self.shape[2], len(self._series_columns))

    @property
    def series_index(self) -> Tensor:
        """Which of the dataset's N series each of a row's is, int64 [R, G]."""
        regions, _, series = self.shape
        if self._series_columns:
            return self.static[:, self._series_columns].nan_to_num(0.0).argmax(dim=1, keepdim=True)
        return torch.arange(series, device=self.device).expand(regions, -1)

    @property
    def _series_columns(self) -> list[int]:
        """Static features that say which series a row is."""
        if self.shape[2] > 1:
            return []
        return [i for i, name in enumerate(self.static_names) if name.startswith(SERIES_COLUMN)]

    @property
    def dates(self) -> np.ndarray:
        """The T dates, datetime64[D], one period of the frequency apart."""
        return self.calendar.dates

    @property
    def frequency(self) -> str:
        """``D`` or ``W``, as in dataset.yaml."""
        return self.calendar.frequency

    @property
    def period_days(self) -> int:
        """Days in one period: 1 for daily, 7 for weekly data."""
        return period_days(self.frequency)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.sales.device

    @property
    def day_type(self) -> Tensor:
        """Index into ``calendar.day_types`` for each region and date, int64 [R, T]."""
        by_calendar = torch.as_tensor(self.calendar.day_type, dtype=torch.int64, device=self.device)
        return by_calendar[self.calendar_index]

    @property
    def last_observed(self) -> np.datetime64:
        """The last date on which any region sold."""
        days = self.observed.any(dim=2).any(dim=0).nonzero()
        if len(days) == 0:
            raise DataError(
                "The panel holds no observed sales at all. Check the dates and the `closed` rule of the dataset."
            )
        return self.dates[int(days[-1])]

    def index_of(self, date: DateLike) -> int:
        """Position of a date on the time axis.

        Raises
        ------
        DataError
            If the panel does not hold that date.
        """
        day = np.datetime64(pd.Timestamp(date), "D")
        position = int(np.searchsorted(self.dates, day))
        if position == len(self.dates) or self.dates[position] != day:
            near = self.dates[max(0, min(position, len(self.dates) - 1))]
            raise DataError(
                f"The date {day} is not in the data, which holds {self.dates[0]} to {self.dates[-1]} by "
                f"{self.frequency}; the nearest date it holds is {near}."
            )
        return position

    def select(self, index: Sequence[int] | np.ndarray | Tensor) -> Panel:
        """The panel of some of the regions, by position."""
        rows = torch.as_tensor(np.asarray(index), dtype=torch.int64, device=self.device)
        per_region = ("calendar_index", "sales", "observed", "closed", "past", "known", "static")
        return replace(
            self, regions=self.regions[rows.cpu().numpy()], **{name: getattr(self, name)[rows] for name in per_region}
        )

    def window(self, start: int, stop: int) -> Panel:
        """The periods ``start:stop`` alone, as if there were no others."""
        per_period = ("sales", "observed", "closed", "past", "known")
        return replace(
            self,
            calendar=self.calendar.slice(start, stop),
            **{name: getattr(self, name)[:, start:stop] for name in per_period},
        )

    def to(self, device: torch.device | str) -> Panel:
        """The same panel with its tensors on a device."""
        moved = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def until(self, date: DateLike) -> Panel:
        """Forget what was sold after a date; what is known of the future stays."""
        after = torch.as_tensor(self.dates > np.datetime64(pd.Timestamp(date), "D"), device=self.device)
        return self._forget(after)

    def with_history(self, origin: DateLike, days: int) -> Panel:
        """Forget all that was observed up to the origin but its last days: a region that opened then.

        Parameters
        ----------
        origin : date
            The last day whose sales are known.
        days : int
            Calendar days of history to keep, the origin included.
        """
        first = np.datetime64(pd.Timestamp(origin), "D") - np.timedelta64(days - 1, "D")
        return self._forget(torch.as_tensor(self.dates < first, device=self.device))

    def _forget(self, periods: Tensor) -> Panel:
        """The panel without what was observed in some periods, bool [T]."""
        return replace(
            self,
            sales=self.sales.masked_fill(periods[None, :, None], 0.0),
            observed=self.observed & ~periods[None, :, None],
            past=self.past.masked_fill(periods[None, :, None], float("nan")),
        )

    def split_series(self, unsold: bool = False) -> Panel:
        """One row per (region, series) that was ever observed, or with `unsold` per any, each with a single series.

        Rows are named ``region@series``. Covariates that differ between series lose their suffix; a one-hot
        static feature says which series a row is.
        """
        _regions, _periods, groups = self.shape
        if groups == 1:
            return self
        pairs = (self.observed.any(dim=1) | unsold).nonzero()  # [N, 2]
        rows, groups_of = pairs[:, 0], pairs[:, 1]
        one_hot = torch.nn.functional.one_hot(groups_of, groups).to(self.static.dtype)
        past, past_names = self._split_covariates(self.past, self.past_names, rows, groups_of)
        known, known_names = self._split_covariates(self.known, self.known_names, rows, groups_of)
        names = [f"{self.regions[r]}{SERIES_SEPARATOR}{self.series[g]}" for r, g in pairs.tolist()]
        return Panel(
            regions=np.asarray(names, dtype=object),
            series=("sales",),
            calendar=self.calendar,
            calendar_index=self.calendar_index[rows],
            sales=self.sales[rows, :, groups_of].unsqueeze(-1),
            observed=self.observed[rows, :, groups_of].unsqueeze(-1),
            closed=self.closed[rows],
            past=past,
            known=known,
            static=torch.cat([self.static[rows], one_hot], dim=1),
            past_names=past_names,
            known_names=known_names,
            static_names=self.static_names + tuple(f"{SERIES_COLUMN}{name}" for name in self.series),
            fingerprint=self.fingerprint,
        )

    def series_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Region and series position of each row that `split_series` makes, two int arrays [N]."""
        if self.shape[2] == 1:
            return np.arange(self.shape[0]), np.zeros(self.shape[0], dtype=np.int64)
        pairs = self.observed.any(dim=1).nonzero().cpu().numpy()
        return pairs[:, 0], pairs[:, 1]

    def _split_covariates(
        self, values: Tensor, names: tuple[str, ...], rows: Tensor, groups_of: Tensor
    ) -> tuple[Tensor, tuple[str, ...]]:
        position = {name: i for i, name in enumerate(names)}
        bases = tuple(dict.fromkeys(base_name(name, self.series) for name in names))
        columns = []
        for base in bases:
            if base in position:
                columns.append(values[rows, :, position[base]])
                continue
            flat = [position.get(f"{base}{SERIES_SEPARATOR}{name}", -1) for name in self.series]
            column = torch.as_tensor(flat, device=values.device)[groups_of]
            picked = values[rows, :, column.clamp(min=0)]
            columns.append(picked.masked_fill((column < 0)[:, None], float("nan")))
        if not columns:
            return values.new_zeros((len(rows), values.shape[1], 0)), ()
        return torch.stack(columns, dim=-1), bases

    @classmethod
    def from_frame(
        cls,
        sales: pd.DataFrame,
        *,
        region: str = "unique_id",
        date: str = "ds",
        target: str = "y",
        series: str | None = None,
        past: Sequence[str] = (),
        known: Sequence[str] = (),
        static: pd.DataFrame | None = None,
        events: pd.DataFrame | None = None,
        rules: Sequence[DayRule] = DEFAULT_RULES,
        closed: str | None = None,
        frequency: str | None = None,
        horizon: int = 0,
    ) -> Panel:
        """Build a panel from a long table in memory, the way a notebook does.

        Parameters
        ----------
        sales : DataFrame
            One row per region, date and, if named, series. Rows with an empty target carry known-future covariates.
        region, date, target, series : str
            Names of its columns.
        past, known : sequence of str
            Numeric covariate columns: known up to the forecast origin, or for future days too.
        static : DataFrame, optional
            Features by region: a column named as `region`, or the index. Text columns become one-hot.
        events : DataFrame, optional
            Columns ``date`` and ``event``: holidays and other special days, of all regions.
        rules : sequence of DayRule
            Which days are festivals and weekends; the first rule that matches names the day.
        closed : str, optional
            A column that is 1 on days when the region is closed, and else 0; a row where it is empty says nothing.
        frequency : str, optional
            ``D`` or ``W``; found from the dates where it is not given.
        horizon : int
            Periods to add after the last date, to forecast into.

        Raises
        ------
        DataError
            For missing columns, dates that cannot be read, duplicate rows, events that hold for some regions only, or
            rows that disagree on whether their region was closed that day.
        """
        wanted = [region, date, target, *past, *known, *([series] if series else []), *([closed] if closed else [])]
        missing = [name for name in dict.fromkeys(wanted) if name not in sales.columns]
        if missing:
            raise DataError(f"The sales table lacks the columns {missing}; it has {list(sales.columns)}.")
        try:
            days = pd.to_datetime(sales[date]).to_numpy().astype("datetime64[D]")
        except (ValueError, TypeError) as error:
            raise DataError(f"Column '{date}' of the sales table holds values that are not dates: {error}.") from error
        region_ids, rows = np.unique(sales[region].astype(str).to_numpy(dtype=object), return_inverse=True)
        names, groups = (
            np.unique(sales[series].astype(str).to_numpy(dtype=object), return_inverse=True)
            if series
            else (np.asarray(["sales"], dtype=object), np.zeros(len(sales), dtype=np.int64))
        )
        keys = pd.DataFrame({"region": rows, "series": groups, "date": days})
        duplicates = keys.duplicated(keep=False)
        if duplicates.any():
            example = sales.loc[duplicates.to_numpy(), [region, date]].head(3).astype(str).to_dict("records")
            raise DataError(
                f"The sales table has {int(duplicates.sum())} rows that share region, date and series, such as "
                f"{example}. Keep one row for each."
            )
        frequency = frequency or _find_frequency(days)
        step = period_days(frequency)
        final = days.max() + np.timedelta64(horizon * step, "D")
        dates = np.arange(days.min(), final + np.timedelta64(1, "D"), np.timedelta64(step, "D"))
        columns = np.searchsorted(dates, days)
        if (dates[np.minimum(columns, len(dates) - 1)] != days).any():
            raise DataError(
                f"Column '{date}' holds dates that are not {step} days apart, as frequency {frequency} asks."
            )

        if step > 1:  # a week has no weekday
            rules = [rule for rule in rules if not rule.weekdays]
        calendar = build_calendar(dates, frequency, rules, _of_all(events))
        shape = (len(region_ids), len(dates), len(names))
        y = sales[target].to_numpy(dtype=np.float64, na_value=np.nan)
        is_closed = np.zeros(shape[:2], dtype=bool)
        if closed:
            is_closed = _closed_days(sales[closed], rows, columns, region_ids, dates)
        seen = np.zeros(shape, dtype=bool)
        seen[rows, columns, groups] = np.isfinite(y)
        seen &= ~is_closed[:, :, None]
        values = np.zeros(shape, dtype=np.float32)
        values[rows, columns, groups] = np.nan_to_num(y)
        values[~seen] = 0.0
        at = (rows, columns, groups)
        past_values, past_names = _scatter(sales, past, names, at, shape)
        known_values, known_names = _scatter(sales, known, names, at, shape)
        static_values, static_names = _static(static, region, region_ids)
        return cls(
            regions=region_ids,
            series=tuple(str(name) for name in names),
            calendar=calendar,
            calendar_index=torch.zeros(len(region_ids), dtype=torch.int64),
            sales=torch.from_numpy(values),
            observed=torch.from_numpy(seen),
            closed=torch.from_numpy(is_closed),
            past=torch.from_numpy(past_values),
            known=torch.from_numpy(known_values),
            static=torch.from_numpy(static_values),
            past_names=past_names,
            known_names=known_names,
            static_names=static_names,
        )


def base_name(name: str, series: Sequence[str]) -> str:
    """A covariate's name without the series that it is of, if it differs between series."""
    base, separator, suffix = name.rpartition(SERIES_SEPARATOR)
    return base if separator and suffix in series else name


def _find_frequency(days: np.ndarray) -> str:
    steps = np.diff(np.unique(days)).astype(int)
    if len(steps) == 0:
        raise DataError("The sales table holds a single date; a forecast needs a history.")
    step = int(np.median(steps))
    if step == 1:
        return "D"
    if step == 7:
        return "W"
    raise ConfigError(
        f"Dates lie {step} days apart. Daily (D) and weekly (W) data are supported; aggregate to one of them."
    )


def _of_all(events: pd.DataFrame | None) -> pd.DataFrame | None:
    """Events that hold everywhere, as `build_calendar` wants them; those of places would be nobody's here."""
    if events is None or "scope" not in events.columns:
        return None if events is None else events.assign(scope="")
    scopes = events["scope"].fillna("").astype(str)
    places = sorted(set(scopes) - {""})
    if places:
        raise DataError(
            f"The events table has the column 'scope', which is {places[:3]} in {int((scopes != '').sum())} of its "
            f"{len(events)} rows, but Panel.from_frame has one calendar for all regions. Keep the rows of events that "
            "all regions have and leave the column out; or ingest the tables with a dataset.yaml, where regions have "
            "scopes."
        )
    return events


def _closed_days(
    closed: pd.Series, rows: np.ndarray, columns: np.ndarray, region_ids: np.ndarray, dates: np.ndarray
) -> np.ndarray:
    """Days on which regions are closed, bool [R, T], by rows of which several may be of one region and day."""
    told = closed.to_numpy(dtype=np.float64, na_value=np.nan)
    says_closed, says_open = np.zeros((2, len(region_ids), len(dates)), dtype=bool)
    for says, some in ((says_closed, told == 1), (says_open, np.isfinite(told) & (told != 1))):
        says[rows[some], columns[some]] = True
    both = np.argwhere(says_closed & says_open)
    if len(both):
        region, day = both[0]
        raise DataError(
            f"Column '{closed.name}' of the sales table is 1 in some rows and 0 in others of one region and day, "
            f"{len(both)} times, first of region {region_ids[region]} on {dates[day]}. A region is open or closed with "
            "all its series: give the rows of a day one value, or leave it empty where a series alone was not sold."
        )
    return says_closed


def _scatter(
    frame: pd.DataFrame,
    columns: Sequence[str],
    series: np.ndarray,
    at: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, int, int],
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Covariate columns of a long table as [R, T, K]; those that differ between series become one column a series."""
    out: list[np.ndarray] = []
    names: list[str] = []
    for name in columns:
        if not pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name]):
            raise DataError(f"Column '{name}' is a covariate and must be numeric; encode its values as numbers first.")
        cube = np.full(shape, np.nan, dtype=np.float32)
        cube[at] = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        filled = ~np.isnan(cube)
        high = np.where(filled, cube, -np.inf).max(axis=2)
        low = np.where(filled, cube, np.inf).min(axis=2)
        if (high <= low).all() or not (high > low).any():  # every region-day has one value at most
            out.append(np.where(np.isfinite(high), high, np.nan).astype(np.float32))
            names.append(name)
        else:
            out.extend(cube[:, :, g] for g in range(shape[2]))
            names.extend(f"{name}{SERIES_SEPARATOR}{group}" for group in series)
    values = np.stack(out, axis=-1) if out else np.zeros((*shape[:2], 0), dtype=np.float32)
    return values, tuple(names)


def _static(static: pd.DataFrame | None, region: str, region_ids: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    if static is None:
        return np.zeros((len(region_ids), 0), dtype=np.float32), ()
    frame = static.set_index(region) if region in static.columns else static
    frame = frame.set_axis(frame.index.astype(str), axis=0)
    unknown = [r for r in region_ids if r not in frame.index]
    if unknown:
        raise DataError(f"The static table lacks {len(unknown)} regions that sell, such as {unknown[:3]}.")
    frame = frame.loc[list(region_ids)]
    text = [c for c in frame.columns if not pd.api.types.is_numeric_dtype(frame[c])]
    frame = pd.get_dummies(frame, columns=text, prefix_sep="=", dtype=float)
    return frame.to_numpy(dtype=np.float32, na_value=np.nan), tuple(str(c) for c in frame.columns)
