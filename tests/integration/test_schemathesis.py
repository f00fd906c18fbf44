"""The API beside its own OpenAPI document: schemathesis makes requests of it, right ones and wrong ones."""

from __future__ import annotations

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

ROUTES = [(route.path, *route.methods) for route in router.routes if isinstance(route, APIRoute)]
QUICK = effort(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def document(shop: str, first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenApiSchema]:
    """Yield the document of an application that answers."""
    replica = Replica(settings(shop, tmp_path_factory.mktemp("schemathesis")), "test").begin(str(first_model))
    yield schemathesis.openapi.from_asgi("/openapi.json", make_app(replica))
    replica.close()


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_the_document_is_true(document: OpenApiSchema, path: str, method: str) -> None:
    operation = document[path.replace(":path}", "}")][method]

    @QUICK
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
           | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate()

    ask()
