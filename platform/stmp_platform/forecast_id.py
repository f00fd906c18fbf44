"""The id of a forecast, in its file and in the server's answer: all that it takes to trace it, and no table of ids."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stmp.errors import ConfigError

FINGERPRINT = 12
"""Digits of the dataset's fingerprint in an id."""
_ID = re.compile(r"(?P<version>.+):(?P<data>[0-9a-f]*):(?P<day>\d{4}-\d\d-\d\d)(?:\+(?P<sequence>\d+))?$")


@dataclass(frozen=True)
class ForecastId:
    """``stores/3:1a2b3c4d5e6f:2025-01-31``, and ``+17`` where a server had taken in 17 changes of observations.

    Attributes
    ----------
    version : str
        Of the model: ``name/number`` if it is registered, else its folder.
    data : str
        First digits of the dataset's fingerprint.
    day : str
        The last day of that dataset whose sales were used.
    sequence : int
        Number of the last change of observations that was used besides; 0 for none.
    """

    version: str
    data: str
    day: str
    sequence: int = 0

    @classmethod
    def of(cls, version: str, fingerprint: str, day: object, sequence: int = 0) -> ForecastId:
        """The id of what a model forecasts from a dataset."""
        return cls(version, fingerprint[:FINGERPRINT], str(day), sequence)

    @classmethod
    def parse(cls, text: str) -> ForecastId:
        """Read an id.

        Raises
        ------
        ConfigError
            If it is none.
        """
        found = _ID.match(text)
        if found is None:
            raise ConfigError(
                f"'{text}' is no forecast's id. Forecasts carry theirs as forecast_id, such as "
                "stores/3:1a2b3c4d5e6f:2025-01-31."
            )
        return cls(found["version"], found["data"], found["day"], int(found["sequence"] or 0))

    def __str__(self) -> str:
        text = f"{self.version}:{self.data}:{self.day}"
        return f"{text}+{self.sequence}" if self.sequence else text
