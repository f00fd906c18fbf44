"""A source's parameters on a target's network: matched by role and name, whatever order or number the target has.

What source and target share starts from the source. What is new to a layer that they share starts at zero, and a part
of the network that is new as any fresh one; neither is heard until fine-tuning gives it weight, so that the grafted
model forecasts as the source does. What the target lacks is dropped, as a value that is missing: its resting value goes
into the layer's bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from stmp.config import Config, ModelConfig
from stmp.data.calendar import period_days
from stmp.data.schema import Schema
from stmp.errors import ConfigError
from stmp.nets.ensemble import Network
from stmp.nets.names import BRANCHES, Axes, input_units, parameter_axes, within_member

if TYPE_CHECKING:
    from stmp.forecaster import Forecaster

ADAPTABLE = frozenset(
    {
        "horizon",
        "context",
        "level_window",
        "skip_periods",
        "trend_periods",
        "turn_of_month",
        "ar_lags",
        "levels",
        "samples",
        "beta_kl",
    }
)
"""Settings of the model that a target may change; the others are what the source's parameters mean."""

ROLES = {
    "series": "series",
    "known-future": "known_names",
    "past": "past_names",
    "static": "static_names",
    "day types": "day_types",
    "events": "events",
}


@dataclass(frozen=True)
class Inheritance:
    """What a target has of its source.

    Attributes
    ----------
    inputs : dict of role to dict of "reused", "new" and "dropped" to names
    parameters : dict of part of the network to dict of "group" and numbers "reused", "new" and "dropped"
    """

    inputs: dict[str, dict[str, list[str]]]
    parameters: dict[str, dict[str, str | int]]

    def to_frame(self) -> pd.DataFrame:
        """One row a part of the network: its group, and how many parameters are reused, new and dropped."""
        return pd.DataFrame.from_dict(self.parameters, orient="index").rename_axis("part").reset_index()

    def __str__(self) -> str:
        lines = [self.to_frame().to_string(index=False)]
        for role, names in self.inputs.items():
            told = "; ".join(f"{what} {', '.join(found)}" for what, found in names.items() if found)
            lines.append(f"{role}: {told or 'none'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Graft:
    """Where a target starts from.

    Attributes
    ----------
    start : dict of Tensor
        Value of every parameter.
    shared : dict of Tensor bool
        Which of its elements are the source's.
    inheritance : Inheritance
    """

    start: dict[str, Tensor]
    shared: dict[str, Tensor]
    inheritance: Inheritance


@torch.no_grad()
def graft(source: Forecaster, model: Network, config: Config, schema: Schema) -> Graft:
    """Match a source's parameters to those of a fresh target network; the network is not changed.

    Parameters
    ----------
    source : Forecaster
    model : Network
        Made for the target, with the values that new parameters shall have.
    config : Config, resolved
        Of the target.
    schema : Schema
        Of the target; its scales are its own.

    Raises
    ------
    ConfigError
        If the target counts in other periods than the source and `transfer.reset_periods` is not set, or its network
        is built in another way.
    """
    check_match(source, config, schema.frequency)
    fresh = {name: p.detach().clone() for name, p in model.named_parameters()}
    axes = parameter_axes(model, schema)
    weights = {name: p.detach().cpu() for name, p in source.model.named_parameters()}
    source_axes = parameter_axes(source.model, source.schema)
    donors = {a.role: name for name, a in source_axes.items()}
    ratios = _ratios(source.config.model, config.model)
    start: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    for name, value in fresh.items():
        donor = donors.get(axes[name].role)
        if donor is None:
            start[name], shared[name] = value, torch.zeros_like(value, dtype=torch.bool)
            continue
        own, mask = _match(value, weights[donor].to(value.device), axes[name], source_axes[donor], ratios)
        start[name], shared[name] = own, mask
    for name, axis in axes.items():
        donor = donors.get(axis.role)
        if donor is not None and axis.columns is not None:
            static = weights.get(donor.removesuffix(within_member(donor)) + "extractor.static.0.bias")
            rest = _resting(source.schema, static)
            _settle(start, name, weights[donor], source_axes[donor].columns or (), axis.columns, rest)
    return Graft(start, shared, _inheritance(axes, shared, source_axes, weights, source.schema, schema))


def check_match(source: Forecaster, config: Config, frequency: str) -> None:
    """Refuse a target that the source's parameters can mean nothing to.

    Parameters
    ----------
    source : Forecaster
    config : Config
        Of the target.
    frequency : str
        Of the target.

    Raises
    ------
    ConfigError
    """
    theirs, ours = period_days(source.schema.frequency), period_days(frequency)
    if theirs != ours and not config.transfer.reset_periods:
        unit = {1: "daily", 7: "weekly"}
        raise ConfigError(
            f"The source was trained on {unit[theirs]} data and the target is {unit[ours]}: weekdays, lags and skip "
            "periods do not carry over. Aggregate the target to the source's frequency, choose another source, or give "
            "--reset-periods to begin those anew and keep the rest."
        )
    was, asked = source.config.model.model_dump(), config.model.model_dump()
    changed = [f"model.{key} is {was[key]} in the source, not {asked[key]}" for key in asked if asked[key] != was[key]]
    fixed = [text for text in changed if text.split()[0].removeprefix("model.") not in ADAPTABLE]
    if source.config.train.view_mode != config.train.view_mode:
        fixed.append(f"train.view_mode is {source.config.train.view_mode} in the source, not {config.train.view_mode}")
    if fixed:
        raise ConfigError(
            f"The source's parameters mean nothing in another network: {'; '.join(fixed)}. Leave these settings out; "
            f"adapting may change {', '.join(f'model.{name}' for name in sorted(ADAPTABLE))}."
        )


def _match(value: Tensor, donor: Tensor, own: Axes, theirs: Axes, ratios: dict[str, float]) -> tuple[Tensor, Tensor]:
    """A parameter's start, and which of its elements are the donor's.

    New rows (another series of the head) keep the fresh values, but events start as one that is not known, with zero;
    new columns start at zero.
    """
    start = value.clone()
    if own.columns is not None or within_member(own.role) == "event.weight":
        start.zero_()
    rows, from_rows = _places(own.rows, theirs.rows, value.shape[0])
    mask = torch.zeros_like(value, dtype=torch.bool)
    if value.ndim == 1:
        start[rows] = donor[from_rows]
        mask[rows] = True
        return start, mask
    columns, from_columns = _places(own.columns, theirs.columns, value.shape[1])
    scale = torch.tensor([ratios.get(name, 1.0) for name in own.columns or ()], device=value.device)
    part = donor[from_rows][:, from_columns]
    if own.columns is not None:
        part = part * scale[columns]
    start[rows[:, None], columns] = part
    mask[rows[:, None], columns] = True
    return start, mask


def _places(own: tuple[str, ...] | None, theirs: tuple[str, ...] | None, size: int) -> tuple[Tensor, Tensor]:
    """Positions along an axis of what both have, in the target and in the source."""
    if own is None or theirs is None:
        return torch.arange(size), torch.arange(size)
    where = {name: place for place, name in enumerate(theirs)}
    pairs = [(place, where[name]) for place, name in enumerate(own) if name in where]
    both = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    return both[:, 0], both[:, 1]


def _ratios(source: ModelConfig, target: ModelConfig) -> dict[str, float]:
    """Factors of weights whose input is measured by the horizon, so that a day ahead stays a day ahead."""
    theirs, ours = input_units(source), input_units(target)
    return {name: ours[name] / theirs[name] for name in ours}


def _resting(schema: Schema, static_bias: Tensor | None) -> dict[str, float]:
    """What a column reads where its input is missing, if that is not zero."""
    rest = {
        f"known {name}{when}": missing
        for name, missing in zip(schema.known_names, schema.known_missing, strict=True)
        for when in ("", " before", " after")
    }
    if static_bias is not None:  # a region that nothing is known of
        rest |= {f"static#{k}": float(v) for k, v in enumerate(static_bias.relu())}
    # Without skip-LSTMs, one layer reads the inputs of both branches.
    rest |= {f"{branch}: {name}": value for branch in BRANCHES for name, value in rest.items()}
    return {name: value for name, value in rest.items() if value != 0.0}


def _settle(
    start: dict[str, Tensor],
    name: str,
    donor: Tensor,
    theirs: tuple[str, ...],
    ours: tuple[str, ...],
    rest: dict[str, float],
) -> None:
    """Put the resting values of the columns that a layer loses into its bias."""
    bias = name.replace("weight", "bias")
    gone = set(theirs) - set(ours)
    for place, column in enumerate(theirs):
        if column in gone and column in rest and bias in start:
            start[bias] = start[bias] + rest[column] * donor[:, place].to(start[bias].device)


def _inheritance(
    axes: dict[str, Axes],
    shared: dict[str, Tensor],
    source_axes: dict[str, Axes],
    weights: dict[str, Tensor],
    theirs: Schema,
    ours: Schema,
) -> Inheritance:
    inputs = {}
    for role, field in ROLES.items():
        was, now = (tuple(n for n in getattr(schema, field) if n) for schema in (theirs, ours))
        if role == "series" and len(was) == len(now) == 1:
            was = now
        inputs[role] = {
            "reused": [n for n in now if n in was],
            "new": [n for n in now if n not in was],
            "dropped": [n for n in was if n not in now],
        }
    parts: dict[str, dict[str, str | int]] = {}
    reused_of_role = {axes[name].role: int(mask.sum()) for name, mask in shared.items()}
    for name, mask in shared.items():
        row = parts.setdefault(
            part_of(axes[name].role), {"group": axes[name].group, "reused": 0, "new": 0, "dropped": 0}
        )
        row["reused"] = int(row["reused"]) + int(mask.sum())
        row["new"] = int(row["new"]) + int((~mask).sum())
    for name, axis in source_axes.items():
        row = parts.setdefault(part_of(axis.role), {"group": axis.group, "reused": 0, "new": 0, "dropped": 0})
        row["dropped"] = int(row["dropped"]) + weights[name].numel() - reused_of_role.get(axis.role, 0)
    return Inheritance(inputs, dict(sorted(parts.items())))


def part_of(role: str) -> str:
    """The part of the network that a parameter is counted under."""
    parts = within_member(role).split(".")
    return ".".join(parts[:2]) if "extractor" in parts[0] else parts[0]
