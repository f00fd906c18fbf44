"""The web page: the files of `page/`, with headers that let a browser run these and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Kept, but asked for anew each time, so that page and API are of one version. What has not changed is a 304.
    "Cache-Control": "no-cache",
}


class PageMount(Mount):
    """The page at `/`, which leaves all below `/v1` to the API: a wrong method there is a 405, not a missing file."""

    def __init__(self) -> None:
        super().__init__("/", Page(), name="page")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the page answers a request."""
        return (Match.NONE, {}) if scope["path"].startswith("/v1/") else super().matches(scope)


class Page(StaticFiles):
    """The page's files, as an ASGI application."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER, html=True)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response
