"""The decoder: two layers that make a forecast's numbers of all that is known about a query.

Few days are shared by all regions, and what enters the decoder (last year's sales, the trend, the calendar) tells each
of them from the others: left alone it learns days by heart. So units drop out in training (Srivastava et al. 2014).
Which ones is drawn with the episode, as all that is random in a step is.
"""

from __future__ import annotations

from torch import Tensor, nn


class Decoder(nn.Sequential):
    """Two rectified layers, of 2 * hidden and of hidden units.

    Parameters
    ----------
    inputs, hidden : int
    dropout : float
        Share of the units that are dropped in training; the others are scaled up by as much.
    """

    def __init__(self, inputs: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(inputs, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden), nn.ReLU())
        self.hidden, self.dropout = hidden, dropout

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Decode.

        Parameters
        ----------
        x : Tensor [B, L, Q, inputs]
        kept : Tensor bool [B, Q, 3 * hidden], optional
            Units of both layers that stay, the same for all samples of psi; without it all do.

        Returns
        -------
        Tensor [B, L, Q, hidden]
        """
        if kept is None:
            return super().forward(x)
        scale = kept[:, None] / (1 - self.dropout)
        first, rectify, second, _ = self
        wide = rectify(first(x)) * scale[..., : 2 * self.hidden]
        return rectify(second(wide)) * scale[..., 2 * self.hidden :]
