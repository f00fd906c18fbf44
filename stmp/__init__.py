"""STMP: spatio-temporal meta-learning for the sales of many regions. Pure PyTorch; no cluster needed.

>>> import stmp
>>> panel = stmp.Panel.from_frame(sales, known=["promo"], events=holidays, horizon=14)
>>> model = stmp.train(panel)
>>> model.predict(panel, origin=panel.last_observed, horizon=14).plot(panel)
"""

from stmp.config import Config
from stmp.data.panel import Panel
from stmp.forecast import Forecast
from stmp.forecaster import Forecaster
from stmp.learning.train import train

__all__ = ["Config", "Forecast", "Forecaster", "Panel", "train"]
