"""The API beside its own OpenAPI document: schemathesis makes requests of it, right ones and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.schemas import OpenApiSchema

from serving.app import make_app
from serving.replica import Replica
from serving.routes import router
from tests.serving import settings, whole_panel

ROUTES = [(route.path.replace(":path}", "}"), *route.methods) for route in router.routes if isinstance(route, APIRoute)]
QUICK = effort(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
TOKEN = "t" * 20
REQUESTS = ("KnownDay", "Change", "ForecastRequest", "HistoryDay", "ColdRequest", "Observation")


def one_of(*values: Any) -> dict[str, Any]:
    return {"enum": list(values)}


def some_of(*values: Any) -> dict[str, Any]:
    return {"type": "array", "items": one_of(*values), "minItems": 1, "maxItems": 3, "uniqueItems": True}


def numbers_of(*names: str) -> dict[str, Any]:
    properties = {name: {"type": "number", "minimum": -1e12, "maximum": 1e12} for name in names}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def with_what_there_is(document: dict[str, Any], data: str) -> dict[str, Any]:
    """The document with the names and days of a dataset: it cannot say them, and made-up ones are all refused."""
    panel = whole_panel(data)
    last = panel.index_of(panel.last_observed)
    regions, days = panel.regions[:3].astype(str).tolist(), panel.dates[last - 2 : last + 5].astype(str).tolist()
    real = {
        "region": one_of(*regions), "like": one_of(*regions), "regions": some_of(*regions),
        "date": one_of(*days), "first": one_of(*days), "last": one_of(*days), "dates": some_of(*days[3:]),
        "column": one_of("promo", "price"), "values": numbers_of("promo", "price"), "known": numbers_of("promo"),
        "past": numbers_of("customers"), "static": numbers_of("income"), "series": one_of(None), "origin": one_of(None),
        "quantiles": {"type": "array", "items": {"type": "number", "minimum": 0.1, "maximum": 0.9}, "minItems": 1},
    }  # fmt: skip
    for name in REQUESTS:
        properties = document["components"]["schemas"][name]["properties"]
        # `known` of a whole request is a list of days, which is not replaced.
        properties |= {p: real[p] for p in properties if p in real and properties[p].get("type") != "array"}
    for parameter in document["paths"]["/v1/regions/{region}"]["get"]["parameters"]:
        parameter["schema"] |= real.get(parameter["name"], {})
    return document


@pytest.fixture(scope="module")
def documents(
    shop: str, first_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[GenerationMode, OpenApiSchema]]:
    """Yield the document of an application that answers whoever has the token, for right requests and wrong ones."""
    load_all_checks()
    replica = Replica(settings(shop, tmp_path_factory.mktemp("schemathesis"), rate=1e6), "test").begin(str(first_model))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STMP_SERVE_TOKENS", json.dumps({"all": {"token": TOKEN, "scopes": ["read", "write"]}}))
        patch.setattr(replica, "close", lambda: None)  # each request of schemathesis starts and ends the application
        app = make_app(replica)
        # That further query parameters are ignored is the custom; tokens have a test of their own.
        habits = {"allow-extra-parameters": False, "with-security-parameters": False}
        config = SchemathesisConfig.from_dict({"generation": habits})
        plain = app.openapi()
        told = {GenerationMode.POSITIVE: with_what_there_is(deepcopy(plain), shop), GenerationMode.NEGATIVE: plain}
        schemas = {mode: schemathesis.openapi.from_dict(document, config=config) for mode, document in told.items()}
        for schema in schemas.values():
            schema.app = app
        yield schemas
    replica.close()


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_the_document_is_true(
    documents: dict[GenerationMode, OpenApiSchema], path: str, method: str, mode: GenerationMode
) -> None:
    operation = documents[mode][path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        pytest.skip("nothing can be wrong with it")
    # What fits the document may still be refused: two days that contradict each other, a day that is too far off.
    refusable = [CHECKS.get_one("positive_data_acceptance")]
    answered = []

    @QUICK
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        answer = case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, excluded_checks=refusable)
        answered.append(answer.status_code)

    ask()
    judged = path != "/v1/model/gate"  # a model of a folder never stood before a gate
    assert (200 in answered) == (judged and mode is GenerationMode.POSITIVE)
