"""From a Panel to what the networks read: scaled, causal, and gathered by index.

Sales are divided by a *level*, the trailing mean of ordinary open days up to the forecast origin. Festivals are left
out of it, so that one in the window does not inflate the scale; nothing after the origin enters it, so that every day
of a long context can be an origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stmp.data.calendar import Calendar, period_days
from stmp.data.closure import closures
from stmp.data.counterpart import counterparts
from stmp.data.group_index import GroupIndex
from stmp.data.panel import Panel
from stmp.data.schema import MIN_LEVEL, Schema, signed_log
from stmp.data.steps import LevelStep

OFFSET = 0.1
"""Added to sales over level before the logarithm: a day without sales is log(0.1), not minus infinity."""

RARE = 0.5
"""A series that sells on a smaller share of its observed days is rare: a single day of its past says nothing."""

ZSCORE_LIMIT = 5.0

TURN_DAYS = (3, 8)
"""How fast nearness to the first and last day of a month fades, as `turn_of_month` tells it."""


@dataclass(frozen=True)
class Rows:
    """The whole history of a few regions, scaled: one slice of a `History`. B regions, T periods.

    Attributes
    ----------
    sales, observed : Tensor [B, T, G]
        `observed` is False before the history that may be seen, before the series' first sale and in `closures`: an
        export that writes 0 for the days on which a region was not open teaches nothing of it.
    level : Tensor [B, T + 1, G]
        ``level[:, t]`` is the scale of an origin whose last known day is ``t - 1``.
    scaled : Tensor bool [B, T + 1, G]
        Whether that level comes from the series' own sales; else it is the default.
    trend : Tensor [B, T + 1, W G]
        Transformed means of the last periods over the level, as `level` is indexed; 0 where nothing was observed.
    record : Tensor [B, T + 1, G]
        The most that was ever sold before each day, as `level` is indexed; before anything was it is infinite, and 0
        once a level window of days has been observed in vain.
    selling : Tensor [B, T + 1, G]
        Share of the observed days of the level window that sold anything, as `level` is indexed; 1 without such days.
    recent : Tensor [B, T, G]
        Transformed sales over the level of the day before; 0 where not observed or without such a level.
    cart, cart_observed : Tensor [B, T, P]
    features : Tensor [B, T, F]
        Calendar and known-future covariates of each day.
    static : Tensor [B, S]
    day_type, event, offset : Tensor int64 [B, T]
        Events are numbered as in the panel.
    known_event : Tensor int64 [B, T]
        Events numbered as in the model's schema; 0 for none, and for those it has never seen.
    closed : Tensor bool [B, T]
    lag : Tensor int64 [B, T]
        Periods back to the day of last year that each day is like.
    embedding : Embedding or None
        Of the events, where the model learns one.
    group, group_level : Tensor [B, T, G] and [B, T + 1, G], or None
        Of the `GroupIndex`, where there is one; NaN where it does not reach.
    """

    sales: Tensor
    observed: Tensor
    level: Tensor
    scaled: Tensor
    trend: Tensor
    record: Tensor
    selling: Tensor
    recent: Tensor
    cart: Tensor
    cart_observed: Tensor
    features: Tensor
    static: Tensor
    day_type: Tensor
    event: Tensor
    offset: Tensor
    known_event: Tensor
    closed: Tensor
    lag: Tensor
    embedding: torch.nn.Embedding | None = None
    group: Tensor | None = None
    group_level: Tensor | None = None

    def window(self, start: int, stop: int) -> Rows:
        """The periods ``start:stop`` alone, without copying."""
        periods = self.sales.shape[1]
        cut: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and field.name != "static":
                cut[field.name] = value[:, start : stop + value.shape[1] - periods]
        return replace(self, **cut)

    def day(self, at: tuple[Tensor, Tensor]) -> Tensor:
        """Features of some days, with their event as the model knows it.

        The event is embedded after the gather: a gradient for the days that are read, not for all of history.
        """
        if self.embedding is None:
            return self.features[at]
        return torch.cat([self.features[at], self.embedding(self.known_event[at])], dim=-1)


class History:
    """A Panel laid out for gathering by region and time index, on the panel's device.

    Parameters
    ----------
    panel : Panel
    schema : Schema
        Of the model; the panel must have its columns.
    level_window : int
        Periods of the trailing level.
    transform : str
        ``linear`` or ``log``.
    use_known : bool
        Whether known-future covariates are among the features.
    turn_of_month : bool
        Whether nearness to the first and last day of the month is among the features.
    trend_periods : tuple of int, length W
        Periods of other means that the level is compared with.
    group : GroupIndex, optional
        What all regions sold together.
    """

    def __init__(
        self,
        panel: Panel,
        schema: Schema,
        *,
        level_window: int,
        transform: str,
        use_known: bool,
        turn_of_month: bool = False,
        trend_periods: tuple[int, ...] = (),
        group: GroupIndex | None = None,
    ) -> None:
        self.panel = panel
        self.schema = schema
        self.level_window, self.trend_periods = level_window, trend_periods
        self.transform = transform
        device = panel.device
        told = calendar_features(panel.calendar, turn=turn_of_month)
        self.calendar_features = torch.as_tensor(told, device=device)  # [C, T, F]
        self.day_type = torch.as_tensor(panel.calendar.day_type, dtype=torch.int64, device=device)  # [C, T]
        self.event = torch.as_tensor(panel.calendar.event, dtype=torch.int64, device=device)
        self.offset = torch.as_tensor(panel.calendar.offset, dtype=torch.int64, device=device)
        numbers = {name: number for number, name in enumerate(schema.events)}
        self.lag = torch.as_tensor(counterparts(panel.calendar), device=device)
        self.event_number = torch.tensor([numbers.get(name, 0) for name in panel.calendar.events], device=device)
        self.use_known = use_known
        static = signed_log(panel.static)
        center = torch.tensor(schema.static_center, device=device)
        spread = torch.tensor(schema.static_spread, device=device)
        self.static = ((static - center) / spread).nan_to_num(0.0).clamp(-ZSCORE_LIMIT, ZSCORE_LIMIT)
        self.default_level = torch.tensor(schema.default_level, dtype=torch.float32, device=device)
        self.known_log = torch.tensor(schema.known_log, dtype=torch.bool, device=device)
        self.known_center = torch.tensor(schema.known_center, dtype=panel.known.dtype, device=device)
        self.known_spread = torch.tensor(schema.known_spread, dtype=panel.known.dtype, device=device)
        self.known_missing = torch.tensor([*schema.known_missing, 0.0], dtype=panel.known.dtype, device=device)
        unread = [name in schema.known_unread for name in schema.known_names]
        self.known_unread = torch.tensor(unread, dtype=torch.bool, device=device)
        self.group = group.on(panel) if group is not None else None
        self.series_index = panel.series_index  # once: to look it up copies from the host, which a CUDA graph cannot

    @property
    def feature_size(self) -> int:
        """F, the number of features of a day."""
        neighbours = 3 * len(self.schema.known_names) + 3 if self.use_known else 0
        return self.calendar_features.shape[-1] + neighbours

    @property
    def known_columns(self) -> slice:
        """Which features are the known covariates of the day itself, and whether it is closed; none if not used."""
        first = self.calendar_features.shape[-1]
        return slice(first, first + (len(self.schema.known_names) + 1) * self.use_known)

    def rows(
        self,
        region: Tensor,
        start: Tensor,
        known: Tensor | None = None,
        *,
        end: int | None = None,
        step: LevelStep | None = None,
    ) -> Rows:
        """Slice and scale some regions.

        Parameters
        ----------
        region : Tensor int64 [B]
            Positions in the panel.
        start : Tensor int64 [B]
            First period that may be seen: a later start is a region that opened then.
        known : Tensor int64 [B], optional
            One past the last period whose sales may tell of closures, an episode's ``end``. None is looked for without
            it, or without a group index.
        end : int, optional
            Cut the time axis here.
        step : LevelStep, optional
            Of the sales' level, in training.
        """
        panel, which = self.panel, self.panel.calendar_index[region]
        sales = panel.sales[region, :end]
        periods = torch.arange(sales.shape[1], device=sales.device)
        if step is not None:
            sales = step(sales)
        seen = periods >= start[:, None]  # [B, T]
        given = panel.observed[region, :end]
        begun = (sales * given).cummax(dim=1).values > 0
        observed = given & seen[:, :, None]
        group, group_level = self._group(region, periods=len(periods))
        if known is not None and group is not None:
            observed = observed & ~closures(sales, observed, known, group)
        record, selling = self._record(sales, observed)
        observed = observed & begun
        event = self.event[which, :end]
        sold = _cumulated(sales, observed)
        level, scaled = self._level(sales, observed, sold, ordinary=event == 0)
        recent = self.scale(sales, level[:, :-1]) * (observed & scaled[:, :-1])
        cart, cart_observed = self._cart(panel.past[region, :end], seen)
        return Rows(
            sales=sales,
            observed=observed,
            level=level,
            scaled=scaled,
            trend=self._trend(sold, level),
            record=record,
            selling=selling,
            recent=recent,
            cart=cart,
            cart_observed=cart_observed,
            features=self.features(region, end),
            static=self.static[region],
            day_type=self.day_type[which, :end],
            event=event,
            offset=self.offset[which, :end],
            known_event=self.event_number[event],
            closed=panel.closed[region, :end],
            lag=self.lag[which, :end],
            group=group,
            group_level=group_level,
        )

    def scale(self, sales: Tensor, level: Tensor) -> Tensor:
        """Sales as the networks see them: over the level, and transformed."""
        ratio = sales / level
        if self.transform == "linear":
            return ratio - 1.0
        return (ratio.clamp(min=0.0) + OFFSET).log() - math.log(1.0 + OFFSET)

    def unscale(self, value: Tensor, level: Tensor) -> Tensor:
        """The inverse of `scale`, never negative: sales in the unit of the data."""
        if self.transform == "linear":
            ratio = value + 1.0
        else:
            ratio = (value.clamp(max=12.0) + math.log(1.0 + OFFSET)).exp() - OFFSET
        return ratio.clamp(min=0.0) * level

    def _level(
        self, sales: Tensor, observed: Tensor, sold: tuple[Tensor, Tensor], ordinary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Trailing mean of ordinary observed days, [B, T + 1, G], or of all days where there are too few of those.

        `sold` is what is cumulated of all days.

        Without any sales before, it is the default level; the second tensor is False there.
        """
        usual = observed & ordinary[:, :, None]
        total, count = _trailing_sums(sales, usual, self.level_window)
        all_total, all_count = sold
        mean = torch.where(count >= 3, total / count.clamp(min=1), all_total / all_count.clamp(min=1))
        long_run = (all_total / all_count.clamp(min=1)).clamp(min=0.0)
        floor = torch.maximum(0.05 * long_run, torch.full_like(long_run, MIN_LEVEL))
        level = torch.maximum(mean, floor).to(sales.dtype)
        unseen = (all_count == 0) | (long_run <= 0)
        return torch.where(unseen, self.default_level, level), ~unseen

    def _trend(self, sold: tuple[Tensor, Tensor], level: Tensor) -> Tensor:
        """Means of all observed days of shorter and longer windows over the level, [B, T + 1, W G]."""
        parts = [level[..., :0]]
        for window in self.trend_periods:
            total, count = (_last(values, window) for values in sold)
            mean = (total / count.clamp(min=1)).to(level.dtype)
            parts.append(torch.where(count > 0, self.scale(mean, level), 0.0))
        return torch.cat(parts, dim=-1)

    def _record(self, sales: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """The most ever sold before each index, and the share of the level window's days that sold: [B, T + 1, G]."""
        highest = torch.nn.functional.pad(torch.where(observed, sales, 0.0).cummax(dim=1).values, (0, 0, 1, 0))
        days = torch.nn.functional.pad(observed.cumsum(dim=1), (0, 0, 1, 0))
        record = highest.masked_fill((highest <= 0) & (days < self.level_window), torch.inf)
        sold, count = _trailing_sums((sales > 0).to(sales.dtype), observed, self.level_window)
        return record, torch.where(count > 0, sold / count.clamp(min=1), 1.0).to(sales.dtype)

    def _cart(self, past: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Past covariates less their own trailing mean, over their own trailing deviation, [B, T, P]."""
        observed = past.isfinite() & seen[:, :, None]
        values = past.nan_to_num(0.0)
        total, count = _trailing_sums(values, observed, self.level_window)
        squares, _ = _trailing_sums(values.double() ** 2, observed, self.level_window)
        mean = total / count.clamp(min=1)
        deviation = (squares / count.clamp(min=1) - mean**2).clamp(min=0).sqrt()
        scaled = (values - mean[:, :-1]) / (deviation[:, :-1] + 0.05 * mean[:, :-1].abs() + MIN_LEVEL)
        usable = observed & (count[:, :-1] >= 3)
        return (scaled.to(past.dtype).clamp(-ZSCORE_LIMIT, ZSCORE_LIMIT) * usable), usable

    def _group(self, region: Tensor, periods: int) -> tuple[Tensor | None, Tensor | None]:
        """The group index of each region's series, [B, T, G], and its level, [B, T + 1, G]."""
        if self.group is None:
            return None, None
        series = self.series_index[region]
        index, level = self.group
        return index[:periods, series].transpose(0, 1), level[: periods + 1, series].transpose(0, 1)

    def features(self, region: Tensor, end: int | None = None) -> Tensor:
        """Calendar, and the known covariates of the day, the day before and the day after, [B, T, F]."""
        parts = [self.calendar_features[self.panel.calendar_index[region], :end]]
        if self.use_known:
            known = self._known(self.panel.known[region])
            closed = self.panel.closed[region].to(known.dtype).unsqueeze(-1)
            day = torch.cat([known, closed], dim=-1)
            before = torch.cat([day[:, :1], day[:, :-1]], dim=1)
            after = torch.cat([day[:, 1:], day[:, -1:]], dim=1)
            # A neighbour that nothing is known of counts as a day like this one.
            before, after = torch.where(before.isnan(), day, before), torch.where(after.isnan(), day, after)
            parts += [torch.where(part.isnan(), self.known_missing, part)[:, :end] for part in (day, before, after)]
        return torch.cat(parts, dim=-1)

    def _known(self, known: Tensor) -> Tensor:
        """Standardised covariates, NaN where not known; 0 of those that are not read."""
        values = torch.where(self.known_log, signed_log(known), known)
        scaled = ((values - self.known_center) / self.known_spread).clamp(-ZSCORE_LIMIT, ZSCORE_LIMIT)
        return scaled.masked_fill(self.known_unread, 0.0)


def calendar_features(calendar: Calendar, *, turn: bool) -> np.ndarray:
    """What the calendar says of each day, float32 [C, T, F].

    Day of the week, day of the month and day of the year as harmonics; with `turn` also nearness to the first and last
    day of the month, which harmonics blur; day type; distance to and since festivals.
    """
    days = calendar.dates.astype("datetime64[D]")
    weekly = period_days(calendar.frequency) > 1
    month_start = days.astype("datetime64[M]").astype("datetime64[D]")
    year_start = days.astype("datetime64[Y]").astype("datetime64[D]")
    of_year = 2 * np.pi * (days - year_start).astype(float) / 365.25
    of_month = 2 * np.pi * (days - month_start).astype(float) / 30.44
    columns = [f(k * of_year) for k in (1, 2, 3, 4) for f in (np.sin, np.cos)]
    columns += [f(k * of_month) for k in (1, 2) for f in (np.sin, np.cos)]
    if turn:
        # A week is the mean of its days, and ends on the day that it is named by.
        columns += list(np.mean([turn_of_month(days - k) for k in range(7 if weekly else 1)], axis=0))
    if not weekly:
        weekday = (days.astype("int64") + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
        columns += [(weekday == k).astype(float) for k in range(7)]
    shared = np.stack(columns, axis=-1)  # [T, F1]
    shared = np.broadcast_to(shared, (calendar.day_type.shape[0], *shared.shape))
    types = np.eye(len(calendar.day_types))[calendar.day_type]
    to, since = calendar.days_to.astype(float), calendar.days_since.astype(float)
    interval = [np.exp(-to / 2), np.exp(-to / 7), np.exp(-since / 2), np.exp(-since / 7)]
    offset = calendar.offset.astype(float) / 7.0
    interval += [np.clip(offset, -4, 4), (calendar.event > 0).astype(float)]
    return np.concatenate([shared, types, np.stack(interval, axis=-1)], axis=-1).astype(np.float32)


def turn_of_month(days: np.ndarray) -> np.ndarray:
    """Nearness of some dates to the first and to the last day of their months, [2 * len(TURN_DAYS), T]."""
    months = days.astype("datetime64[M]")
    since = (days - months.astype("datetime64[D]")).astype(float)
    until = ((months + 1).astype("datetime64[D]") - days).astype(float) - 1
    return np.stack([np.exp(-distance / fading) for distance in (since, until) for fading in TURN_DAYS])


def _cumulated(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of all that came before each index, float64 [B, T + 1, N]."""
    weights = mask.double()
    total, count = (values.double() * weights).cumsum(dim=1), weights.cumsum(dim=1)
    return torch.nn.functional.pad(total, (0, 0, 1, 0)), torch.nn.functional.pad(count, (0, 0, 1, 0))


def _last(cumulated: Tensor, window: int) -> Tensor:
    """What the last `window` periods have added before each index."""
    if window >= cumulated.shape[1] - 1:
        return cumulated
    return cumulated - torch.nn.functional.pad(cumulated[:, :-window], (0, 0, window, 0))


def _trailing_sums(values: Tensor, mask: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Sums and counts over the last `window` periods before each index, float64 [B, T + 1, N]."""
    total, count = _cumulated(values, mask)
    return _last(total, window), _last(count, window)
