"""What the application is told at its start: the `args` of a Serve config, checked."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from stmp.errors import ConfigError

OBSERVATIONS = "STMP_OBSERVATIONS"


class Settings(BaseModel):
    """Data, store, and limits of the application; which model it answers with is the deployment's `user_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    data: str = Field(description="The dataset: a folder that `stmp ingest` wrote.")
    observations: SecretStr | None = Field(
        None,
        description="Database of the observations, sqlite:///file.db or PostgreSQL's; by default $STMP_OBSERVATIONS.",
    )
    until: str | None = Field(None, description="Last day whose sales are used of the data; by default its last one.")
    ahead: int = Field(400, ge=1, description="Periods beyond the data that forecasts and observations may reach.")
    host: str = Field("127.0.0.1", description="Where the HTTP proxies listen; without tokens only on loopback.")
    max_body_mb: float = Field(8.0, gt=0, description="Largest body of a request.")
    max_regions: int = Field(2000, ge=1, description="Regions in one request.")
    max_numbers: int = Field(
        5_000_000, ge=1, description="Numbers in one answer: regions x periods x series x quantiles."
    )
    max_changes: int = Field(20_000, ge=1, description="Regions x what-ifs of one request.")
    max_waiting: int = Field(200, ge=1, description="Requests that wait for the model; more are answered 503.")
    max_gap: int = Field(92, ge=1, description="Periods that an observation may lie past its region's last known day.")
    rate: float = Field(200.0, gt=0, description="Requests a second that one token may make of one replica.")

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Settings:
        """Check the `args` of a Serve config.

        Raises
        ------
        ConfigError
            Naming each setting that cannot be used.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"The application's args cannot be used: {faults}.") from None

    @property
    def store(self) -> str:
        """The database URI of the observations, which may hold a password.

        Raises
        ------
        ConfigError
            If there is none.
        """
        if self.observations is not None:
            return self.observations.get_secret_value()
        if uri := os.environ.get(OBSERVATIONS):
            return uri
        raise ConfigError(
            f"No database of observations is named: set {OBSERVATIONS}, to sqlite:///file.db on one machine, or to "
            "postgresql+psycopg2://... on several."
        )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the application."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
