"""A Forecaster: a trained model with all that it needs to forecast from a Panel."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stmp.config import Config
from stmp.data.episodes import Episode, full_episode
from stmp.data.features import RARE, History, Rows
from stmp.data.panel import DateLike, Panel, base_name
from stmp.data.schema import Schema
from stmp.errors import CheckpointError, ConfigError, DataError
from stmp.forecast import Forecast, Predictor
from stmp.learning.checkpoint import publish_folder
from stmp.learning.conformal import Conformal
from stmp.learning.lean import Leaning, lean
from stmp.learning.meta import MetaTrainer
from stmp.learning.season import season, season_now
from stmp.learning.validation import history_of
from stmp.nets.ensemble import make_network
from stmp.nets.memory import Memory

__all__ = ["Forecast", "Forecaster", "Predictor"]

FORMAT = 1
WEIGHTS = "weights.safetensors"
DESCRIPTION = "forecaster.json"
LEANING = "leaning."
"""Begins the names of what is no weight of the networks among the weights."""
UNREAD_BEFORE: dict[str, dict[str, Any]] = {
    "model": {"trend_periods": [], "turn_of_month": False, "members": 1, "counterparts": False, "dropout": 0.0},
    "train": {"hide_last_year": 0.0, "level_step": 0.0},
}
"""Settings that earlier models were written without, as they were then."""

RECORDS = 2.0
"""No quantile lies beyond so many times the most that a series has ever sold: a ratio learned on the logarithmic scale
would else make a series that sells once a year expect a hundred times its Christmas."""

NEXT_TO_NOTHING = 0.1
"""A series with sales on fewer than half of its days sells 0, or more than this share of its mean: less is taken for 0.
Where its median is, the quantiles say little of the mean, and its own recent mean says more."""

CHUNK = 64
"""Rows that are forecast at a time: bounds memory."""


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes
    ----------
    trained_regions : tuple of str
        Regions it has learned from; others are cold.
    trained_until : str
        Last day of the data it was given, validation included, as ``YYYY-MM-DD``.
    fingerprint : str
        Of the dataset.
    seed, steps : int
    validation : dict
        Loss on what was held out: over all, by day type, and by regions seen and held out.
    version : str
        Which registered version it is; empty until it is registered.
    source : str
        The model that it was adapted from; empty if it was trained from the start.
    """

    trained_regions: tuple[str, ...]
    trained_until: str
    fingerprint: str
    seed: int
    steps: int
    validation: dict[str, float]
    version: str = ""
    source: str = ""


class Forecaster:
    """Forecasts with a trained model.

    Parameters
    ----------
    config : Config, resolved
    schema : Schema
    feature_size : int
        F, features of a day.
    weights : dict of Tensor
    provenance : Provenance
    conformal : Conformal, optional
        How far to stretch the quantiles; not at all by default.
    leaning : Leaning, optional
        How forecasts lean on last year's sales; not at all by default.
    """

    def __init__(
        self,
        config: Config,
        schema: Schema,
        feature_size: int,
        weights: dict[str, Tensor],
        provenance: Provenance,
        conformal: Conformal | None = None,
        leaning: Leaning | None = None,
    ) -> None:
        self.config, self.schema, self.feature_size, self.provenance = config, schema, feature_size, provenance
        self.leaning = leaning or Leaning()
        self.conformal = conformal or Conformal.identity(len(schema.day_types), len(config.model.levels))
        self.model = make_network(config.model, schema, feature_size, pooled=config.train.view_mode == "pooled")
        missing = set(self.model.state_dict()) ^ set(weights)
        if missing:
            raise CheckpointError(
                f"The weights do not fit the configuration: {sorted(missing)[:5]} are missing or too much."
            )
        self.model.load_state_dict(weights)
        self.model.eval()

    @classmethod
    def from_trainer(
        cls, trainer: MetaTrainer, *, regions: tuple[str, ...], until: DateLike, fingerprint: str
    ) -> Forecaster:
        """The model that a finished training has found.

        Parameters
        ----------
        regions : tuple of str
            All regions that were trained on, over all workers.
        """
        provenance = Provenance(
            trained_regions=regions,
            trained_until=str(pd.Timestamp(until).date()),
            fingerprint=fingerprint,
            seed=trainer.seed,
            steps=trainer.step,
            validation=trainer.best_scores,
            source=trainer.source,
        )
        size = trainer.history.feature_size
        return cls(
            trainer.config, trainer.schema, size, trainer.weights(), provenance, trainer.conformal, trainer.leaning
        )

    @property
    def name(self) -> str:
        """The registered version, or else what it was trained on and until when."""
        return self.provenance.version or f"trained on {self.fingerprint[:12] or 'a panel'} until {self.trained_until}"

    @property
    def horizon(self) -> int:
        """Periods ahead that it has learned."""
        assert self.config.model.horizon is not None
        return self.config.model.horizon

    @property
    def trained_regions(self) -> tuple[str, ...]:
        """Regions it has learned from."""
        return self.provenance.trained_regions

    @property
    def trained_until(self) -> str:
        """Last day of the data it was given."""
        return self.provenance.trained_until

    @property
    def fingerprint(self) -> str:
        """Of the dataset it was trained on."""
        return self.provenance.fingerprint

    @torch.no_grad()
    def predict(self, panel: Panel, origin: DateLike, horizon: int) -> Forecast:
        """Forecast every region, from what was sold up to the origin.

        Parameters
        ----------
        panel : Panel
            Its dates must reach `horizon` periods past the origin, with the known-future covariates. Those of one
            period more are read too, where they are there.
        origin : date
            The last day whose sales are known; nothing that was sold later is read.
        horizon : int
            Periods. Further ahead than the model has learned is allowed, and less certain.

        Returns
        -------
        Forecast
            Days on which a region is closed, and series that it never sold though it was open for a level window or
            longer, are exactly 0. A region that ended is forecast as if it opened again.

        Raises
        ------
        DataError
            If the origin or the horizon lies outside the panel, the panel's columns are not the model's, or a
            known-future covariate has no value.
        """
        at = panel.index_of(origin)
        if horizon < 1:
            raise ConfigError(f"The horizon is {horizon}; it must be 1 or more.")
        if at + horizon >= len(panel.dates):
            raise DataError(
                f"A forecast of {horizon} periods from {panel.dates[at]} needs a calendar beyond {panel.dates[-1]}, "
                "where the data ends. Read the panel with a later end."
            )
        # What was sold later does not matter. What is known of the period after the last one does, where the panel
        # reaches that far: a day is read with its neighbours.
        panel = panel.until(panel.dates[at])
        rows = self.rows_of(panel)
        self.check_known(rows, at, horizon)
        self.model.to(rows.device)
        shape = (rows.shape[0], horizon, rows.shape[2], len(self.config.model.levels))
        mean, quantiles = np.zeros(shape[:3], np.float32), np.zeros(shape, np.float32)
        for i in range(0, rows.shape[0], CHUNK):
            chunk = slice(i, min(i + CHUNK, rows.shape[0]))
            found = self._chunk(rows.select(np.arange(chunk.start, chunk.stop)), at, horizon)
            mean[chunk], quantiles[chunk] = (values.cpu().numpy() for values in found)
        if rows.shape[2] < panel.shape[2]:
            mean, quantiles = _join_series(panel, mean), _join_series(panel, quantiles)
        return Forecast(
            regions=panel.regions,
            series=panel.series,
            dates=panel.dates[at + 1 : at + 1 + horizon],
            levels=self.config.model.levels,
            mean=mean,
            quantiles=quantiles,
            model_version=self.provenance.version,
        )

    def rows_of(self, panel: Panel) -> Panel:
        """A panel as the model reads it: in its rows, with its categories.

        Raises
        ------
        DataError
            If the panel's columns are not the model's.
        """
        rows = self.schema.align(panel.split_series() if self.config.model.series == "split" else panel)
        self.schema.check(rows)
        return rows

    def _chunk(self, panel: Panel, at: int, horizon: int) -> tuple[Tensor, Tensor]:
        """Mean [N, H, G] and quantiles [N, H, G, Q] of some rows."""
        history = history_of(panel, self.schema, self.config, self.leaning.group)
        noise = self.noise(panel.shape[0])
        episode = full_episode(panel, at, horizon, self.config.train.supports_forecast, noise)
        rows = history.rows(episode.region, episode.start, episode.end)
        memory = None if self.model.pooled else self.model.remember(history, episode, rows)
        return self.decode(history, episode, rows, memory)

    def noise(self, rows: int) -> Tensor:
        """The eps of psi [N, L, psi]: one sample is the mean; several are the same draws for all, at every call."""
        samples = self.config.model.samples
        noise = torch.randn(1, samples, self.config.model.psi_size, generator=torch.Generator().manual_seed(0))
        return (noise if samples > 1 else torch.zeros_like(noise)).expand(rows, -1, -1)

    def decode(
        self, history: History, episode: Episode, rows: Rows, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean [N, H, G] and calibrated quantiles [N, H, G, Q] in the unit of the data.

        Parameters
        ----------
        history, episode, rows, memory
            See `STMP.forward`.
        """
        prediction = self.model(history, episode, rows, memory)
        level = prediction.level  # [N, H, G]
        at = (torch.arange(len(episode.target), device=level.device)[:, None], episode.target)
        closed, days = rows.closed[at][..., None], rows.day_type[at]
        levels = self.config.model.levels
        learned = self.model.head.quantiles(prediction.values, levels)
        if self.leaning:
            if self.leaning.rate > 0:
                median = learned[..., levels.index(0.5)]
                then = season_now(self.model, history, rows, episode, median, levels, memory)
            else:
                then = season(history, rows, episode)
            learned = lean(learned, levels, then, episode.horizon, self.leaning)
        calibrated = self.conformal.apply(learned, days, levels.index(0.5))
        origin = (at[0], episode.origin + 1)
        most = RECORDS * rows.record[origin][..., None]  # [N, H, G, 1]
        learned, quantiles = (
            torch.minimum(history.unscale(q, level.unsqueeze(-1)), most) for q in (learned, calibrated)
        )
        # Stretching an interval on a log scale lifts its upper end more than it lowers the other; what is sold on
        # average does not rise with what is not known. The unit variance of the normal head was never learned at all.
        middle = learned[..., levels.index(0.5)]
        mean = middle if self.config.model.head == "normal" else mean_of_quantiles(learned, levels)
        rare = rows.scaled[origin] & (rows.selling[origin] < RARE)
        rare &= quantiles[..., levels.index(0.5)] < NEXT_TO_NOTHING * level
        mean = torch.where(rare, level, mean)
        nothing = rare[..., None] & (quantiles < NEXT_TO_NOTHING * level[..., None])
        quantiles = quantiles.masked_fill(nothing, 0.0)
        return mean.masked_fill(closed, 0.0), quantiles.masked_fill(closed.unsqueeze(-1), 0.0)

    def check_known(self, panel: Panel, at: int, horizon: int) -> None:
        """Refuse a forecast whose known-future covariates are not known.

        Raises
        ------
        DataError
            Naming the columns, the days and some of the rows.
        """
        unknown = self._unknown(panel, at, horizon)
        faulty = panel.regions[unknown.flatten(1).any(dim=1).cpu().numpy()]
        if len(faulty):
            raise DataError(
                f"The known-future covariates have {_unknown_days(panel, unknown, at)}, in {len(faulty)} of "
                f"{panel.shape[0]} rows, such as {', '.join(map(str, faulty[:3]))}. Give them for those days (rows "
                "with empty sales, or --known FILE), or set a `fill` value in dataset.yaml."
            )

    def without_future(self, panel: Panel, origin: DateLike, horizon: int) -> dict[str, str]:
        """Regions that `predict` would refuse for want of known-future covariates, and which those are.

        Parameters
        ----------
        panel, origin, horizon
            As for `predict`.
        """
        at = panel.index_of(origin)
        panel = panel.until(panel.dates[at])
        rows = self.rows_of(panel)
        region = panel.series_rows()[0] if self.config.model.series == "split" else np.arange(panel.shape[0])
        unknown = self._unknown(rows, at, horizon)
        faulty = np.unique(region[unknown.flatten(1).any(dim=1).cpu().numpy()])
        return {str(panel.regions[r]): _unknown_days(rows, unknown[region == r], at) for r in faulty}

    def reads(self, panel: Panel) -> np.ndarray:
        """Which of a panel's known-future covariates the forecasts depend on, bool [K].

        Not on those that hardly ever changed in training (`Schema.known_unread`).
        """
        names = (base_name(name, panel.series) for name in panel.known_names)
        return np.array([self.config.model.known and name not in self.schema.known_unread for name in names], bool)

    def _unknown(self, panel: Panel, at: int, horizon: int) -> Tensor:
        """Which known-future covariates of the days ahead are wanted and not known, bool [R, H, K]."""
        unknown = panel.known[:, at + 1 : at + 1 + horizon].isnan()
        # A column that a region never has (another series' price) is no fault of the horizon.
        unknown &= panel.known[:, : at + 1].isfinite().any(dim=1, keepdim=True)
        return unknown & torch.from_numpy(self.reads(panel)).to(unknown.device)

    def with_version(self, version: str) -> Forecaster:
        """The same model, naming a registered version in its forecasts."""
        provenance = replace(self.provenance, version=version)
        weights = self.model.state_dict()
        return Forecaster(
            self.config, self.schema, self.feature_size, weights, provenance, self.conformal, self.leaning
        )

    def save(self, path: str | Path) -> None:
        """Write a folder with weights (safetensors) and description (JSON), whole or not at all."""
        publish_folder(Path(path), self.write)

    def write(self, folder: Path) -> None:
        """Put the files of the model into a folder that is there."""
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in self.model.state_dict().items()}
        lean, tensors = self.leaning.to_json()
        save_file(weights | {f"{LEANING}{name}": value for name, value in tensors.items()}, folder / WEIGHTS)
        description = {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "schema": self.schema.to_json(),
            "feature_size": self.feature_size,
            "conformal": [list(row) for row in self.conformal.factors],
            "lean": lean,
            "provenance": {**vars(self.provenance), "trained_regions": list(self.trained_regions)},
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Forecaster:
        """Read a folder that `save` wrote.

        Raises
        ------
        CheckpointError
            If it is missing, damaged, or of another format.
        """
        folder = Path(path)
        try:
            description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"There is no readable model in {folder}: {error}. Give the folder that training wrote."
            ) from error
        if description.get("format") != FORMAT:
            raise CheckpointError(
                f"The model in {folder} has format {description.get('format')}; this version reads {FORMAT}. "
                "Use the version that wrote it."
            )
        try:
            provenance = description["provenance"]
            group = {name: weights.pop(name) for name in list(weights) if name.startswith(LEANING)}
            leaning = Leaning.from_json(
                description.get("lean", 0.0), {name.removeprefix(LEANING): value for name, value in group.items()}
            )
            config = description["config"]
            return cls(
                Config.model_validate(config | {name: old | config[name] for name, old in UNREAD_BEFORE.items()}),
                Schema.from_json(description["schema"]),
                description["feature_size"],
                weights,
                Provenance(**{**provenance, "trained_regions": tuple(provenance["trained_regions"])}),
                Conformal(tuple(tuple(row) for row in description["conformal"])),
                leaning,
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"The model in {folder} is damaged: {error}") from error


def mean_of_quantiles(quantiles: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Mean of the distribution behind some quantiles, none negative.

    The quantile function is linear between the levels. Above the last it goes on as an exponential tail would, because
    sales have days that are far above all others; below the first it is linear, down to zero at most.

    Parameters
    ----------
    quantiles : Tensor [..., Q]
    levels : tuple of float, length Q

    Returns
    -------
    Tensor [...]
    """
    q = torch.tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    inner = (q.diff() * (quantiles[..., 1:] + quantiles[..., :-1]) / 2).sum(dim=-1)
    if len(levels) == 1:
        return quantiles[..., 0]
    low, second = quantiles[..., 0], quantiles[..., 1]
    foot = (low - 0.5 * levels[0] * (second - low) / (levels[1] - levels[0])).clamp(min=0.0)
    # An exponential tail Q(p) = Q(last) + b log((1 - last) / (1 - p)) has the mean Q(last) + b.
    high, before = quantiles[..., -1], quantiles[..., -2]
    slope = (high - before) / math.log((1 - levels[-2]) / (1 - levels[-1]))
    return levels[0] * foot + inner + (1 - levels[-1]) * (high + slope)


def _unknown_days(panel: Panel, unknown: Tensor, at: int) -> str:
    """What is not known, bool [N, H, K], in words."""
    days = panel.dates[at + 1 :][: unknown.shape[1]][unknown.any(dim=2).any(dim=0).cpu().numpy()]
    names = [name for name, any_ in zip(panel.known_names, unknown.flatten(0, 1).any(dim=0), strict=True) if any_]
    return f"no value of {', '.join(names)} for {len(days)} days from {days[0]} to {days[-1]}"


def _join_series(panel: Panel, values: np.ndarray) -> np.ndarray:
    """Rows of single series [N, H, 1, ...] as [R, H, G, ...]; series that a region never sold are 0."""
    rows, series = panel.series_rows()
    joined = np.zeros((panel.shape[0], values.shape[1], panel.shape[2], *values.shape[3:]), dtype=values.dtype)
    joined[rows, :, series] = values[:, :, 0]
    return joined
