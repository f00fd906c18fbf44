"""Grafting: what source and target share is matched by role and name, and what differs is not heard at first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stmp.data.calendar import DayRule, build_calendar
from stmp.data.panel import Panel
from stmp.data.schema import Schema
from stmp.errors import ConfigError
from stmp.forecaster import Forecaster
from stmp.learning.graft import Graft, graft
from stmp.learning.train import train
from stmp.learning.transfer import adaptation_config
from stmp.learning.validation import history_of
from stmp.nets.ensemble import make_network
from stmp.nets.names import GROUPS, parameter_axes
from tests.training import small_config, small_panel, trainer_of

KINDS: dict[str, dict[str, Any]] = {
    "product": {},
    "paper": {"paper": True},
    "two series, each a row": {"series": ("a", "b")},
    "two series, joint": {"paper": True, "series": ("a", "b")},
    "own support extractor": {"paper": True, "settings": ("model.share_extractor=false", "model.skip_periods=[7]")},
    "no skip-LSTMs, no AR": {"settings": ("model.skip_periods=[]", "model.ar=false", "model.psi=deterministic")},
    "ensemble": {"settings": ("model.members=2",)},
    "bare": {"settings": ("model.psi=none", "model.static=false", "model.cart=false", "model.event_size=0")},
}
WITHOUT_VALUE = float("nan")


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_row_and_column_has_a_name(kind: str) -> None:
    trainer = trainer_of(**KINDS[kind])
    axes = parameter_axes(trainer.model, trainer.schema)  # asserts that names and sizes agree
    assert {axis.group for axis in axes.values()} == set(GROUPS)
    assert len({axis.role for axis in axes.values()}) == len(axes)
    for axis in axes.values():
        for names in (axis.rows, axis.columns):
            assert names is None or len(set(names)) == len(names)


@pytest.fixture(scope="module")
def source() -> Forecaster:
    """A model of a city with customers, promotions, prices, features and festivals."""
    torch.set_num_threads(1)
    return train(small_panel(), small_config("train.max_steps=8"))


def grafted(source: Forecaster, panel: Panel, *settings: str) -> tuple[Graft, Forecaster]:
    """The graft of a source on a panel, and the forecaster that it is without any training."""
    periods = panel.index_of(panel.last_observed) + 1
    config = adaptation_config(source, panel.frequency, settings).resolve(panel.period_days, periods)
    schema = Schema.fit(panel, periods)
    schema = replace(schema, default_level=source.schema.default_level)
    size = history_of(panel, schema, config).feature_size
    torch.manual_seed(3)
    model = make_network(config.model, schema, size)
    start = graft(source, model, config, schema)
    return start, Forecaster(config, schema, size, start.start, source.provenance)


def forecast(model: Forecaster, panel: Panel) -> np.ndarray:
    return model.predict(panel, panel.dates[400], 10).quantiles


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.allclose(left, right, rtol=2e-4, atol=1e-3))


def with_scales_of(model: Forecaster, schema: Schema) -> Forecaster:
    """The source, reading numbers by the scales of a target that has the same columns."""
    shared = {name: getattr(schema, name) for name in ("known_center", "known_spread", "known_log", "known_missing")}
    shared |= {name: getattr(schema, name) for name in ("static_center", "static_spread")}
    weights = model.model.state_dict()
    return Forecaster(
        model.config, replace(model.schema, **shared), model.feature_size, weights, model.provenance, None
    )


def test_the_same_columns_give_the_same_model(source: Forecaster) -> None:
    start, model = grafted(source, small_panel(seed=2))
    assert all(mask.all() for mask in start.shared.values())
    assert all(torch.equal(start.start[name], p) for name, p in source.model.named_parameters())
    panel = small_panel(seed=2)
    assert same(forecast(model, panel), forecast(with_scales_of(source, model.schema), panel))


def test_each_member_of_an_ensemble_is_matched_with_its_own() -> None:
    source = train(small_panel(), small_config("train.max_steps=2", "model.members=2"))
    panel = small_panel(seed=2)
    less = replace(
        panel, known=panel.known[..., 1:], known_names=panel.known_names[1:],
        static=panel.static[:, 1:], static_names=panel.static_names[1:],
    )  # fmt: skip
    both, _ = grafted(source, less)
    config = source.config.model_copy(update={"model": source.config.model.model_copy(update={"members": 1})})
    for k in (0, 1):
        prefix = f"members.{k}."
        own = {n.removeprefix(prefix): v for n, v in source.model.state_dict().items() if n.startswith(prefix)}
        one, _ = grafted(Forecaster(config, source.schema, source.feature_size, own, source.provenance), less)
        assert all(torch.equal(both.start[prefix + name], value) for name, value in one.start.items())
    assert both.inheritance.to_frame()["reused"].sum() == 2 * one.inheritance.to_frame()["reused"].sum()


def test_another_order_of_columns_gives_the_same_forecasts(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    order = [1, 0]
    turned = replace(panel, known=panel.known[..., order], known_names=tuple(panel.known_names[i] for i in order))
    _, model = grafted(source, turned)
    _, straight = grafted(source, panel)
    assert same(forecast(model, turned), forecast(straight, panel))


def test_new_inputs_are_not_heard_at_first(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    more = torch.randn(*panel.shape[:2], 1)
    wide = replace(
        panel,
        known=torch.cat([more, panel.known], dim=-1),
        known_names=("weather", *panel.known_names),
        past=torch.cat([panel.past, more], dim=-1),
        past_names=(*panel.past_names, "visits"),
        static=torch.cat([panel.static, more[:, 0]], dim=-1),
        static_names=(*panel.static_names, "parking"),
    )
    start, model = grafted(source, wide)
    _, narrow = grafted(source, panel)
    assert same(forecast(model, wide), forecast(narrow, panel))
    assert start.inheritance.inputs["known-future"]["new"] == ["weather"]
    assert start.inheritance.inputs["past"]["new"] == ["visits"]
    heard = [name for name, mask in start.shared.items() if not mask.all()]
    assert {"decoder.0.weight", "extractor.static.0.weight", "extractor.ar.weight"} <= set(heard)
    assert all((start.start[name][~start.shared[name]] == 0).all() for name in heard)


def test_a_dropped_input_counts_as_one_without_a_value(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    at = panel.known_names.index("promo")
    keep = [i for i in range(len(panel.known_names)) if i != at]
    less = replace(
        panel,
        known=panel.known[..., keep],
        known_names=tuple(panel.known_names[i] for i in keep),
        static=panel.static[:, 1:],
        static_names=panel.static_names[1:],
    )
    _, model = grafted(source, less)
    blind = replace(panel, known=panel.known.clone(), static=panel.static.clone())
    blind.known[..., at] = WITHOUT_VALUE
    blind.static[:, 0] = WITHOUT_VALUE
    config = source.config.model_copy(update={"model": source.config.model.model_copy()})
    _, whole = grafted(source, panel)
    schema = replace(whole.schema, known_missing=source.schema.known_missing)
    asked = Forecaster(config, schema, whole.feature_size, whole.model.state_dict(), source.provenance)
    asked._check_known = lambda *_: None  # type: ignore[method-assign]  # forecasts are refused for want of a promotion
    assert source.schema.known_missing[at] > 0.05, "a promotion that is unknown is no day without one"
    assert same(forecast(model, less), forecast(asked, blind))


def test_a_target_with_sales_alone(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    bare = replace(
        panel,
        past=panel.past[..., :0], past_names=(),
        known=panel.known[..., :0], known_names=(),
        static=panel.static[:, :0], static_names=(),
    )  # fmt: skip
    start, model = grafted(source, bare)
    assert np.isfinite(forecast(model, bare)).all()
    table = start.inheritance.to_frame().set_index("part")
    total = sum(p.numel() for p in source.model.parameters())
    assert table["reused"].sum() + table["dropped"].sum() == total
    assert table["reused"].sum() + table["new"].sum() == sum(v.numel() for v in start.start.values())
    assert table["new"].sum() == 0
    assert table.loc["extractor.cart", "reused"] == 0 < table.loc["extractor.cart", "dropped"]
    assert "known-future: dropped price, promo" in str(start.inheritance).replace("promo, price", "price, promo")


def test_day_types_and_events_are_matched_by_name(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    calendar = panel.calendar
    names = tuple(reversed(calendar.day_types[:2])) + calendar.day_types[2:]
    swapped = np.where(calendar.day_type < 2, 1 - calendar.day_type, calendar.day_type)
    events = ("", *reversed(calendar.events[1:]))
    event = np.where(calendar.event > 0, len(events) - calendar.event, 0)
    turned = replace(
        panel,
        calendar=replace(calendar, day_types=names, day_type=swapped, events=events, event=event.astype(np.int16)),
    )
    _, model = grafted(source, turned)
    _, straight = grafted(source, panel)
    assert same(forecast(model, turned), forecast(straight, panel))


def test_an_unknown_event_begins_as_one_never_seen(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    events = tuple(f"{name} abroad" if name else "" for name in panel.calendar.events)
    foreign = replace(panel, calendar=replace(panel.calendar, events=events))
    start, _ = grafted(source, foreign)
    assert (start.start["event.weight"] == 0).all()
    assert not start.shared["event.weight"][1:].any()


def test_another_horizon_keeps_the_meaning_of_a_day_ahead(source: Forecaster) -> None:
    panel = small_panel(seed=2)
    start, longer = grafted(source, panel, "model.horizon=40")
    _, equal = grafted(source, panel)
    assert longer.horizon == 40 != equal.horizon
    assert all(mask.all() for mask in start.shared.values())
    assert same(forecast(longer, panel), forecast(equal, panel))


def test_another_mean_of_the_past_is_not_heard_at_first(source: Forecaster) -> None:
    """A longer history has longer means to be compared with; a model that had none is to have none."""
    panel = small_panel(seed=2)
    periods = source.config.model.trend_periods
    assert periods
    _, as_before = grafted(source, panel)
    start, longer = grafted(source, panel, f"model.trend_periods={[300, *periods]}")
    assert same(forecast(longer, panel), forecast(as_before, panel))
    assert [name for name, mask in start.shared.items() if not mask.all()] == ["decoder.0.weight"]
    _, without = grafted(source, panel, "model.trend_periods=[]")
    weeks = adaptation_config(without, "W", ["transfer.reset_periods=true"]).model
    assert weeks.trend_periods == () and weeks.skip_periods is None


def test_the_turn_of_the_month_is_not_heard_at_first(source: Forecaster) -> None:
    """A model from before it was told may be adapted to hear of it."""
    panel = small_panel(seed=2)
    _, earlier = grafted(source, panel, "model.turn_of_month=false")
    start, told = grafted(earlier, panel, "model.turn_of_month=true")
    assert same(forecast(told, panel), forecast(earlier, panel))
    assert "extractor.interval.0.weight" in [name for name, mask in start.shared.items() if not mask.all()]


def test_series_of_a_joint_model_are_matched_by_name() -> None:
    source = train(small_panel(series=("a", "b")), small_config("train.max_steps=2", paper=True))
    target = small_panel(seed=2, series=("b", "c"))
    start, model = grafted(source, target)
    head = start.start["head.linear.weight"]
    theirs = dict(source.model.named_parameters())["head.linear.weight"]
    assert torch.equal(head[0], theirs[1]), "b is the first of the target and the second of the source"
    assert start.shared["head.linear.weight"][0].all() and not start.shared["head.linear.weight"][1].any()
    assert head[1].abs().sum() > 0, "a new output starts as a fresh one"
    assert start.inheritance.inputs["series"] == {"reused": ["b"], "new": ["c"], "dropped": ["a"]}
    assert np.isfinite(forecast(model, target)).all()


def weekly(panel: Panel) -> Panel:
    """Weeks of the panel of days."""
    weeks = panel.shape[1] // 7
    dates = panel.dates[: weeks * 7 : 7]
    fold = (panel.shape[0], weeks, 7)
    calendar = build_calendar(dates, "W", [DayRule("festival", event=("*",))])
    rows = panel.sales[:, : weeks * 7, 0].view(*fold).sum(dim=-1, keepdim=True)
    seen = panel.observed[:, : weeks * 7, 0].view(*fold).any(dim=-1, keepdim=True)
    known = panel.known[:, : weeks * 7].unflatten(1, (weeks, 7)).mean(dim=2)
    past = panel.past[:, : weeks * 7].unflatten(1, (weeks, 7)).mean(dim=2)
    return replace(
        panel, calendar=calendar, sales=rows, observed=seen, known=known, past=past,
        closed=torch.zeros(fold[:2], dtype=torch.bool), calendar_index=torch.zeros(fold[0], dtype=torch.int64),
    )  # fmt: skip


def test_weeks_are_refused_by_a_model_of_days_unless_periods_begin_anew(source: Forecaster) -> None:
    weeks = weekly(small_panel(seed=2))
    with pytest.raises(ConfigError, match="--reset-periods"):
        grafted(source, weeks)
    start, model = grafted(source, weeks, "transfer.reset_periods=true")
    assert model.config.model.skip_periods == (4, 13)
    assert model.config.model.trend_periods and set(model.config.model.trend_periods) <= {3, 26, 52}
    assert start.shared["extractor.purchases.skips.0.lstm.weight_hh_l0"].all(), "four weeks are 28 days"
    assert not start.shared["extractor.purchases.skips.1.lstm.weight_hh_l0"].any()
    assert np.isfinite(model.predict(weeks, weeks.dates[60], 4).mean).all()


@pytest.mark.parametrize(
    "setting", ["model.hidden=16", "model.transform=linear", "model.psi=none", "train.view_mode=pooled"]
)
def test_another_network_is_refused(source: Forecaster, setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        grafted(source, small_panel(seed=2), setting)
