"""Errors as RFC 9457 has them: one JSON object that says what is wrong, where, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from serving.schema import Fault, Problem
from stmp.errors import StmpError

logger = logging.getLogger("serving")

TYPES = {
    400: ("unreadable", "The request cannot be read"),
    401: ("unauthorized", "A token is needed"),
    403: ("forbidden", "The token does not allow this"),
    404: ("not-found", "There is no such thing"),
    405: ("method-not-allowed", "This address does not take that method"),
    406: ("not-acceptable", "There is no such format"),
    409: ("conflict", "This does not go with what is there"),
    413: ("too-large", "The request asks for too much at once"),
    415: ("unsupported-media-type", "The body must be JSON"),
    422: ("invalid", "The request cannot be used"),
    429: ("too-many-requests", "Too many requests"),
    500: ("internal", "Something went wrong here"),
    503: ("busy", "Too much to do"),
}
MAX_FAULTS = 20
"""A request with thousands of faults is answered with the first ones."""


class ApiError(Exception):
    """An answer other than success.

    Parameters
    ----------
    status : int
    detail : str
    faults : sequence of Fault
        What is wrong with which field.
    headers : mapping
    """

    def __init__(
        self, status: int, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.faults, self.headers = status, detail, list(faults), dict(headers or {})


def invalid(field: str, reason: str, remedy: str | None = None, status: int = 422) -> ApiError:
    """One field that cannot be used."""
    return ApiError(status, f"{field}: {reason}", [Fault(field=field, reason=reason, remedy=remedy)])


def problem(error: ApiError, instance: str) -> Response:
    """The answer to a request that failed."""
    kind, title = TYPES.get(error.status, ("error", "The request failed"))
    body = Problem(
        type=f"urn:stmp:problem:{kind}",
        title=title,
        status=error.status,
        detail=error.detail,
        instance=instance,
        errors=error.faults[:MAX_FAULTS],
    )
    content = body.model_dump(exclude_none=True)
    # What a client sent may hold half a surrogate pair, which UTF-8 cannot say.
    return Response(
        to_json(_clean(content)), error.status, media_type="application/problem+json", headers=error.headers
    )


def handle_errors(app: FastAPI) -> None:
    """Turn every error of an application into a problem."""

    def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return problem(error, request.url.path)

    def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(from_validation(error), request.url.path)

    def of_starlette(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(ApiError(error.status_code, str(error.detail), headers=error.headers), request.url.path)

    def ours(request: Request, error: Exception) -> Response:
        """What the model or the data refuse, the client can mend."""
        return problem(ApiError(422, str(error)), request.url.path)

    def unknown(request: Request, error: Exception) -> Response:
        logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(ApiError(500, "The failure was logged. Try again, or tell whoever runs this."), request.url.path)

    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, of_starlette)
    app.add_exception_handler(StmpError, ours)
    app.add_exception_handler(Exception, unknown)


_REMEDIES = {
    "model_attributes_type": "Send a JSON object with `Content-Type: application/json`.",
    "extra_forbidden": "Leave it out, or look for a mistyped name; /docs lists all fields.",
    "missing": "This field is needed.",
}


def from_validation(error: RequestValidationError) -> ApiError:
    """Pydantic's findings as faults; a body that is no JSON at all is a 400."""
    found = error.errors()
    faults = [
        Fault(field=".".join(map(str, e["loc"])), reason=str(e["msg"]), remedy=_REMEDIES.get(e["type"]))
        for e in found[:MAX_FAULTS]
    ]
    if any(e["type"] == "json_invalid" for e in found):
        return ApiError(400, "The body is not JSON.", faults)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return ApiError(422, f"{faults[0].field}: {faults[0].reason}{more}", faults)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
