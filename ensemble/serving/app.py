"""The web application: its paths, its page and its metrics."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ensemble.serving.batching import Batcher
from ensemble.serving.limits import Limits, Refused
from ensemble.serving.requests import Answers, Predicting, ReadPhoto, Record
from folds.files import json_text
from folds.labels import AGES, CLASS_NAMES, CLASSES, GENDERS, MASKS
from folds.pages.html import render
from folds.run_folder import library_versions

PARTS = (("mask", MASKS), ("gender", GENDERS), ("age", AGES))


@dataclass(frozen=True)
class Page:
    """HTML and the policy it needs: its own style and script, by a number used once, and pictures inside the text."""

    html: str
    policy: str


def prefers_html(accept: str) -> bool:
    """Whether an Accept header would rather have HTML than JSON, as those of browsers would."""
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        try:
            weights[kind] = float(quality)
        except ValueError:
            continue

    def weight(kind: str) -> float:
        return weights.get(kind, weights.get(f"{kind.split('/')[0]}/*", weights.get("*/*", 0.0)))

    return weight("text/html") > weight("application/json")


def page(
    about: str, limits: Limits, answered: Sequence[tuple[Record, ReadPhoto]] = (), refused: Refused | None = None
) -> Page:
    """The form, with answers or the reason why there are none.

    Args:
        about: the models, in words.
        answered: records with the photos that they are of, `picture` included.
    """
    nonce = secrets.token_urlsafe(16)
    html = render(
        "serve.html",
        generator="maskens serve",
        title="maskens",
        nonce=nonce,
        about=about,
        limits=limits,
        answers=[_answer(record, photo) for record, photo in answered],
        refused=refused,
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return Page(html, policy)


def _answer(record: Record, photo: ReadPhoto) -> dict[str, Any]:
    parts = [(part, [(label, record[f"p {part} {label}"]) for label in labels]) for part, labels in PARTS]
    return record | {"picture": photo.picture, "parts": parts}


CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Of one server."""

    def __init__(self, batch: int) -> None:
        """
        Args:
            batch: photos at most in a batch.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of no use here
        self._registry = CollectorRegistry()  # not the global one: a process may hold several servers
        registry = self._registry
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
        self.batches = Histogram(
            "maskens_batch_photos", "Photos that the models saw together.", buckets=sizes, registry=registry
        )
        self._queue = Gauge("maskens_queue_photos", "Photos that wait for the models.", registry=registry)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Ask for the queue's length whenever the metrics are read."""
        self._queue.set_function(length)

    def text(self) -> bytes:
        """All of it, as CONTENT_TYPE."""
        return generate_latest(self._registry)


PATHS = ("/", "/predict", "/health", "/metrics", "/openapi.json")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
NUMBERS = {"type": "number", "minimum": 0, "maximum": 1}
RECORD = {
    "type": "object",
    "description": "What the ensemble predicts of a photo.",
    "properties": {
        "photo": {"type": "string", "description": "its name in the form"},
        "class": {"type": "integer", "minimum": 0, "maximum": CLASSES - 1},
        "name": {"type": "string", "enum": list(CLASS_NAMES)},
        "p": NUMBERS,
        **{part: {"type": "string", "enum": list(labels)} for part, labels in PARTS},
        **{f"p {part} {label}": NUMBERS for part, labels in PARTS for label in labels},
        "folds": {"type": "integer"},
        "folds_agree": {"type": "integer"},
        "disagreement": NUMBERS,
        "distorted": {"type": "boolean", "description": "whether its shape is unlike that of the training photos"},
    },
}
RECORD["required"] = list(RECORD["properties"])
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "photos": {
            "type": "array",
            "description": "the photos at fault",
            "items": {"type": "object", "properties": {"photo": {"type": "string"}, "reason": {"type": "string"}}},
        },
    },
}
HEALTH = {
    "type": "object",
    "required": ["ready", "models"],
    "properties": {
        "ready": {"type": "boolean"},
        "models": {"type": "integer"},
        "runs": {"type": "array", "items": {"type": "string"}},
        "views": {"type": "string"},
        "tuning": {"type": "string"},
    },
}
HTML = {"text/html": {"schema": {"type": "string"}}}
BINARY = {"schema": {"type": "string", "format": "binary"}}
PHOTOS = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
FORM = {"schema": {"type": "object", "required": ["photos"], "properties": {"photos": PHOTOS}}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": FORM, "image/jpeg": BINARY, "image/png": BINARY, "image/webp": BINARY},
    }
}
"""What POST /predict takes, in the words of OpenAPI."""


def _answers(good: Mapping[str, Any], html: bool = False, **failures: str) -> dict[int | str, dict[str, Any]]:
    """The answers of a path, in the words of OpenAPI.

    Args:
        good: content of the answer 200.
        html: whether a browser gets its errors as a page.
        failures: status, after a letter -> when it is the answer.
    """
    content = {"application/json": {"schema": ERROR}, **(HTML if html else {})}
    failures = {"s421": "the Host header names another server", "s500": "the server failed", **failures}
    told: dict[int | str, dict[str, Any]] = {
        int(status[1:]): {"description": why, "content": content} for status, why in failures.items()
    }
    return {200: {"description": "answered", "content": good}} | told


@dataclass(frozen=True)
class AppSettings:
    """How photos are served."""

    about: str  # the models in words, for the page
    health: Mapping[str, Any]  # what GET /health says beside whether it is ready
    limits: Limits = field(default_factory=Limits)
    batch: int = 32  # photos at most that the models see together
    wait: float = 0.005  # seconds that a photo waits for others
    readers: int = 1  # threads that decode photos
    hosts: Sequence[str] = ()  # names that a Host header may give beside this machine's; "*" is any


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
    version = library_versions()["maskens"]
    app = FastAPI(title="maskens", version=version, docs_url=None, redoc_url=None, lifespan=lifespan)

    async def page_of(
        status: int = 200,
        answered: list[tuple[Record, ReadPhoto]] | None = None,
        refused: Refused | None = None,
    ) -> Response:
        made = await run_in_threadpool(page, settings.about, settings.limits, answered or (), refused)
        return _html(made, status, refused.headers if refused else None)

    records = {"application/json": {"schema": {"type": "array", "items": RECORD}}, **HTML}
    photo_answers = _answers(
        records,
        html=True,
        s400="the form can't be read",
        s408="the photos took too long to come in",
        s413="too many bytes or photos",
        s422="there is no photo, or photos can't be used",
        s429="too many photos are waiting",
    )

    @app.post("/predict", openapi_extra=BODY, responses=photo_answers)
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

    health_answers = _answers({"application/json": {"schema": HEALTH}})
    health_answers[503] = health_answers[200] | {"description": "no photo is answered"}

    @app.get("/health", responses=health_answers)
    async def health() -> Response:
        """Whether photos are answered, and by which models."""
        return _json({"ready": batcher.alive, **settings.health}, 200 if batcher.alive else 503)

    text = {"text/plain": {"schema": {"type": "string"}}}

    @app.get("/metrics", response_class=PlainTextResponse, responses=_answers(text))
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

    return _Observed(_KnownHosts(app, settings.hosts), metrics)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_text(value), status, headers, "application/json")


def _html(made: Page, status: int, headers: Mapping[str, str] | None) -> Response:
    return Response(made.html, status, {"Content-Security-Policy": made.policy, **(headers or {})}, "text/html")


class _KnownHosts:
    """Refuses other hosts' names: a page of another site may have its own name lead here and read the answers (DNS
    rebinding). The address that a connection came to is known, whatever it is."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, {"localhost", "127.0.0.1", "::1", *(_host_name(h) for h in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            named, server = Headers(scope=scope).get("host"), scope.get("server") or ("", None)
            known = self._hosts | {_host_name(server[0])}
            if named is not None and "*" not in known and _host_name(named) not in known:
                error = f"this server is not {named}: --allow-host names the hosts that it answers for"
                await _json({"error": error}, 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets."""
    inside = re.fullmatch(r"\[(.*)\](:\d*)?", host)
    if inside:
        host = inside[1]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return host.lower().rstrip(".")


class _Observed:
    """Around the whole application, errors included: headers, counts and times."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
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
