"""Who may do what: bearer tokens with scopes, and how often.

``STMP_SERVE_TOKENS`` is a JSON object by the client's name:
``{"shop": {"token": "...", "scopes": ["read", "write"]}}``. Tokens are kept as hashes and compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from serving.problems import ApiError
from stmp.errors import ConfigError

VARIABLE = "STMP_SERVE_TOKENS"
BURST_S = 2.0
"""Seconds of its rate that a client may save up."""

Scope = Literal["read", "write", "admin"]
_bearer = HTTPBearer(auto_error=False, description="A token of STMP_SERVE_TOKENS.")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    token: SecretStr = Field(min_length=16)
    scopes: frozenset[Scope] = Field(min_length=1)


@dataclass(frozen=True)
class Client:
    """Someone who has a token."""

    name: str
    scopes: frozenset[str]


class Guard:
    """Knows the tokens, and counts requests.

    Parameters
    ----------
    tokens : mapping
        Client by the SHA-256 of its token; without any, everyone may do everything, as often as they like.
    rate : float
        Requests a second and client.
    clock : function
        Seconds, as `time.monotonic`.
    """

    def __init__(
        self, tokens: Mapping[bytes, Client], rate: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tokens, self.rate, self.clock = dict(tokens), rate, clock
        self.saved: dict[str, tuple[float, float]] = {}

    @classmethod
    def from_env(cls, rate: float, *, loopback: bool, env: Mapping[str, str] | None = None) -> Guard:
        """Read the tokens from the environment.

        Raises
        ------
        ConfigError
            If they cannot be read, or there are none and others can reach the application.
        """
        text = (os.environ if env is None else env).get(VARIABLE, "")
        try:
            entries = TypeAdapter(dict[str, _Entry]).validate_json(text or "{}")
        except ValidationError as error:
            # Neither the input nor pydantic's message of it: both hold tokens.
            places = sorted({".".join(map(str, e["loc"])) or "all of it" for e in error.errors(include_input=False)})
            raise ConfigError(
                f"{VARIABLE} cannot be read ({', '.join(places)}). It is a JSON object such as "
                '{"shop": {"token": "16 letters or more", "scopes": ["read", "write"]}}; scopes: read, write, admin.'
            ) from None
        if not entries and not loopback:
            raise ConfigError(
                f"The application would be open to everyone: set {VARIABLE}, or let it listen on 127.0.0.1 only."
            )
        tokens = {_hash(e.token.get_secret_value()): Client(name, e.scopes) for name, e in entries.items()}
        if len(tokens) < len(entries):
            raise ConfigError(f"{VARIABLE} gives the same token to two clients. Give each its own.")
        return cls(tokens, rate)

    def check(self, token: str | None, scope: Scope) -> Client:
        """The client that a token belongs to, if it may do this now.

        Raises
        ------
        ApiError
            401 without a token that is known, 403 without the scope, 429 when it asks too often.
        """
        if not self.tokens:
            return Client("anyone", frozenset(("read", "write", "admin")))
        digest = _hash(token or "")
        found = [client for known, client in self.tokens.items() if hmac.compare_digest(known, digest)]
        if not found:
            what = "This token is not known." if token else "Send a token: `Authorization: Bearer TOKEN`."
            raise ApiError(401, what, headers={"WWW-Authenticate": "Bearer"})
        client = found[0]
        if scope not in client.scopes:
            raise ApiError(403, f"The token of '{client.name}' has no scope '{scope}'.")
        wait = self._wait(client.name)
        if wait > 0:
            raise ApiError(
                429,
                f"'{client.name}' makes more than {self.rate:g} requests a second.",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        return client

    def _wait(self, name: str) -> float:
        """Take one request from the client's bucket; seconds until there is one, or 0."""
        now, full = self.clock(), max(1.0, self.rate * BURST_S)
        left, then = self.saved.get(name, (full, now))
        left = min(full, left + (now - then) * self.rate)
        self.saved[name] = (left - 1 if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) / self.rate


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def needs(scope: Scope) -> Callable[..., Client]:
    """A dependency of a route: the client, if it has the scope."""

    async def check(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Client:
        guard: Guard = request.app.state.guard
        return guard.check(credentials.credentials if credentials else None, scope)

    return check  # type: ignore[return-value]
