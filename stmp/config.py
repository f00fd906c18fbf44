"""Every setting, with its default and its meaning. The defaults are the preset ``product``.

A configuration is immutable and complete: it is written beside every checkpoint and model. Settings that the data
decides (``None`` below) are filled by `Config.resolve` once the frequency and length of the data are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from stmp.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


class ModelConfig(_Section):
    """The networks. Switches marked *paper* are those of the published model and its ablations."""

    horizon: int | None = Field(
        None, ge=1, description="Periods ahead that are learned; by default 56 days or 39 weeks."
    )
    context: int | None = Field(
        None, ge=2, description="Periods of recent sales that the recurrent nets read; by default 112 days or 52 weeks."
    )
    instances: Literal["context", "window"] = Field(
        "context",
        description="`window` (paper): each support and query instance is a window of its own. "
        "`context`: one pass over a long context serves every origin in it, and support days carry no recurrent state.",
    )
    hidden: int = Field(64, ge=1, description="Units of each recurrent net and of the feature vector h.")
    skip_periods: tuple[int, ...] | None = Field(
        None, description="Periods of the skip-LSTMs (paper); by default 7 and 28 days, or 4 and 13 weeks. [] for none."
    )
    members: int = Field(
        1,
        ge=1,
        description="Networks of an ensemble: they learn the same tasks from different starts, and their forecasts are "
        "averaged. Time and memory grow with it.",
    )
    psi: Literal["none", "deterministic", "stochastic"] = Field(
        "stochastic", description="The task features of a cell: none, their mean, or a distribution (paper)."
    )
    psi_size: int = Field(16, ge=1, description="Numbers in psi.")
    samples: int = Field(
        1, ge=1, description="Monte Carlo samples L of psi in training and, for `stochastic`, in forecasts."
    )
    beta_kl: float = Field(
        0.0,
        ge=0,
        description="Weight of KL(q(psi | support + query) || q(psi | support)); 0 as in the paper's objective.",
    )
    pooling: Literal["mean", "attention"] = Field(
        "attention",
        description="How support days reach a forecast: `mean` over the cell (paper), or that and attention from the "
        "target day's covariates over the region's own past.",
    )
    heads: int = Field(4, ge=1, description="Attention heads.")
    last_year: bool | None = Field(
        None,
        description="Sales of the same weeks a year before enter the decoder and the forecast's first guess; by "
        "default where a quarter of a year of training days have a year before them.",
    )
    counterparts: bool = Field(
        True,
        description="Last year's sales are those of the day that a day is like, so that a festival reads itself; else "
        "those of 52 weeks before.",
    )
    trend_periods: tuple[int, ...] | None = Field(
        None,
        description="Periods whose means over the level enter the decoder: where it comes from. By default a quarter "
        "of the level's window, half a year and a year, as far as a quarter of a year of training days have as many "
        "before them. [] for none.",
    )
    share_extractor: bool = Field(
        True, description="One feature extractor for amortization and generative network (paper)."
    )
    support_outcome: bool = Field(True, description="Support instances carry the sales of their target day (paper).")
    ar: bool = Field(True, description="The linear autoregressive block (paper).")
    ar_lags: int = Field(14, ge=1, description="Days the autoregressive block reads.")
    cart: bool = Field(True, description="The branch of past-only covariates such as carts or customers (paper).")
    static: bool = Field(True, description="Static features of the region (paper).")
    known: bool = Field(True, description="Known-future covariates of the target day enter encoder and decoder.")
    transform: Literal["linear", "log"] = Field(
        "log", description="What is learned: sales over the level, as they are (paper) or as log(ratio + 0.1)."
    )
    level_window: int | None = Field(
        None, ge=1, description="Periods of the trailing level that scales sales; by default 63 days or 13 weeks."
    )
    dropout: float = Field(
        0.3, ge=0, lt=1, description="Share of the decoder's units that drop out in training; 0 for none (paper)."
    )
    head: Literal["normal", "quantile"] = Field(
        "quantile", description="`normal`: unit variance, loss is the squared error (paper). `quantile`: no crossing."
    )
    levels: tuple[float, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), description="Quantile levels of a forecast; 0.5 among them."
    )
    turn_of_month: bool | None = Field(
        None,
        description="How near a day is to the first and the last of its month is told too, as pay days show there; by "
        "default of daily data.",
    )
    event_size: int = Field(
        6,
        ge=0,
        description="Learned numbers that stand for a named event; one never seen in training has none. 0 for off.",
    )
    series: Literal["joint", "split"] = Field(
        "split",
        description="`joint` (paper): one vector over all series of a region. `split`: each series is a task row.",
    )

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if (
            list(self.levels) != sorted(set(self.levels))
            or not all(0 < q < 1 for q in self.levels)
            or 0.5 not in self.levels
        ):
            raise ValueError("levels must increase strictly, lie between 0 and 1 and hold 0.5")
        if self.skip_periods is not None and any(p < 2 for p in self.skip_periods):
            raise ValueError("skip_periods must be 2 or more")
        if self.trend_periods is not None and any(p < 1 for p in self.trend_periods):
            raise ValueError("trend_periods must be 1 or more")
        return self


class TrainConfig(_Section):
    """Meta-training."""

    max_steps: int = Field(1500, ge=0, description="Optimiser steps at most.")
    max_minutes: float = Field(
        0.0,
        ge=0,
        description="Minutes at most, over all restarts; then it ends with what it has. 0 for no limit.",
    )
    batch_regions: int = Field(48, ge=1, description="Regions in a step, over all workers.")
    queries: int = Field(48, ge=1, description="Query days drawn from each region in a step.")
    supports: int = Field(160, ge=1, description="Support days drawn from each region's past in a step.")
    supports_forecast: int = Field(1200, ge=1, description="Support days at most when forecasting.")
    views: Literal["both", "spatial", "temporal"] = Field(
        "both", description="Alternate the views (paper), or hold to one."
    )
    view_mode: Literal["cell", "pooled"] = Field(
        "cell",
        description="`cell`: a task is a (region, day type). `pooled`: a region over its day types in the spatial "
        "view, a day type over its regions in the temporal view.",
    )
    day_type_temperature: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Day types are drawn by frequency to this power: 0 uniformly (paper), 1 by frequency.",
    )
    cold_fraction: float = Field(
        0.35,
        ge=0,
        le=1,
        description="Share of regions in a step whose history is cut short, so that new regions are learned.",
    )
    hide_last_year: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of queries that are shown nothing of last year in training, so that days are not known by "
        "what was sold a year before.",
    )
    level_step: float = Field(
        0.4,
        ge=0,
        description="Half of the regions in a step have their past multiplied by a number whose logarithm has this "
        "standard deviation, so that the few trends there are in the data are not learned by heart; 0 for none.",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup: int = Field(
        100, ge=0, description="Steps of linear warm-up; then the rate falls by a cosine to a twentieth."
    )
    weight_decay: float = Field(1e-2, ge=0, description="Decoupled weight decay.")
    clip: float = Field(1.0, gt=0, description="Norm at which gradients are clipped.")
    ema: float = Field(0.995, ge=0, lt=1, description="Decay of the weight average that forecasts; 0 for none.")
    precision: Literal["fp32", "tf32", "bf16"] = Field("fp32", description="Arithmetic of matrix products.")
    log_every: int = Field(50, ge=1, description="Steps between reports.")
    validate_every: int = Field(150, ge=1, description="Steps between validations.")
    checkpoint_every: int = Field(150, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept.")
    patience: int = Field(5, ge=1, description="Validations without a better score before training stops.")


class ValidationConfig(_Section):
    """What is held out of training, for early stopping and for what is measured of a trained network."""

    regions: float = Field(0.1, ge=0, lt=1, description="Share of regions never trained on (at most 200 are scored).")
    periods: int | None = Field(
        None, ge=0, description="Last periods before `--until` never trained on; by default 28 days or 8 weeks."
    )
    lean: float | None = Field(
        None,
        ge=0,
        description="How soon forecasts lean on last year's sales of that week: 1/lean periods ahead these weigh half; "
        "0 never; by default what is best on the last periods.",
    )
    lean_festivals: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Least weight of last year's sales in forecasts of days close to a festival, where what is known "
        "ahead is as it was then; less where ranges are wide; 0 for none.",
    )
    own_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of a region's own last year in what its forecasts lean on, beside what all regions sold "
        "then; 1 for its own alone; by default 0.6 or 1, what is best on the last periods.",
    )


# JSON has no infinity; as a text it is read back as the number.
Strength = Annotated[float, PlainSerializer(lambda x: x if math.isfinite(x) else str(x), when_used="json")]


class TransferConfig(_Section):
    """How strongly an adapted model is held to its source (`stmp adapt`): lambda of L2-SP, from 0 to `inf` (frozen)."""

    lambda_extractor: Strength = Field(
        0.1, ge=0, description="Of the feature extraction and of the numbers that stand for events."
    )
    lambda_amortization: Strength = Field(
        0.1, ge=0, description="Of what reads the support days: amortization network and attention."
    )
    lambda_head: Strength = Field(0.1, ge=0, description="Of the decoder and the head.")
    reset_periods: bool = Field(
        False, description="Let a daily source go to weekly data or back: what counts in periods begins anew."
    )


class Config(_Section):
    """A whole configuration."""

    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()
    transfer: TransferConfig = TransferConfig()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
        """Build from nested values and ``section.key=value`` overrides (values are read as YAML).

        Raises
        ------
        ConfigError
            Naming every key that is unknown, of the wrong type or out of range.
        """
        merged: dict[str, dict[str, Any]] = {name: dict(section or {}) for name, section in values.items()}
        for override in overrides:
            key, equals, text = override.partition("=")
            section, dot, name = key.strip().partition(".")
            if not equals or not dot:
                raise ConfigError(
                    f"Setting '{override}' is not of the form section.key=value, such as train.max_steps=500."
                )
            merged.setdefault(section, {})[name] = yaml.safe_load(text)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            faults = [f"{'.'.join(str(p) for p in e['loc']) or 'configuration'}: {e['msg']}" for e in error.errors()]
            raise ConfigError("The configuration cannot be used:\n  " + "\n  ".join(faults)) from error

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Config:
        """Read a YAML file of settings; what it leaves out keeps its default."""
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"The configuration {path} cannot be read: {error}") from error
        if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
            raise ConfigError(f"The configuration {path} must hold sections (model, train, validation) of settings.")
        return cls.from_mapping(values, overrides)

    def resolve(self, period_days: int, periods: int) -> Config:
        """Fill the settings that the data decides.

        Parameters
        ----------
        period_days : int
            Days in one period: 1 or 7.
        periods : int
            Periods of history to train on.
        """
        weekly = period_days > 1
        model, validation = self.model, self.validation
        horizon = model.horizon or min(39 if weekly else 56, max(1, periods // 4))
        held = validation.periods
        if held is None:  # an eighth, but a week at least where there are four
            held = min(8 if weekly else 28, max(periods // 8, min(1 if weekly else 7, periods // 4)))
        # How far last year is to be trusted is learned from days that have one; from a few weeks of them, wrongly:
        # what held in February would be believed at a moving Easter.
        year, quarter = 364 // period_days, 91 // period_days
        level_window = model.level_window or (13 if weekly else 63)
        longer = (max(1, level_window // 4), year // 2, year)
        learned = periods - held
        defaults: dict[str, Any] = {
            "last_year": learned >= year + quarter,
            "trend_periods": tuple(window for window in longer if learned >= window + quarter),
            "turn_of_month": not weekly,
            "horizon": horizon,
            "context": model.context or min(52 if weekly else 112, max(8, periods // 2)),
            "skip_periods": (4, 13) if weekly else (7, 28),
            "level_window": level_window,
        }
        chosen = {name: value for name, value in defaults.items() if getattr(model, name) is None}
        return self.model_copy(
            update={
                "model": model.model_copy(update=chosen),
                "validation": validation.model_copy(update={"periods": held}),
            }
        )
