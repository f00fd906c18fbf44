"""Alternating meta-training: the step, and the loop around it.

The loop knows its fellow workers only as sums (`Workers`), so it is the same in one process, under torch.distributed
and under Ray Train. All workers are in the same phase at each step. Losses are divided by the number of valid points
over all workers, so that the same tasks give the same gradient however they are dealt out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stmp.config import Config
from stmp.data.episodes import Episode, EpisodeSampler, Plan, Strata
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.errors import CheckpointError, DataError, TrainingError
from stmp.learning.checkpoint import CheckpointStore, newest, write_checkpoint
from stmp.learning.conformal import Conformal
from stmp.learning.graft import Inheritance, graft
from stmp.learning.graph import Graphed
from stmp.learning.lean import Leaning
from stmp.learning.transfer import SourcePenalty, strengths_of
from stmp.learning.validation import Split, Validator, group_of, history_of
from stmp.learning.workers import Workers
from stmp.nets.ensemble import make_network

if TYPE_CHECKING:
    from stmp.forecaster import Forecaster

logger = logging.getLogger(__name__)

Report = Callable[[int, list[dict[str, Any]]], None]
"""Takes a step and its metrics: ``{"phase": ..., "name": ..., "value": ...}`` each."""

FLOOR = 0.05
"""The learning rate's last value, as a share of its peak."""


@dataclass(frozen=True)
class Shard:
    """What one worker trains and validates on.

    Attributes
    ----------
    panel : Panel
        Its training regions, in order.
    positions : ndarray int64 [R]
        Their positions among all training regions.
    regions : int
        Number of all training regions.
    validation : Panel or None
        Its part of the regions that validation scores.
    held_out : ndarray bool
        Which of those are never trained on.
    """

    panel: Panel
    positions: np.ndarray
    regions: int
    validation: Panel | None
    held_out: np.ndarray

    @classmethod
    def plan(
        cls, regions: int, config: Config, rank: int, workers: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Which regions a worker loads, as positions in the dataset's sorted region list.

        Returns
        -------
        train : ndarray
            Regions to train on, positions in the dataset.
        positions : ndarray
            Their positions among the training regions.
        scored : ndarray
            Regions to validate on, positions in the dataset.
        held_out : ndarray bool
            Which of the scored are never trained on.
        """
        split = Split.of(regions, config.validation.regions)
        positions = np.arange(len(split.train))
        mine = Strata.of(len(split.train), config.train).owner(positions, workers) == rank
        scored = split.scored
        part = scored[np.arange(len(scored)) * workers // max(1, len(scored)) == rank]
        return split.train[mine], positions[mine], part, np.isin(part, split.held_out)


@dataclass(frozen=True)
class Lesson:
    """What a worker learned at a step, beside the gradient.

    Attributes
    ----------
    episode : Episode or None
        None where the worker owns no row of the batch.
    losses, points : Tensor [B, Q]
        Loss and number of observed series of each query.
    sigma : Tensor []
        Mean deviation of psi.
    """

    episode: Episode | None
    losses: Tensor
    points: Tensor
    sigma: Tensor


class MetaTrainer:
    """Model, optimiser and everything that a checkpoint holds.

    Parameters
    ----------
    shard : Shard
        This worker's regions; its tensors' device is where training runs.
    config : Config, resolved
    seed : int
    until : int
        One past the last period that may be learned from, validation included.
    workers : Workers
    source : Forecaster, optional
        A trained model to start from, and to be held to by ``config.transfer``.
    """

    def __init__(
        self,
        shard: Shard,
        config: Config,
        *,
        seed: int,
        until: int,
        workers: Workers,
        source: Forecaster | None = None,
    ) -> None:
        self.config, self.seed, self.workers = config, seed, workers
        split_series = config.model.series == "split"
        panel = shard.panel.split_series() if split_series else shard.panel
        rows_of = shard.panel.series_rows()[0] if split_series else np.arange(shard.panel.shape[0])
        held = config.validation.periods
        assert held is not None, "the configuration must be resolved"
        last = until - held
        if not workers.reduce(panel.observed[:, :last].any().double(), "max"):
            raise DataError(
                f"No sales are observed in the {last} periods before validation. Train on more history, or set "
                "validation.periods lower."
            )
        self.schema = Schema.fit(panel, last, workers.reduce)
        if self.schema.known_unread and workers.rank == 0:
            logger.warning("Covariates that hardly ever changed are not read: %s.", ", ".join(self.schema.known_unread))
        group = group_of(panel, until, config, workers)
        self.history = history_of(panel, self.schema, config, group)
        positions = shard.positions[rows_of]
        self.sampler = EpisodeSampler(
            panel,
            positions,
            Strata.of(shard.regions, config.train),
            last=last,
            model=config.model,
            train=config.train,
            seed=seed,
        )
        counts = workers.reduce(self.sampler.day_counts(), "sum")
        self.sampler.set_type_weights(counts)
        validation, held_out = shard.validation, shard.held_out
        if validation is not None and split_series:
            held_out = held_out[validation.series_rows()[0]]
            validation = validation.split_series()
        self.validator = Validator(
            validation, held_out.tolist(), self.schema, config, first=last, last=until, group=group
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # every worker starts from the same weights
            self.model = make_network(
                config.model, self.schema, self.history.feature_size, pooled=config.train.view_mode == "pooled"
            )
        self.model.to(panel.device).train()
        self.source = source.name if source is not None else ""
        self.penalty: SourcePenalty | None = None
        self.inheritance: Inheritance | None = None
        decay = config.train.weight_decay
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
        if source is not None:
            self.penalty = self._begin_from(source)
            groups = self.penalty.groups()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        fused = panel.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=config.train.learning_rate, betas=(0.9, 0.99), fused=fused)
        self.graphed = Graphed(self._learn, self.trained) if panel.device.type == "cuda" else None
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.best: dict[str, Tensor] = {}
        self.best_scores: dict[str, float] = {}
        self.bad_validations = 0
        self.leaning = Leaning()
        self.conformal = Conformal.identity(len(self.schema.day_types), len(config.model.levels))
        self.step = 0
        self.seconds = 0.0
        self.out_of_time = False
        self.sums: dict[str, list[float]] = {}

    def _begin_from(self, source: Forecaster) -> SourcePenalty:
        """Start from a source's parameters, and say how they are held to it."""
        start = graft(source, self.model, self.config, self.schema)
        self._load_parameters(start.start)
        self.inheritance = start.inheritance
        strengths = strengths_of(list(start.start), self.config.transfer)
        return SourcePenalty(self.model, start.shared, strengths, self.config.train.weight_decay)

    @property
    def finished(self) -> bool:
        """Whether steps or time are used up, validation has stopped improving, or everything is frozen."""
        return self.spent or self.bad_validations >= self.config.train.patience or not self.trained

    @property
    def spent(self) -> bool:
        """Whether there are no steps left, or no time for them."""
        return self.step >= self.config.train.max_steps or self.out_of_time

    def train_step(self) -> None:
        """Draw, learn, sum over workers, update, and check.

        Raises
        ------
        TrainingError
            If any worker's loss or the gradient is not finite, naming the step, rank and cells. The weights are lost
            then; the newest checkpoint is not.
        """
        with self._timed("draw"):
            plan = self.sampler.plan(self.step)
        with self._timed("learn"):
            lesson = self._lesson(plan)
            # Filled there, not copied there: a copy would wait for all that is queued.
            late = torch.full((), float(self._late()), device=lesson.losses.device)
            bad = ~torch.isfinite(lesson.losses)
            sums = (lesson.losses.sum(), lesson.points.sum(), lesson.sigma, late, bad.any())
            totals = torch.stack([value.double() for value in sums])
        with self._timed("reduce"):
            totals = self.workers.reduce(totals, "sum")
            self.workers.reduce_gradients(self.trained)
        with self._timed("update"):
            points = totals[1].clamp(min=1)
            torch._foreach_div_([p.grad for p in self.trained if p.grad is not None], points.float())
            if self.penalty is not None:
                self.penalty.hold_gradients()
            norm = torch.nn.utils.clip_grad_norm_(self.trained, self.config.train.clip)
            self._update()
            told = torch.stack([totals[0] / points, norm.double(), totals[2] / self.workers.size, *totals[3:]])
        with self._timed("wait"):
            self.sampler.plan(self.step + 1)  # a GPU is still at work
            loss, gradient_norm, sigma, late_ones, bad_ones = told.tolist()
        if bad_ones:
            raise TrainingError(self.workers.first_text(self._where(bad, lesson.episode) if lesson.episode else ""))
        if not math.isfinite(gradient_norm):
            raise TrainingError(
                f"The gradient is not finite at step {self.step} (rank {self.workers.rank}). "
                "Lower train.learning_rate, and look for extreme values with `stmp data describe`."
            )
        view = self.sampler.view(self.step)
        self._add(f"{view}/loss", loss)
        self._add(f"{view}/gradient_norm", gradient_norm)
        if self.config.model.psi == "stochastic":
            self._add(f"{view}/sigma", sigma)
        self.out_of_time = late_ones > 0  # any worker's clock ends the training of all
        self.step += 1

    def _late(self) -> bool:
        """Whether this worker has used up the time there is."""
        return 0 < 60 * self.config.train.max_minutes <= self.seconds

    def _lesson(self, plan: Plan | None) -> Lesson:
        """What a plan of this worker's rows teaches; its gradient is the parameters' afterwards."""
        if plan is None:
            self.optimizer.zero_grad(set_to_none=True)
            nothing = torch.zeros(1, 1, device=self.history.panel.device)
            return Lesson(None, nothing, nothing, nothing.sum())
        if self.graphed is not None:
            return self.graphed(plan)
        self.optimizer.zero_grad(set_to_none=True)
        return self._learn(plan.to(self.history.panel.device))

    def _learn(self, plan: Plan) -> Lesson:
        """Draw, forward, and backward of the summed loss."""
        device = self.history.panel.device
        episode = self.sampler.lay(plan)
        # Nothing is kept between two of these, as a captured graph could not see it change.
        mixed = torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
        with mixed if self.config.train.precision == "bf16" else nullcontext():
            losses, points, prediction = self.model.loss(self.history, episode)
        if losses.requires_grad:
            losses.sum().backward()
        psi = prediction.psi
        sigma = psi.sigma.detach().mean() if psi is not None else torch.zeros((), device=device)
        return Lesson(episode, losses.detach(), points, sigma)

    def _where(self, bad: Tensor, episode: Episode) -> str:
        """Which cells a loss that is not finite comes from; empty where all are."""
        if not bad.any():
            return ""
        panel = self.history.panel
        cells = []
        for row, query in bad.nonzero()[:5].tolist():
            region, day = int(episode.region[row]), int(episode.target[row, query])
            kind = panel.calendar.day_types[int(panel.day_type[region, day])]
            cells.append(f"({panel.regions[region]}, {kind}) on {panel.dates[day]}")
        return (
            f"The loss is not finite at step {self.step}, rank {self.workers.rank}, in {int(bad.sum())} queries of the "
            f"cells {', '.join(cells)}. Look at these days with `stmp data describe`, or lower train.learning_rate."
        )

    def _update(self) -> None:
        train = self.config.train
        warm = min(1.0, (self.step + 1) / max(1, train.warmup))
        progress = min(1.0, self.step / train.max_steps)
        rate = train.learning_rate * warm * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.penalty is None:
            self.optimizer.step()
        else:
            self.penalty.step(self.optimizer)
        # Early on the average follows closely, so that it does not remember the random start.
        decay = min(train.ema, (1 + self.step) / (10 + self.step)) if train.ema > 0 else 0.0
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        with torch.no_grad():
            torch._foreach_lerp_([self.average[name] for name in names], parameters, 1 - decay)

    def validate(self) -> dict[str, float]:
        """Score the averaged weights on what was held out, and remember them where they are the best so far."""
        with self._timed("validate"), self._with(self.average):
            scores = self.validator.score(self.model, self.workers)
        if not scores:
            return scores
        if scores["all"] < self.best_scores.get("all", math.inf):
            self.best_scores, self.bad_validations = scores, 0
            self.best = {name: p.clone() for name, p in self.average.items()}
        else:
            self.bad_validations += 1
        return scores

    def calibrate(self) -> None:
        """Measure on unseen days, with the weights that forecast, how to lean on last year and stretch ranges."""
        with self._with(self.best or self.average):
            self.leaning, self.conformal = self.validator.calibrate(self.model, self.workers)

    @contextmanager
    def _with(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """The model with other weights."""
        own = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self._load_parameters(weights)
        try:
            yield
        finally:
            self._load_parameters(own)

    def _load_parameters(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(values[name])

    def weights(self) -> dict[str, Tensor]:
        """The weights that forecast: the best on validation, or the last average where nothing was held out."""
        return {name: p.detach().cpu().clone() for name, p in (self.best or self.average).items()}

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        self._add(f"time/{phase}", seconds)

    def _add(self, key: str, value: float) -> None:
        entry = self.sums.setdefault(key, [0.0, 0.0])
        entry[0] += value
        entry[1] += 1

    def metrics(self) -> list[dict[str, Any]]:
        """Means since the last call: losses by phase, and seconds a step by what they went to."""
        rows = []
        for key, (total, count) in sorted(self.sums.items()):
            phase, _, name = key.partition("/")
            rows.append({"step": self.step, "phase": phase, "name": name, "value": total / count})
        self.sums = {}
        return rows

    def save(self, store: CheckpointStore) -> None:
        """Publish a checkpoint; only the first worker writes, all hold the same state."""
        if self.workers.rank != 0:
            return
        names = {id(p): name for name, p in self.model.named_parameters()}
        moments = {
            f"{names[id(p)]}/{key}": value for p, entry in self.optimizer.state.items() for key, value in entry.items()
        }
        tensors: dict[str, Tensor] = {f"model/{name}": p for name, p in self.model.named_parameters()}
        tensors |= {f"average/{name}": p for name, p in self.average.items()}
        tensors |= {f"best/{name}": p for name, p in self.best.items()}
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "out_of_time": self.out_of_time,
            "seed": self.seed,  # with the step, all that the random numbers depend on
            "config": self.config.model_dump(mode="json"),
            "schema": self.schema.to_json(),
            "best_scores": self.best_scores,
            "bad_validations": self.bad_validations,
            "sums": self.sums,
        }
        store.save(self.step, lambda folder: write_checkpoint(folder, tensors, moments, state))

    def resume(self, store: CheckpointStore) -> bool:
        """Go on from the newest checkpoint, written by any number of workers. False where there is none.

        Raises
        ------
        CheckpointError
            If it belongs to another configuration or seed.
        """
        found = newest(store)
        if found is None:
            return False
        tensors, moments, state = found
        if state["config"] != self.config.model_dump(mode="json") or state["seed"] != self.seed:
            raise CheckpointError(
                "The unfinished run in the output folder has another configuration or seed. Repeat its command as it "
                "was, or choose another --out."
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value.to(self.history.panel.device)
        self._load_parameters(parts["model"])
        self.average, self.best = parts["average"], parts["best"]
        for name, parameter in self.model.named_parameters():
            entry = {k.rpartition("/")[2]: v for k, v in moments.items() if k.rpartition("/")[0] == name}
            if entry:
                self.optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in entry.items()}
        self.step, self.bad_validations = state["step"], state["bad_validations"]
        self.best_scores = state["best_scores"]
        self.seconds, self.out_of_time = state["seconds"], state["out_of_time"]
        self.sums = state["sums"]
        logger.info("Going on from step %d.", self.step)
        return True


def set_precision(precision: str) -> None:
    """Arithmetic of this process's matrix products and recurrent nets on a GPU."""
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


def run(trainer: MetaTrainer, store: CheckpointStore | None, report: Report) -> None:
    """Train to the end, from the newest checkpoint where there is one.

    Parameters
    ----------
    trainer : MetaTrainer
    store : CheckpointStore, optional
        None keeps nothing.
    report : callable
        Called by every worker at the same steps.
    """
    train = trainer.config.train
    set_precision(train.precision)
    if store is not None:
        trainer.resume(store)
        if trainer.workers.disagree(trainer.step):
            raise CheckpointError(
                f"Workers have read different checkpoints (rank {trainer.workers.rank}: step {trainer.step}). Do all "
                "see the same output folder? If one of its checkpoints is damaged, delete that folder."
            )
    if trainer.penalty is not None and trainer.step == 0:  # the source as it is may be the best there is
        rows = _validation_rows(trainer)
        report(0, trainer.metrics() + rows)
    while not trainer.finished:
        trainer.train_step()
        step = trainer.step
        last = trainer.spent
        rows = []
        if last or step % train.validate_every == 0:
            rows = _validation_rows(trainer)
        if rows or last or step % train.log_every == 0:
            report(step, trainer.metrics() + rows)
        if store is not None and (trainer.finished or step % train.checkpoint_every == 0):
            trainer.save(store)
    trainer.calibrate()


def _validation_rows(trainer: MetaTrainer) -> list[dict[str, Any]]:
    scores = trainer.validate()
    return [{"step": trainer.step, "phase": "validation", "name": name, "value": v} for name, v in scores.items()]
