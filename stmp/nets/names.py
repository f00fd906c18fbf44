"""Names for the rows and columns of the networks' parameters: which input, series or day each one stands for.

The networks concatenate their inputs in a fixed order and know them by position alone. A model that is adapted to other
data needs to know them by name: that the third column of a layer is the promotion, and that the target has it as the
seventh. What counts in periods is named in days, so that daily and weekly models can be told apart and matched.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from stmp.config import ModelConfig
from stmp.data.calendar import period_days
from stmp.data.features import TURN_DAYS
from stmp.data.schema import Schema
from stmp.nets.attention import LEARNED
from stmp.nets.ensemble import Network
from stmp.nets.extractor import ALIGNED_LAGS
from stmp.nets.first_guess import NEIGHBOURS

BRANCHES = ("purchases", "cart")
GROUPS = ("extractor", "amortization", "head")
"""The groups that have a lambda of their own."""

MEMBER = re.compile(r"^members\.\d+\.")

Names = tuple[str, ...]


@dataclass(frozen=True)
class Axes:
    """What a parameter stands for.

    Attributes
    ----------
    role : str
        Equal in two models where the parameter does the same; differs from its own name where that is a position.
    group : str
        One of `GROUPS`.
    rows, columns : tuple of str, optional
        Names along the first and second axis. None: hidden units, which have no meaning apart from their model.
    """

    role: str
    group: str
    rows: Names | None = None
    columns: Names | None = None


def parameter_axes(model: Network, schema: Schema) -> dict[str, Axes]:
    """Role, group and names of every parameter of a model.

    Parameters
    ----------
    model : Network
    schema : Schema
        That it was made for.
    """
    config = model.config
    rows, columns = _named_rows(config, schema), _named_columns(config, schema)
    axes = {}
    for name, parameter in model.named_parameters():
        own = within_member(name)
        axes[name] = Axes(_role(name, config, schema), group_of(name), rows.get(own), columns.get(own))
        for names, size in zip((axes[name].rows, axes[name].columns), parameter.shape, strict=False):
            assert names is None or len(names) == size, f"{name} has {tuple(parameter.shape)}, and {len(names)} names"
    return axes


def group_of(parameter: str) -> str:
    """Which lambda holds a parameter."""
    part = within_member(parameter).partition(".")[0]
    if part in ("amortization", "attention"):
        return "amortization"
    return "head" if part in ("decoder", "first_guess", "head") else "extractor"


def within_member(parameter: str) -> str:
    """A parameter's name in its own network, without the member of an ensemble that it belongs to."""
    return MEMBER.sub("", parameter)


def feature_names(config: ModelConfig, schema: Schema) -> Names:
    """The features of a day, in the order of `History` and with the numbers of its event at the end."""
    names = [f"{f} {k} of the year" for k in (1, 2, 3, 4) for f in ("sin", "cos")]
    names += [f"{f} {k} of the month" for k in (1, 2) for f in ("sin", "cos")]
    if config.turn_of_month:
        names += [f"{side} of the month, {days} days" for side in ("start", "end") for days in TURN_DAYS]
    if period_days(schema.frequency) == 1:
        names += [f"weekday {k}" for k in range(7)]
    names += [f"day type {name}" for name in schema.day_types]
    names += [f"{side} festival, {days} days" for side in ("to", "since") for days in (2, 7)]
    names += ["days from event", "is event"]
    if config.known:
        for when in ("", " before", " after"):
            names += [f"known {name}{when}" for name in schema.known_names] + [f"closed{when}"]
    return tuple(names) + _units("event", config.event_size)


def input_units(config: ModelConfig) -> dict[str, float]:
    """What one is, of the inputs that are measured by the model's own horizon."""
    assert config.horizon is not None
    return {"lead over horizon": float(config.horizon), "log lead over horizon": math.log1p(config.horizon)}


def _series(schema: Schema) -> Names:
    """Names of the series; a single one is what a region sells, whatever it is called."""
    return schema.series if len(schema.series) > 1 else ("sales",)


def _last_year(series: Names) -> Names:
    """What is read of last year, in the order of `stmp.nets.first_guess.last_year`."""
    weeks = [f"last year, {shift:+d} weeks" for shift in NEIGHBOURS]
    readings = [f"{week}{growth}" for growth in ("", ", with growth") for week in weeks]
    return tuple(f"{name}, {reading}" for reading in readings for name in series)


def _units(of: str, number: int) -> Names:
    return tuple(f"{of}#{k}" for k in range(number))


def _named_rows(config: ModelConfig, schema: Schema) -> dict[str, Names]:
    rows: dict[str, Names] = {"event.weight": schema.events}
    outputs = _series(schema)
    if config.head == "quantile":
        outputs = tuple(f"{name} q{level:g}" for name in outputs for level in config.levels)
    heads = config.heads if config.pooling == "attention" else 0
    candidates = tuple(f"attended#{head} {name}" for head in range(heads) for name in _series(schema))
    candidates += tuple(f"level {name}" for name in _series(schema))
    candidates += _last_year(_series(schema)) if config.last_year else ()
    rows |= {"first_guess.weigh.weight": candidates, "first_guess.weigh.bias": candidates}
    return rows | {"head.linear.weight": outputs, "head.linear.bias": outputs}


def _named_columns(config: ModelConfig, schema: Schema) -> dict[str, Names]:
    """Columns of the layers that read inputs, or what several parts of the network have made."""
    features, series = feature_names(config, schema), _series(schema)
    sold = tuple(f"sales {name}" for name in series) + tuple(f"observed {name}" for name in series)
    static = tuple(f"static {name}" for name in schema.static_names) if config.static else ()
    embedded = _units("h", config.hidden) if config.instances == "window" else features + static
    heads = config.heads
    decoder = (*_units("h", config.hidden), "lead over horizon", "log lead over horizon", "nearness")
    means = [periods * period_days(schema.frequency) for periods in config.trend_periods or ()]
    decoder += tuple(f"mean of {days} days {name}" for days in means for name in series)
    decoder += features if config.known else ()
    if config.pooling == "attention":
        decoder += _units("attended", heads * LEARNED)
        decoder += tuple(f"attended#{head} sales {name}" for head in range(heads) for name in series)
    if config.last_year:
        decoder += tuple(f"{what} {name}" for what in ("sales", "observed") for name in _last_year(series))
    if config.psi != "none":
        decoder += _units("psi", config.psi_size)
    columns = {
        "amortization.embed.0.weight": embedded + (sold if config.support_outcome else ()),
        "attention.match.0.weight": features,
        "attention.value.0.weight": features + sold,
        "decoder.0.weight": decoder,
    }
    for prefix in ("extractor", "support_extractor"):
        columns |= {f"{prefix}.{key}": names for key, names in _extractor_columns(config, schema).items()}
    return columns


def _extractor_columns(config: ModelConfig, schema: Schema) -> dict[str, Names]:
    assert config.skip_periods is not None
    features, series, days = feature_names(config, schema), _series(schema), period_days(schema.frequency)
    known = features if config.known else ()
    past = tuple(f"past {name}" for name in schema.past_names)
    seen = tuple(f"observed {name}" for name in past)
    inputs = {
        "purchases": tuple(f"sales {name}" for name in series) + tuple(f"observed {name}" for name in series) + known
    }
    if config.cart and past:
        inputs["cart"] = past + seen + known
    columns: dict[str, Names] = {}
    skips: tuple[str, ...] = ()
    for position, period in enumerate(config.skip_periods):
        for branch, names in inputs.items():
            columns[f"{branch}.skips.{position}.lstm.weight_ih_l0"] = names
            skips += _units(f"{branch} {period * days} days", config.hidden)
    joint = skips or tuple(f"{branch}: {name}" for branch, names in inputs.items() for name in names)
    top = tuple(unit for branch in inputs for unit in _units(branch, config.hidden)) + skips
    if config.ar:
        phase = config.skip_periods[0] if config.skip_periods else 7
        lags = [f"lag {k * days} days" for k in range(config.ar_lags)]
        lags += [f"phase {phase * days} days, {k}" for k in range(ALIGNED_LAGS)]
        sold = tuple(f"{what} {name}, {lag}" for what in ("sales", "observed") for lag in lags for name in series)
        columns["ar.weight"] = sold + (past + seen if "cart" in inputs else ())
        top += _units("ar", config.hidden)
    static = _units("static", config.hidden) if config.static and schema.static_names else ()
    return columns | {
        "joint.weight": joint,
        "static.0.weight": tuple(f"static {name}" for name in schema.static_names),
        "interval.0.weight": features,
        "place.0.weight": _units("interval", config.hidden) + static,
        "top.0.weight": top + _units("place", config.hidden),
    }


def _role(parameter: str, config: ModelConfig, schema: Schema) -> str:
    """A parameter's name, with periods and branches in place of positions in a list."""
    parts = parameter.split(".")
    if "skips" in parts:
        at = parts.index("skips") + 1
        assert config.skip_periods is not None
        parts[at] = f"{config.skip_periods[int(parts[at])] * period_days(schema.frequency)}_days"
    if "lstms" in parts:
        at = parts.index("lstms") + 1
        parts[at] = BRANCHES[int(parts[at])]
    return ".".join(parts)
