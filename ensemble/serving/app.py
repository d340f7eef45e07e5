"""The web application: its paths, its page, its metrics, and which hosts it answers for."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ensemble.prediction.photo_classifier import PARTS
from ensemble.serving.batching import Batcher
from ensemble.serving.limits import Limits, Refused
from ensemble.serving.requests import ReadPhoto, Record, RequestAnswerer, ServedModels
from folds.files import json_text
from folds.labels import CLASS_NAMES, CLASSES
from folds.pages.html import render
from folds.run_folder import library_versions

PATHS = ("/", "/predict", "/health", "/metrics", "/openapi.json")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# What follows is for /openapi.json.

FRACTION = {"type": "number", "minimum": 0, "maximum": 1}
FIELDS = {
    "photo": {"type": "string", "description": "its name in the form"},
    "class": {"type": "integer", "minimum": 0, "maximum": CLASSES - 1},
    "name": {"type": "string", "enum": list(CLASS_NAMES)},
    "p": FRACTION,
    **{part: {"type": "string", "enum": list(labels)} for part, labels in PARTS.items()},
    **{f"p {part} {label}": FRACTION for part, labels in PARTS.items() for label in labels},
    "folds": {"type": "integer"},
    "folds_agree": {"type": "integer"},
    "disagreement": FRACTION,
    "distorted": {"type": "boolean", "description": "whether its shape differs from that of the training photos"},
}
RECORDS = {"type": "array", "items": {"type": "object", "properties": FIELDS, "required": list(FIELDS)}}
HTML = {"text/html": {"schema": {"type": "string"}}}
PHOTO = {"type": "string", "format": "binary"}
FORM = {"type": "object", "required": ["photos"], "properties": {"photos": {"type": "array", "items": PHOTO}}}
KINDS = {"multipart/form-data": FORM, "image/jpeg": PHOTO, "image/png": PHOTO, "image/webp": PHOTO}
BODY = {"required": True, "content": {kind: {"schema": schema} for kind, schema in KINDS.items()}}


class PhotoProblem(BaseModel):
    photo: str
    reason: str


class Problem(BaseModel):
    """Why there is no answer."""

    error: str
    photos: list[PhotoProblem] = []


class Health(BaseModel):
    ready: bool
    models: int
    runs: list[str]
    views: str
    tuning: str


def _responses(failures: Mapping[int, str] = {}, **more: Any) -> dict[int | str, dict[str, Any]]:
    """Status -> description of a path's failures."""
    common = {421: "the Host header names another server", 500: "the server failed"}
    return {s: {"description": why, "model": Problem, **more} for s, why in (common | dict(failures)).items()}


PREDICT_FAILURES = {
    400: "the form can't be read",
    408: "the upload took too long",
    413: "too many bytes or photos",
    422: "there is no photo, or photos can't be used",
    429: "too many photos are waiting",
}


class Metrics:
    """Of one server, which predicts `batch` photos at most together."""

    def __init__(self, batch: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of no use here
        registry = self.registry = CollectorRegistry()  # not the global one: a process may hold several servers
        self.requests = Counter(
            "maskens_requests", "Requests by path and HTTP status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "maskens_predict_seconds",
            "From a POST /predict to its answer, uploading included.",
            buckets=SECONDS,
            registry=registry,
        )
        self.photos = Counter("maskens_photos", "Photos answered.", registry=registry)
        sizes = [2**n for n in range(batch.bit_length()) if 2**n < batch] + [batch]
        self.batches = Histogram("maskens_batch_photos", "Photos predicted together.", buckets=sizes, registry=registry)
        self.queue = Gauge("maskens_queue_photos", "Photos that wait for the models.", registry=registry)


def create_app(
    models: ServedModels,
    about: str,
    health: Mapping[str, Any],
    limits: Limits,
    batch: int = 32,
    wait: float = 0.005,
    readers: int = 1,
    hosts: Sequence[str] = (),
) -> ASGIApp:
    """An ASGI application.

    Args:
        about: describes the models, for the page.
        health: what GET /health answers besides whether it is ready.
        batch: photos at most that are predicted together.
        wait: seconds that a photo waits for others.
        readers: threads that decode photos.
        hosts: names that a Host header may give besides this machine's; "*" is any.
    """
    metrics = Metrics(batch)

    def predict_batch(photos: Sequence[ReadPhoto]) -> list[Record]:
        metrics.batches.observe(len(photos))
        return models.predict(photos)

    batcher = Batcher[ReadPhoto, Record](predict_batch, models.thread, batch, wait, limits.queue)
    metrics.queue.set_function(lambda: len(batcher))
    answer = RequestAnswerer(models, batcher, ThreadPoolExecutor(readers, thread_name_prefix="reader"), limits)
    # The pages /docs and /redoc would load scripts from elsewhere.
    app = FastAPI(title="maskens", version=library_versions()["maskens"], docs_url=None, redoc_url=None)

    async def page(answered: Sequence[tuple[Record, ReadPhoto]] = (), refused: Refused | None = None) -> Response:
        return await run_in_threadpool(_page, about, limits, answered, refused)

    responses = _responses(PREDICT_FAILURES, content=HTML)
    responses[200] = {"content": {"application/json": {"schema": RECORDS}, **HTML}}

    @app.post("/predict", openapi_extra={"requestBody": BODY}, responses=responses)
    async def predict(request: Request) -> Response:
        """What `maskens predict --json` prints of the same photos; a page, if the client accepts HTML."""
        html = "text/html" in request.headers.get("accept", "").lower()
        try:
            answered = await answer(request, pictures=html)
        except Refused as refused:
            if html:
                return await page(refused=refused)
            photos = [{"photo": name, "reason": reason} for name, reason in refused.photos]
            problem = {"error": refused.message} | ({"photos": photos} if photos else {})
            return _json(problem, refused.status, refused.headers)
        metrics.photos.inc(len(answered))
        return await page(answered) if html else _json([record for record, _ in answered])

    @app.get("/health", response_model=Health, responses=_responses())
    async def ready() -> Response:
        """Which models answer."""
        return _json({"ready": True, **health})

    @app.get("/metrics", response_class=PlainTextResponse, responses=_responses())
    async def metrics_text() -> Response:
        """Counts and times, for Prometheus."""
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return await page()

    @app.exception_handler(HTTPException)
    async def wrong_request(request: Request, error: HTTPException) -> Response:
        return _json({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _json({"error": "the server failed; its log has the reason"}, 500)

    return _guarded(app, hosts, metrics)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_text(value), status, headers, "application/json")


def _page(
    about: str, limits: Limits, answered: Sequence[tuple[Record, ReadPhoto]], refused: Refused | None
) -> Response:
    """The form, with answers or the reason why there are none. Its policy allows its own style and script, by a number
    used once, and pictures inside the text."""
    nonce = secrets.token_urlsafe(16)
    answers = []
    for record, photo in answered:
        parts = [(part, [(label, record[f"p {part} {label}"]) for label in labels]) for part, labels in PARTS.items()]
        answers.append(record | {"picture": photo.picture, "parts": parts})
    html = render(
        "serve.html",
        generator="maskens serve",
        title="maskens",
        nonce=nonce,
        about=about,
        limits=limits,
        answers=answers,
        refused=refused,
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, **(refused.headers or {} if refused else {})}
    return Response(html, refused.status if refused else 200, headers, "text/html")


def _guarded(app: ASGIApp, hosts: Sequence[str], metrics: Metrics) -> ASGIApp:
    """The application behind a check of the Host header, with headers, counts and times on every answer.

    Other hosts' names are refused: a page of another site may have its own name lead here and read the answers (DNS
    rebinding). The address that a connection came to is always accepted.
    """
    names = {"localhost", "127.0.0.1", "::1", *map(_host_name, hosts)}

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; the server skips the body
            scope = {**scope, "method": "GET"}
        started, path = time.perf_counter(), scope["path"]

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                metrics.requests.labels(path if path in PATHS else "other", message["status"]).inc()
                if path == "/predict" and scope["method"] == "POST":
                    metrics.seconds.observe(time.perf_counter() - started)
            await send(message)

        host, server = Headers(scope=scope).get("host"), scope.get("server") or ("", None)
        known = names | {_host_name(server[0])}
        if host is None or "*" in known or _host_name(host) in known:
            await app(scope, receive, observed)
        else:
            error = f"this server does not answer for {host}; --allow-host adds a name"
            await _json({"error": error}, 421)(scope, receive, observed)

    return guarded


def _host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets."""
    inside = re.fullmatch(r"\[(.*)\](:\d*)?", host)
    if inside:
        host = inside[1]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return host.lower().rstrip(".")
