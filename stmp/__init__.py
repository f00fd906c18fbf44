"""STMP: spatio-temporal meta-learning for the sales of many regions. Pure PyTorch; no cluster needed.

>>> import stmp
>>> panel = stmp.Panel.from_frame(sales, known=["promo"], events=holidays, horizon=14)
>>> model = stmp.train(panel)
>>> model.predict(panel, origin=panel.last_observed, horizon=14).plot(panel)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stmp.config import Config
    from stmp.data.panel import Panel
    from stmp.forecast import Forecast
    from stmp.forecaster import Forecaster
    from stmp.learning.train import train

__all__ = ["Config", "Forecast", "Forecaster", "Panel", "train"]

_HOMES = {
    "Config": "stmp.config",
    "Forecast": "stmp.forecast",
    "Forecaster": "stmp.forecaster",
    "Panel": "stmp.data.panel",
    "train": "stmp.learning.train",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `stmp --help` and `stmp.errors` need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stmp' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
