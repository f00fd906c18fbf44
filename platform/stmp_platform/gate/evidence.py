"""What the gate knows before it judges: both models' facts, and what came of letting them forecast the same windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stmp.errors import DataError
from stmp.evaluation.calibration import Reliability
from stmp.evaluation.metrics import summary
from stmp.evaluation.paired import Difference, Paired, compare, difference
from stmp.forecast import Predictor
from stmp_platform.gate.rules import Rules
from stmp_platform.gate.trial import Cost, OnTrial, TrialError, cost_of, weights_of

if TYPE_CHECKING:
    from stmp.data.panel import Panel
    from stmp.forecaster import Forecaster
    from stmp_platform.dataset import Manifest

CHALLENGER, CHAMPION, NAIVE = "challenger", "champion", "seasonal naive"
HORIZON = {1: 14, 7: 8}
"""Periods in a window where the rules name none, by days in a period."""


@dataclass(frozen=True)
class Candidate:
    """A model's facts.

    Attributes
    ----------
    version : str
        ``name/number``.
    series : tuple of str
        That it forecasts together; empty if it forecasts each one on its own, whatever the data has.
    inputs : frozenset of str
        Covariates and features that a client must give.
    fingerprint, recorded : str
        Of the data that it was trained on, as the model says and as its registered version says.
    """

    version: str
    frequency: str
    series: tuple[str, ...]
    inputs: frozenset[str]
    horizon: int
    levels: tuple[float, ...]
    trained_until: str
    trained_regions: frozenset[str]
    fingerprint: str
    recorded: str

    @classmethod
    def of(cls, model: Forecaster, recorded: str = "") -> Candidate:
        """The facts of a loaded forecaster."""
        schema = model.schema
        inputs = frozenset({*schema.known_names, *schema.past_names, *schema.static_names})
        series = () if model.config.model.series == "split" else schema.series
        return cls(
            model.provenance.version, schema.frequency, series, inputs, model.horizon, model.config.model.levels,
            model.trained_until, frozenset(model.trained_regions), model.fingerprint, recorded,
        )  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """The data that both are judged on.

    Attributes
    ----------
    fingerprint, read : str
        As the manifest says, and of the panel that was read.
    """

    name: str
    fingerprint: str
    read: str
    last_sale: str
    frequency: str
    series: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest, panel: Panel) -> Judged:
        """The facts of a dataset and the panel read from it."""
        return cls(
            manifest.name, manifest.fingerprint, panel.fingerprint, str(panel.last_observed), panel.frequency,
            panel.series,
        )  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """All that the rules are applied to.

    Attributes
    ----------
    opponent : str
        What the challenger is held against: the champion, or seasonal naive while there is none.
    origins : tuple of str
        The last known day of each window; empty where the data leave none.
    unread : str
        Why the champion cannot read these data, where their columns have changed.
    trial_error : str
        Why the challenger could not forecast; then what follows is empty.
    overall : dict of name to metrics
        Of both models, all days.
    """

    challenger: Candidate
    champion: Candidate | None
    data: Judged
    today: date
    horizon: int
    origins: tuple[str, ...]
    unread: str = ""
    trial_error: str = ""
    faults: dict[str, int] = field(default_factory=dict)
    cost: Cost | None = None
    slices: dict[str, Difference] = field(default_factory=dict)
    groups: dict[str, Difference] = field(default_factory=dict)
    overall: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    reliability: dict[str, Reliability] = field(default_factory=dict)

    @property
    def opponent(self) -> str:
        """What the challenger is held against."""
        return CHAMPION if self.champion is not None and not self.unread else NAIVE


def gather(
    challenger: Forecaster,
    champion: Forecaster | None,
    panel: Panel,
    manifest: Manifest,
    rules: Rules,
    today: date,
    recorded: str = "",
) -> Evidence:
    """Let the challenger and the champion (or seasonal naive) forecast the same windows, and measure.

    Seasonal naive stands in for a champion that there is not, or whose columns the data have no more: that one cannot
    forecast for anybody.

    Parameters
    ----------
    today : date
        Against which the age of the data is measured.
    recorded : str
        Fingerprint of the training data, as the challenger's registered version says.

    Raises
    ------
    TrialError
        If the champion cannot forecast these data: then there is nothing to compare with.
    """
    facts = Candidate.of(challenger, recorded)
    theirs = None if champion is None else Candidate.of(champion)
    horizon = _horizon(rules, panel, facts, theirs)
    origins = windows(panel, [c.trained_until for c in (facts, theirs) if c is not None], horizon, rules)
    unread = "" if champion is None else _unread(champion, panel)
    known = (facts, theirs, Judged.of(manifest, panel), today, horizon, tuple(str(o) for o in origins), unread)
    if len(origins) < rules.windows.least or (theirs is not None and theirs.frequency != facts.frequency):
        return Evidence(*known)
    other: Predictor
    if champion is None or unread:
        from stmp.evaluation.baselines import SeasonalNaive

        levels, opponent, other = facts.levels, NAIVE, SeasonalNaive(levels=facts.levels)
    else:
        levels = tuple(q for q in facts.levels if q in champion.config.model.levels)
        opponent, other = CHAMPION, champion
    trial = OnTrial(CHALLENGER, challenger, levels)
    cold = [str(r) for r in panel.regions if not any(str(r) in c.trained_regions for c in (facts, theirs) if c)]
    try:
        cost = cost_of(trial, weights_of(challenger), panel, origins[-1], horizon)
        paired = compare(
            {CHALLENGER: trial, opponent: OnTrial(opponent, other, levels)},
            panel, origins, horizon,
            cold_histories=rules.windows.cold_histories, cold_regions=cold, group_by=rules.group_by,
        )  # fmt: skip
    except TrialError as error:
        if error.model != CHALLENGER:
            raise
        return Evidence(*known, trial_error=str(error), faults=trial.faults)
    slices, groups = ({n: _difference(s, rules) for n, s in part.items()} for part in (paired.slices, paired.groups))
    return Evidence(
        *known, faults=trial.faults, cost=cost, slices=slices, groups=groups, overall=_overall(paired),
        reliability=paired.reliability,
    )  # fmt: skip


def _unread(champion: Forecaster, panel: Panel) -> str:
    """Why a model cannot read some data; empty if it can."""
    try:
        champion.rows_of(panel.select([0]))
    except DataError as error:
        return str(error)
    return ""


def windows(panel: Panel, trained_until: list[str], horizon: int, rules: Rules) -> list[np.datetime64]:
    """Origins of the latest windows that end with the data and begin after the last day that any model has seen."""
    last = panel.index_of(panel.last_observed)
    seen = np.datetime64(pd.Timestamp(max(trained_until)), "D")
    first = int(np.searchsorted(panel.dates, seen))  # the first origin that leaves no seen day to forecast
    step = rules.windows.step or horizon
    places = range(last - horizon, first - 1, -step)
    return [panel.dates[place] for place in places[: rules.windows.most]][::-1]


def _horizon(rules: Rules, panel: Panel, challenger: Candidate, champion: Candidate | None) -> int:
    learned = min(c.horizon for c in (challenger, champion) if c is not None)
    return rules.windows.horizon or min(HORIZON[panel.period_days], learned)


def _difference(sums: np.ndarray, rules: Rules) -> Difference:
    test = rules.test
    return difference(sums, test.metric, draws=test.draws, seed=test.seed, confidence=test.confidence)


def _overall(paired: Paired) -> dict[str, dict[str, float | int | None]]:
    sums = paired.slices["all"].sum(axis=(1, 2))  # [2, K]
    return {name: summary(sums[i]) for i, name in enumerate(paired.models)}
