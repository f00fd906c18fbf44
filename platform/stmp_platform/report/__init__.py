"""The report of a backtest: one self-contained HTML page, and the same pictures as PNG."""

from stmp_platform.report.cards import model_card
from stmp_platform.report.page import write_report
from stmp_platform.report.pictures import write_pictures

__all__ = ["model_card", "write_pictures", "write_report"]
