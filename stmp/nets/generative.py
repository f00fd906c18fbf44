"""The generative model, shared by all tasks, and the whole network STMP.

A query's features h~ and its task's psi give the forecast of the target day: ``fc(h~, psi)``. Beyond the published
model, the target day's known-future covariates and what attention found in the region's past enter the decoder too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stmp.config import ModelConfig
from stmp.data.calendar import period_days
from stmp.data.episodes import Episode
from stmp.data.features import History, Rows
from stmp.data.schema import Schema
from stmp.nets.amortization import Amortization, TaskFeatures, task_mask
from stmp.nets.attention import PastAttention
from stmp.nets.decoder import Decoder
from stmp.nets.extractor import Contexts, Extractor, windows_of
from stmp.nets.first_guess import READINGS, FirstGuess, last_year
from stmp.nets.heads import NormalHead, QuantileHead
from stmp.nets.memory import Encoded, Memory
from stmp.nets.recall import recall, remember


@dataclass(frozen=True)
class Prediction:
    """Distributions of transformed sales over the origin's level.

    Attributes
    ----------
    values : Tensor [B, L, Q, G, levels]
        Quantiles, or the mean alone for the normal head, for each sample of psi.
    level : Tensor [B, Q, G]
        The scale: sales are ``history.unscale(values, level)``.
    psi, posterior : TaskFeatures or None
        Of each query; `posterior` has seen the query days too, where the KL term asks for it.
    """

    values: Tensor
    level: Tensor
    psi: TaskFeatures | None
    posterior: TaskFeatures | None = None


class STMP(nn.Module):
    """Amortization network and generative model.

    Parameters
    ----------
    config : ModelConfig, resolved
    schema : Schema
        Names of the inputs, which give their sizes.
    feature_size : int
        F, features of a day, without its event.
    pooled : bool
        Tasks are pooled over day types or regions rather than single cells.
    """

    def __init__(self, config: ModelConfig, schema: Schema, feature_size: int, *, pooled: bool = False) -> None:
        super().__init__()
        assert config.horizon is not None
        self.config, self.pooled = config, pooled
        self.horizon = config.horizon
        self.separate = config.instances == "window"
        series = len(schema.series)
        self.event = nn.Embedding(len(schema.events), config.event_size, padding_idx=0) if config.event_size else None
        if self.event is not None:
            with torch.no_grad():
                self.event.weight.mul_(0.1)  # what an event has of its own is learned, and next to none at first
        feature_size += config.event_size
        hidden = config.hidden
        sizes = {"series": series, "past": len(schema.past_names), "features": feature_size}
        static = len(schema.static_names)
        self.extractor = Extractor(config, static=static, **sizes)
        own = config.psi != "none" and self.separate and not config.share_extractor
        self.support_extractor = Extractor(config, static=static, **sizes) if own else None
        if config.psi != "none":
            day = feature_size + (static if config.static else 0)
            self.amortization = Amortization(config, inputs=hidden if self.separate else day, series=series)
        self.attention = (
            PastAttention(config, features=feature_size, series=series, period_days=period_days(schema.frequency))
            if config.pooling == "attention"
            else None
        )
        inputs = hidden + 3
        inputs += len(config.trend_periods or ()) * series
        inputs += config.psi_size if config.psi != "none" else 0
        inputs += feature_size if config.known else 0
        if self.attention is not None:
            inputs += self.attention.size + self.attention.heads * series
        inputs += 2 * READINGS * series if config.last_year else 0
        candidates = 1 + (self.attention.heads if self.attention is not None else 0) + READINGS * bool(config.last_year)
        self.first_guess = FirstGuess(hidden, candidates, series) if candidates > 1 else None
        self.decoder = Decoder(inputs, hidden, config.dropout)
        self.head: NormalHead | QuantileHead = (
            NormalHead(hidden, series) if config.head == "normal" else QuantileHead(hidden, series, config.levels)
        )

    def remember(self, history: History, episode: Episode, rows: Rows) -> Memory:
        """Encode all that a forecast needs of the past of an episode's regions, each up to one origin.

        Afterwards `forward` only decodes. Tasks must be single cells, so that a region depends on no other.
        """
        assert not self.pooled, "pooled tasks depend on the regions that are forecast together"
        rows = replace(rows, embedding=self.event)
        origin = episode.origin[:, :1]
        alone = replace(episode, target=episode.target[:, :1], origin=origin)
        row, last, _, support_window = windows_of(alone, self.separate)
        contexts = self.extractor.encode(rows, row, last)
        psi = None
        if self.config.psi != "none":
            # One query for each day type: a day of that type would pool the same support days.
            types = torch.arange(len(history.schema.day_types), device=row.device).expand(len(rows.sales), -1)
            batch = torch.arange(len(types), device=row.device)[:, None]
            mask = (rows.day_type[batch, episode.support][:, None] == types[:, :, None]) & (
                episode.support_valid[:, None] & (episode.support[:, None] <= origin[:, :, None])
            )  # [B, D, S]
            if self.support_extractor is not None:
                support_contexts = self.support_extractor.encode(rows, row, last)
            else:
                support_contexts = contexts
            before = (episode.support - 1).clamp(min=0)
            psi = self.amortization(
                self._instances(history, rows, support_contexts, support_window, before, episode.support), mask
            )
        if self.separate:  # the window of the query is the first of each region's
            contexts = contexts.select(torch.arange(0, len(row), 1 + episode.support.shape[1], device=row.device))
        past = remember(self.attention, history, rows, episode) if self.attention is not None else None
        newest = max(self.extractor.periods, default=1)
        encoded = Encoded(contexts.newest(newest), psi, past)
        return Memory(rows, episode.support, episode.support_valid, (encoded,))

    def forward(self, history: History, episode: Episode, rows: Rows, memory: Memory | None = None) -> Prediction:
        """Forecast the queries of an episode.

        Parameters
        ----------
        history : History
        episode : Episode
        rows : Rows
            ``history.rows(episode.region, episode.start, episode.end)``.
        memory : Memory, optional
            What `remember` made of these regions; each query's origin must be the one that it was made for.
        """
        device = episode.region.device
        batch = torch.arange(len(episode.region), device=device)[:, None]
        if self.event is not None:
            rows = replace(rows, embedding=self.event)
        if memory is None:
            row, last, query_window, support_window = windows_of(episode, self.separate)
            contexts = self.extractor.encode(rows, row, last)
        else:
            (encoded,) = memory.encoded
            contexts, query_window = encoded.contexts, batch.expand_as(episode.target)
        h = self.extractor.read(
            history, rows, contexts, query_window, batch.expand_as(query_window), episode.origin, episode.target
        )
        parts = [h, self._lead(episode)]
        if self.config.trend_periods:
            parts.append(rows.trend[batch, episode.origin + 1])
        level = rows.level[batch, episode.origin + 1]  # [B, Q, G]
        guesses = [torch.zeros_like(level)[:, :, None]]  # the level itself, where nothing else is seen; [B, Q, ., G]
        seen = [torch.ones_like(guesses[0], dtype=torch.bool)]
        if self.config.known:
            parts.append(rows.day((batch, episode.target)))
        if self.attention is not None:
            if memory is None or encoded.past is None:
                raw, learned = self.attention(history, rows, episode)
            else:
                raw, learned = recall(self.attention, rows, episode, encoded.past)
            parts += [learned, raw.flatten(-2)]
            guesses.insert(0, raw)
            seen.insert(0, torch.ones_like(raw, dtype=torch.bool))
        if self.config.last_year:
            readings, known = last_year(history, rows, episode, counterparts=self.config.counterparts)
            parts += [readings.flatten(-2), known.to(readings.dtype).flatten(-2)]
            guesses.append(readings)
            seen.append(known)
        x = torch.cat(parts, dim=-1)[:, None]  # [B, 1, Q, inputs]
        psi = posterior = None
        if self.config.psi != "none":
            if memory is None:
                psi, posterior = self._task_features(history, rows, episode, contexts, query_window, support_window)
            else:
                psi = encoded.psi_of(rows.day_type[batch, episode.target])
            assert psi is not None
            if self.config.psi == "stochastic":
                samples = psi.sample(episode.noise)
            else:
                samples = psi.mu[:, None]
            x = torch.cat([x.expand(-1, samples.shape[1], -1, -1), samples], dim=-1)
        decoded = self.decoder(x, episode.kept)
        candidates = torch.cat(guesses, dim=2)
        if self.first_guess is None:
            base = candidates[:, None, :, 0]  # the level
        else:
            base = self.first_guess(decoded, candidates, torch.cat(seen, dim=2))
        return Prediction(self.head(decoded, base), level, psi, posterior)

    def loss(self, history: History, episode: Episode) -> tuple[Tensor, Tensor, Prediction]:
        """Summed loss of an episode and the number of points in it.

        Returns
        -------
        losses : Tensor [B, Q]
            Of each query, summed over its observed series; 0 where none is observed.
        points : Tensor [B, Q]
            Observed series of each query.
        prediction : Prediction
        """
        rows = history.rows(episode.region, episode.start, episode.end, step=episode.step)
        prediction = self(history, episode, rows)
        batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
        at = (batch, episode.target)
        observed = (rows.observed[at] & episode.query_valid[:, :, None]).to(rows.sales.dtype)
        truth = history.scale(rows.sales[at], prediction.level)
        losses = self.head.loss(prediction.values, truth, observed)
        if self.config.beta_kl > 0 and prediction.psi is not None and prediction.posterior is not None:
            divergence = prediction.posterior.divergence_to(prediction.psi)
            losses = losses + self.config.beta_kl * divergence * (observed.sum(dim=-1) > 0)
        return losses, observed.sum(dim=-1), prediction

    def describe_tasks(self, history: History, episode: Episode) -> tuple[TaskFeatures, Tensor]:
        """What the amortization network makes of each cell: psi by day type, from all support days of an episode.

        Returns
        -------
        psi : TaskFeatures [B, D, psi]
        days : Tensor int64 [B, D]
            Support days of each cell; without any, psi is the same for all regions.
        """
        assert self.config.psi != "none", "a model without task features has no psi"
        rows = replace(history.rows(episode.region, episode.start, episode.end), embedding=self.event)
        row, last, _, support_window = windows_of(episode, self.separate)
        contexts = (self.support_extractor or self.extractor).encode(rows, row, last)
        before = (episode.support - 1).clamp(min=0)
        embedded = self._instances(history, rows, contexts, support_window, before, episode.support)
        batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
        types = torch.arange(len(history.schema.day_types), device=batch.device)[None, :, None]
        mask = episode.support_valid[:, None, :] & (rows.day_type[batch, episode.support][:, None] == types)
        return self.amortization(embedded, mask), mask.sum(dim=-1)

    def _lead(self, episode: Episode) -> Tensor:
        """How far ahead the target lies, [B, Q, 3]; beyond what was learned it counts as the furthest learned."""
        h = episode.horizon.clamp(min=1, max=self.horizon).to(episode.noise.dtype)
        return torch.stack([h / self.horizon, h.log1p() / math.log1p(self.horizon), torch.exp(-(h - 1) / 3.0)], dim=-1)

    def _task_features(
        self,
        history: History,
        rows: Rows,
        episode: Episode,
        contexts: Contexts,
        query_window: Tensor,
        support_window: Tensor,
    ) -> tuple[TaskFeatures, TaskFeatures | None]:
        """psi from the support days; with a KL term in training, also psi from support and query days."""
        if self.support_extractor is not None:
            row, last, _, _ = windows_of(episode, separate=True)
            contexts = self.support_extractor.encode(rows, row, last)
        mask = task_mask(episode, rows, pooled=self.pooled)
        before = (episode.support - 1).clamp(min=0)
        embedded = self._instances(history, rows, contexts, support_window, before, episode.support)
        pooled_regions = self.pooled and episode.view == "temporal"
        pool = self.amortization.pooled_over_regions if pooled_regions else self.amortization
        psi = pool(embedded, mask)
        if self.config.beta_kl == 0 or not self.training:
            return psi, None
        queries = self._instances(history, rows, contexts, query_window, episode.origin, episode.target)
        both = replace(
            episode,
            support=torch.cat([episode.support, episode.target], dim=1),
            support_valid=torch.cat([episode.support_valid, episode.query_valid], dim=1),
            origin=torch.full_like(episode.origin, rows.sales.shape[1]),
        )
        everything = task_mask(both, rows, pooled=self.pooled)
        if not pooled_regions:  # earlier support of the same cell only, but all of the cell's queries
            everything[:, :, : mask.shape[2]] = mask
        return psi, pool(torch.cat([embedded, queries], dim=1), everything)

    def _instances(
        self, history: History, rows: Rows, contexts: Contexts, window: Tensor, origin: Tensor, days: Tensor
    ) -> Tensor:
        """Embed days with their outcome, [B, M, hidden]: from their windows, or from their covariates alone."""
        batch = torch.arange(len(days), device=days.device)[:, None]
        if self.separate:
            extractor = self.support_extractor or self.extractor
            features = extractor.read(history, rows, contexts, window, batch.expand_as(days), origin, days)
        else:
            parts = [rows.day((batch, days))]
            if self.config.static:
                parts.append(rows.static[:, None].expand(-1, days.shape[1], -1))
            features = torch.cat(parts, dim=-1)
        return self.amortization.instances(features, rows, days)
