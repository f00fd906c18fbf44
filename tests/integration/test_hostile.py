"""Random and hostile requests: whatever comes, the answer is a success or the client's own fault, and it comes soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pydantic_core import to_json

from tests.serving import served, settings

PATHS = ("/v1/forecasts", "/v1/forecasts:cold", "/v1/observations")
QUICK = effort(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

WORDS = st.sampled_from(["R000001", "all", "sales", "promo", "price", "customers", "district", "2022-03-20", "", "x"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = st.sampled_from([0, 1, -1, 3, 1e12, -1e12, 1e-30, 1e300, float("inf"), float("nan"), 2**70])
DATES = st.sampled_from(["2022-03-14", "2022-03-15", "2022-03-20", "2021-01-01", "0001-01-01", "9999-12-31", "soon"])
REGIONS = st.sampled_from(["R000001", "R000002", "nowhere", "\ud800", "\x00", "'; DROP TABLE stmp_observations"])
COLUMNS = st.dictionaries(st.sampled_from(["promo", "price", "open", "customers", "rain"]), NUMBERS, max_size=2)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "regions": st.just("all") | st.lists(REGIONS, max_size=4),
        "region": REGIONS,
        "like": REGIONS,
        "horizon": NUMBERS,
        "dates": st.lists(DATES, max_size=3),
        "origin": DATES,
        "quantiles": st.lists(st.floats(-1, 2) | NUMBERS, max_size=3),
        "series": st.lists(WORDS, max_size=2),
        "static": st.dictionaries(WORDS, NUMBERS | WORDS, max_size=3),
        "history": st.lists(
            st.fixed_dictionaries({"date": DATES}, optional={"sales": NUMBERS, "past": COLUMNS, "known": COLUMNS}),
            max_size=3,
        ),
        "known": st.lists(st.fixed_dictionaries({"date": DATES, "values": COLUMNS}), max_size=3),
        "what_if": st.lists(
            st.fixed_dictionaries(
                {"column": WORDS},
                optional={"to": NUMBERS, "scale": NUMBERS, "add": NUMBERS, "first": DATES, "last": DATES},
            ),
            max_size=2,
        ),
        "observations": st.lists(
            st.fixed_dictionaries(
                {"region": REGIONS, "date": DATES}, optional={"sales": NUMBERS, "past": COLUMNS, "known": COLUMNS}
            ),
            max_size=3,
        ),
        "revise": st.booleans() | NUMBERS,
    },
)


@pytest.fixture(scope="module")
def client(shop: str, first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Yield a client of the application."""
    with served(first_model, settings(shop, tmp_path_factory.mktemp("hostile"))) as client:
        yield client


def send(client: TestClient, path: str, body: bytes) -> None:
    began = time.monotonic()
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, (path, body, answer.text)
    assert time.monotonic() - began < 10
    answer.json()
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


def dumped(body: Any) -> bytes:
    import json

    return json.dumps(body).encode()


@effort(QUICK, max_examples=25)
@given(path=st.sampled_from(PATHS), body=ANYTHING)
def test_any_json(client: TestClient, path: str, body: Any) -> None:
    send(client, path, dumped(body))


@QUICK
@given(path=st.sampled_from(PATHS), body=BODIES)
def test_bodies_that_look_right(client: TestClient, path: str, body: dict[str, Any]) -> None:
    send(client, path, dumped(body))


@QUICK
@given(path=st.sampled_from(PATHS), body=st.binary(max_size=60))
def test_any_bytes(client: TestClient, path: str, body: bytes) -> None:
    send(client, path, body)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 50_000, b'{"horizon":' + b"9" * 5000 + b"}", b"\xff\xfe", b"null", b"", b'"\\ud800"'],
    ids=["deep list", "deep object", "long number", "no UTF-8", "null", "nothing", "half a pair"],
)
def test_known_tricks(client: TestClient, path: str, body: bytes) -> None:
    send(client, path, body)


@pytest.mark.parametrize(
    "url",
    ["/v1/regions?limit=1e9", "/v1/regions?offset=-1", "/v1/regions?search=%00%ff", "/v1/regions/%00",
     "/v1/regions/..%2f..",
     "/v1/festivals?first=0001-01-01&last=9999-12-31", "/v1/festivals?region=%ff", "/v1/festivals?first=2022-99-99",
     "/v1/regions/R000001?history=99999999999999999999", "/nowhere", "//", "/v1/model?x=" + "y" * 5000],
)  # fmt: skip
def test_addresses(client: TestClient, url: str) -> None:
    answer = client.get(url)
    assert answer.status_code < 500, answer.text


def test_answers_are_right_after_all_that(client: TestClient) -> None:
    answer = client.post("/v1/forecasts", json={"regions": ["R000001"]})
    assert answer.status_code == 200
    assert to_json(answer.json())
