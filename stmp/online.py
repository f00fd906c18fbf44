"""Forecasts on demand: what depends on model and data alone is computed once, and a request only decodes.

The numbers are those of `Forecaster.predict`, for which each region has an origin of its own: the last day on which it
is known to have sold. New sales of a region change the memory of that region and of no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stmp.data.episodes import Episode, full_episode
from stmp.data.features import History
from stmp.data.panel import Panel
from stmp.errors import ConfigError
from stmp.forecaster import CHUNK, Forecaster
from stmp.learning.validation import history_of
from stmp.nets.extractor import ALIGNED_LAGS
from stmp.nets.first_guess import last_year_reach
from stmp.nets.memory import Memory

GROWTH = 32
"""Further periods of sales for which the memory has room before it is laid out anew."""

AT_ONCE = 16
"""Regions that are decoded at a time: what they need then stays in the processor's cache."""

MOST_KEPT = 512 * 2**20
"""Bytes of forecasts that are kept; where all regions would take more, each request decodes."""

Change = Callable[[Panel], Panel]
"""Puts other known-future covariates into the panel of a few regions."""


@dataclass(frozen=True)
class Decoded:
    """Forecasts of some regions, each from its own origin.

    Attributes
    ----------
    regions : ndarray int64 [R]
        Positions in the panel.
    origin : ndarray int64 [R]
        Index of the last day known; forecast day h is ``origin + 1 + h``.
    mean : ndarray float32 [R, H, G]
    quantiles : ndarray float32 [R, H, G, Q]
    """

    regions: np.ndarray
    origin: np.ndarray
    mean: np.ndarray
    quantiles: np.ndarray


class Kept:
    """Forecasts that were decoded, until their region's data change.

    Parameters
    ----------
    shape : tuple of int
        Regions, periods, series and quantile levels.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        regions, self.horizon, series, levels = shape
        if 4 * regions * self.horizon * series * (levels + 1) > MOST_KEPT:
            self.horizon = 0
        self.days = np.zeros(regions, dtype=np.int64)
        self.mean = np.zeros((regions, self.horizon, series), dtype=np.float32)
        self.quantiles = np.zeros((regions, self.horizon, series, levels), dtype=np.float32)

    def missing(self, regions: np.ndarray, horizon: int) -> np.ndarray:
        """Those of some regions whose forecast is not kept as far as that."""
        return regions[self.days[regions] < horizon]

    def put(self, decoded: Decoded) -> None:
        """Keep forecasts."""
        horizon = decoded.mean.shape[1]
        self.mean[decoded.regions, :horizon] = decoded.mean
        self.quantiles[decoded.regions, :horizon] = decoded.quantiles
        self.days[decoded.regions] = horizon


class Online:
    """A Forecaster, the memory of a Panel's regions, and the forecasts that were made of them.

    Parameters
    ----------
    forecaster : Forecaster
    panel : Panel
        Its dates must reach over the horizon that will be asked for. Nothing after a region's origin is read but what
        is known of the future.
    origin : ndarray int64 [R]
        Index of each region's last known day.

    Raises
    ------
    ConfigError
        If the model pools tasks over regions, so that no region can be forecast alone.
    DataError
        If the panel's columns are not the model's.
    """

    def __init__(self, forecaster: Forecaster, panel: Panel, origin: np.ndarray) -> None:
        if forecaster.model.pooled:
            raise ConfigError(
                "The model was trained with train.view_mode=pooled: it pools neighbouring regions, so that a forecast "
                "depends on which regions are asked for together. Serve a model trained with view_mode=cell."
            )
        self.forecaster = forecaster
        self.split = forecaster.config.model.series == "split" and panel.shape[2] > 1
        forecaster.rows_of(panel.select(np.arange(0)))  # columns are checked though nothing may ever have sold
        self._lay(panel, origin)

    @torch.inference_mode()
    def _lay(self, panel: Panel, origin: np.ndarray) -> None:
        """Make the memory of all regions."""
        self.panel, self.origin = panel, origin.astype(np.int64)
        self.room = min(self.forecaster.config.train.supports_forecast, int(origin.max()) + 1 + GROWTH)
        self.region_of, self.series_of = self._pairs(panel)
        self.first_row = np.searchsorted(self.region_of, np.arange(panel.shape[0] + 1))
        sold = np.unique(self.region_of)  # a region that never sold has no rows, and nothing is remembered of it
        parts = [sold[begin : begin + CHUNK] for begin in range(0, len(sold), CHUNK)]
        self.memory = Memory.join([self._remember(panel, some) for some in parts]) if parts else None
        model = self.forecaster.config.model
        self.kept = Kept((panel.shape[0], self.forecaster.horizon, panel.shape[2], len(model.levels)))

    @torch.inference_mode()
    def update(self, panel: Panel, origin: np.ndarray, regions: np.ndarray) -> None:
        """Take new data of some regions into the memory.

        Parameters
        ----------
        panel : Panel
            The whole panel, with the new data in it.
        origin : ndarray int64 [R]
        regions : ndarray int64
            Positions of the regions whose data or origin is another one now.
        """
        pairs = self._pairs(panel)
        grown = not (np.array_equal(pairs[0], self.region_of) and np.array_equal(pairs[1], self.series_of))
        full = self.room < self.forecaster.config.train.supports_forecast and int(origin.max()) >= self.room
        if grown or full:
            self._lay(panel, origin)  # a series that had never sold, or no more room
            return
        self.panel, self.origin = panel, origin.astype(np.int64)
        self.kept.days[regions] = 0
        for begin in range(0, len(regions), CHUNK):
            some = regions[begin : begin + CHUNK]
            rows = self._rows_of(some)
            if self.memory is not None and len(rows):
                self.memory.put(torch.from_numpy(rows), self._remember(panel, some))

    def predict(self, regions: np.ndarray, horizon: int, change: Change | None = None) -> Decoded:
        """Forecast some regions over the periods after their origins; what was forecast before is not decoded again.

        Parameters
        ----------
        regions : ndarray int64
            Positions in the panel.
        horizon : int
        change : function, optional
            Changes what is known of the future of these regions.

        Raises
        ------
        DataError
            If a known-future covariate has no value.
        """
        if change is not None or horizon > self.kept.horizon:
            return self.decode(regions, horizon, change)
        missing = self.kept.missing(regions, horizon)
        if len(missing):
            self.kept.put(self.decode(missing, horizon))
        mean, quantiles = self.kept.mean[regions, :horizon], self.kept.quantiles[regions, :horizon]
        return Decoded(regions, self.origin[regions], mean, quantiles)

    @torch.inference_mode()
    def decode(self, regions: np.ndarray, horizon: int, change: Change | None = None) -> Decoded:
        """What `predict` returns, decoded from the memory."""
        after = None if change is None else change(self.panel.select(regions))
        parts = []
        for begin in range(0, len(regions), AT_ONCE):
            some = np.arange(begin, min(begin + AT_ONCE, len(regions)))
            parts.append(self._predict(regions[some], horizon, None if after is None else after.select(some)))
        mean, quantiles = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Decoded(regions, self.origin[regions], mean, quantiles)

    @torch.inference_mode()
    def cold(self, panel: Panel, origin: int, horizon: int) -> Decoded:
        """Forecast the regions of another panel by what they have of a past, which may be nothing.

        Parameters
        ----------
        panel : Panel
            With the columns and the dates of this one.
        origin : int
            Index of the last day before the forecast.

        Raises
        ------
        DataError
            If a known-future covariate has values in the past but none for a day that is forecast.
        """
        rows = self.forecaster.schema.align(panel.split_series(unsold=True) if self.split else panel)
        self.forecaster.check_known(rows, origin, horizon)
        at = np.full(rows.shape[0], origin)
        start, stop = self._span(at, horizon)
        mean, quantiles = self._decode(self._encode(rows, at).window(start, stop), at - start, horizon)
        shape = (panel.shape[0], panel.shape[2] if self.split else 1, horizon)
        if self.split:
            mean = mean.reshape(shape).transpose(0, 2, 1)
            quantiles = quantiles.reshape(*shape, -1).transpose(0, 2, 1, 3)
        regions = np.arange(panel.shape[0])
        return Decoded(regions, np.full(len(regions), origin), mean, quantiles)

    def _predict(self, regions: np.ndarray, horizon: int, after: Panel | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean [R, H, G] and quantiles [R, H, G, Q] of regions; `after` is their panel with another future."""
        rows = self._rows_of(regions)
        if self.memory is None or not len(rows):
            return self._nothing(len(regions), horizon)
        origin = self.origin[self.region_of[rows]]
        start, stop = self._span(origin, horizon)
        if after is None:
            memory = self.memory.window(start, stop).select(_index(rows))
        else:
            whole = self.memory.select(_index(rows))
            memory = self._changed(whole, regions, horizon, after).window(start, stop)
        mean, quantiles = self._decode(memory, origin - start, horizon)
        if not self.split:
            return mean, quantiles
        counts = self.first_row[regions + 1] - self.first_row[regions]
        at = (np.repeat(np.arange(len(regions)), counts), slice(None), self.series_of[rows])
        joined, spread = self._nothing(len(regions), horizon)
        joined[at], spread[at] = mean[:, :, 0], quantiles[:, :, 0]
        return joined, spread

    def _nothing(self, regions: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean [R, H, G] and quantiles [R, H, G, Q] of series that their regions never sold: 0."""
        shape = (regions, horizon, self.panel.shape[2])
        levels = len(self.forecaster.config.model.levels)
        return np.zeros(shape, np.float32), np.zeros((*shape, levels), np.float32)

    def _span(self, origin: np.ndarray, horizon: int) -> tuple[int, int]:
        """The periods that decoding reads beside the memory: the last ones known, and those to forecast."""
        model = self.forecaster.config.model
        assert model.skip_periods is not None
        reach = max(model.ar_lags, (ALIGNED_LAGS + 1) * max((*model.skip_periods[:1], 7)))
        years = 2 if self.forecaster.leaning else int(bool(model.last_year))
        reach = max(reach, last_year_reach(self.panel.period_days, years))
        start = max(0, int(origin.min()) - reach)
        # Whole weeks are cut off, because weekdays are told by the index.
        return start - start % 7, int(origin.max()) + 1 + horizon

    def _decode(self, memory: Memory, origin: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean [N, H, G] and quantiles [N, H, G, Q] of rows."""
        last = torch.from_numpy(origin)
        target = last[:, None] + 1 + torch.arange(horizon)
        episode = Episode(
            region=torch.arange(len(memory)),
            start=torch.zeros_like(last),
            end=last + 1,
            target=target,
            origin=last[:, None].expand_as(target),
            query_valid=torch.ones_like(target, dtype=torch.bool),
            support=memory.support,
            support_valid=memory.support_valid,
            noise=self.forecaster.noise(len(memory)),
            view="temporal",
        )
        mean, quantiles = self.forecaster.decode(self.history, episode, memory.rows, memory)
        return mean.numpy(), quantiles.numpy()

    def _changed(self, memory: Memory, regions: np.ndarray, horizon: int, after: Panel) -> Memory:
        """The memory of regions with another future."""
        before = self.panel.select(regions)
        rows = self._split(after)
        origin = self.origin[self.region_of[self._rows_of(regions)]]
        for day in np.unique(origin):
            self.forecaster.check_known(rows.select(np.flatnonzero(origin == day)), int(day), horizon)
        if _tomorrow_differs(before, after, self.origin[regions]):
            # The last day known looks one day ahead, so that all that was encoded up to it would be another.
            return self._encode(rows, origin)
        history = self._history(rows)
        features = history.features(torch.arange(rows.shape[0]))
        return replace(memory, rows=replace(memory.rows, features=features, closed=rows.closed))

    def _remember(self, panel: Panel, regions: np.ndarray) -> Memory:
        """The memory of some regions, in their order."""
        return self._encode(self._split(panel.select(regions)), self.origin[self.region_of[self._rows_of(regions)]])

    def _encode(self, rows: Panel, origin: np.ndarray) -> Memory:
        """The memory of rows, each up to its origin."""
        self.forecaster.schema.check(rows)
        parts, order = [], []
        for day in np.unique(origin):
            some = np.flatnonzero(origin == day)
            part = rows.select(some)
            self.history = self._history(part)
            supports = self.forecaster.config.train.supports_forecast
            episode = full_episode(part, int(day), 1, supports, self.forecaster.noise(len(some)))
            scaled = self.history.rows(episode.region, episode.start, episode.end)
            parts.append(self.forecaster.model.remember(self.history, _padded(episode, self.room), scaled))
            order.append(some)
        memory = Memory.join(parts)
        return memory if len(parts) == 1 else memory.ordered(torch.from_numpy(np.argsort(np.concatenate(order))))

    def _history(self, rows: Panel) -> History:
        return history_of(rows, self.forecaster.schema, self.forecaster.config, self.forecaster.leaning.group)

    def _split(self, panel: Panel) -> Panel:
        return self.forecaster.schema.align(panel.split_series() if self.split else panel)

    def _pairs(self, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
        """Region and series of each row that the model sees."""
        if self.split:
            return panel.series_rows()
        return np.arange(panel.shape[0]), np.zeros(panel.shape[0], dtype=np.int64)

    def _rows_of(self, regions: np.ndarray) -> np.ndarray:
        """The rows of some regions, region by region."""
        runs = [np.arange(self.first_row[r], self.first_row[r + 1]) for r in regions]
        return np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)


def _index(rows: np.ndarray) -> Tensor | slice:
    """A slice where rows follow each other, so that nothing is copied."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.from_numpy(rows)


def _padded(episode: Episode, room: int) -> Episode:
    """With room for as many support days; what is too much is not valid."""
    missing = room - episode.support.shape[1]
    assert missing >= 0, f"{episode.support.shape[1]} support days, but room for {room}"
    pad = torch.nn.functional.pad
    return replace(
        episode, support=pad(episode.support, (0, missing)), support_valid=pad(episode.support_valid, (0, missing))
    )


def _tomorrow_differs(before: Panel, after: Panel, origin: np.ndarray) -> bool:
    """Whether anything up to each region's first day ahead is another than it was."""
    near = torch.arange(before.shape[1]) <= torch.from_numpy(origin)[:, None] + 1  # [R, T]
    same = (before.known == after.known) | (before.known.isnan() & after.known.isnan())
    return bool((near & (~same.all(dim=-1) | (before.closed != after.closed))).any())
