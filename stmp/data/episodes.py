"""Episodes: the query and support days of a batch of cells, drawn so that the number of workers does not matter.

A step's draws are a function of (seed, step) alone. Every worker makes its rows of the same `Plan`, those whose regions
it owns, and carries them out, so that one, two or three workers learn from the same tasks, and a run that was killed
goes on with the tasks that it would have had.

Regions are dealt out by strata: row b of every batch draws from the b-th run of neighbouring regions, and a worker owns
whole runs. So each worker has equal work at each step, and reads one contiguous range of the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stmp.config import ModelConfig, TrainConfig
from stmp.data.panel import Panel
from stmp.data.schema import BLOCK
from stmp.data.steps import SHARE, LevelStep

POOLED_GROUP = 4
"""Regions whose support is pooled together where a task is a day type over its regions."""

MIN_HISTORY_DAYS = 7
MAX_COLD_DAYS = 200


@dataclass(frozen=True)
class Episode:
    """B regions with Q query days and S support days each, as indices into a Panel.

    Attributes
    ----------
    region : Tensor int64 [B]
    start : Tensor int64 [B]
        First period that may be seen.
    end : Tensor int64 [B]
        One past the last period of the context; no origin reaches it.
    target, origin : Tensor int64 [B, Q]
        The day to forecast, and the last day whose sales are known then.
    query_valid : Tensor bool [B, Q]
    support : Tensor int64 [B, S]
    support_valid : Tensor bool [B, S]
    noise : Tensor float32 [B, L, psi]
        The eps of psi = mu + sigma * eps, one a sample and region.
    view : str
        ``spatial`` or ``temporal``.
    last_year_hidden : Tensor bool [B, Q] or None
        Queries that are shown nothing of last year, in training.
    kept : Tensor bool [B, Q, 3 * hidden] or None
        Units of the decoder that do not drop out, in training.
    step : LevelStep or None
        What makes the past before the context lie higher or lower, in training.
    """

    region: Tensor
    start: Tensor
    end: Tensor
    target: Tensor
    origin: Tensor
    query_valid: Tensor
    support: Tensor
    support_valid: Tensor
    noise: Tensor
    view: str
    last_year_hidden: Tensor | None = None
    kept: Tensor | None = None
    step: LevelStep | None = None

    @property
    def horizon(self) -> Tensor:
        """Periods from origin to target, int64 [B, Q]."""
        return self.target - self.origin


@dataclass(frozen=True)
class Plan:
    """The random numbers of some rows of one step's batch. Uniform on [0, 1) but `noise` and `step`."""

    view: str
    day_type: Tensor  # [] which type a spatial step holds
    region: Tensor  # [B]
    anchor: Tensor  # [B, 3] day type, day and lead of the day that the context is laid around
    place: Tensor  # [B] where in the context that day lies
    cold: Tensor  # [B, 2] whether, and how far, the history is cut
    target: Tensor  # [B, Q]
    lead: Tensor  # [B, Q]
    support: Tensor  # [B]
    noise: Tensor  # [B, L, psi], standard normal
    hidden: Tensor  # [B, Q] whether last year is hidden
    stepped: Tensor  # [B] whether the level takes a step
    step: Tensor  # [B], standard normal
    dropout: Tensor  # [B, Q, 3 * hidden] which of the decoder's units drop out; [B, Q, 0] for none

    def tensors(self) -> dict[str, Tensor]:
        """All of the numbers, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "view"}

    def to(self, device: torch.device) -> Plan:
        """The same numbers on a device."""
        moved: dict[str, Any] = {name: t.to(device) for name, t in self.tensors().items()}
        return replace(self, **moved)


def make_plan(seed: int, step: int, batch: int, rows: Tensor, model: ModelConfig, train: TrainConfig) -> Plan:
    """Draw the numbers of a step. All workers are in the same view at the same step.

    Parameters
    ----------
    seed, step : int
    batch : int
        Rows of the whole batch, over all workers.
    rows : Tensor int64
        Those of them that are wanted. Each has the numbers that it has in any other choice.
    """
    # Two hashes apart: neighbouring seeds and steps share no numbers.
    first, second = np.random.SeedSequence([seed, step]).generate_state(2, np.uint64)
    generator = torch.Generator().manual_seed(int(first >> 1))

    def uniform(*shape: int) -> Tensor:
        return torch.rand((batch, *shape), generator=generator)[rows]

    units = 3 * model.hidden if model.dropout else 0
    return Plan(
        view=view_at(step, train),
        day_type=torch.rand((), generator=generator),
        region=uniform(),
        anchor=uniform(3),
        place=uniform(),
        cold=uniform(2),
        target=uniform(train.queries),
        lead=uniform(train.queries),
        support=uniform(),
        noise=torch.randn(batch, model.samples, model.psi_size, generator=generator)[rows],
        hidden=uniform(train.queries),
        stepped=uniform(),
        step=torch.randn(batch, generator=generator)[rows],
        dropout=_uniform_by_row(int(second), rows, (train.queries, units)),
    )


def _uniform_by_row(key: int, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers [len(rows), *shape] where drawing those of all rows on each worker would take too long."""
    drawn = torch.empty(len(rows), *shape)
    for row, numbers in zip(rows.tolist(), drawn.numpy(), strict=True):
        np.random.Generator(np.random.Philox(key=[key, row])).random(out=numbers, dtype=np.float32)
    return drawn


def view_at(step: int, train: TrainConfig) -> str:
    """``spatial`` and ``temporal`` in turn, or the one that is set."""
    return train.views if train.views != "both" else ("spatial" if step % 2 == 0 else "temporal")


@dataclass(frozen=True)
class Strata:
    """How the training regions are dealt out: equal runs of neighbours, each with some rows of every batch.

    Attributes
    ----------
    regions : int
        Number of all training regions.
    number : int
        Number of strata.
    rows : int
        Rows of the batch that draw from each; rows of one stratum are what `pooled` tasks pool over.
    """

    regions: int
    number: int
    rows: int

    @classmethod
    def of(cls, regions: int, train: TrainConfig) -> Strata:
        """One row for each of as many strata as the batch has regions; more rows where there are fewer regions."""
        rows = POOLED_GROUP if train.view_mode == "pooled" else max(1, train.batch_regions // regions)
        return cls(regions, max(1, min(train.batch_regions // rows, regions)), rows)

    @property
    def batch(self) -> int:
        """Rows of a whole batch, over all workers."""
        return self.number * self.rows

    def stratum(self, positions: np.ndarray) -> np.ndarray:
        """Stratum of the regions at these positions among all training regions."""
        return np.asarray(positions * self.number // self.regions)

    def owner(self, positions: np.ndarray, workers: int) -> np.ndarray:
        """Which worker owns the regions at these positions: a run of whole strata each."""
        return np.asarray(self.stratum(positions) * workers // self.number)


class EpisodeSampler:
    """Draws episodes from the regions of one worker.

    Parameters
    ----------
    panel : Panel
        The worker's shard.
    positions : ndarray int64 [R], not decreasing
        Position of each row's region among all training regions; whole strata.
    strata : Strata
    last : int
        Periods from here on are never a target nor a support day.
    """

    def __init__(
        self,
        panel: Panel,
        positions: np.ndarray,
        strata: Strata,
        *,
        last: int,
        model: ModelConfig,
        train: TrainConfig,
        seed: int,
    ) -> None:
        self.panel, self.last, self.model, self.train, self.seed = panel, last, model, train, seed
        assert model.horizon is not None and model.context is not None, "the configuration must be resolved"
        self.horizon, self.context = model.horizon, model.context
        self.min_history = max(1, round(MIN_HISTORY_DAYS / panel.period_days))
        self.batch = strata.batch
        assert (np.diff(positions) >= 0).all(), "regions must come in the order of their positions"
        stratum, first, sizes = np.unique(strata.stratum(positions), return_index=True, return_counts=True)
        # Row b of the batch draws from stratum b // rows.
        self.mine = torch.from_numpy((stratum[:, None] * strata.rows + np.arange(strata.rows)).reshape(-1))
        self.first = torch.from_numpy(first).repeat_interleave(strata.rows).to(panel.device)
        self.sizes = torch.from_numpy(sizes).repeat_interleave(strata.rows).to(panel.device)
        self.plans: dict[int, Plan] = {}
        self.types = len(panel.calendar.day_types)
        self.day_type = torch.as_tensor(panel.calendar.day_type, dtype=torch.int64, device=panel.device)  # [C, T]
        self.set_type_weights(self.day_counts())

    def day_counts(self) -> Tensor:
        """Observed training days of each type in this shard, float64 [D]."""
        counts = torch.zeros(self.types, dtype=torch.float64)
        for first in range(0, self.panel.shape[0], BLOCK):
            block = slice(first, first + BLOCK)
            observed = self.panel.observed[block, : self.last].any(dim=-1)
            days = self.day_type[self.panel.calendar_index[block], : self.last][observed]
            counts += torch.bincount(days.cpu(), minlength=self.types)
        return counts

    def set_type_weights(self, counts: Tensor) -> None:
        """Draw day types by their number over all workers, raised to the temperature."""
        shares = counts / counts.sum().clamp(min=1)
        weights = shares.pow(self.train.day_type_temperature) * (counts > 0)
        self.type_weights = weights.to(self.panel.device)

    def view(self, step: int) -> str:
        """The view that a step takes, on every worker."""
        return view_at(step, self.train)

    def plan(self, step: int) -> Plan | None:
        """The numbers of this worker's rows at a step, in the host's memory; None where it owns none.

        The last plan is kept, so that one made ahead of time costs nothing when its step comes.
        """
        if len(self.mine) == 0:
            return None
        if step not in self.plans:
            self.plans = {step: make_plan(self.seed, step, self.batch, self.mine, self.model, self.train)}
        return self.plans[step]

    def draw(self, step: int) -> Episode | None:
        """The rows of this worker at a step; None where it owns none."""
        plan = self.plan(step)
        return self.lay(plan.to(self.panel.device)) if plan is not None else None

    def lay(self, plan: Plan) -> Episode:
        """Carry out a plan on the panel's device, without the host waiting for that device."""
        pick = (plan.region * self.sizes).long().clamp(max=self.sizes - 1)
        region = self.first + pick
        day_type = self.day_type[self.panel.calendar_index[region]]  # [B, T]
        observed = self.panel.observed[region].any(dim=-1)
        observed[:, self.last :] = False
        days = torch.arange(observed.shape[1], device=region.device)
        first = torch.where(observed.any(dim=1), observed.int().argmax(dim=1), 0)
        usable = observed & (days >= (first + self.min_history)[:, None])  # a target needs some history
        wanted = self._wanted_types(plan, usable, day_type)  # [B, T] weights of targets
        at = sample_by_weight(wanted, plan.anchor[:, 1:2])[:, 0]  # [B]
        lead = 1 + (plan.anchor[:, 2] * self.horizon).long().clamp(max=self.horizon - 1)
        # The context ends somewhere after the anchor's origin, so that the anchor may lie anywhere in it.
        room = (plan.place * (self.context - self.min_history)).long().clamp(min=0)
        end = (at - lead + 1 + room).clamp(min=1)
        end = torch.minimum(torch.maximum(end, first + self.min_history), torch.full_like(end, self.last))
        start = self._start(plan, first, end)
        # Queries: targets of the wanted types that some origin inside the context can reach.
        low = torch.maximum(end - self.context, start) + self.min_history
        reach = (days >= low[:, None]) & (days < (end + self.horizon)[:, None])
        weights = wanted * reach
        target = sample_by_weight(weights, plan.target)  # [B, Q]
        # Leads that put the origin into [low - 1, end).
        least = (target - end[:, None] + 1).clamp(min=1)
        most = torch.minimum(target - low[:, None] + 1, torch.full_like(target, self.horizon))
        span = (most - least + 1).clamp(min=1)
        leads = least + (plan.lead * span).long().clamp(max=span - 1)
        query_valid = (weights.sum(dim=1, keepdim=True) > 0) & (most >= least)
        supports, drawn = self.train.supports, observed
        cells = self.model.pooling == "mean" and self.train.view_mode == "cell"
        if plan.view == "spatial" and self.model.instances == "window" and cells:
            # Only days of the held type can be support, and each would cost a window.
            supports, drawn = -(-supports // self.types), wanted > 0
        support, support_valid = draw_support(drawn, day_type, start, end, supports, self.types, plan.support)
        return Episode(
            region=region,
            start=start,
            end=end,
            target=target,
            origin=(target - leads).clamp(min=0),
            query_valid=query_valid,
            support=support,
            support_valid=support_valid,
            noise=plan.noise,
            view=plan.view,
            last_year_hidden=plan.hidden < self.train.hide_last_year if self.train.hide_last_year else None,
            kept=plan.dropout >= self.model.dropout if self.model.dropout else None,
            step=self._step(plan, end - self.context),
        )

    def _step(self, plan: Plan, begin: Tensor) -> LevelStep | None:
        """The steps of a share of the rows, each where its context begins."""
        if not self.train.level_step:
            return None
        return LevelStep(begin, torch.where(plan.stepped < SHARE, self.train.level_step * plan.step, 0.0))

    def _wanted_types(self, plan: Plan, usable: Tensor, day_type: Tensor) -> Tensor:
        """Weights of target days, float [B, T]: of one day type in the spatial view, balanced in the temporal."""
        one_hot = torch.nn.functional.one_hot(day_type, self.types) * usable[:, :, None]  # [B, T, D]
        counts = one_hot.sum(dim=1)  # [B, D]
        if plan.view == "spatial":
            drawn = sample_by_weight(self.type_weights[None].float(), plan.day_type.reshape(1, 1))[0, 0]
            held = torch.nn.functional.one_hot(drawn, self.types).float().expand(len(usable), -1)
            # A region without any such day sits this one out with a day of another type, rather than not at all.
            share = torch.where((counts * held).sum(dim=1, keepdim=True) > 0, held, (counts > 0).float())
        else:
            share = self.type_weights.float() * (counts > 0)
        per_day = share / counts.clamp(min=1)
        return (one_hot * per_day[:, None, :]).sum(dim=-1)

    def _start(self, plan: Plan, first: Tensor, end: Tensor) -> Tensor:
        """First period that may be seen, cut short for a share of the rows as if the region had just opened."""
        longest = MAX_COLD_DAYS / self.panel.period_days
        shortest = float(self.min_history)
        kept = shortest * (longest / shortest) ** plan.cold[:, 1]  # log-uniform
        cut = (end - kept.long()).clamp(min=0)
        return torch.where(plan.cold[:, 0] < self.train.cold_fraction, torch.maximum(first, cut), first)


def draw_support(
    observed: Tensor, day_type: Tensor, start: Tensor, end: Tensor, number: int, types: int, at: Tensor
) -> tuple[Tensor, Tensor]:
    """Support days of each row: systematic draws from the days in [start, end), rarer day types more densely.

    Systematic draws take every day once before any day twice. Where all days fit, all are taken.

    Parameters
    ----------
    observed : Tensor bool [B, T]
    day_type : Tensor int64 [B, T]
    start, end : Tensor int64 [B]
    number : int
        S, support days of a row.
    at : Tensor [B]
        Uniform numbers that place the draws.

    Returns
    -------
    support : Tensor int64 [B, S], in order of time
    valid : Tensor bool [B, S]
    """
    days = torch.arange(observed.shape[1], device=observed.device)
    allowed = observed & (days >= start[:, None]) & (days < end[:, None])
    total = allowed.sum(dim=1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(day_type, types) * allowed[:, :, None]
    counts = one_hot.sum(dim=1).clamp(min=1).float()  # [B, D]
    density = (one_hot * counts.rsqrt()[:, None, :]).sum(
        dim=-1
    )  # [B, T], a type's share grows with the root of its days
    expected = number * density / density.sum(dim=1, keepdim=True).clamp(min=1e-9)
    expected = _cap(expected, allowed, number)
    # Day t is drawn if the cumulated expectation passes a multiple of one (shifted by `at`) on that day.
    cumulated = expected.double().cumsum(dim=1) + at.double()[:, None]
    hit = cumulated.floor() > torch.nn.functional.pad(cumulated, (1, 0))[:, :-1].floor()
    taken = torch.where(total <= number, allowed, hit & allowed)
    # Indices of the taken days, the rest filled by the last period and marked invalid.
    order = torch.where(taken, days, observed.shape[1]).sort(dim=1).values[:, :number]
    if order.shape[1] < number:
        order = torch.nn.functional.pad(order, (0, number - order.shape[1]), value=observed.shape[1])
    valid = order < observed.shape[1]
    return order.clamp(max=observed.shape[1] - 1), valid


def _cap(expected: Tensor, allowed: Tensor, number: int) -> Tensor:
    """Expected draws of each day, none above one, summing to `number` where that many days are allowed."""
    for _ in range(3):
        sure = expected >= 1
        room = number - sure.sum(dim=1, keepdim=True)
        rest = (expected * ~sure).sum(dim=1, keepdim=True).clamp(min=1e-9)
        expected = torch.where(sure, 1.0, expected * room / rest)
    return expected.clamp(max=1.0) * allowed


def sample_by_weight(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw indices in proportion to weights by inverting the cumulated sum.

    Parameters
    ----------
    weights : Tensor [B, N], not negative
    uniform : Tensor [B, Q] on [0, 1)

    Returns
    -------
    Tensor int64 [B, Q]; an index of positive weight wherever the row has one.
    """
    cumulated = weights.double().cumsum(dim=1)
    aim = uniform.double() * cumulated[:, -1:]
    index = torch.searchsorted(cumulated, aim.contiguous(), right=True)
    return index.clamp(max=weights.shape[1] - 1)


def full_episode(
    panel: Panel, origin: int, horizon: int, supports: int, noise: Tensor, start: Tensor | None = None
) -> Episode:
    """The episode of a forecast: every region, every horizon day, and as much of the past as fits.

    Parameters
    ----------
    panel : Panel
    origin : int
        Index of the last period whose sales are known.
    horizon : int
    noise : Tensor [R, L, psi]
    """
    device = panel.device
    regions = panel.shape[0]
    region = torch.arange(regions, device=device)
    observed = panel.observed.any(dim=-1)
    end = torch.full((regions,), origin + 1, device=device)
    start = torch.zeros_like(end) if start is None else start
    fitting = min(supports, origin + 1)
    support, valid = draw_support(
        observed,
        panel.day_type,
        start,
        end,
        fitting,
        len(panel.calendar.day_types),
        torch.full((regions,), 0.5, device=device),
    )
    target = (origin + 1 + torch.arange(horizon, device=device)).expand(regions, -1)
    return Episode(
        region=region,
        start=start,
        end=end,
        target=target,
        origin=torch.full_like(target, origin),
        query_valid=torch.ones_like(target, dtype=torch.bool),
        support=support,
        support_valid=valid,
        noise=noise.to(device),
        view="temporal",
    )
