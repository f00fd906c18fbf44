"""Neural baselines of the paper's time: an LSTM, LSTNet, and a meta-learner of the MAML family.

All three read the last days of a row, sales over their level beside what is known of each day, and forecast every day
of the horizon from its own known features; they learn squared error over all rows, and differ in what reads the past:

``lstm``    one LSTM (Hochreiter & Schmidhuber 1997).
``lstnet``  convolution, GRU, skip-GRU over a week or a quarter, and an autoregressive part (Lai et al. 2018).
``maml``    the LSTM, whose last layer takes a few gradient steps on each row's own past before it forecasts; the
            extractor, the start and the step size are learned through these steps (MAML, Finn et al. 2017, in the
            form that adapts the head alone: ANIL, Raghu et al. 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from stmp.data.features import History, Rows
from stmp.data.panel import DateLike, Panel
from stmp.data.schema import Schema
from stmp.errors import ConfigError, DataError
from stmp.evaluation.baselines.base import LEVELS, Baseline, normal_quantiles
from stmp.evaluation.baselines.base import Rows as Known

HIDDEN = 64
REGIONS, ORIGINS, DAYS = 32, 8, 8
"""Rows of a training step, windows of each, and horizon days drawn in each window."""
SUPPORT = 4
"""Of the windows of a row, the earliest ones, which `maml` adapts to."""
INNER_STEPS = 3
CHUNK = 256


class LstmBody(nn.Module):
    """The last state of an LSTM over the window."""

    def __init__(self, inputs: int, week: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, HIDDEN, batch_first=True)

    def forward(self, window: Tensor) -> Tensor:
        """[N, C, F] to [N, HIDDEN]."""
        return self.lstm(window)[1][0][0]


class LstNetBody(nn.Module):
    """Convolution, GRU and skip-GRU over the window."""

    def __init__(self, inputs: int, week: int) -> None:
        super().__init__()
        self.skip = week
        self.convolution = nn.Conv1d(inputs, HIDDEN, kernel_size=6, padding=5)
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.skip_gru = nn.GRU(HIDDEN, HIDDEN // 4, batch_first=True)
        self.join = nn.Linear(HIDDEN + HIDDEN // 4 * week, HIDDEN)

    def forward(self, window: Tensor) -> Tensor:
        """[N, C, F] to [N, HIDDEN]."""
        length = window.shape[1]
        seen = self.convolution(window.transpose(1, 2))[:, :, :length].relu().transpose(1, 2)  # [N, C, HIDDEN]
        last = self.gru(seen)[1][0]
        whole = seen[:, length % self.skip :].unflatten(1, (-1, self.skip)).transpose(1, 2)  # [N, week, weeks, HIDDEN]
        seasons = self.skip_gru(whole.flatten(0, 1))[1][0].unflatten(0, (-1, self.skip)).flatten(1)
        return self.join(torch.cat([last, seasons], dim=1)).relu()


BODIES: dict[str, type[LstmBody] | type[LstNetBody]] = {"lstm": LstmBody, "lstnet": LstNetBody, "maml": LstmBody}


class Net(nn.Module):
    """A body over the window, a decoder of each target day, a linear head, and for LSTNet an autoregressive part."""

    def __init__(self, kind: str, features: int, static: int, context: int, week: int) -> None:
        super().__init__()
        self.body = BODIES[kind](2 + features, week)
        self.decoder = nn.Sequential(
            nn.Linear(HIDDEN + features + static + 1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
        )
        self.head = nn.Linear(HIDDEN, 1)
        self.lags = nn.Linear(context, 1, bias=False) if kind == "lstnet" else None
        self.rate = nn.Parameter(torch.tensor(-2.0)) if kind == "maml" else None

    def forward(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """Features of each target [.., D, HIDDEN + 1], with a constant, and what is added to the forecast [.., D]."""
        lead = batch.window.shape[:-2]
        state = self.body(batch.window.flatten(0, -3)).unflatten(0, lead)  # [.., HIDDEN]
        spread = state.unsqueeze(-2).expand(*batch.day.shape[:-1], -1)
        found = self.decoder(torch.cat([spread, batch.day], dim=-1))
        added = batch.window.new_zeros(batch.day.shape[:-1])
        if self.lags is not None:
            added = added + self.lags(batch.window[..., 0])
        return torch.cat([found, torch.ones_like(found[..., :1])], dim=-1), added

    def weights(self) -> Tensor:
        """Of the head, bias included, [HIDDEN + 1]."""
        return torch.cat([self.head.weight[0], self.head.bias])

    def adapted(self, batch: Windows) -> Tensor:
        """The head's weights after gradient steps on each row's own windows [B, W, ..], [B, HIDDEN + 1]."""
        assert self.rate is not None
        found, added = self(batch)
        weights = self.weights().expand(len(found), -1)
        count = batch.seen.sum(dim=(1, 2)).clamp(min=1)
        for _ in range(INNER_STEPS):
            miss = ((found @ weights[:, None, :, None])[..., 0] + added - batch.target) * batch.seen  # [B, W, D]
            slope = (miss[..., None] * found).sum(dim=(1, 2)) / count[:, None]
            weights = weights - self.rate.exp() * slope
        return weights


@dataclass(frozen=True)
class Windows:
    """Windows of some rows; [..] is [B, W] for W windows of B rows.

    Attributes
    ----------
    window : Tensor [.., C, 2 + F]
        Sales over their level, observed or not, features of the day.
    day : Tensor [.., D, F + S + 1]
        Features of the target day and of the region, and how far ahead it lies.
    target, seen : Tensor [.., D]
        Sales over the level at the origin, and whether they are known.
    """

    window: Tensor
    day: Tensor
    target: Tensor
    seen: Tensor

    def part(self, which: slice) -> Windows:
        """Some of each row's windows."""
        return Windows(self.window[:, which], self.day[:, which], self.target[:, which], self.seen[:, which])


class Recurrent(Baseline):
    """A neural baseline, trained on all rows.

    Parameters
    ----------
    kind : str
        ``lstm``, ``lstnet`` or ``maml``.
    steps : int
        Optimiser steps of 256 windows (`REGIONS` rows, `ORIGINS` windows each).
    context : int, optional
        Periods of a window: 56 days or 26 weeks.
    """

    def __init__(
        self, kind: str, steps: int = 1500, context: int | None = None, seed: int = 0,
        levels: tuple[float, ...] = LEVELS,
    ) -> None:  # fmt: skip
        if kind not in BODIES:
            raise ConfigError(f"There is no neural baseline '{kind}'; choose from {list(BODIES)}.")
        self.kind = self.name = kind
        self.steps, self.asked_context, self.seed, self.levels = steps, context, seed, levels
        self._net: Net | None = None

    def fit(self, panel: Panel, until: DateLike, horizon: int) -> Recurrent:
        """Train on days up to and with `until`; the last horizon of them tells how far forecasts are off.

        Raises
        ------
        DataError
            If the history is too short for a window and a horizon to learn from, and one to measure.
        """
        known = panel.until(until).split_series()
        last = panel.index_of(until) + 1
        daily = panel.period_days == 1
        self.context = min(self.asked_context or (56 if daily else 26), last // 3)
        end = last - min(horizon, last // 5)
        if end - self.context < 2 or self.context < 2:
            raise DataError(f"The baseline '{self.kind}' needs more history than {last} periods.")
        self.horizon = horizon
        self._schema = Schema.fit(known, end)
        history = self._history(known)
        static, features = known.static.shape[1], history.feature_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._net = Net(self.kind, features, static, self.context, min(7 if daily else 13, self.context))
        rng = np.random.default_rng(self.seed)
        optimizer = torch.optim.Adam(self._net.parameters(), lr=2e-3)
        for step in range(self.steps):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / self.steps)) + 1e-5
            regions = rng.choice(known.shape[0], min(REGIONS, known.shape[0]), replace=False)
            origins = np.sort(rng.integers(self.context, end - 1, (len(regions), ORIGINS)), axis=1)
            ahead = rng.integers(1, horizon + 1, (len(regions), ORIGINS, DAYS))
            batch = self._windows(history, regions, origins, np.minimum(origins[..., None] + ahead, end - 1))
            loss = self._loss(batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self._net.parameters(), 1.0)
            optimizer.step()
        self._net.eval()
        self._sigma = self._spread(history, end - 1, last)
        return self

    def forecast_rows(self, rows: Known) -> tuple[np.ndarray, np.ndarray]:
        """Means, and normal quantiles with the spread of the held-out days."""
        history = self._history(rows.panel)
        ahead = np.arange(1, rows.horizon + 1)
        mean, level = self._predict(history, rows.origin, ahead)
        unsold = np.asarray(~rows.observed[:, rows.past].any(axis=1))
        mean[unsold] = 0.0
        sigma = self._sigma * level * ~unsold[:, None]
        quantiles = normal_quantiles(mean, np.broadcast_to(sigma, mean.shape), self.levels)
        return mean, np.maximum(quantiles, 0.0)

    def _history(self, panel: Panel) -> History:
        days = panel.period_days == 1
        return History(
            panel,
            self._schema,
            level_window=63 if days else 13,
            transform="linear",
            use_known=True,
            turn_of_month=days,
        )

    def _loss(self, batch: Windows) -> Tensor:
        assert self._net is not None
        if self.kind == "maml":
            weights = self._net.adapted(batch.part(slice(SUPPORT)))
            batch = batch.part(slice(SUPPORT, None))
        else:
            weights = self._net.weights().expand(len(batch.window), -1)
        found, added = self._net(batch)
        miss = ((found @ weights[:, None, :, None])[..., 0] + added - batch.target) * batch.seen
        return (miss**2).sum() / batch.seen.sum().clamp(min=1)

    @torch.no_grad()
    def _predict(self, history: History, origin: int, ahead: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean sales [N, H] and the level they are relative to [N, 1], from one origin."""
        assert self._net is not None
        means, levels = [], []
        for start in range(0, history.panel.shape[0], CHUNK):
            regions = np.arange(start, min(start + CHUNK, history.panel.shape[0]))
            batch = self._windows(history, regions, np.full((len(regions), 1), origin), (origin + ahead)[None, None])
            weights = self._net.weights().expand(len(regions), -1)
            if self.kind == "maml":
                weights = self._net.adapted(self._own_windows(history, regions, origin))
            found, added = self._net(batch)
            scaled = (found @ weights[:, None, :, None])[..., 0] + added
            level = history.rows(*self._whole(regions), end=origin + 1).level[:, origin + 1]  # [B, 1]
            means.append(history.unscale(scaled[:, 0], level).numpy())
            levels.append(level.numpy())
        return np.concatenate(means), np.concatenate(levels)

    def _own_windows(self, history: History, regions: np.ndarray, origin: int) -> Windows:
        """Windows of a row that end a horizon before the origin, half a horizon apart, to adapt to."""
        back = origin - self.horizon - np.arange(SUPPORT)[::-1] * max(1, self.horizon // 2)
        origins = np.broadcast_to(np.maximum(back, 0), (len(regions), SUPPORT))
        ahead = np.arange(1, self.horizon + 1)
        return self._windows(history, regions, origins, np.minimum(origins[..., None] + ahead, origin))

    def _spread(self, history: History, origin: int, last: int) -> float:
        """Root mean square of what forecasts of the held-out days were off, as a share of the level."""
        mean, level = self._predict(history, origin, np.arange(1, last - origin))
        days = slice(origin + 1, last)
        seen = history.panel.observed[:, days, 0].numpy()
        miss = (mean - history.panel.sales[:, days, 0].numpy()) / level
        return float(np.sqrt((miss[seen] ** 2).mean())) if seen.any() else 0.0

    @staticmethod
    def _whole(regions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rows with all of their history."""
        return torch.as_tensor(regions), torch.zeros(len(regions), dtype=torch.int64)

    def _windows(self, history: History, regions: np.ndarray, origins: np.ndarray, days: np.ndarray) -> Windows:
        """Gather windows that end on origins [B, W], with the targets on days [B, W, D]."""
        rows: Rows = history.rows(*self._whole(regions))
        at = torch.as_tensor(np.array(np.broadcast_to(origins, (len(regions), origins.shape[1]))))
        day = torch.as_tensor(np.array(np.broadcast_to(days, (*at.shape, days.shape[-1]))))
        batch = torch.arange(len(regions))[:, None, None]
        back = at[:, :, None] - torch.arange(self.context).flip(0)  # [B, W, C]
        inside = (back >= 0)[..., None]
        back = back.clamp(min=0)
        seen = rows.observed[batch, back] & inside
        level = rows.level[batch, at[:, :, None] + 1]  # [B, W, 1, 1]
        sold = history.scale(rows.sales[batch, back], level) * seen
        window = torch.cat([sold, seen.float(), rows.features[batch, back] * inside], dim=-1)
        ahead = ((day - at[:, :, None]) / self.horizon)[..., None].float()
        static = rows.static[:, None, None].expand(*day.shape, -1)
        known = rows.observed[batch, day][..., 0] & (day > at[:, :, None])
        target = history.scale(rows.sales[batch, day], level)[..., 0]
        return Windows(window, torch.cat([rows.features[batch, day], static, ahead], dim=-1), target, known.float())
