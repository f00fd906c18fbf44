"""One version of a model, ready to answer: loaded, with the memory of all regions, and tried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from serving.livedata import LiveData
from serving.observations import Observations
from stmp.data.panel import Panel
from stmp.errors import CheckpointError, ConfigError
from stmp.forecaster import Forecaster
from stmp.online import Decoded, Online
from stmp_platform.forecast_id import ForecastId
from stmp_platform.registry import list_versions, pin, resolve
from stmp_platform.settings import Settings as Surroundings

TRIED = 16
"""Regions that a new model must forecast before it answers."""


@dataclass
class ServedModel:
    """A forecaster, the data it answers from, and its memory of them. Only one thread at a time may touch it.

    Attributes
    ----------
    tags : mapping
        Of the registered version.
    cold : ndarray bool [R]
        Regions that the model has never learned from.
    known_until : ndarray int64 [R]
        Index of the last day whose known-future covariates are all there, as far as the model reads them.
    reads : ndarray bool [K]
        Which of the panel's it does.
    """

    forecaster: Forecaster
    data: LiveData
    online: Online
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        trained = set(self.forecaster.trained_regions)
        self.cold = np.asarray([str(region) not in trained for region in self.data.panel.regions])
        self.reads = self.forecaster.reads(self.data.panel)
        self.known_until = self.data.known_until(self.reads)

    @classmethod
    def load(cls, reference: str, data: LiveData) -> ServedModel:
        """Load a model and make its memory of the data.

        Parameters
        ----------
        reference : str
            A folder or a pinned version; an alias is resolved, once.

        Raises
        ------
        StmpError
            If there is no such model, it is damaged, does not fit the data, or its forecasts cannot be used.
        """
        forecaster, tags = load_forecaster(reference, Surroundings.from_env())
        model = cls(forecaster, data, Online(forecaster, data.panel, data.origin), tags)
        model.try_out()
        return model

    @property
    def version(self) -> str:
        """Which model it is, as forecasts name it."""
        return self.forecaster.provenance.version

    @property
    def forecast_id(self) -> str:
        """The id of what it forecasts now."""
        panel = self.data.panel
        return str(ForecastId.of(self.version, panel.fingerprint, panel.dates[self.data.last], self.data.sequence))

    def catch_up(self, store: Observations) -> int:
        """Take in what was observed since; returns the number of regions that changed."""
        sequence, days = store.since(self.data.sequence)
        if not days:
            return 0
        changed = self.data.apply(sequence, days)
        if len(changed):
            self.online.update(self.data.panel, self.data.origin, changed)
            self.known_until = self.data.known_until(self.reads)
        return len(changed)

    def try_out(self) -> None:
        """Forecast some regions as far as the model has learned.

        Raises
        ------
        CheckpointError
            If a forecast is not finite, negative, or its quantiles are out of order.
        """
        regions = self.data.panel.shape[0]
        some = np.unique(np.linspace(0, regions - 1, min(regions, TRIED)).round().astype(np.int64))
        decoded = self.online.predict(some, self.forecaster.horizon, _filled)
        fault = _fault_of(decoded)
        if fault:
            raise CheckpointError(
                f"The model {self.version} was loaded, but {fault} in a forecast of {len(some)} regions. It must not "
                "be served; train it again, or name another version."
            )

    def check_successor(self, new: ServedModel) -> None:
        """Refuse a model that could not answer what this one's clients ask.

        Raises
        ------
        ConfigError
            If its horizon is shorter, or levels that clients may ask for are missing.
        """
        old, other = self.forecaster, new.forecaster
        if other.horizon < old.horizon:
            raise ConfigError(
                f"The model {new.version} has learned {other.horizon} periods ahead, and {self.version}, which is "
                f"served, {old.horizon}. Clients may ask for more than it has; train it with a longer horizon."
            )
        levels, mine = other.config.model.levels, old.config.model.levels
        if levels[0] > mine[0] or levels[-1] < mine[-1]:
            raise ConfigError(
                f"The model {new.version} has quantiles from {levels[0]:g} to {levels[-1]:g}, and {self.version}, "
                f"which is served, from {mine[0]:g} to {mine[-1]:g}. Train it with all of them."
            )


def load_forecaster(reference: str, surroundings: Surroundings) -> tuple[Forecaster, Mapping[str, str]]:
    """The forecaster that a reference means, naming its version, and the tags of that version."""
    pinned = pin(reference, surroundings)
    forecaster = Forecaster.load(resolve(pinned, surroundings)).with_version(pinned.removeprefix("models:/"))
    if not pinned.startswith("models:/"):
        return forecaster, {}
    name = pinned.removeprefix("models:/").partition("/")[0]
    tags = [version.tags for version in list_versions(name, surroundings) if version.uri == pinned]
    return forecaster, dict(tags[0]) if tags else {}


def _filled(panel: Panel) -> Panel:
    """A future in which nothing is missing: only the model is tried, not the data."""
    return replace(panel, known=panel.known.nan_to_num(0.0))


def _fault_of(decoded: Decoded) -> str:
    for name, values in (("the mean", decoded.mean), ("a quantile", decoded.quantiles)):
        if not np.isfinite(values).all():
            return f"{name} is not finite"
        if (values < 0).any():
            return f"{name} is negative"
    return "quantiles cross" if (np.diff(decoded.quantiles, axis=-1) < 0).any() else ""
