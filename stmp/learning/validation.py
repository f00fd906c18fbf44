"""What is held out of training, and the loss on it.

Some regions are never trained on, and the last periods of all regions are never a target of training. The score that
stops training is the loss on those last periods, forecast from the day before them, over regions of both kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stmp.config import Config
from stmp.data.calendar import period_days
from stmp.data.episodes import Episode, full_episode
from stmp.data.features import History
from stmp.data.group_index import GroupIndex
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.learning.conformal import BINS, Conformal, count_ratios, fit_conformal
from stmp.learning.lean import Leaning, choose, lean, season_losses, ways_to_lean
from stmp.learning.season import Season, season_now
from stmp.learning.shocks import excess_shocks, half_width, shock_sums
from stmp.learning.workers import Workers
from stmp.nets.ensemble import Network
from stmp.nets.generative import Prediction

MAX_SCORED = 200
"""Regions of each kind that are scored: validation must not outweigh training."""

MIN_REGIONS = 10
"""With fewer regions none is held out."""

CHUNK = 64

EARLIER = 6
"""Windows of the year before validation, at most, that tell how much regions usually err together."""

KEPT_YEARS = 2
"""Of what all regions sold, that stay with the model: a year is read, and some regions' data end early."""


@dataclass(frozen=True)
class Split:
    """Regions to train on and regions held out, as sorted positions in the dataset's region list."""

    train: np.ndarray
    held_out: np.ndarray

    @classmethod
    def of(cls, regions: int, fraction: float) -> Split:
        """Hold out a fraction of the regions; the same ones at each call.

        The choice depends on the number of regions alone, so that seeds and configurations can be compared.
        """
        number = round(regions * fraction) if regions >= MIN_REGIONS else 0
        shuffled = np.random.default_rng(0).permutation(regions)
        return cls(np.sort(shuffled[number:]), np.sort(shuffled[:number]))

    @property
    def scored(self) -> np.ndarray:
        """Regions that validation scores: evenly spaced ones of both kinds."""
        return np.sort(np.concatenate([_evenly(self.train), _evenly(self.held_out)]))


def _evenly(positions: np.ndarray) -> np.ndarray:
    if len(positions) <= MAX_SCORED:
        return positions
    return positions[np.linspace(0, len(positions) - 1, MAX_SCORED).round().astype(int)]


class Validator:
    """Scores a model on this worker's part of the validation regions, and sums over the workers.

    Parameters
    ----------
    panel : Panel
        The validation regions of this worker, split into series as the model wants them.
    held_out : sequence of bool
        Which of them were never trained on.
    schema : Schema
    config : Config, resolved
    first : int
        First validation period; its forecasts start from the period before.
    last : int
        One past the last.
    group : GroupIndex, optional
        What forecasts may lean on beside a region's own last year.
    """

    def __init__(
        self,
        panel: Panel | None,
        held_out: Sequence[bool],
        schema: Schema,
        config: Config,
        *,
        first: int,
        last: int,
        group: GroupIndex | None = None,
    ) -> None:
        self.config, self.first, self.last, self.group = config, first, last, group
        self.day_types = schema.day_types
        self.year = 365 // period_days(schema.frequency)
        self.chunks: list[tuple[History, Tensor]] = []
        if panel is None:
            return
        kinds = torch.tensor(list(held_out), dtype=torch.bool)
        for begin in range(0, panel.shape[0], CHUNK):
            part = slice(begin, min(begin + CHUNK, panel.shape[0]))
            history = history_of(panel.select(np.arange(part.start, part.stop)), schema, config, group)
            self.chunks.append((history, kinds[part]))

    def score(self, model: Network, workers: Workers) -> dict[str, float]:
        """Mean loss over all points, by day type, and by seen and held-out regions; empty without any point."""
        sums = torch.zeros(len(self.day_types), 2, 2, dtype=torch.float64)  # day type, held out, (loss, points)
        for history, kinds, _, losses, points, _ in self._forecasts(model, self.first):
            types = history.panel.day_type[:, self.first : self.last].cpu()
            for kind in (0, 1):
                rows = kinds == bool(kind)
                for of, values in enumerate((losses, points)):
                    flat = values.double().cpu()[rows].flatten()
                    sums[:, kind, of].index_add_(0, types[rows].flatten(), flat)
        sums = workers.reduce(sums, "sum")
        scores = {"all": sums.sum(dim=(0, 1)), "seen": sums[:, 0].sum(dim=0), "held_out": sums[:, 1].sum(dim=0)}
        scores |= {name: sums[i].sum(dim=0) for i, name in enumerate(self.day_types)}
        return {name: float(loss / points) for name, (loss, points) in scores.items() if points > 0}

    @torch.no_grad()
    def calibrate(self, model: Network, workers: Workers) -> tuple[Leaning, Conformal]:
        """How to lean on last year, and the factors that make the quantiles hold on the validation days."""
        windows = list(self._windows(model, self.first))
        leaning = self._leaning(windows, workers)
        conformal = self._conformal(model, windows, leaning, workers)
        if leaning.group is not None:
            leaning = replace(leaning, group=leaning.group.last(KEPT_YEARS * self.year))
        return leaning, conformal

    def _leaning(self, windows: Sequence[_Window], workers: Workers) -> Leaning:
        """The way to lean that has the least errors on the validation days."""
        middle = self.config.model.levels.index(0.5)
        choices = ways_to_lean(self.config.validation, self.group)
        sums = torch.zeros(len(choices) + 2, self.last - self.first, dtype=torch.float64)
        for w in windows:
            median = w.quantiles[..., middle]
            sums += season_losses(w.history, median, w.level, w.sales, w.observed, w.season, w.lead, choices)
        return choose(workers.reduce(sums, "sum"), choices)

    def _conformal(self, model: Network, windows: Sequence[_Window], leaning: Leaning, workers: Workers) -> Conformal:
        """Factors from the errors of the validation days, beside those of the same model over the year before."""
        levels, head, kinds = self.config.model.levels, self.config.model.head, len(self.day_types)
        no_excess = torch.zeros(self.last - self.first)

        def errors(found: Iterable[_Window], excess: Tensor) -> tuple[Tensor, Tensor]:
            """Shocks, and ratios of what is left without their excess."""
            shocks = torch.zeros(self.last - self.first, 2, dtype=torch.float64)
            counts = torch.zeros(kinds, len(levels), BINS, dtype=torch.float64)
            for w in found:
                quantiles = w.leaned(leaning, levels)
                shocks += shock_sums(quantiles, w.truth, w.observed, levels.index(0.5))
                truth = w.truth - excess.to(w.truth)[:, None] * half_width(quantiles)
                counts += count_ratios(quantiles, truth, w.observed, w.day_type, kinds, levels)
            return workers.reduce(shocks, "sum"), workers.reduce(counts, "sum")

        before = [errors(self._windows(model, first), no_excess) for first in self._earlier()]
        shocks, counts = errors(windows, no_excess)
        if not counts.any():
            return fit_conformal(counts, levels, head)
        if before:
            usual = torch.cat([shocks_then for shocks_then, _ in before])
            _, counts = errors(windows, excess_shocks(shocks, usual))
        conformal = fit_conformal(counts, levels, head)
        if before and head == "quantile":  # a unit variance says nothing of how wide ranges must be
            learned = torch.stack([counts_then for _, counts_then in before]).sum(dim=0)
            conformal = conformal.at_least(fit_conformal(learned, levels))
        return conformal.for_later(self.day_types, leaning.festivals > 0)

    def _earlier(self) -> list[int]:
        """First periods of some windows of the year before validation, as long as it, apart from each other."""
        if self.first == self.last:
            return []
        length = self.last - self.first
        step = max(length, self.year // EARLIER)
        return list(range(self.first - length, max(self.first - self.year, length) - 1, -step))

    def _windows(self, model: Network, first: int) -> Iterator[_Window]:
        """What is forecast, and what was sold, in as many periods as validation has, from a period on."""
        levels = self.config.model.levels
        middle = levels.index(0.5)
        for history, _, episode, _, _, prediction in self._forecasts(model, first):
            rows = history.rows(episode.region, episode.start, episode.end)
            days = slice(first, first + self.last - self.first)
            quantiles = model.head.quantiles(prediction.values, levels)
            yield _Window(
                history=history,
                quantiles=quantiles,
                level=prediction.level,
                sales=history.panel.sales[:, days],
                observed=rows.observed[:, days],
                day_type=history.panel.day_type[:, days],
                season=season_now(model, history, rows, episode, quantiles[..., middle], levels),
                lead=episode.horizon,
            )

    def _forecasts(
        self, model: Network, first: int
    ) -> Iterator[tuple[History, Tensor, Episode, Tensor, Tensor, Prediction]]:
        """History, held out or not, what is asked, losses, points and the answer, of each chunk of regions."""
        model.eval()
        for history, kinds in self.chunks:
            panel = history.panel
            noise = torch.zeros(panel.shape[0], 1, self.config.model.psi_size)
            supports = self.config.train.supports_forecast
            with torch.no_grad():
                episode = full_episode(panel, first - 1, self.last - self.first, supports, noise)
                losses, points, prediction = model.loss(history, episode)
            yield history, kinds, episode, losses, points, prediction
        model.train()


@dataclass(frozen=True)
class _Window:
    """Forecasts and sales of a chunk of regions, [B, H, G] and quantiles [B, H, G, Q] as the network works on them."""

    history: History
    quantiles: Tensor
    level: Tensor
    sales: Tensor
    observed: Tensor
    day_type: Tensor
    season: Season
    lead: Tensor

    @property
    def truth(self) -> Tensor:
        """Transformed sales."""
        return self.history.scale(self.sales, self.level)

    def leaned(self, leaning: Leaning, levels: Sequence[float]) -> Tensor:
        """The quantiles as they lean on last year."""
        return lean(self.quantiles, levels, self.season, self.lead, leaning)


def group_of(panel: Panel, until: int, config: Config, workers: Workers) -> GroupIndex | None:
    """What the training regions of all workers sold together, where forecasts may lean on it."""
    if config.validation.lean == 0 or config.validation.own_share == 1:
        return None
    assert config.model.level_window is not None
    return GroupIndex.fit(panel, until, config.model.level_window, workers.reduce)


def history_of(panel: Panel, schema: Schema, config: Config, group: GroupIndex | None = None) -> History:
    """A panel laid out as a model with this configuration reads it."""
    model = config.model
    assert model.level_window is not None and model.trend_periods is not None and model.turn_of_month is not None
    return History(
        panel,
        schema,
        level_window=model.level_window,
        transform=model.transform,
        use_known=model.known,
        turn_of_month=model.turn_of_month,
        trend_periods=model.trend_periods,
        group=group,
    )
