"""The application: HTTP around a replica. Ray Serve runs it, and so can any other ASGI server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from serving.auth import Guard
from serving.middleware import Count, LimitBody
from serving.problems import handle_errors
from serving.replica import Replica
from serving.routes import document_problems, router
from serving.static import PageMount


def make_app(replica: Replica) -> FastAPI:
    """The ASGI application around a replica; tests and `uvicorn` can run it without Ray.

    Raises
    ------
    ConfigError
        If tokens are missing or cannot be read.
    """
    settings = replica.settings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        replica.close()

    app = FastAPI(
        title="stmp", version=version("stmp-platform"), lifespan=lifespan, redoc_url=None,
        description="Forecasts of regional sales, with quantiles, what-ifs and cold starts.",
    )  # fmt: skip
    app.state.replica = replica
    app.state.guard = Guard.from_env(settings.rate, loopback=settings.loopback)
    app.include_router(router)
    document_problems(app)
    handle_errors(app)
    app.add_middleware(LimitBody, most=int(settings.max_body_mb * 1e6))
    app.add_middleware(Count, metrics=replica.metrics)
    app.router.routes.append(PageMount())
    return app
