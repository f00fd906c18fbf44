"""A Forecast: means and quantiles by region, date and series, and which model made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from stmp.data.panel import DateLike, Panel
from stmp.errors import DataError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Forecast:
    """What is expected, in the unit of the data.

    Attributes
    ----------
    regions : ndarray of str [R]
    series : tuple of str, length G
    dates : ndarray datetime64[D] [H]
    levels : tuple of float, length Q
        Increasing; 0.5 is among them.
    mean : ndarray float32 [R, H, G]
    quantiles : ndarray float32 [R, H, G, Q]
    model_version : str
    """

    regions: np.ndarray
    series: tuple[str, ...]
    dates: np.ndarray
    levels: tuple[float, ...]
    mean: np.ndarray
    quantiles: np.ndarray
    model_version: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.regions), len(self.dates), len(self.series))
        assert self.mean.shape == shape and self.quantiles.shape == (*shape, len(self.levels)), self.mean.shape

    @property
    def median(self) -> np.ndarray:
        """The 0.5 quantile, [R, H, G]."""
        return np.asarray(self.quantiles[..., self.levels.index(0.5)])

    def to_frame(self) -> pd.DataFrame:
        """One row per region, series and date: ``region, series, date, mean, q0.1, ..., model_version``."""
        regions, periods, series = self.mean.shape
        columns: dict[str, object] = {
            "region": np.repeat(self.regions, periods * series),
            "series": np.tile(np.repeat(np.asarray(self.series, dtype=object), periods), regions),
            "date": np.tile(self.dates.astype("datetime64[s]"), regions * series),
            "mean": self.mean.transpose(0, 2, 1).reshape(-1),
        }
        flat = self.quantiles.transpose(0, 2, 1, 3).reshape(-1, len(self.levels))
        columns |= {f"q{level:g}": flat[:, i] for i, level in enumerate(self.levels)}
        return pd.DataFrame(columns).assign(model_version=self.model_version)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Forecast:
        """The forecast whose `to_frame` a table is, in the order of its rows; other columns are left out."""
        regions, series, dates = (frame[name].unique() for name in ("region", "series", "date"))
        quantiles = [name for name in frame.columns if name[:1] == "q" and name[1:2].isdigit()]
        shape = (len(regions), len(series), len(dates))
        return cls(
            regions=np.asarray(regions, dtype=object),
            series=tuple(map(str, series)),
            dates=np.asarray(dates).astype("datetime64[D]"),
            levels=tuple(float(name[1:]) for name in quantiles),
            mean=frame["mean"].to_numpy().reshape(shape).transpose(0, 2, 1),
            quantiles=frame[quantiles].to_numpy().reshape(*shape, -1).transpose(0, 2, 1, 3),
            model_version=str(frame["model_version"].iloc[0]),
        )

    def plot(self, panel: Panel | None = None, regions: Sequence[str] | None = None, history: int = 56) -> Figure:
        """Fans of some regions (the first four by default), after their history where a panel is given.

        Parameters
        ----------
        panel : Panel, optional
            Where the history, the festivals and, if known, what was sold are taken from.
        regions : sequence of str, optional
        history : int
            Periods before the forecast to show.
        """
        from plotly.colors import qualitative
        from plotly.graph_objects import Scatter
        from plotly.subplots import make_subplots

        shown = [str(r) for r in (regions if regions is not None else self.regions[:4])]
        unknown = sorted(set(shown) - set(self.regions.tolist()))
        if unknown:
            raise DataError(
                f"The forecast has no regions {unknown}; it has {len(self.regions)}, such as {self.regions[0]}."
            )
        figure = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, subplot_titles=shown)
        low, high = self.quantiles[..., 0], self.quantiles[..., -1]
        for at, name in enumerate(shown, start=1):
            row = self.regions.tolist().index(name)
            for g, series in enumerate(self.series):
                color = qualitative.Safe[g % len(qualitative.Safe)]
                legend = {"legendgroup": series, "showlegend": at == 1}
                if panel is not None:
                    days, sold = _observed(panel, name, g, self.dates[0], self.dates[-1], history)
                    figure.add_trace(
                        Scatter(x=days, y=sold, name=f"{series}: sold", line={"color": "#888"}, **legend), row=at, col=1
                    )
                band = np.concatenate([high[row, :, g], low[row, ::-1, g]])
                figure.add_trace(
                    Scatter(
                        x=np.concatenate([self.dates, self.dates[::-1]]),
                        y=band,
                        fill="toself",
                        line={"width": 0},
                        fillcolor=color,
                        opacity=0.25,
                        name=f"{series}: {self.levels[0]:g} to {self.levels[-1]:g}",
                        hoverinfo="skip",
                        **legend,
                    ),
                    row=at,
                    col=1,
                )
                figure.add_trace(
                    Scatter(
                        x=self.dates,
                        y=self.median[row, :, g],
                        name=f"{series}: median",
                        line={"color": color},
                        **legend,
                    ),
                    row=at,
                    col=1,
                )
        figure.update_layout(template="plotly_white", height=260 * len(shown) + 60, hovermode="x unified")
        return figure


def _observed(
    panel: Panel, region: str, series: int, first: np.datetime64, last: np.datetime64, history: int
) -> tuple[np.ndarray, np.ndarray]:
    row = panel.regions.tolist().index(region)
    begin, end = max(0, panel.index_of(first) - history), panel.index_of(last) + 1
    seen = panel.observed[row, begin:end, series].cpu().numpy()
    return panel.dates[begin:end][seen], panel.sales[row, begin:end, series].cpu().numpy()[seen]


class Predictor(Protocol):
    """Whatever forecasts from a Panel: a trained model or a baseline."""

    def predict(self, panel: Panel, origin: DateLike, horizon: int) -> Forecast:
        """Forecast the `horizon` periods after `origin`, the last day whose sales are known."""
        ...
