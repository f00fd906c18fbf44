"""The schema of a model: names and scales of its inputs, fitted on the regions that it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stmp.data.panel import SERIES_COLUMN, Panel
from stmp.errors import DataError

MIN_LEVEL = 1e-6

LATE = 1 / 8
"""Share of the training periods that a covariate must have been in use for, or else a quarter of a year."""

BLOCK = 256
"""Regions that are looked at together where all of a shard's are: what is made of all at once must fit into memory."""

Reduce = Callable[[Tensor, str], Tensor]
"""Combines a tensor over the workers by ``sum``, ``max`` or ``min``; the identity for one worker."""


def alone(values: Tensor, how: str) -> Tensor:
    """The `Reduce` of a single worker."""
    return values


@dataclass(frozen=True)
class Schema:
    """Names and scales of the inputs of a model, fitted on its training regions and saved with it.

    Attributes
    ----------
    events : tuple of str
        Names of events; the first is none.
    known_center, known_spread, known_log, known_missing : tuple, length K
        Numeric covariates are standardised, after a signed logarithm where they span orders of magnitude;
        0/1 covariates are left as they are. `known_missing` stands in for a value that is not known: the mean.
    static_center, static_spread : tuple, length S
    default_level : tuple, length G
        Level of a series without any history: the geometric mean over the training regions.
    known_unread : tuple of str
        Known covariates that were the same until training nearly ended, or always: they are taken for the same ever
        after.
    """

    frequency: str
    day_types: tuple[str, ...]
    events: tuple[str, ...]
    series: tuple[str, ...]
    past_names: tuple[str, ...]
    known_names: tuple[str, ...]
    static_names: tuple[str, ...]
    known_center: tuple[float, ...]
    known_spread: tuple[float, ...]
    known_log: tuple[bool, ...]
    known_missing: tuple[float, ...]
    static_center: tuple[float, ...]
    static_spread: tuple[float, ...]
    default_level: tuple[float, ...]
    known_unread: tuple[str, ...] = ()

    @classmethod
    def fit(cls, panel: Panel, end: int, reduce: Reduce = alone) -> Schema:
        """Fit on the periods before index `end` of a shard, combining the shards by `reduce`."""
        known = _fit_covariates(panel.known[:, :end], reduce)
        static = _fit_covariates(signed_log(panel.static), reduce, allow_log=False)
        blocks = zip(panel.sales[:, :end].split(BLOCK), panel.observed[:, :end].split(BLOCK), strict=True)
        totals = reduce(torch.stack([_log_levels(*block) for block in blocks]).sum(dim=0), "sum")
        level = (totals[0] / totals[1].clamp(min=1)).exp()
        return cls(
            frequency=panel.frequency,
            day_types=panel.calendar.day_types,
            events=panel.calendar.events,
            series=panel.series,
            past_names=panel.past_names,
            known_names=panel.known_names,
            static_names=panel.static_names,
            known_center=known.center,
            known_spread=known.spread,
            known_log=known.log,
            known_missing=known.missing,
            static_center=static.center,
            static_spread=static.spread,
            default_level=tuple(level.tolist()),
            known_unread=_hardly_changed(panel, end, reduce),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Schema:
        """The inverse of `to_json`."""
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**given)

    def align(self, panel: Panel) -> Panel:
        """The panel with the model's categories and order of columns, where it has the model's columns.

        A region may come that is of a kind the model has never seen, or the last one of a kind may go: what is new
        reads as none of the kinds that were learned. Other columns and series are left as they are, for `check`.
        """
        changed: dict[str, Any] = {}
        for role in ("past", "known", "static"):
            ours, theirs = getattr(self, f"{role}_names"), getattr(panel, f"{role}_names")
            if ours == theirs or set(map(_column, ours)) != set(map(_column, theirs)):
                continue
            values: Tensor = getattr(panel, role)
            where = {name: place for place, name in enumerate(theirs)}
            none = torch.zeros_like(values[..., 0])
            columns = [values[..., where[name]] if name in where else none for name in ours]
            changed |= {role: torch.stack(columns, dim=-1), f"{role}_names": ours}
        return replace(panel, **changed) if changed else panel

    def check(self, panel: Panel) -> None:
        """Refuse a panel whose columns are not those that the model was trained on.

        Raises
        ------
        DataError
            Naming what the panel lacks or has too much.
        """
        faults = []
        for noun, ours, theirs in (
            ("frequency", (self.frequency,), (panel.frequency,)),
            ("day types", self.day_types, panel.calendar.day_types),
            ("series", self.series, panel.series),
            ("past covariates", self.past_names, panel.past_names),
            ("known covariates", self.known_names, panel.known_names),
            ("static features", self.static_names, panel.static_names),
        ):
            if ours != theirs:
                lacks = [n for n in ours if n not in theirs]
                extra = [n for n in theirs if n not in ours]
                faults.append(
                    f"{noun}: lacks {lacks}, has unknown {extra}" if lacks or extra else f"{noun}: other order"
                )
        if faults:
            raise DataError(
                "The data does not fit the model, which was trained on other columns. "
                + "; ".join(faults)
                + ". Ingest the data with the same dataset.yaml, or train a model on it."
            )


def _column(name: str) -> str:
    """The column that a feature comes from: one for all values of a category, but each series for itself."""
    return name if name.startswith(SERIES_COLUMN) else name.partition("=")[0]


def signed_log(values: Tensor) -> Tensor:
    """Logarithm of one and the absolute value, with the sign of the value."""
    return values.sign() * values.abs().log1p()


def _hardly_changed(panel: Panel, end: int, reduce: Reduce) -> tuple[str, ...]:
    """Known covariates that were the same everywhere until shortly before `end`, or all the time.

    Of a few weeks no network can learn what a covariate is worth, and of none at all; the values that follow are like
    none it has seen, and what it makes of them would be chance.
    """
    high, low = zip(*map(_extremes, panel.known[:, :end].split(BLOCK)), strict=True)
    highest = reduce(torch.stack(high).amax(dim=0).double(), "max").cummax(dim=0).values  # [T, K]
    lowest = reduce(torch.stack(low).amin(dim=0).double(), "min").cummin(dim=0).values
    in_use = (highest > lowest).sum(dim=0)  # periods since a second value was seen
    enough = min(LATE * end, 365 / 4 / panel.period_days)
    late = (in_use < enough).tolist()
    return tuple(name for name, too_late in zip(panel.known_names, late, strict=True) if too_late)


class _Scales(NamedTuple):
    center: tuple[float, ...]
    spread: tuple[float, ...]
    log: tuple[bool, ...]
    missing: tuple[float, ...]


def _log_levels(sales: Tensor, observed: Tensor) -> Tensor:
    """Of some regions, [R, T, G] each: the sum of the logarithms of their mean sales, and their number; [2, G]."""
    sums = (sales.double() * observed).sum(dim=1)  # [R, G]
    counts = observed.sum(dim=1)
    sold = (counts > 0) & (sums > 0)
    logs = torch.where(sold, (sums / counts.clamp(min=1)).clamp(min=MIN_LEVEL).log(), 0.0).sum(dim=0)
    return torch.stack([logs, sold.sum(dim=0).double()])


def _fit_covariates(values: Tensor, reduce: Reduce, allow_log: bool = True) -> _Scales:
    """How to scale each column of values with NaN, [R, K] or [R, T, K]."""
    if values.shape[-1] == 0:
        return _Scales((), (), (), ())
    measured = [_moments(block.flatten(0, -2)) for block in values.split(BLOCK)]
    sums, high, low = (torch.stack(part) for part in zip(*measured, strict=True))
    number, *sums_of = reduce(sums.sum(dim=0), "sum").unbind()
    high, low = reduce(high.amax(dim=0), "max"), reduce(low.amin(dim=0), "min")

    def mean_and_spread(total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        mean = total / number.clamp(min=1)
        return mean, (squares / number.clamp(min=1) - mean**2).clamp(min=0).sqrt()

    total, squares, *_ = sums_of
    mean, spread = mean_and_spread(total, squares)
    log_mean, log_spread = mean_and_spread(*sums_of[2:])
    # A price of cents lies between 0 and 1 too, and is no answer to a question of yes or no. Of values from 0 to the
    # highest, v^2 = highest * v holds at the two ends alone. Features of regions are left alone all the same: shares
    # of their people differ little, and there are few regions to learn from.
    two_valued = high * total - squares <= 1e-6 * high * total
    binary = (low >= 0) & (high <= 1) & (two_valued | (not allow_log))
    wide = (torch.maximum(high - mean, mean - low) > 8 * spread) & ~binary & allow_log
    center = torch.where(binary, 0.0, torch.where(wide, log_mean, mean))
    scale = torch.where(binary, 1.0, torch.where(wide, log_spread, spread))
    scale = torch.where(scale > 0, scale, 1.0)
    missing = torch.where(binary, mean, 0.0)
    return _Scales(tuple(center.tolist()), tuple(scale.tolist()), tuple(wide.tolist()), tuple(missing.tolist()))


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the columns of [N, K]: their number of values, sums and sums of squares, the last two of the logarithms too,
    as [5, K]; and the highest and lowest values [K]. All float64."""
    finite = values.isfinite()
    sums = [finite.sum(dim=0).double()]
    for columns in (values, signed_log(values)):
        clean = columns.nan_to_num(0.0).double()
        sums += [clean.sum(dim=0), (clean**2).sum(dim=0)]
    high, low = _extremes(values)
    return torch.stack(sums), high.double(), low.double()


def _extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """The highest and the lowest of [N, ...] over N.

    Without any they are the infinities that any other shard's values replace: a worker has no row where none of its
    regions ever sold.
    """
    if len(values) == 0:
        none = values.new_full(values.shape[1:], torch.inf)
        return -none, none
    finite = values.isfinite()
    return (
        torch.where(finite, values, -torch.inf).amax(dim=0),
        torch.where(finite, values, torch.inf).amin(dim=0),
    )
