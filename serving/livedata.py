"""The data that is served: a dataset's Panel with the observations that came since."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from serving.observations import Day
from serving.settings import Settings
from stmp.data.calendar import period_dates
from stmp.data.panel import Panel
from stmp.errors import DataError
from stmp_platform.dataset import Manifest, load_manifest, read_panel

logger = logging.getLogger("serving")

PARTS = ("sales", "observed", "closed", "past", "known")
"""Of a panel, that observations change."""


@dataclass
class LiveData:
    """A panel that grows. Only one thread at a time may touch it.

    Attributes
    ----------
    panel : Panel
        Nothing is observed after a region's origin.
    origin : ndarray int64 [R]
        Index of each region's last known day: the data's last one, or a later one that was observed.
    name : str
        Of the dataset.
    last : int
        Index of the dataset's own last day.
    sequence : int
        Number of the last change that is in it.
    told : dict
        By region and index of the day: what was there before observations told more than sales, and those observations
        by series. A day that is revised begins from there, so that nothing stays of what it was.
    """

    panel: Panel
    origin: np.ndarray
    name: str
    last: int
    sequence: int = 0
    told: dict[tuple[int, int], tuple[tuple[torch.Tensor, ...], dict[str, Day]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.position = {str(region): at for at, region in enumerate(self.panel.regions)}

    @classmethod
    def read(cls, settings: Settings) -> LiveData:
        """Read a dataset.

        Raises
        ------
        DataError
            If there is none, or `until` lies outside it.
        """
        manifest = load_manifest(settings.data)
        last = np.datetime64(settings.until or manifest.last_sales_date, "D")
        _check_until(last, manifest)
        end = period_dates(last, settings.ahead + 1, manifest.frequency)[-1]
        panel = read_panel(settings.data, end=end).until(last)
        at = panel.index_of(last)
        return cls(panel, np.full(panel.shape[0], at), manifest.name, at)

    def copy(self) -> LiveData:
        """The same data, which grows on its own from here."""
        own = {name: getattr(self.panel, name).clone() for name in PARTS}
        told = {at: (before, dict(days)) for at, (before, days) in self.told.items()}
        return LiveData(replace(self.panel, **own), self.origin.copy(), self.name, self.last, self.sequence, told)

    def apply(self, sequence: int, days: Sequence[Day]) -> np.ndarray:
        """Take observations in, in place; return the positions of the regions that they change."""
        changed = set()
        for day in days:
            region, on = self.position.get(day.region), np.datetime64(day.date, "D")
            t = int(np.searchsorted(self.panel.dates, on))
            here = t < len(self.panel.dates) and self.panel.dates[t] == on
            if region is None or not here or day.series not in self.panel.series:
                logger.warning("An observation of %s on %s is not of this data, and is left out.", *day.key[::2])
                continue
            self._put(region, t, day)
            changed.add(region)
        self.sequence = sequence
        return np.asarray(sorted(changed), dtype=np.int64)

    def _put(self, region: int, t: int, day: Day) -> None:
        at = (region, t)
        if at not in self.told and not (day.past or day.known or day.closed):
            self._set(region, t, day)
            return
        parts = [getattr(self.panel, name) for name in PARTS]
        before, days = self.told.setdefault(at, (tuple(part[at].clone() for part in parts), {}))
        for part, values in zip(parts, before, strict=True):
            part[at] = values
        days.pop(day.series, None)
        days[day.series] = day
        for one in days.values():  # in the order of their changes, as a replica that starts anew takes them in
            self._set(region, t, one)

    def _set(self, region: int, t: int, day: Day) -> None:
        panel, g = self.panel, self.panel.series.index(day.series)
        seen = day.sales is not None and not day.closed
        panel.sales[region, t, g] = day.sales if day.sales is not None and seen else 0.0
        panel.observed[region, t, g] = seen
        panel.closed[region, t] = day.closed
        if day.closed:
            panel.observed[region, t] = False
        for names, values, given in (
            (panel.past_names, panel.past, day.past),
            (panel.known_names, panel.known, day.known),
        ):
            for name, value in given:
                if name in names:
                    values[region, t, names.index(name)] = value
        self.origin[region] = max(int(self.origin[region]), t)

    def known_until(self, read: np.ndarray) -> np.ndarray:
        """Index of the last day for which the covariates of a choice, bool [K], are there, [R]; the origin if none."""
        panel, known = self.panel, self.panel.known[:, :, torch.from_numpy(read)]
        ever = known.isfinite() & (torch.arange(panel.shape[1]) <= torch.from_numpy(self.origin)[:, None])[..., None]
        missing = (known.isnan() & ever.any(dim=1, keepdim=True)).any(dim=2)  # [R, T]
        missing &= torch.arange(panel.shape[1]) > torch.from_numpy(self.origin)[:, None]
        first = torch.where(missing.any(dim=1), missing.int().argmax(dim=1), panel.shape[1])
        return np.asarray(first.numpy() - 1)


def _check_until(last: np.datetime64, manifest: Manifest) -> None:
    if not manifest.first_date <= str(last) <= manifest.last_sales_date:
        raise DataError(
            f"until {last} is not in the data, whose sales go from {manifest.first_date} to "
            f"{manifest.last_sales_date}. Choose a day within."
        )
