"""Attention over the past for a forecast from one origin a region: `PastAttention`, with all that can be done before.

Which of the support days a target day looks at is a sum over traits: likeness of covariates, the same day type, the
same weekday, age. From one origin each but the first is a product of something of the target with something of the
support day, so that one matrix product over longer keys gives them all; only events are compared one by one, for the
few targets that have one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from stmp.data.episodes import Episode
from stmp.data.features import History, Rows
from stmp.nets.attention import LEARNED, PastAttention

NEVER = -1e30
"""Score of a day that cannot be seen: its weight is 0 after the softmax."""


@dataclass(frozen=True)
class Past:
    """Support days of B regions as attention sees them from each region's origin.

    Attributes
    ----------
    keys : Tensor [B, heads, width + D + week + 1, S]
        Learned key, day type, weekday, and what age and visibility add to the score.
    values : Tensor [B, S, LEARNED + 3 G]
        Learned value, observed or not, sales over the level of their own time and over the origin's.
    event, offset : Tensor int64 [B, S]
    some : Tensor bool [B, 1, 1]
        Whether any day can be seen at all.
    """

    keys: Tensor | Sequence[Tensor]
    values: Tensor | Sequence[Tensor]
    event: Tensor
    offset: Tensor
    some: Tensor

    def select(self, index: Tensor) -> Past:
        """Some of the regions; the large parts are not copied."""
        keys, values = ([part[i] for i in index.tolist()] for part in (self.keys, self.values))
        return Past(keys, values, self.event[index], self.offset[index], self.some[index])


def remember(attention: PastAttention, history: History, rows: Rows, episode: Episode) -> Past:
    """What does not depend on the target days, for an episode whose queries of a region share its origin."""
    at = (torch.arange(len(episode.region), device=episode.region.device)[:, None], episode.support)
    origin = episode.origin[:, :1]
    days = rows.day(at)
    observed, own = rows.observed[at].to(rows.sales.dtype), rows.recent[at]  # [B, S, G]
    grown = history.scale(rows.sales[at], rows.level[at[0], origin + 1]) * observed
    learned = attention.value(torch.cat([days, own, observed], dim=-1))

    match = attention.match(days).unflatten(-1, (attention.heads, attention.width)).permute(0, 2, 3, 1)
    alike = torch.cat(
        [_type(rows, at, len(history.schema.day_types)), _weekday(attention, episode.support)], dim=-1
    )  # [B, S, D + week]
    age = (1.0 + (origin - episode.support).clamp(min=0) * attention.period_days / 7.0).log()
    visible = episode.support_valid & (episode.support <= origin)
    standing = -softplus(attention.age)[:, None, None] * age[:, None, None]  # [B, heads, 1, S]
    standing = standing.masked_fill(~visible[:, None, None], NEVER)
    alike = alike.transpose(1, 2)[:, None].expand(-1, attention.heads, -1, -1)
    return Past(
        keys=torch.cat([match / math.sqrt(attention.width), alike, standing], dim=2).contiguous(),
        values=torch.cat([learned, observed, own, grown], dim=-1),
        event=rows.event[at],
        offset=rows.offset[at],
        some=visible.any(dim=-1)[:, None, None],
    )


def recall(attention: PastAttention, rows: Rows, episode: Episode, past: Past) -> tuple[Tensor, Tensor]:
    """What `PastAttention.forward` returns, from what is remembered.

    Returns
    -------
    raw : Tensor [B, Q, heads, G]
    learned : Tensor [B, Q, heads * LEARNED]
    """
    at = (torch.arange(len(episode.region), device=episode.region.device)[:, None], episode.target)
    batch, targets = episode.target.shape
    types = past.keys[0].shape[1] - attention.width - _week(attention) - 1
    same_day, same_event, same_type, same_weekday = attention.bonus[:, :, None, None]  # each [heads, 1, 1]
    queries = torch.cat(
        [
            attention.match(rows.day(at)).unflatten(-1, (attention.heads, attention.width)).transpose(1, 2),
            _type(rows, at, types)[:, None] * same_type,
            _weekday(attention, episode.target)[:, None] * same_weekday,
            torch.ones((batch, attention.heads, targets, 1), device=at[0].device),
        ],
        dim=-1,
    )  # [B, heads, Q, width + D + week + 1]
    event, offset = rows.event[at], rows.offset[at]
    sums = []
    for i in range(batch):  # one by one: the scores of a region stay in the processor's cache
        scores = queries[i] @ past.keys[i]  # [heads, Q, S]
        for q in event[i].nonzero()[:, 0].tolist():
            likewise = past.event[i] == event[i, q]  # [S]
            exactly = likewise & (past.offset[i] == offset[i, q])
            scores[:, q] += likewise * same_event[:, 0] + exactly * same_day[:, 0]
        sums.append(scores.softmax(dim=-1) @ past.values[i])  # [heads, Q, V + 3 G]
    seen = torch.stack(sums).transpose(1, 2) * past.some[..., None]  # [B, Q, heads, V + 3 G]
    series = rows.sales.shape[-1]
    found, mass, own, grown = seen.split([LEARNED, series, series, series], dim=-1)
    mix = attention.own_level.sigmoid()[:, None]
    raw = (mix * own + (1 - mix) * grown) / mass.clamp(min=1e-6)
    return raw, found.flatten(-2)


def _type(rows: Rows, at: tuple[Tensor, Tensor], types: int) -> Tensor:
    return one_hot(rows.day_type[at], types).to(rows.sales.dtype)


def _week(attention: PastAttention) -> int:
    return max(1, 7 // attention.period_days)


def _weekday(attention: PastAttention, days: Tensor) -> Tensor:
    return one_hot(days % _week(attention), _week(attention)).float()
