"""Attention from the day to forecast over the region's own earlier days (attentive neural process, Kim et al. 2019).

Mean pooling underfits: a promoted Monday should look at promoted Mondays, a festival at the same festival of earlier
years. Keys and queries are the covariates of a day; values are what was sold on it, raw and learned. A head may look
at sales over the query's own level, which keeps their growth, or over the level of their own time, which keeps their
shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stmp.config import ModelConfig
from stmp.data.episodes import Episode
from stmp.data.features import History, Rows

LEARNED = 16
"""Numbers in a head's learned value."""


class PastAttention(nn.Module):
    """Heads over support days, each with a penalty on age and a bonus for the same event, day type and weekday."""

    def __init__(self, config: ModelConfig, *, features: int, series: int, period_days: int) -> None:
        super().__init__()
        self.heads, self.width = config.heads, 16
        self.period_days = period_days
        hidden = config.hidden
        self.match = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, self.heads * self.width))
        self.value = nn.Sequential(nn.Linear(features + 2 * series, hidden), nn.ReLU(), nn.Linear(hidden, LEARNED))
        self.age = nn.Parameter(torch.linspace(-1.0, 2.0, self.heads))
        self.bonus = nn.Parameter(torch.tensor([2.0, 1.0, 0.5, 0.5])[:, None].repeat(1, self.heads))
        # Every other head compares with its own time's level from the start; each learns its mix.
        self.own_level = nn.Parameter(torch.tensor([-2.0, 2.0] * self.heads)[: self.heads])

    @property
    def size(self) -> int:
        """Learned numbers that a query gets."""
        return self.heads * LEARNED

    def forward(self, history: History, rows: Rows, episode: Episode) -> tuple[Tensor, Tensor]:
        """Attend.

        Returns
        -------
        raw : Tensor [B, Q, heads, G]
            Weighted means of transformed sales; 0 (the level itself) where no day can be seen.
        learned : Tensor [B, Q, heads * LEARNED]
        """
        batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
        q_at, s_at = (batch, episode.target), (batch, episode.support)
        support = rows.day(s_at)
        queries = self.match(rows.day(q_at)).unflatten(-1, (self.heads, self.width))
        keys = self.match(support).unflatten(-1, (self.heads, self.width))
        scores = torch.einsum("bqhd,bshd->bhqs", queries / math.sqrt(self.width), keys)
        seen = episode.support_valid[:, None, :] & (
            episode.support[:, None, :] <= episode.origin[:, :, None]
        )  # [B, Q, S]
        scores = scores + self._bias(rows, episode, q_at, s_at)
        # Finite, so that a row without any day has no NaN to get rid of; what comes of it is set to zero below.
        weights = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min).softmax(dim=-1)  # [B, H, Q, S]
        some = seen.any(dim=-1)[:, :, None, None]  # [B, Q, 1, 1]

        sales, observed = rows.sales[s_at], rows.observed[s_at].to(rows.sales.dtype)  # [B, S, G]
        series = sales.shape[-1]
        origin_level = rows.level[batch, episode.origin + 1]  # [B, Q, G]
        grown = history.scale(sales[:, None], origin_level[:, :, None]) * observed[:, None]  # [B, Q, S, G]
        own = rows.recent[s_at]  # [B, S, G]
        value = self.value(torch.cat([support, own, observed], dim=-1))  # [B, S, V]
        # One product for all that is the same for every query.
        sums = torch.einsum("bhqs,bsv->bqhv", weights, torch.cat([value, observed, own], dim=-1))
        learned, mass, own_sum = (sums * some).split([LEARNED, series, series], dim=-1)
        mass = mass.clamp(min=1e-6)
        # Not a matrix product, which would bring the weights, the largest tensor here, into another order first.
        grown_sum = torch.stack([(weights * g[:, None]).sum(dim=-1) for g in grown.unbind(-1)], dim=-1)  # [B, H, Q, G]
        by_growth = grown_sum.transpose(1, 2) * some / mass
        by_shape = own_sum / mass
        mix = self.own_level.sigmoid()[:, None]
        raw = mix * by_shape + (1 - mix) * by_growth
        return raw, learned.flatten(-2)

    def _bias(self, rows: Rows, episode: Episode, q_at: tuple[Tensor, Tensor], s_at: tuple[Tensor, Tensor]) -> Tensor:
        """Age penalty and bonus for alike days, [B, H, Q, S]."""
        days = (episode.origin[:, :, None] - episode.support[:, None, :]).clamp(min=0).to(
            rows.sales.dtype
        ) * self.period_days
        event_q, event_s = rows.event[q_at][:, :, None], rows.event[s_at][:, None, :]
        same_event = (event_q == event_s) & (event_q > 0)
        same_day = same_event & (rows.offset[q_at][:, :, None] == rows.offset[s_at][:, None, :])
        same_type = rows.day_type[q_at][:, :, None] == rows.day_type[s_at][:, None, :]
        week = max(1, 7 // self.period_days)
        same_weekday = (episode.target % week)[:, :, None] == (episode.support % week)[:, None, :]
        alike = torch.stack([same_day, same_event, same_type, same_weekday], dim=1).to(days.dtype)
        traits = torch.cat([alike, (1.0 + days / 7.0).log()[:, None]], dim=1)  # [B, 5, Q, S]
        weights = torch.cat([self.bonus, -nn.functional.softplus(self.age)[None]])  # [5, H]
        return torch.matmul(weights.T, traits.flatten(2)).unflatten(2, traits.shape[2:])
