"""The amortization network: from support days to a distribution over the task features psi of their cell.

A support instance is embedded, the instances of a cell are pooled by their mean, and two heads give the mean and
deviation of psi (VERSA, Gordon et al. 2019). A query sees only support days up to its own origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stmp.config import ModelConfig
from stmp.data.episodes import POOLED_GROUP, Episode
from stmp.data.features import Rows

MIN_SIGMA = 1e-3
ENOUGH = 4.0
"""Support days that make a mean half sure."""


@dataclass(frozen=True)
class TaskFeatures:
    """The distribution of psi for each query, N(mu, sigma^2); both [B, Q, psi]."""

    mu: Tensor
    sigma: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """psi = mu + sigma * eps for eps [B, L, psi], shared by the queries of a region: [B, L, Q, psi]."""
        return self.mu[:, None] + self.sigma[:, None] * noise[:, :, None]

    def divergence_to(self, prior: TaskFeatures) -> Tensor:
        """KL(self || prior) summed over psi, [B, Q]."""
        ratio = self.sigma / prior.sigma
        distance = (self.mu - prior.mu) / prior.sigma
        return (0.5 * (ratio**2 + distance**2 - 1.0) - ratio.log()).sum(dim=-1)


class Amortization(nn.Module):
    """Pools support embeddings by cell, and reads off the distribution of psi.

    Parameters
    ----------
    config : ModelConfig
    inputs : int
        Size of a support instance's features, without its outcome.
    series : int
        G; the outcome of a support day is its sales over the level before it.
    """

    def __init__(self, config: ModelConfig, *, inputs: int, series: int) -> None:
        super().__init__()
        self.use_outcome = config.support_outcome
        outcome = 2 * series if self.use_outcome else 0
        self.embed = nn.Sequential(
            nn.Linear(inputs + outcome, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.hidden), nn.ReLU()
        )
        self.trunk = nn.Sequential(nn.Linear(config.hidden + 1, config.hidden), nn.ReLU())
        self.mu = nn.Linear(config.hidden, config.psi_size)
        self.sigma = nn.Linear(config.hidden, config.psi_size) if config.psi == "stochastic" else None
        if self.sigma is not None:
            nn.init.constant_(self.sigma.bias, -2.0)

    def instances(self, features: Tensor, rows: Rows, days: Tensor) -> Tensor:
        """Embed support days with what was sold on them, [B, S, hidden]."""
        if not self.use_outcome:
            embedded: Tensor = self.embed(features)
            return embedded
        at = (torch.arange(len(days), device=days.device)[:, None], days)
        return self.embed(torch.cat([features, rows.recent[at], rows.observed[at].to(rows.sales.dtype)], dim=-1))

    def forward(self, embedded: Tensor, mask: Tensor) -> TaskFeatures:
        """Pool and read off.

        Parameters
        ----------
        embedded : Tensor [B, S, hidden]
        mask : Tensor bool [B, Q, S]
            Which support days belong to a query's task and lie before its origin.
        """
        weights = mask.to(embedded.dtype)
        count = weights.sum(dim=-1, keepdim=True)  # [B, Q, 1]
        pooled = torch.bmm(weights / count.clamp(min=1), embedded)
        # How sure a mean can be; it saturates, because forecasts pool many more days than a training step draws.
        trunk = self.trunk(torch.cat([pooled, count / (count + ENOUGH)], dim=-1))
        mu = self.mu(trunk)
        if self.sigma is None:
            return TaskFeatures(mu, torch.full_like(mu, MIN_SIGMA))
        return TaskFeatures(mu, nn.functional.softplus(self.sigma(trunk)) + MIN_SIGMA)

    def pooled_over_regions(self, embedded: Tensor, mask: Tensor) -> TaskFeatures:
        """Like `forward`, but a task is a day type over its regions: the rows of a stratum pool their support days.

        A query attends to every support day of its group of rows that its own mask rule allows, so the mask is
        [B, Q, group * S].
        """
        rows, supports, size = embedded.shape
        padding = -rows % POOLED_GROUP
        grouped = nn.functional.pad(embedded, (0, 0, 0, 0, 0, padding)).view(-1, POOLED_GROUP * supports, size)
        return self(grouped.repeat_interleave(POOLED_GROUP, dim=0)[:rows], mask)


def task_mask(episode: Episode, rows: Rows, *, pooled: bool) -> Tensor:
    """Which support days belong to each query's task, bool [B, Q, S] ([B, Q, group * S] over pooled regions).

    A cell is a (region, day type): support days share the query day's type and end before its origin. Pooled, the
    spatial view takes all day types of a region, the temporal view one day type of all regions in a group of rows.
    """
    batch = torch.arange(len(episode.region), device=episode.region.device)[:, None]
    query_type = rows.day_type[batch, episode.target]
    support_type = rows.day_type[batch, episode.support]
    support, valid = episode.support, episode.support_valid
    if pooled and episode.view == "temporal":
        support, valid, support_type = (_by_group(x) for x in (support, valid, support_type))
    before = valid[:, None, :] & (support[:, None, :] <= episode.origin[:, :, None])
    if pooled and episode.view == "spatial":
        return before
    return before & (support_type[:, None, :] == query_type[:, :, None])


def _by_group(values: Tensor) -> Tensor:
    """Values [B, S] of a row's whole group, [B, group * S]; padded rows are zero (invalid)."""
    rows, supports = values.shape
    padded = nn.functional.pad(values, (0, 0, 0, -rows % POOLED_GROUP))
    return padded.view(-1, POOLED_GROUP * supports).repeat_interleave(POOLED_GROUP, dim=0)[:rows]
