"""Several networks that learn the same tasks from different starts, and forecast the mean of their distributions.

What one start happens to learn wrongly another does not, so that the mean errs less than each of them (deep ensembles,
Lakshminarayanan et al. 2017). Members stand side by side where a single network has its samples of psi: a head averages
over both.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from stmp.config import ModelConfig
from stmp.data.episodes import Episode
from stmp.data.features import History, Rows
from stmp.data.schema import Schema
from stmp.nets.amortization import TaskFeatures
from stmp.nets.generative import STMP, Prediction
from stmp.nets.heads import NormalHead, QuantileHead
from stmp.nets.memory import Memory


class Ensemble(nn.Module):
    """Networks of one configuration, used as one.

    Parameters
    ----------
    members : list of STMP
    """

    def __init__(self, members: list[STMP]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config, self.pooled, self.horizon = members[0].config, members[0].pooled, members[0].horizon

    @property
    def networks(self) -> list[STMP]:
        """The members."""
        return [member for member in self.members if isinstance(member, STMP)]

    @property
    def head(self) -> NormalHead | QuantileHead:
        """Of the first; reading quantiles off a prediction takes no weights."""
        return self.networks[0].head

    def remember(self, history: History, episode: Episode, rows: Rows) -> Memory:
        """See `STMP.remember`: what each member makes of the same pasts."""
        memories = [network.remember(history, episode, rows) for network in self.networks]
        return replace(memories[0], encoded=tuple(memory.encoded[0] for memory in memories))

    def forward(self, history: History, episode: Episode, rows: Rows, memory: Memory | None = None) -> Prediction:
        """See `STMP.forward`; values are [B, members * L, Q, G, levels], psi is that of the first."""
        return _side_by_side(
            [
                network(history, episode, rows, memory.of(k) if memory is not None else None)
                for k, network in enumerate(self.networks)
            ]
        )

    def loss(self, history: History, episode: Episode) -> tuple[Tensor, Tensor, Prediction]:
        """See `STMP.loss`; the mean of the members' losses, as each learns by itself."""
        losses, points, predictions = zip(*(net.loss(history, episode) for net in self.networks), strict=True)
        return torch.stack(losses).mean(dim=0), points[0], _side_by_side(list(predictions))

    def describe_tasks(self, history: History, episode: Episode) -> tuple[TaskFeatures, Tensor]:
        """See `STMP.describe_tasks`; psi [B, D, members * psi]."""
        found = [network.describe_tasks(history, episode) for network in self.networks]
        mu, sigma = (torch.cat([getattr(psi, name) for psi, _ in found], dim=-1) for name in ("mu", "sigma"))
        return TaskFeatures(mu, sigma), found[0][1]


Network = STMP | Ensemble


def make_network(config: ModelConfig, schema: Schema, feature_size: int, *, pooled: bool = False) -> Network:
    """A network, or an ensemble where ``config.members`` is more than one; see `STMP` for the parameters."""
    members = [STMP(config, schema, feature_size, pooled=pooled) for _ in range(config.members)]
    return members[0] if len(members) == 1 else Ensemble(members)


def _side_by_side(predictions: list[Prediction]) -> Prediction:
    return replace(predictions[0], values=torch.cat([prediction.values for prediction in predictions], dim=1))
