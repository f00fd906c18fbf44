"""Heads: from the decoder's numbers to a distribution of transformed sales, and its loss.

``normal`` is the published model: unit variance on normalised sales, so that the negative log-likelihood is half the
squared error. ``quantile`` gives quantiles that cannot cross, trained by the pinball loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class NormalHead(nn.Module):
    """One number a series: the mean of a normal distribution of unit variance."""

    def __init__(self, inputs: int, series: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, series)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """[..., inputs] and a first guess [..., G] to means [..., G, 1]."""
        return (base + self.linear(x)).unsqueeze(-1)

    @staticmethod
    def loss(prediction: Tensor, truth: Tensor, observed: Tensor) -> Tensor:
        """Negative log of the predictive likelihood of each query, averaged over samples of psi.

        ``-log 1/L sum_l p(y | x, psi_l)``, with the normal's constant left out, so that for one sample it is half the
        squared error.

        Parameters
        ----------
        prediction : Tensor [B, L, Q, G, 1]
        truth, observed : Tensor [B, Q, G]

        Returns
        -------
        Tensor [B, Q]
        """
        error = (prediction.squeeze(-1) - truth[:, None]) * observed[:, None]
        log_likelihood = -0.5 * (error**2).sum(dim=-1)  # [B, L, Q]
        return math.log(prediction.shape[1]) - log_likelihood.logsumexp(dim=1)

    @staticmethod
    def quantiles(prediction: Tensor, levels: tuple[float, ...]) -> Tensor:
        """Quantiles of the normal distribution around the mean over samples, [B, Q, G, levels]."""
        z = torch.special.ndtri(torch.tensor(levels, dtype=prediction.dtype, device=prediction.device))
        return prediction.mean(dim=1) + z


class QuantileHead(nn.Module):
    """Quantiles that increase by construction: the median, and cumulated positive steps away from it."""

    levels: Tensor

    def __init__(self, inputs: int, series: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.middle = levels.index(0.5)
        self.linear = nn.Linear(inputs, series * len(levels))
        with torch.no_grad():
            bias = self.linear.bias.view(series, len(levels))
            bias.fill_(-2.5)  # softplus(-2.5) = 0.08: nine levels then span a realistic width
            bias[:, self.middle] = 0.0
            self.linear.weight.mul_(0.1)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """[..., inputs] and a first guess [..., G] to quantiles [..., G, levels]."""
        raw = self.linear(x).unflatten(-1, (-1, len(self.levels)))
        median = base.unsqueeze(-1) + raw[..., self.middle : self.middle + 1]
        steps = nn.functional.softplus(raw)
        above = steps[..., self.middle + 1 :].cumsum(dim=-1)
        below = steps[..., : self.middle].flip(-1).cumsum(dim=-1).flip(-1)
        return torch.cat([median - below, median, median + above], dim=-1)

    def loss(self, prediction: Tensor, truth: Tensor, observed: Tensor) -> Tensor:
        """Pinball loss of each query: twice the mean over levels, summed over series, averaged over samples.

        Parameters
        ----------
        prediction : Tensor [B, L, Q, G, levels]
        truth, observed : Tensor [B, Q, G]

        Returns
        -------
        Tensor [B, Q]
        """
        error = truth[:, None, :, :, None] - prediction
        pinball = torch.maximum(self.levels * error, (self.levels - 1.0) * error)
        return 2.0 * (pinball.mean(dim=-1) * observed[:, None]).sum(dim=-1).mean(dim=1)

    @staticmethod
    def quantiles(prediction: Tensor, levels: tuple[float, ...]) -> Tensor:
        """Mean over samples, [B, Q, G, levels]."""
        return prediction.mean(dim=1)
