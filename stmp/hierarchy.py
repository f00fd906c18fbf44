"""Totals of groups of regions: their means add up, their quantiles do not.

Regions have good and bad days together, so a total is less certain than if each had luck of its own, and more certain
than if all had the same. How much they share is measured on forecasts of the past: every sale's place in its own
forecast becomes a normal score, and a Gaussian copula with one factor of all regions, and one of each column of
groups, is fitted to the scores by its moments. A total's quantiles are those of sums of draws from the regions' own
forecasts, joined by that copula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from stmp.data.panel import DateLike, Panel
from stmp.errors import ConfigError, DataError
from stmp.forecast import Forecast, Predictor

GRAND_TOTAL = "total"
WINDOWS, PERIODS = 12, 56
"""Forecasts of the past that the dependence is measured on, and how many periods they hold at least."""
ENOUGH = 20
"""Periods below which neither a history nor a region says anything of dependence."""
DRAWS = 500
CHUNK = 64
"""Regions that are drawn at a time: bounds memory."""


@dataclass(frozen=True)
class Groups:
    """Which regions are added up.

    Attributes
    ----------
    regions : Index of str [R]
    columns : tuple of str, length C
    names : tuple of str, length K
        ``total``, then ``column=value`` for each value of each column.
    of : ndarray int64 [1 + C, R]
        Position in `names` of the total, and of each region's group in each column.
    """

    regions: pd.Index
    columns: tuple[str, ...]
    names: tuple[str, ...]
    of: np.ndarray

    @classmethod
    def by(cls, table: pd.DataFrame, columns: Sequence[str]) -> Groups:
        """Groups of regions by some columns of a table; without columns the grand total alone.

        Parameters
        ----------
        table : DataFrame
            Features of the regions, which are its index.

        Raises
        ------
        ConfigError
            If there is no such column, it holds numbers, or a region is called as a total is.
        DataError
            If a region has no value in a column.
        """
        columns = tuple(dict.fromkeys(columns))
        text = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
        unknown = [name for name in columns if name not in text]
        if unknown:
            numbers = [name for name in unknown if name in table.columns]
            told = f"{numbers} hold numbers, not groups" if numbers else f"the regions have no columns {unknown}"
            raise ConfigError(f"Totals by {list(columns)}: {told}. Choose from the text columns {text}.")
        names, of = [GRAND_TOTAL], [np.zeros(len(table), dtype=np.int64)]
        for column in columns:
            lacking = table.index[table[column].isna()]
            if len(lacking):
                raise DataError(
                    f"{len(lacking)} of {len(table)} regions have no {column}, such as {list(lacking[:3])}, and "
                    "would be in no total. Fill it in and ingest the data again, or choose other columns."
                )
            codes, values = pd.factorize(table[column].astype(str), sort=True)
            of.append(codes + len(names))
            names += [f"{column}={value}" for value in values]
        regions = table.index.astype(str)
        taken = sorted(set(names) & set(regions))
        if taken:
            raise ConfigError(f"Regions are called {taken[:3]}, as totals are; name them otherwise to have totals.")
        return cls(regions, columns, tuple(names), np.stack(of))

    def codes(self, regions: Sequence[str] | np.ndarray) -> np.ndarray:
        """The columns of `of` that belong to some regions, [1 + C, r]."""
        return np.asarray(self.of[:, self.regions.get_indexer(pd.Index(regions).astype(str))])


@dataclass(frozen=True)
class Dependence:
    """How much luck is shared: the variance of each factor of a copula whose scores have variance 1.

    Attributes
    ----------
    shares : tuple of float, length 1 + C
        Of the factor of all regions, and of each column's; none negative, 1 together at most.
    """

    shares: tuple[float, ...]

    @classmethod
    def measure(cls, model: Predictor, panel: Panel, origin: DateLike, horizon: int, groups: Groups) -> Dependence:
        """Forecast the periods before an origin from earlier origins, and see which regions erred together.

        Parameters
        ----------
        panel : Panel
            Some hundreds of the regions are enough.

        Raises
        ------
        DataError
            If too little lies before the origin.
        """
        at = panel.index_of(origin)
        windows = max(WINDOWS, -(-PERIODS // horizon))
        origins = list(range(at - horizon, horizon - 1, -horizon))[:windows]
        if len(origins) * horizon < ENOUGH:
            raise DataError(
                f"Totals need {ENOUGH + 2 * horizon} periods before {panel.dates[at]} to see which regions err alike, "
                f"and the data begin on {panel.dates[0]}. Choose a later origin, or a shorter horizon."
            )
        scores = []
        for begin in origins:
            past = model.predict(panel.until(panel.dates[begin]), panel.dates[begin], horizon)
            days = slice(begin + 1, begin + 1 + horizon)
            sold = panel.sales[:, days].cpu().numpy().astype(np.float64)
            level = level_of(past.quantiles, past.levels, sold, np.random.default_rng(begin))
            score = torch.special.ndtri(torch.from_numpy(level.clip(1e-3, 1 - 1e-3))).numpy()
            scores.append(np.where(panel.observed[:, days].cpu().numpy(), score, np.nan))
        return cls(fit_shares(np.concatenate(scores, axis=1), groups.codes(panel.regions)))


def fit_shares(scores: np.ndarray, codes: np.ndarray) -> tuple[float, ...]:
    """Variances of the factors that explain best how scores of two rows go together.

    Parameters
    ----------
    scores : ndarray [R, M, G]
        NaN where unknown; a row with fewer than `ENOUGH` says nothing.
    codes : ndarray of int [F, R]
        The group of each region, by factor.
    """
    seen = np.isfinite(scores)
    count = seen.sum(axis=1, keepdims=True)
    z = np.where(seen, scores, 0.0)
    z = np.where(seen, z - z.sum(axis=1, keepdims=True) / np.maximum(count, 1), 0.0)
    spread = np.sqrt((z**2).sum(axis=1, keepdims=True) / np.maximum(count, 1))
    seen &= (count >= ENOUGH) & (spread > 0)
    z = np.where(seen, z / np.where(spread > 0, spread, 1.0), 0.0)

    def pairs(values: np.ndarray, squares: np.ndarray, group: np.ndarray) -> float:
        """Sum of the products of two rows of one group, over all such pairs, periods and series."""
        _, group = np.unique(group, return_inverse=True)
        sums = np.zeros((group.max() + 1, *values.shape[1:]))
        np.add.at(sums, group, values)
        return float((sums**2).sum() - squares.sum())

    factors = len(codes)
    together = np.zeros((factors, factors))  # share of the pairs of one factor's groups that share another's
    product = np.zeros(factors)
    number = seen.astype(np.float64)
    for f in range(factors):
        among = pairs(number, number, codes[f])
        if among == 0:
            continue
        product[f] = pairs(z, z**2, codes[f]) / among
        for g in range(factors):
            both = codes[f] * (codes[g].max() + 1) + codes[g]
            together[f, g] = pairs(number, number, both) / among
    kept = [f for f in range(factors) if together[f, f] > 0]
    shares = np.zeros(factors)
    while kept:  # least squares without negative shares
        found = np.linalg.lstsq(together[np.ix_(kept, kept)], product[kept], rcond=None)[0]
        if (found >= 0).all():
            shares[kept] = found
            break
        del kept[int(found.argmin())]
    return tuple((shares / max(1.0, shares.sum())).tolist())


class Totals:
    """Adds the forecasts of regions up, some at a time.

    Parameters
    ----------
    groups : Groups
    dependence : Dependence
    seed : int
        The same draws for the same regions in the same order.
    """

    def __init__(self, groups: Groups, dependence: Dependence, seed: int = 0) -> None:
        self.groups, self.dependence = groups, dependence
        self.rng = np.random.default_rng(seed)
        self.first: Forecast | None = None

    @property
    def shares(self) -> dict[str, float]:
        """What part of a region's luck is that of all regions, and of its group in each column."""
        return dict(zip((GRAND_TOTAL, *self.groups.columns), self.dependence.shares, strict=True))

    def add(self, forecast: Forecast) -> None:
        """Add the forecasts of some regions, all for the same periods and series.

        Raises
        ------
        ConfigError
            If the forecasts have a single quantile, which says nothing of how uncertain they are.
        """
        if self.first is None:
            if len(forecast.levels) < 2:
                raise ConfigError("Totals need forecasts with two quantiles or more; this model has one.")
            self.first = forecast
            shape = (len(self.groups.names), *forecast.mean.shape[1:])
            self.mean, self.sellers = np.zeros(shape), np.zeros(shape, dtype=np.int64)
            self.summed = np.zeros((*shape, len(forecast.levels)))  # its quantiles, where a group has one seller
            self.draws = np.zeros((*shape, DRAWS), dtype=np.float32)
            self.factors = self.rng.standard_normal((*shape, DRAWS), dtype=np.float32)
        codes = self.groups.codes(forecast.regions)
        sells = (forecast.mean > 0) | (forecast.quantiles > 0).any(axis=-1)  # [r, H, G]
        for group in codes:
            np.add.at(self.mean, group, forecast.mean.astype(np.float64))
            np.add.at(self.sellers, group, sells)
            np.add.at(self.summed, group, forecast.quantiles)
        for begin in range(0, len(forecast.regions), CHUNK):
            part = slice(begin, begin + CHUNK)
            drawn = self._draw(forecast.quantiles[part], forecast.levels, codes[:, part])
            for group in codes[:, part]:
                np.add.at(self.draws, group, drawn)

    def _draw(self, quantiles: np.ndarray, levels: tuple[float, ...], codes: np.ndarray) -> np.ndarray:
        """Sales [r, H, G, DRAWS] of some regions, that share their groups' factors."""
        shares = self.dependence.shares
        score: np.ndarray = self.rng.standard_normal((*quantiles.shape[:3], DRAWS), dtype=np.float32)
        score *= max(0.0, 1.0 - sum(shares)) ** 0.5
        for share, group in zip(shares, codes, strict=True):
            if share > 0:
                score += share**0.5 * self.factors[group]
        level = torch.special.ndtr(torch.from_numpy(score)).numpy()
        return quantile_at(quantiles, levels, level)

    def forecast(self) -> Forecast:
        """The totals: `regions` are the names of the groups; a mean is the sum of the regions' means.

        Where one region alone sells a series on a day, its quantiles are the total's. They are not scaled to its mean,
        which is of what was learned and not of the calibrated quantiles.
        """
        assert self.first is not None, "nothing was added"
        drawn = self.draws.mean(axis=-1, dtype=np.float64)
        scale = np.where(drawn > 0, self.mean / np.where(drawn > 0, drawn, 1.0), 1.0)  # what is random in the draws
        quantiles: np.ndarray = np.quantile(self.draws, np.asarray(self.first.levels), axis=-1) * scale
        quantiles = np.where(self.sellers[..., None] > 1, np.moveaxis(quantiles, 0, -1), self.summed)
        return Forecast(
            regions=np.asarray(self.groups.names, dtype=object),
            series=self.first.series,
            dates=self.first.dates,
            levels=self.first.levels,
            mean=self.mean.astype(np.float32),
            quantiles=quantiles.astype(np.float32),
            model_version=self.first.model_version,
        )


def quantile_at(quantiles: np.ndarray, levels: tuple[float, ...], level: np.ndarray) -> np.ndarray:
    """Sales at any level, by the distribution whose mean a forecast has (`stmp.forecaster.mean_of_quantiles`).

    Parameters
    ----------
    quantiles : ndarray [..., Q]
    levels : tuple of float, length Q
    level : ndarray [..., S]
        Between 0 and 1.

    Returns
    -------
    ndarray [..., S]
        Linear between the quantiles and below them, down to 0; exponential above them.
    """
    known = np.asarray(levels, dtype=level.dtype)
    right = np.searchsorted(known, level).clip(1, len(known) - 1)
    low, high = (np.take_along_axis(quantiles, place, axis=-1) for place in (right - 1, right))
    part = (np.minimum(level, known[-1]) - known[right - 1]) / (known[right] - known[right - 1])
    tail = np.log((1 - known[-1]) / (1 - level.clip(known[-1], 1 - 1e-6)))
    slope = (quantiles[..., -1:] - quantiles[..., -2:-1]) / np.log((1 - known[-2]) / (1 - known[-1]))
    return np.asarray((low + part * (high - low) + tail * slope).clip(min=0.0))


def level_of(
    quantiles: np.ndarray, levels: tuple[float, ...], sold: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The level that sales lie at, the inverse of `quantile_at`; drawn at random where a span of levels has one value.

    Parameters
    ----------
    quantiles : ndarray [..., Q]
    sold : ndarray [...]
    """
    known, values = np.asarray(levels), quantiles.astype(np.float64)
    below, upto = (values < sold[..., None]).sum(axis=-1), (values <= sold[..., None]).sum(axis=-1)
    right = below.clip(1, len(known) - 1)
    low, high = (np.take_along_axis(values, place[..., None], axis=-1)[..., 0] for place in (right - 1, right))
    part = (sold - low) / np.where(high > low, high - low, 1.0)
    inner = known[right - 1] + part * (known[right] - known[right - 1])
    slope = (values[..., -1] - values[..., -2]) / np.log((1 - known[-2]) / (1 - known[-1]))
    beyond = (sold - values[..., -1]) / np.where(slope > 0, slope, 1.0)
    level = np.where(below == len(known), 1 - (1 - known[-1]) * np.exp(-beyond.clip(0.0, 50.0)), inner)
    # Several quantiles are 0 where a region sells on few days: no sale lies anywhere among their levels.
    first = np.where((below == 0) & (sold <= 0), 0.0, known[below.clip(max=len(known) - 1)])
    spread = first + rng.random(sold.shape) * (known[(upto - 1).clip(min=0)] - first)
    return np.asarray(np.where(upto > below, spread, level).clip(0.0, 1.0))
