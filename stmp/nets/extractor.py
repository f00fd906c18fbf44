r"""Spatio-temporal feature extraction, the same design in the amortization and the generative network.

```
cart      --> skip-LSTMs --\                       /--> LSTM --\
purchases --> skip-LSTMs ---> one fc over both ---- \--> LSTM ---> top fc --> h
[cart, purchases] -------------> AR (linear) -------------------/
static ---------> fc --> fc ------------------------------------/
festival interval -> fc -/
```
The skip-LSTM comes first (LSTNet runs its recurrent and skip-recurrent parts side by side; STMP stacks them), and the
AR block feeds the top fc rather than the output. One pass gives the state at every day, so that any day can be an
origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stmp.config import ModelConfig
from stmp.data.episodes import Episode
from stmp.data.features import History, Rows

ALIGNED_LAGS = 4
"""Earlier days of the target's own phase (the same weekday, for a period of 7) that the AR block reads."""


class SkipLSTM(nn.Module):
    """An LSTM whose state skips a period: ``h_t, c_t = cell(x_t, h_{t-p}, c_{t-p})``, zero before the first day.

    Folding time into (steps, phase) turns it into a plain LSTM over p times as many, p times shorter sequences.
    """

    def __init__(self, inputs: int, hidden: int, period: int) -> None:
        super().__init__()
        self.period = period
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """State at every day: [B, L, F] to [B, L, hidden]."""
        batch, length, size = x.shape
        steps = -(-length // self.period)
        # Padding goes to the right, where it comes after every state that is read.
        padded = nn.functional.pad(x, (0, 0, 0, steps * self.period - length))
        folded = padded.view(batch, steps, self.period, size).transpose(1, 2).reshape(batch * self.period, steps, size)
        states, _ = self.lstm(folded)
        unfolded = states.view(batch, self.period, steps, -1).transpose(1, 2).reshape(batch, steps * self.period, -1)
        return unfolded[:, :length]


@dataclass(frozen=True)
class Contexts:
    """Windows of recent days, encoded. N windows of L days.

    Attributes
    ----------
    row : Tensor int64 [N]
        Which of the episode's regions each window belongs to.
    first : Tensor int64 [N]
        Its first period (may be negative: before the data).
    states : Tensor [N, L, C]
        States of the plain LSTMs.
    skips : tuple of Tensor [N, L, C']
        States of the skip-LSTMs, one tensor a period.
    """

    row: Tensor
    first: Tensor
    states: Tensor
    skips: tuple[Tensor, ...]

    def select(self, windows: Tensor) -> Contexts:
        """Some of the windows."""
        skips = tuple(skip[windows] for skip in self.skips)
        return Contexts(self.row[windows], self.first[windows], self.states[windows], skips)

    def newest(self, days: int) -> Contexts:
        """The last days of each window: all that is read from its last day as origin."""
        cut = max(0, self.states.shape[1] - days)
        skips = tuple(skip[:, cut:] for skip in self.skips)
        return Contexts(self.row, self.first + cut, self.states[:, cut:], skips)


class Branch(nn.Module):
    """The skip-LSTMs of one behaviour series, one a period, concatenated."""

    def __init__(self, inputs: int, hidden: int, periods: tuple[int, ...]) -> None:
        super().__init__()
        self.skips = nn.ModuleList(SkipLSTM(inputs, hidden, period) for period in periods)
        self.size = hidden * len(periods) if periods else inputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """States by period; the input itself where there are none."""
        return [skip(x) for skip in self.skips] or [x]


class Extractor(nn.Module):
    """Encodes windows, and reads a feature vector h for any (origin, target) pair of days in them.

    Parameters
    ----------
    config : ModelConfig, resolved
    series : int
        G
    past : int
        P; without past covariates the cart branch is absent.
    features : int
        F, features of a day.
    static : int
        S
    """

    def __init__(self, config: ModelConfig, *, series: int, past: int, features: int, static: int) -> None:
        super().__init__()
        assert config.skip_periods is not None and config.context is not None
        self.context = config.context
        self.periods = config.skip_periods
        self.use_cart = config.cart and past > 0
        self.use_known = config.known
        self.use_ar = config.ar
        self.ar_lags = config.ar_lags
        self.series = series
        hidden = config.hidden
        day = features if config.known else 0
        self.purchases = Branch(2 * series + day, hidden, self.periods)
        self.cart = Branch(2 * past + day, hidden, self.periods) if self.use_cart else None
        joint = self.purchases.size + (self.cart.size if self.cart else 0)
        self.joint = nn.Linear(joint, hidden)
        self.lstms = nn.ModuleList(nn.LSTM(hidden, hidden, batch_first=True) for _ in range(2 if self.use_cart else 1))
        top = hidden * len(self.lstms)
        if self.periods:
            top += self.purchases.size + (self.cart.size if self.cart else 0)
        if self.use_ar:
            lags = 2 * series * (self.ar_lags + ALIGNED_LAGS) + 2 * past * self.use_cart
            self.ar = nn.Linear(lags, hidden)
            top += hidden
        self.static = nn.Sequential(nn.Linear(static, hidden), nn.ReLU()) if config.static and static else None
        self.interval = nn.Sequential(nn.Linear(features, hidden), nn.ReLU())
        self.place = nn.Sequential(nn.Linear(hidden * (2 if self.static else 1), hidden), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(top + hidden, hidden), nn.ReLU())

    def encode(self, rows: Rows, row: Tensor, last: Tensor) -> Contexts:
        """Run the recurrent nets over the windows that end on the given days.

        Parameters
        ----------
        rows : Rows
        row : Tensor int64 [N]
            Which of the rows each window is of.
        last : Tensor int64 [N]
            Index of its last day.
        """
        first = last - self.context + 1
        days = first[:, None] + torch.arange(self.context, device=row.device)  # [N, L]
        inside = (days >= 0)[:, :, None]
        at = (row[:, None], days.clamp(min=0))
        purchases = [rows.recent[at], rows.observed[at].to(rows.sales.dtype)]
        cart = [rows.cart[at], rows.cart_observed[at].to(rows.sales.dtype)]
        if self.use_known:
            known = rows.day(at)
            purchases.append(known)
            cart.append(known)
        skips = self.purchases(torch.cat(purchases, dim=-1) * inside)
        if self.cart is not None:
            others = self.cart(torch.cat(cart, dim=-1) * inside)
            skips = [torch.cat(pair, dim=-1) for pair in zip(skips, others, strict=True)]
        mixed = torch.relu(self.joint(torch.cat(skips, dim=-1)))
        states = torch.cat([lstm(mixed)[0] for lstm in self.lstms], dim=-1)
        return Contexts(row, first, states, tuple(skips) if self.periods else ())

    def read(
        self,
        history: History,
        rows: Rows,
        contexts: Contexts,
        window: Tensor,
        row: Tensor,
        origin: Tensor,
        target: Tensor,
    ) -> Tensor:
        """Feature vector h of (origin, target) pairs.

        Parameters
        ----------
        window : Tensor int64 [B, M]
            Which context each pair is read from.
        row : Tensor int64 [B, M]
            Which of the rows it is of.
        origin, target : Tensor int64 [B, M]

        Returns
        -------
        Tensor [B, M, hidden]
        """
        place = (origin - contexts.first[window]).clamp(min=0, max=self.context - 1)
        parts = [contexts.states[window, place]]
        for period, states in zip(self.periods, contexts.skips, strict=True):
            # The last day up to the origin that has the target's phase.
            aligned = target - period * (-((origin - target) // period))
            parts.append(states[window, (aligned - contexts.first[window]).clamp(min=0, max=self.context - 1)])
        if self.use_ar:
            parts.append(self.ar(self._lags(history, rows, row, origin, target)))
        known = self.interval(rows.day((row, target)))
        if self.static is not None:
            known = torch.cat([known, self.static(rows.static)[row]], dim=-1)
        parts.append(self.place(known))
        h: Tensor = self.top(torch.cat(parts, dim=-1))
        return h

    def _lags(self, history: History, rows: Rows, row: Tensor, origin: Tensor, target: Tensor) -> Tensor:
        """Sales of the last days and of the target's weekdays over the origin's level, and the last cart."""
        device = origin.device
        recent = origin[..., None] - torch.arange(self.ar_lags, device=device)
        phase = self.periods[0] if self.periods else 7
        weeks = -((origin - target) // phase)  # ceil((target - origin) / phase)
        aligned = target[..., None] - phase * (weeks[..., None] + torch.arange(ALIGNED_LAGS, device=device))
        days = torch.cat([recent, aligned], dim=-1)  # [B, M, J]
        at = (row[..., None], days.clamp(min=0))
        seen = rows.observed[at] & (days >= 0)[..., None]
        lags = history.scale(rows.sales[at], rows.level[row, origin + 1][..., None, :]) * seen  # [B, M, J, G]
        parts = [lags.flatten(-2), seen.to(lags.dtype).flatten(-2)]
        if self.use_cart:
            parts += [rows.cart[row, origin], rows.cart_observed[row, origin].to(lags.dtype)]
        return torch.cat(parts, dim=-1)


def windows_of(episode: Episode, separate: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which windows an episode needs, and where its query and support instances read them.

    Parameters
    ----------
    separate : bool
        A window for each instance (as in the paper), or one context a region that serves them all.

    Returns
    -------
    row, last : Tensor int64 [N]
        Region and last day of each window.
    query_window : Tensor int64 [B, Q]
    support_window : Tensor int64 [B, S]
    """
    regions, queries = episode.target.shape
    supports = episode.support.shape[1]
    device = episode.region.device
    if not separate:
        row = torch.arange(regions, device=device)
        return row, episode.end - 1, row[:, None].expand(-1, queries), row[:, None].expand(-1, supports)
    row = torch.arange(regions, device=device)[:, None].expand(-1, queries + supports).reshape(-1)
    last = torch.cat([episode.origin, (episode.support - 1).clamp(min=0)], dim=1).reshape(-1)
    window = torch.arange(len(row), device=device).view(regions, queries + supports)
    return row, last, window[:, :queries], window[:, queries:]
