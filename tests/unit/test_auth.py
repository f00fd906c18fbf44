"""Tokens: who is let in, who is not, how often, and that no message shows one."""

from __future__ import annotations

import json

import pytest

from serving.auth import VARIABLE, Guard
from serving.problems import ApiError
from serving.settings import Settings
from stmp.errors import ConfigError

TOKEN = "a secret that is long"


def guard(scopes: list[str], rate: float = 10.0) -> Guard:
    return Guard.from_env(
        rate, loopback=False, env={VARIABLE: json.dumps({"shop": {"token": TOKEN, "scopes": scopes}})}
    )


def status_of(guard: Guard, token: str | None, scope: str = "read") -> int:
    try:
        guard.check(token, scope)  # type: ignore[arg-type]
    except ApiError as error:
        return error.status if TOKEN not in str(error) else 0
    return 200


def test_tokens_and_scopes() -> None:
    shop = guard(["read"])
    assert status_of(shop, TOKEN) == 200
    assert status_of(shop, TOKEN, "write") == 403
    assert [status_of(shop, token) for token in (None, "", TOKEN + "x", "ü\udc80")] == [401] * 4


def test_tokens_are_not_kept() -> None:
    assert TOKEN not in repr(vars(guard(["read"])))


def test_without_tokens_only_this_machine_may_ask() -> None:
    assert status_of(Guard.from_env(1.0, loopback=True, env={}), None, "admin") == 200
    with pytest.raises(ConfigError, match=VARIABLE):
        Guard.from_env(1.0, loopback=False, env={})


@pytest.mark.parametrize(
    "text",
    [
        "no JSON, but a secret that is long",
        json.dumps({"shop": {"token": "short", "scopes": ["read"]}}),
        json.dumps({"shop": {"token": TOKEN, "scopes": ["everything"]}}),
        json.dumps({"shop": {"token": TOKEN, "scopes": []}}),
        json.dumps({"shop": {"token": TOKEN, "scopes": ["read"]}, "till": {"token": TOKEN, "scopes": ["write"]}}),
    ],
)
def test_faulty_tokens_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Guard.from_env(1.0, loopback=False, env={VARIABLE: text})
    assert "a secret" not in str(refused.value)
    assert "short" not in str(refused.value)


def test_a_client_has_its_rate_and_no_more() -> None:
    now = 0.0
    shop = guard(["read"], rate=5.0)
    shop.clock = lambda: now
    assert [status_of(shop, TOKEN) for _ in range(11)] == [200] * 10 + [429]  # two seconds of it are saved up
    now = 0.4
    assert [status_of(shop, TOKEN) for _ in range(3)] == [200, 200, 429]
    now = 1000.0
    assert [status_of(shop, TOKEN) for _ in range(11)] == [200] * 10 + [429]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("shop.example", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, loopback: bool) -> None:
    assert Settings(data="d", host=host).loopback is loopback
