"""The networks against plain loops and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from stmp.config import Config
from stmp.data.calendar import build_calendar, period_dates
from stmp.data.episodes import Episode, EpisodeSampler, Strata, full_episode
from stmp.data.features import OFFSET, History, calendar_features
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.learning.validation import history_of
from stmp.nets.amortization import Amortization, TaskFeatures, task_mask
from stmp.nets.decoder import Decoder
from stmp.nets.extractor import SkipLSTM
from stmp.nets.first_guess import NEIGHBOURS, FirstGuess, last_year
from stmp.nets.generative import STMP
from stmp.nets.heads import NormalHead, QuantileHead

PERIODS = 140


def small_panel(regions: int = 6, seed: int = 0) -> Panel:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        [(f"r{r}", day) for r in range(regions) for day in pd.date_range("2024-01-01", periods=PERIODS)],
        columns=["unique_id", "ds"],
    )
    frame["promo"] = rng.integers(0, 2, len(frame))
    frame["visitors"] = rng.poisson(30, len(frame))
    frame["y"] = rng.lognormal(4, 0.3, len(frame)).round(2)
    static = pd.DataFrame({"unique_id": [f"r{r}" for r in range(regions)], "people": rng.lognormal(9, 1, regions)})
    events = pd.DataFrame({"date": ["2024-02-14", "2024-03-29"], "event": ["love", "spring"]})
    return Panel.from_frame(frame, known=["promo"], past=["visitors"], static=static, events=events)


PAPER = {
    "model": {
        "instances": "window",
        "context": 14,
        "known": False,
        "pooling": "mean",
        "last_year": False,
        "trend_periods": [],
        "transform": "linear",
        "head": "normal",
        "samples": 3,
        "event_size": 0,
        "series": "joint",
    },
    "train": {"supports": 9, "queries": 4, "batch_regions": 4, "day_type_temperature": 0.0},
}
PRODUCT = {"model": {"context": 28}, "train": {"supports": 20, "queries": 6, "batch_regions": 4}}
SMALL = ["model.hidden=8", "model.psi_size=3", "model.horizon=10", "model.skip_periods=[7]"]


def build(preset: dict[str, dict[str, object]], *overrides: str) -> tuple[Config, History, STMP, Episode]:
    panel = small_panel()
    config = Config.from_mapping(preset, [*SMALL, *overrides]).resolve(1, PERIODS)
    schema = Schema.fit(panel, PERIODS)
    history = history_of(panel, schema, config)
    torch.manual_seed(0)
    net = STMP(config.model, schema, history.feature_size, pooled=config.train.view_mode == "pooled")
    sampler = EpisodeSampler(
        panel,
        np.arange(6),
        Strata.of(6, config.train),
        last=PERIODS,
        model=config.model,
        train=config.train,
        seed=0,
    )
    episode = sampler.draw(1)
    assert episode is not None
    return config, history, net, episode


@pytest.mark.parametrize(("length", "period"), [(28, 7), (30, 7), (5, 7), (12, 1), (9, 4)])
def test_skip_lstm_is_the_recurrence_over_a_period(length: int, period: int) -> None:
    torch.manual_seed(length)
    net = SkipLSTM(3, 5, period).double()
    x = torch.randn(2, length, 3, dtype=torch.float64)
    w_x, w_h = net.lstm.weight_ih_l0, net.lstm.weight_hh_l0
    bias = net.lstm.bias_ih_l0 + net.lstm.bias_hh_l0
    states: list[tuple[Tensor, Tensor]] = []
    for t in range(length):
        h, c = states[t - period] if t >= period else (torch.zeros(2, 5).double(), torch.zeros(2, 5).double())
        i, f, g, o = (x[:, t] @ w_x.T + h @ w_h.T + bias).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        states.append((torch.sigmoid(o) * torch.tanh(c), c))
    loop = torch.stack([h for h, _ in states], dim=1)
    torch.testing.assert_close(net(x), loop)


def test_pooling_does_not_depend_on_the_order_of_support_days() -> None:
    config = Config.from_mapping(PAPER, SMALL).resolve(1, PERIODS)
    torch.manual_seed(0)
    net = Amortization(config.model, inputs=8, series=1)
    embedded = torch.randn(2, 9, 8)
    mask = torch.rand(2, 4, 9) > 0.4
    order = torch.randperm(9)
    straight, shuffled = net(embedded, mask), net(embedded[:, order], mask[:, :, order])
    torch.testing.assert_close(straight.mu, shuffled.mu)
    torch.testing.assert_close(straight.sigma, shuffled.sigma)
    # Mean pooling by hand, for one query.
    pooled = embedded[1][mask[1, 2]].mean(dim=0)
    count = mask[1, 2].sum().float()[None]
    trunk = net.trunk(torch.cat([pooled, count / (count + 4)]))
    torch.testing.assert_close(straight.mu[1, 2], net.mu(trunk))


def test_a_cell_without_support_is_finite() -> None:
    config = Config.from_mapping(PAPER, SMALL).resolve(1, PERIODS)
    net = Amortization(config.model, inputs=8, series=1)
    psi = net(torch.randn(1, 5, 8), torch.zeros(1, 2, 5, dtype=torch.bool))
    assert torch.isfinite(psi.mu).all() and (psi.sigma > 0).all()


@pytest.mark.parametrize("mode", ["cell", "pooled"])
def test_task_masks_against_a_plain_loop(mode: str) -> None:
    _, history, _, episode = build(PAPER, f"train.view_mode={mode}")
    for view in ("spatial", "temporal"):
        episode = replace(episode, view=view)
        rows = history.rows(episode.region, episode.start)
        mask = task_mask(episode, rows, pooled=mode == "pooled")
        group = 4 if mode == "pooled" and view == "temporal" else 1
        supports = episode.support.shape[1]
        for b in range(mask.shape[0]):
            for q in range(mask.shape[1]):
                for at in range(mask.shape[2]):
                    other = b // group * group + at // supports
                    if other >= len(episode.region):
                        assert not mask[b, q, at]
                        continue
                    s = at % supports
                    day = int(episode.support[other, s])
                    same = rows.day_type[other, day] == rows.day_type[b, episode.target[b, q]]
                    expected = bool(episode.support_valid[other, s]) and day <= int(episode.origin[b, q])
                    if not (mode == "pooled" and view == "spatial"):
                        expected = expected and bool(same)
                    assert bool(mask[b, q, at]) == expected


def test_predictive_likelihood_against_a_direct_sum() -> None:
    torch.manual_seed(0)
    prediction = torch.randn(2, 5, 3, 2, 1)
    truth, observed = torch.randn(2, 3, 2), torch.tensor([1.0, 0.0]).expand(2, 3, 2)
    loss = NormalHead.loss(prediction, truth, observed)
    for b in range(2):
        for q in range(3):
            likelihoods = []
            for sample in range(5):
                error = (truth[b, q] - prediction[b, sample, q, :, 0]) * observed[b, q]
                likelihoods.append(math.exp(-0.5 * float((error**2).sum())))
            assert float(loss[b, q]) == pytest.approx(-math.log(sum(likelihoods) / 5), abs=1e-5)


def test_one_sample_of_unit_variance_is_half_the_squared_error() -> None:
    prediction, truth = torch.randn(4, 1, 3, 1, 1), torch.randn(4, 3, 1)
    loss = NormalHead.loss(prediction, truth, torch.ones_like(truth))
    torch.testing.assert_close(loss, 0.5 * (prediction[:, 0, :, 0, 0] - truth[..., 0]) ** 2)


def test_pinball_loss_against_its_definition_and_quantiles_never_cross() -> None:
    torch.manual_seed(0)
    levels = (0.1, 0.5, 0.9)
    head = QuantileHead(4, 2, levels)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=3.0)
    quantiles = head(torch.randn(5, 1, 6, 4), torch.randn(5, 1, 6, 2))
    assert (quantiles.diff(dim=-1) >= 0).all()
    truth = torch.randn(5, 6, 2)
    observed = (torch.rand(5, 6, 2) > 0.3).float()
    loss = head.loss(quantiles, truth, observed)
    expected = torch.zeros(5, 6)
    for k, level in enumerate(levels):
        error = truth - quantiles[:, 0, ..., k]
        expected += (
            2 * (torch.where(error > 0, level * error, (level - 1) * error) * observed).sum(dim=-1) / len(levels)
        )
    torch.testing.assert_close(loss, expected)


def test_kl_between_task_distributions_against_torch() -> None:
    torch.manual_seed(0)
    a, b = (TaskFeatures(torch.randn(2, 3, 4), torch.rand(2, 3, 4) + 0.1) for _ in range(2))
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(a.mu, a.sigma), normal(b.mu, b.sigma)).sum(dim=-1)
    torch.testing.assert_close(a.divergence_to(b), exact)


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        (PAPER, []),
        (PRODUCT, []),
        (PAPER, ["model.psi=none"]),
        (PAPER, ["model.psi=deterministic"]),
        (PAPER, ["model.skip_periods=[]"]),
        (PAPER, ["model.skip_periods=[7, 28]"]),
        (PAPER, ["model.ar=false", "model.cart=false", "model.static=false"]),
        (PAPER, ["model.share_extractor=false"]),
        (PAPER, ["model.support_outcome=false"]),
        (PAPER, ["train.view_mode=pooled"]),
        (PAPER, ["train.views=spatial"]),
        (PAPER, ["train.views=temporal"]),
        (PAPER, ["model.beta_kl=0.1"]),
        (PRODUCT, ["model.beta_kl=0.1", "train.view_mode=pooled"]),
        (PRODUCT, ["model.pooling=mean", "model.head=normal"]),
        (PRODUCT, ["model.last_year=false"]),
        (PRODUCT, ["model.trend_periods=[7, 28]"]),
        (PRODUCT, ["model.known=false", "model.samples=3"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_every_switch_learns(preset: dict[str, dict[str, object]], overrides: list[str]) -> None:
    _, history, net, episode = build(preset, *overrides)
    losses, points, _ = net.loss(history, episode)
    assert points.sum() > 0
    (losses.sum() / points.sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert torch.isfinite(parameter.grad).all(), name


def test_the_first_guess_of_attention_is_the_past_it_saw() -> None:
    """With one day in sight, every head's raw value is what was sold on that day."""
    _, history, net, episode = build(PRODUCT)
    assert net.attention is not None
    only = replace(episode, support_valid=torch.zeros_like(episode.support_valid))
    only.support_valid[:, 0] = True
    only = replace(only, origin=torch.maximum(only.origin, only.support[:, :1]))
    rows = history.rows(only.region, only.start)
    assert net.event is not None
    full = replace(rows, features=torch.cat([rows.features, net.event(rows.known_event)], dim=-1))
    raw, _ = net.attention(history, full, only)
    batch = torch.arange(len(only.region))
    day = only.support[:, 0]
    own = rows.recent[batch, day]
    for q in range(raw.shape[1]):
        grown = history.scale(rows.sales[batch, day], rows.level[batch, only.origin[:, q] + 1])
        mix = net.attention.own_level.sigmoid()[None, :, None]
        torch.testing.assert_close(raw[:, q], mix * own[:, None] + (1 - mix) * grown[:, None])


def weekly_panel(weeks: int = 130) -> Panel:
    rng = np.random.default_rng(3)
    dates = pd.date_range("2022-01-02", periods=weeks, freq="7D")
    frame = pd.DataFrame([(f"r{r}", day) for r in range(3) for day in dates], columns=["unique_id", "ds"])
    frame["y"] = rng.lognormal(4, 0.5, len(frame)).round(2)
    return Panel.from_frame(frame[(frame["unique_id"] != "r1") | (frame["ds"] > dates[70])])


def test_a_price_of_cents_is_standardised_and_a_promotion_is_left_as_it_is() -> None:
    panel = small_panel()
    price = 0.03 + 0.002 * torch.randn(panel.sales.shape[:2], generator=torch.Generator().manual_seed(0))
    promotion = (price < 0.029).to(price.dtype)
    covered = replace(panel, known=torch.stack([price, promotion], dim=-1), known_names=("price", "promotion"))
    schema = Schema.fit(covered, PERIODS)
    assert schema.known_center == pytest.approx((0.03, 0.0), abs=1e-3)
    assert schema.known_spread == pytest.approx((0.002, 1.0), rel=0.1)


def test_last_year_against_a_loop() -> None:
    """Of the same weeks a year before, over today's level and over that of the same origin a year before."""
    panel = weekly_panel()
    config = Config.from_mapping({"model": {"hidden": 4}}).resolve(7, 120)
    history = history_of(panel, Schema.fit(panel, 120), config)
    episode = full_episode(panel, 119, 8, 200, torch.zeros(3, 1, config.model.psi_size))
    rows = history.rows(episode.region, episode.start)
    readings, seen = last_year(history, rows, episode, counterparts=False)
    for r in range(3):
        for h in range(8):
            for n, shift in enumerate(NEIGHBOURS):
                day = 120 + h - 52 + shift
                known = bool(panel.observed[r, day, 0])
                assert bool(seen[r, h, n, 0]) == known
                sold = panel.sales[r, day]
                expected = history.scale(sold, rows.level[r, 120]) if known else torch.zeros(1)
                torch.testing.assert_close(readings[r, h, n], expected)
                # The origin a year before needs sales of its own to have a level: region r1 opened since.
                grown = known and r != 1
                assert bool(seen[r, h, n + len(NEIGHBOURS), 0]) == grown
                expected = history.scale(sold, rows.level[r, 120 - 52]) if grown else torch.zeros(1)
                torch.testing.assert_close(readings[r, h, n + len(NEIGHBOURS)], expected)


@pytest.mark.parametrize(("frequency", "length"), [("D", 1), ("W-SAT", 7)])
def test_turn_of_the_month_against_a_loop(frequency: str, length: int) -> None:
    """Nearness to the first and the last day, faded over 3 and 8 days; of a week, the mean over its days."""
    dates = period_dates(np.datetime64("2023-12-02"), 30, frequency)  # a Saturday; over a leap day, if weekly
    calendar = build_calendar(dates, frequency, [])
    without = calendar_features(calendar, turn=False)
    told = calendar_features(calendar, turn=True)
    at = 12  # after the harmonics of the year and of the month
    assert np.array_equal(np.delete(told, range(at, at + 4), axis=-1), without)
    for t, date in enumerate(dates):
        sums = np.zeros(4)
        for back in range(length):
            day = pd.Timestamp(date) - pd.Timedelta(days=back)
            for k, distance in enumerate((day.day - 1, day.days_in_month - day.day)):
                for j, fading in enumerate((3, 8)):
                    sums[2 * k + j] += math.exp(-distance / fading)
        np.testing.assert_allclose(told[0, t, at : at + 4], sums / length, rtol=1e-6)


def test_trend_against_a_loop() -> None:
    """Means of a quarter of the level's window, half a year and a year, over the level, of days up to the origin."""
    panel = weekly_panel()
    config = Config.from_mapping({"model": {"hidden": 4}}).resolve(7, 120)
    assert config.model.trend_periods == (3, 26, 52)
    history = history_of(panel, Schema.fit(panel, 120), config)
    rows = history.rows(torch.arange(3), torch.tensor([0, 0, 90]))
    for r, start in enumerate((0, 0, 90)):
        for origin in (0, 40, 95, 119):
            for k, window in enumerate((3, 26, 52)):
                days = range(max(start, origin + 1 - window), origin + 1)
                sold = [float(panel.sales[r, day]) for day in days if rows.observed[r, day, 0]]
                mean = torch.tensor([sum(sold) / max(1, len(sold))])
                expected = history.scale(mean, rows.level[r, origin + 1]) if sold else torch.zeros(1)
                torch.testing.assert_close(rows.trend[r, origin + 1, k : k + 1], expected)
    assert rows.trend.std() > 0.05


def test_first_guess_is_a_mean_of_what_is_seen() -> None:
    torch.manual_seed(0)
    guess = FirstGuess(5, candidates=3, series=2)
    x, candidates = torch.randn(4, 2, 6, 5), torch.randn(4, 6, 3, 2)
    seen = torch.zeros(4, 6, 3, 2, dtype=torch.bool)
    seen[:, :, 1] = True
    torch.testing.assert_close(guess(x, candidates, seen), candidates[:, None, :, 1].expand(-1, 2, -1, -1))
    mixed = guess(x, candidates, ~seen)
    low, high = candidates[:, :, [0, 2]].amin(dim=2), candidates[:, :, [0, 2]].amax(dim=2)
    assert bool(((mixed >= low[:, None]) & (mixed <= high[:, None])).all())


@pytest.mark.parametrize("preset", [PAPER, PRODUCT], ids=["paper", "product"])
def test_gradients_against_finite_differences(preset: dict[str, dict[str, object]]) -> None:
    """In float64 and one direction a parameter tensor, on a tiny model."""
    _, history, net, episode = build(preset, "model.hidden=4")
    net.double()
    double(history)
    episode = replace(episode, noise=episode.noise.double())

    def loss() -> Tensor:
        losses, points, _ = net.loss(history, episode)
        return losses.sum() / points.sum()

    net.zero_grad()
    loss().backward()
    generator = torch.Generator().manual_seed(0)
    step = 1e-6
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if name == "event.weight":
            direction[0] = 0.0  # "no event" stays zero by design
        direction /= direction.norm()
        analytic = float((parameter.grad * direction).sum())
        with torch.no_grad():
            parameter += step * direction
            above = float(loss())
            parameter -= 2 * step * direction
            below = float(loss())
            parameter += step * direction
        assert analytic == pytest.approx((above - below) / (2 * step), rel=2e-3, abs=2e-7), name


def double(history: History) -> None:
    """Turn a history's tensors to float64, so that finite differences are not lost in rounding."""
    panel = history.panel
    history.panel = replace(panel, sales=panel.sales.double(), past=panel.past.double(), known=panel.known.double())
    history.calendar_features = history.calendar_features.double()
    history.static = history.static.double()
    history.default_level = history.default_level.double()


def test_the_level_is_a_trailing_mean_of_ordinary_days() -> None:
    _, history, _, _ = build(PRODUCT)
    rows = history.rows(torch.tensor([2]), torch.tensor([0]))
    sales = rows.sales[0, :, 0].numpy().astype(float)
    ordinary = rows.event[0].numpy() == 0
    for t in (10, 45, 100, PERIODS):
        window = slice(max(0, t - history.level_window), t)
        expected = sales[window][ordinary[window]].mean()
        assert float(rows.level[0, t, 0]) == pytest.approx(expected, rel=1e-5)
    day = 60
    expected = math.log(sales[day] / float(rows.level[0, day, 0]) + OFFSET) - math.log(1 + OFFSET)
    assert float(rows.recent[0, day, 0]) == pytest.approx(expected, rel=1e-4)


def test_scaling_back_is_the_inverse() -> None:
    _, history, _, _ = build(PRODUCT)
    sales, level = torch.tensor([0.0, 3.0, 250.0]), torch.tensor([40.0, 40.0, 80.0])
    torch.testing.assert_close(history.unscale(history.scale(sales, level), level), sales, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("preset", [PAPER, PRODUCT], ids=["paper", "product"])
def test_nothing_after_an_origin_moves_its_forecast(preset: dict[str, dict[str, object]]) -> None:
    """Each day of a context is an origin, so each is checked within one episode."""
    config, history, net, _ = build(preset)
    net.eval()
    panel = history.panel
    origin = 100
    noise = torch.zeros(6, config.model.samples, config.model.psi_size)
    episode = full_episode(panel, 120, 8, 60, noise)
    episode = replace(episode, origin=torch.full_like(episode.origin, origin), target=episode.target - 20)

    def forecast(data: Panel) -> Tensor:
        changed = history_of(data, history.schema, config)
        return net(changed, episode, changed.rows(episode.region, episode.start)).values

    sales, past = panel.sales.clone(), panel.past.clone()
    sales[:, origin + 1 :] *= 7.0
    past[:, origin + 1 :] = 99.0
    before = forecast(panel)
    assert torch.equal(before, forecast(replace(panel, sales=sales, past=past)))
    sales[:, origin] *= 7.0  # the origin itself is seen
    assert not torch.equal(before, forecast(replace(panel, sales=sales)))


def test_the_decoder_drops_the_units_it_is_told_to() -> None:
    """Against a loop over the units; those that stay are scaled up by what is missing."""
    torch.manual_seed(0)
    decoder = Decoder(5, 3, dropout=0.4)
    x, kept = torch.randn(2, 1, 4, 5), torch.rand(2, 4, 9) >= 0.4
    found = decoder(x, kept)
    wide, narrow = decoder[0], decoder[2]
    assert isinstance(wide, torch.nn.Linear) and isinstance(narrow, torch.nn.Linear)
    for b in range(2):
        for q in range(4):
            first = (wide.weight @ x[b, 0, q] + wide.bias).clamp(min=0)
            first = torch.stack([value / 0.6 if kept[b, q, u] else 0 * value for u, value in enumerate(first)])
            second = (narrow.weight @ first + narrow.bias).clamp(min=0)
            for u, value in enumerate(second):
                torch.testing.assert_close(found[b, 0, q, u], value / 0.6 if kept[b, q, 6 + u] else 0 * value)
    torch.testing.assert_close(decoder(x), torch.nn.Sequential(*decoder)(x))


def test_what_is_hidden_is_told_by_the_episode_and_no_forecast_hides() -> None:
    panel = weekly_panel()
    config = Config.from_mapping({"model": {"hidden": 4}}).resolve(7, 120)
    history = history_of(panel, Schema.fit(panel, 120), config)
    episode = full_episode(panel, 119, 8, 200, torch.zeros(3, 1, config.model.psi_size))
    assert episode.last_year_hidden is None and episode.kept is None and episode.step is None
    rows = history.rows(episode.region, episode.start)
    hidden = torch.zeros_like(episode.query_valid)
    hidden[:, ::2] = True
    readings, seen = last_year(history, rows, replace(episode, last_year_hidden=hidden), counterparts=True)
    shown, visible = last_year(history, rows, episode, counterparts=True)
    assert not seen[:, ::2].any() and not readings[:, ::2].any() and bool(visible[:, ::2].any())
    torch.testing.assert_close(readings[:, 1::2], shown[:, 1::2])
    assert torch.equal(seen[:, 1::2], visible[:, 1::2])
