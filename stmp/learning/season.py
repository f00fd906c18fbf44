"""What was sold on the days of last year that the targets are like, as it would be sold this year.

A merchant who looks up the same week of last year first asks what was different then: a promotion fell into it that is
another week's now. How much a promotion is worth a network learns long before it can learn a season, and it is asked
twice: for what is known ahead of the target, and for what was known ahead of last year's day. Last year's sales are
moved by the difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stmp.data.counterpart import NEAR, periods_of_year
from stmp.data.episodes import Episode
from stmp.data.features import RARE, History, Rows
from stmp.data.weekday import alike, weekday_step
from stmp.nets.ensemble import Network
from stmp.nets.memory import Memory

SETTLED = 0.5
"""Share of its level window that a region must have been observed in, to go on as all regions did."""


@dataclass(frozen=True)
class Season:
    """Last year's sales of some days, transformed and over today's level.

    Attributes
    ----------
    own, older, group : Tensor [B, Q, G]
        The region's own, with half of the growth since where that is known; what the year before it foretold for it;
        and how all regions went. With a step to the target's weekday.
    own_seen, older_seen, group_seen : Tensor bool [B, Q, G]
        Never of a rare series, of which a single day of last year says nothing.
    festival : Tensor bool [B, Q]
        Whether the day is close to a festival, and all that was known ahead of it is as it was last year.
    """

    own: Tensor
    own_seen: Tensor
    older: Tensor
    older_seen: Tensor
    group: Tensor
    group_seen: Tensor
    festival: Tensor

    @property
    def seen(self) -> Tensor:
        """Where there is a guess at all."""
        return self.own_seen | self.group_seen

    def without_group(self) -> Season:
        """The region's own alone."""
        return replace(self, group_seen=torch.zeros_like(self.group_seen))

    def moved(self, by: Tensor) -> Season:
        """Of other sales, by [B, Q, G]."""
        return replace(self, own=self.own + by, older=self.older + by, group=self.group + by)

    def guess(self, share: float, older: float) -> Tensor:
        """The mix of all, or of those that are seen.

        Parameters
        ----------
        share : float
            Of the region's own.
        older : float
            Of the year before last in that.
        """
        own = torch.where(self.older_seen, torch.lerp(self.own, self.older, older), self.own)
        own_share = torch.where(self.group_seen, torch.where(self.own_seen, share, 0.0), 1.0)
        return own_share * own + (1 - own_share) * self.group


def season_now(
    network: Network,
    history: History,
    rows: Rows,
    episode: Episode,
    median: Tensor,
    levels: tuple[float, ...],
    memory: Memory | None = None,
) -> Season:
    """Last year's season with this year's covariates.

    Days close to a festival are left as they were, for they are only told where their own covariates are the same.

    Parameters
    ----------
    network : Network
    history, rows, episode, memory
        As the network was given them.
    median : Tensor [B, Q, G]
        What it forecast, transformed.
    levels : tuple of float
        Of its quantiles.
    """
    then, others = season(history, rows, episode), with_covariates_of_last_year(history, rows, episode)
    batch = torch.arange(len(episode.region), device=median.device)[:, None]
    differs = (rows.features[batch, episode.target] != others.features[batch, episode.target]).any(dim=-1)
    differs &= ~then.festival
    asked = differs.any(dim=0).nonzero()[:, 0]
    if len(asked) == 0:
        return then
    queries = {name: getattr(episode, name)[:, asked] for name in ("target", "origin", "query_valid")}
    expected = network(history, replace(episode, **queries), others, memory)
    by = torch.zeros_like(median)
    by[:, asked] = median[:, asked] - network.head.quantiles(expected.values, levels)[..., levels.index(0.5)]
    return then.moved(by * differs[..., None])


def with_covariates_of_last_year(history: History, rows: Rows, episode: Episode) -> Rows:
    """The rows with all that is known ahead of each target as it was on the day of last year that the target is like.

    Where there is no such day, or it was closed, they stay as they are.
    """
    batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
    day = episode.target - rows.lag[batch, episode.target]  # [B, Q]
    then, target = (batch, day.clamp(min=0)), (batch, episode.target)
    known = (day >= episode.start[:, None]) & (day <= episode.origin) & ~rows.closed[then]
    covariates = slice(history.known_columns.start, None)  # of the day, and of those before and after it
    features = rows.features.clone()
    features[(*target, covariates)] = torch.where(
        known[..., None], rows.features[then][..., covariates], rows.features[target][..., covariates]
    )
    return replace(rows, features=features)


def season(history: History, rows: Rows, episode: Episode) -> Season:
    """What was sold on the days of last year that the targets are like.

    A target further than a year from its origin has none.
    """
    batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
    steady = rows.selling[batch, episode.origin + 1] >= RARE
    day = episode.target - rows.lag[batch, episode.target]  # [B, Q]
    at = (batch, day.clamp(min=0))
    before = torch.where(day < 0, day, day - rows.lag[at])
    before_at = (batch, before.clamp(min=0))
    year_ago = episode.origin + 1 - periods_of_year(history.panel.period_days)
    then = (batch, year_ago.clamp(min=0))
    known, levelled = (day >= 0) & (day <= episode.origin), year_ago >= 0
    start = episode.start[:, None]
    begun_then = year_ago > start
    seen = rows.observed[at] & (known & (day >= start))[..., None] & steady  # [B, Q, G]
    plain = history.scale(rows.sales[at], rows.level[batch, episode.origin + 1])
    grown = history.scale(rows.sales[at], rows.level[then])
    growing = rows.scaled[then] & (levelled & begun_then)[..., None]
    step = weekday_step(history, rows, episode, day)
    own = torch.where(growing, (plain + grown) / 2, plain) + step
    older = history.scale(rows.sales[before_at], rows.level[then]) + weekday_step(history, rows, episode, before)
    older_seen = seen & growing & rows.observed[before_at] & (before >= start)[..., None]
    target = (batch, episode.target)
    festival = (rows.event[target] > 0) & (rows.offset[target].abs() * history.panel.period_days <= NEAR)
    festival &= alike(history, rows, target, at)  # a promotion tells more than the festival does
    group, told = torch.zeros_like(own), torch.zeros_like(seen)
    if rows.group is not None and rows.group_level is not None:
        group = history.scale(rows.group[at], rows.group_level[then]) + step
        # The index is over the mean of a whole level window, and says nothing of a level from a few days of a season.
        window = history.level_window
        days = torch.nn.functional.pad(rows.observed.cumsum(dim=1), (0, 0, 1, 0))  # [B, T + 1, G]
        now = episode.origin + 1
        settled = days[batch, now] - days[batch, (now - window).clamp(min=0)] >= SETTLED * window
        told = group.isfinite() & (known & levelled)[..., None] & steady & settled
    return Season(own, seen, older, older_seen, group.nan_to_num(0.0), told, festival)
