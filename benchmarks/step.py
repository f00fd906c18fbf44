"""Time of one meta-training step, beside two yardsticks; `python benchmarks/step.py` writes results/step.json.

(a) *bare*: forward and backward of the recurrent nets alone, as plain `torch.nn.LSTM`s on inputs of the shapes that the
    step gives them. No gathering, no attention, no decoder, no optimiser. What a step costs beyond that is overhead.
(b) *loop*: the same training as it is usually written: for each task of the batch a Dataset whose items are windows, a
    DataLoader that collates them, a forward pass of the same network for that task; then one backward and one update.

All three are timed in turn, round after round, so that a busy machine slows them alike. On one thread the time is the
processor's, which a busy machine disturbs little; with more threads or on a GPU it is the clock's. Medians are told,
and quartiles over rounds. The loop's loss is compared with ours at each step: it must be the same training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stmp.config import Config
from stmp.data.episodes import Episode
from stmp.data.features import Rows
from stmp.data.panel import Panel
from stmp.data.steps import LevelStep
from stmp.data.synthetic import generate
from stmp.learning.meta import MetaTrainer, Shard
from stmp.learning.workers import Workers
from stmp.nets.extractor import Contexts

HERE = Path(__file__).resolve().parent
PRESETS = HERE.parent / "jobs" / "presets"
VIEWS = ("spatial", "temporal")
"""Steps alternate between them, and may differ in size; so each time is that of one step of each, halved."""


# The three that are timed


def bare_step(trainer: MetaTrainer, device: torch.device) -> Callable[[], None]:
    """Plain LSTMs of the shapes that a step of each view uses, forward and backward."""
    calls: list[tuple[nn.LSTM, tuple[int, ...], bool]] = []

    def note(module: nn.LSTM, arguments: tuple[Tensor, ...]) -> None:
        calls.append((module, tuple(arguments[0].shape), arguments[0].requires_grad))

    hooks = [m.register_forward_pre_hook(note) for m in trainer.model.modules() if isinstance(m, nn.LSTM)]
    trainer.graphed = None  # which would run the networks several times before it captures them
    for _ in VIEWS:
        trainer.train_step()
    for hook in hooks:
        hook.remove()
    work = []
    for module, shape, needs_grad in calls:
        lstm = nn.LSTM(module.input_size, module.hidden_size, batch_first=True, device=device)
        work.append((lstm, torch.randn(shape, device=device, requires_grad=needs_grad)))

    def step() -> None:
        for lstm, _ in work:
            lstm.zero_grad(set_to_none=True)
        torch.autograd.backward([lstm(x)[0].sum() for lstm, x in work])

    return step


class Windows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The windows of one task, cut out one at a time: what was bought, the cart, and the event of each day."""

    def __init__(self, rows: Rows, row: Tensor, last: Tensor, context: int, known: bool) -> None:
        features = [rows.features] if known else []
        kind = rows.sales.dtype
        self.purchases = torch.cat([rows.recent, rows.observed.to(kind), *features], dim=-1).cpu().numpy()
        self.cart = torch.cat([rows.cart, rows.cart_observed.to(kind), *features], dim=-1).cpu().numpy()
        self.event = rows.known_event.cpu().numpy()
        self.row, self.last, self.context = row.tolist(), last.tolist(), context

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        row, last = self.row[index], self.last[index]
        first = max(0, last - self.context + 1)
        gap = self.context - (last - first + 1)
        return (
            torch.from_numpy(np.pad(self.purchases[row, first : last + 1], ((gap, 0), (0, 0)))),
            torch.from_numpy(np.pad(self.cart[row, first : last + 1], ((gap, 0), (0, 0)))),
            torch.from_numpy(np.pad(self.event[row, first : last + 1], (gap, 0))),
        )


def encode_by_window(trainer: MetaTrainer) -> Callable[[Rows, Tensor, Tensor], Contexts]:
    """`Extractor.encode` with a DataLoader over windows in place of one gather."""
    model, extractor = trainer.model, trainer.model.extractor

    def encode(rows: Rows, row: Tensor, last: Tensor) -> Contexts:
        dataset = Windows(rows, row, last, extractor.context, extractor.use_known)
        parts = list(zip(*DataLoader(dataset, batch_size=64), strict=True))
        purchases, cart, event = (torch.cat(part).to(rows.sales.device) for part in parts)
        if extractor.use_known and model.event is not None:
            place = torch.arange(extractor.context, device=last.device)
            inside = (place >= (extractor.context - 1 - last[:, None]))[..., None]
            embedded = model.event(event) * inside
            purchases, cart = torch.cat([purchases, embedded], dim=-1), torch.cat([cart, embedded], dim=-1)
        skips = extractor.purchases(purchases)
        if extractor.cart is not None:
            skips = [torch.cat(pair, dim=-1) for pair in zip(skips, extractor.cart(cart), strict=True)]
        mixed = torch.relu(extractor.joint(torch.cat(skips, dim=-1)))
        states = torch.cat([lstm(mixed)[0] for lstm in extractor.lstms], dim=-1)
        return Contexts(row, last - extractor.context + 1, states, tuple(skips) if extractor.periods else ())

    return encode


def tasks_of(episode: Episode, day_type: Tensor, own_support: bool) -> list[Episode]:
    """The episode's cells, one episode each: a region, its queries of one day type, and its support."""
    tasks = []
    for row in range(len(episode.region)):
        one = slice(row, row + 1)
        types = day_type[episode.region[row]]
        for kind in types[episode.target[row]].unique().tolist():
            queries = types[episode.target[row]] == kind
            supports = (
                (types[episode.support[row]] == kind) if own_support else torch.ones_like(episode.support[row]) > 0
            )
            tasks.append(
                replace(
                    episode,
                    region=episode.region[one], start=episode.start[one], end=episode.end[one],
                    noise=episode.noise[one],
                    target=episode.target[one, queries], origin=episode.origin[one, queries],
                    query_valid=episode.query_valid[one, queries], support=episode.support[one, supports],
                    support_valid=episode.support_valid[one, supports],
                    last_year_hidden=of_queries(episode.last_year_hidden, one, queries),
                    kept=of_queries(episode.kept, one, queries),
                    step=episode.step and LevelStep(episode.step.begin[one], episode.step.size[one]),
                )
            )  # fmt: skip
    return tasks


def of_queries(numbers: Tensor | None, one: slice, queries: Tensor) -> Tensor | None:
    """Some queries' part of what an episode may have."""
    return numbers[one, queries] if numbers is not None else None


def loop_step(trainer: MetaTrainer) -> Callable[[], float]:
    """The same step as a loop over tasks and windows; returns its loss."""
    trainer.model.extractor.encode = encode_by_window(trainer)  # type: ignore[assignment,method-assign]
    own_support = trainer.config.model.pooling == "mean"
    day_type = trainer.history.panel.day_type

    def step() -> float:
        episode = trainer.sampler.draw(trainer.step)
        assert episode is not None
        total = points = torch.zeros((), device=day_type.device)
        for task in tasks_of(episode, day_type, own_support):
            losses, valid, _ = trainer.model.loss(trainer.history, task)
            total, points = total + losses.sum(), points + valid.sum()
        trainer.optimizer.zero_grad(set_to_none=True)
        loss = total / points.clamp(min=1)
        loss.backward()
        parameters = list(trainer.model.parameters())
        trainer.workers.reduce_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, trainer.config.train.clip)
        trainer._update()
        trainer.step += 1
        return float(loss.detach())

    return step


# Measuring


def make_trainer(panel: Panel, config: Config) -> MetaTrainer:
    """A trainer on all regions."""
    last = panel.index_of(panel.last_observed) + 1
    resolved = config.resolve(panel.period_days, last)
    train, positions, scored, held_out = Shard.plan(panel.shape[0], resolved, 0, 1)
    shard = Shard(panel.select(train), positions, len(train), panel.select(scored), held_out)
    return MetaTrainer(shard, resolved, seed=0, until=last, workers=Workers())


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that a call takes, its work on the device included; and what it returns."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = clock()
    value = function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin, value


def measure(
    name: str, panel: Panel, device: torch.device, rounds: int, loop_rounds: int, **settings: Any
) -> dict[str, Any]:
    """Medians of the three, for one preset."""
    config = Config.load(PRESETS / f"{name}.yaml", [f"{key}={value}" for key, value in settings.items()])
    panel = panel.to(device)
    ours, looped = make_trainer(panel, config), make_trainer(panel, config)
    bare = bare_step(make_trainer(panel, config), device)
    loop = loop_step(looped)
    times: dict[str, list[float]] = {"bare": [], "ours": [], "loop": []}
    for _ in VIEWS:
        ours.train_step()
        loop()
    bare()
    ours.metrics()
    for number in range(rounds):
        spent_by = {"bare": timed(bare, device)[0], "ours": 0.0, "loop": 0.0}
        for _ in VIEWS:
            view = ours.sampler.view(ours.step)
            before = ours.sums.get(f"{view}/loss", [0.0, 0.0])[0]
            spent_by["ours"] += timed(ours.train_step, device)[0]
            if number < loop_rounds:
                loss = ours.sums[f"{view}/loss"][0] - before
                seconds, looped_loss = timed(loop, device)
                spent_by["loop"] += seconds
                assert abs(looped_loss - loss) < 1e-3 * max(1.0, abs(loss)), (looped_loss, loss)
        for way, seconds in spent_by.items():
            if seconds > 0:
                times[way].append(seconds / len(VIEWS))
    spent = {row["name"]: row["value"] for row in ours.metrics() if row["phase"] == "time"}
    phases = {name: seconds / sum(spent.values()) for name, seconds in spent.items()}
    middle = {key: statistics.median(values) for key, values in times.items()}
    model, train = ours.config.model, ours.config.train
    return {
        "preset": name,
        "shape": {"rows": ours.sampler.batch, "queries": train.queries, "supports": train.supports,
                  "context": model.context, "hidden": model.hidden, "instances": model.instances},
        "seconds": middle,
        "quartiles": {key: [float(q) for q in np.quantile(values, [0.25, 0.75])] for key, values in times.items()},
        "over_bare": middle["ours"] / middle["bare"],
        "faster_than_loop": middle["loop"] / middle["ours"],
        "shares": phases,
        "rounds": {"ours": rounds, "loop": len(times["loop"])},
    }  # fmt: skip


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of ours and bare")
    parser.add_argument("--loop-rounds", type=int, default=4, help="rounds of the loop, which is slow")
    parser.add_argument("--regions", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", action="append", help="paper, product; by default both")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "step.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    city = generate(regions=arguments.regions, years=3.0, seed=0)
    panel = Panel.from_frame(
        city.sales, region="region_id", date="date", target="sales", past=["customers"], known=["promo", "price"],
        static=city.regions, events=city.calendar.query("scope == 'city'").drop(columns="scope"),
    )  # fmt: skip
    results = []
    for name in arguments.preset or ["paper", "product"]:
        result = measure(name, panel, device, arguments.rounds, arguments.loop_rounds)
        results.append(result)
        seconds = result["seconds"]
        print(
            f"{name:8s} bare {seconds['bare'] * 1e3:8.1f} ms   ours {seconds['ours'] * 1e3:8.1f} ms   "
            f"loop {seconds['loop'] * 1e3:9.1f} ms   ours/bare {result['over_bare']:.2f}   "
            f"loop/ours {result['faster_than_loop']:.1f}   "
            + " ".join(f"{key} {100 * value:.0f}%" for key, value in result["shares"].items())
        )
    machine = {
        "cores": os.cpu_count(), "threads": arguments.threads, "device": arguments.device,
        "processor": platform.processor() or platform.machine(), "torch": torch.__version__,
        "load_average": os.getloadavg(), "regions": arguments.regions,
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
