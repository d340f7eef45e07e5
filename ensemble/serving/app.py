"""The web application: its paths, and what every answer carries."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ensemble.serving.batching import Batcher
from ensemble.serving.limits import Limits, Refused
from ensemble.serving.metrics import CONTENT_TYPE, Metrics
from ensemble.serving.page import Page, page, prefers_html
from ensemble.serving.photos import ReadPhoto, Record
from ensemble.serving.predicting import Answers, Predicting
from folds.files import json_text

PATHS = ("/", "/predict", "/health", "/metrics", "/openapi.json")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"photos": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""What POST /predict takes, in the words of OpenAPI."""


@dataclass(frozen=True)
class AppSettings:
    """How photos are served."""

    about: str  # the models in words, for the page
    health: Mapping[str, Any]  # what GET /health says beside whether it is ready
    limits: Limits = field(default_factory=Limits)
    batch: int = 32  # photos at most that the models see together
    wait: float = 0.005  # seconds that a photo waits for others
    readers: int = 1  # threads that decode photos


def create_app(answers: Answers, settings: AppSettings) -> ASGIApp:
    """An ASGI application.

    Args:
        answers: its `read` is called in several threads, its `answer` in one.
    """
    metrics = Metrics(settings.batch)
    batcher = Batcher[ReadPhoto, Record](
        answers.answer, settings.batch, settings.wait, settings.limits.queue, metrics.batches.observe
    )
    metrics.watch_queue(lambda: len(batcher))
    readers = ThreadPoolExecutor(settings.readers, thread_name_prefix="reader")
    predicting = Predicting(answers, batcher, readers, settings.limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await run_in_threadpool(batcher.close)
        readers.shutdown()

    # The pages /docs and /redoc would load scripts from elsewhere.
    app = FastAPI(title="maskens", docs_url=None, redoc_url=None, lifespan=lifespan)

    async def page_of(
        status: int = 200,
        answered: list[tuple[Record, ReadPhoto]] | None = None,
        refused: Refused | None = None,
    ) -> Response:
        made = await run_in_threadpool(page, settings.about, settings.limits, answered or (), refused)
        return _html(made, status, refused.headers if refused else None)

    @app.post("/predict", openapi_extra=BODY)
    async def predict(request: Request) -> Response:
        """What `maskens predict --json` prints of the same photos; a page, if the client would rather have HTML."""
        html = prefers_html(request.headers.get("accept", ""))
        try:
            answered = await predicting(request, pictures=html)
        except Refused as refused:
            if html:
                return await page_of(refused.status, refused=refused)
            told: dict[str, Any] = {"error": refused.message}
            if refused.photos:
                told["photos"] = [{"photo": name, "reason": reason} for name, reason in refused.photos]
            return _json(told, refused.status, refused.headers)
        metrics.photos.inc(len(answered))
        return await page_of(answered=answered) if html else _json([record for record, _ in answered])

    @app.get("/health")
    async def health() -> Response:
        """Whether photos are answered, and by which models."""
        return _json({"ready": batcher.alive, **settings.health}, 200 if batcher.alive else 503)

    @app.get("/metrics")
    async def metrics_text() -> Response:
        """Counts and times, for Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return await page_of()

    @app.exception_handler(HTTPException)
    async def wrong_request(request: Request, error: HTTPException) -> Response:
        return _json({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _json({"error": "the server failed; its log says why"}, 500)

    return _Observed(app, metrics)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_text(value), status, headers, "application/json")


def _html(made: Page, status: int, headers: Mapping[str, str] | None) -> Response:
    return Response(made.html, status, {"Content-Security-Policy": made.policy, **(headers or {})}, "text/html")


class _Observed:
    """Around the whole application, errors included: headers, counts and times."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                known = path if path in PATHS else "other"
                self._metrics.requests.labels(known, message["status"]).inc()
                if path == "/predict":
                    self._metrics.seconds.observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, watched)
