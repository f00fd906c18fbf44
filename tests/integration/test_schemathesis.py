"""The API beside its own OpenAPI document: schemathesis makes requests of it, right ones and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from schemathesis.specs.openapi.schemas import OpenApiSchema

from serving.app import make_app
from serving.replica import Replica
from serving.routes import router
from tests.serving import settings

ROUTES = [(route.path.replace(":path}", "}"), *route.methods) for route in router.routes if isinstance(route, APIRoute)]
QUICK = effort(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
TOKEN = "t" * 20


@pytest.fixture(scope="module")
def document(shop: str, first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenApiSchema]:
    """Yield the document of an application that answers whoever has the token."""
    replica = Replica(settings(shop, tmp_path_factory.mktemp("schemathesis"), rate=1e6), "test").begin(str(first_model))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STMP_SERVE_TOKENS", json.dumps({"all": {"token": TOKEN, "scopes": ["read", "write"]}}))
        patch.setattr(replica, "close", lambda: None)  # each request of schemathesis starts and ends the application
        yield schemathesis.openapi.from_asgi("/openapi.json", make_app(replica))
    replica.close()


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_the_document_is_true(document: OpenApiSchema, path: str, method: str) -> None:
    operation = document[path][method]
    right, wrong = (operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode)

    @QUICK
    @given(case=right | wrong)
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"})

    ask()
