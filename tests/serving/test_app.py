"""What the server answers to requests, good and bad, with stand-ins for the models."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import io
import os
import re
import socket
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from html_pages import Page
from httpx import Response
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient
from starlette.types import Message
from stub_models import StubModels, photo, serving, stub_app

from ensemble.models.runtime import configure_process
from ensemble.prediction.photo_classifier import PhotoPredictions
from ensemble.serving.limits import Limits
from folds.errors import MaskensError
from folds.photos import Pixels

ODD = "<b>&\"x'.png"  # a file's name may hold what HTML would take for its own
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def client_of(limits: Limits | None = None, models: StubModels | None = None, **more: Any) -> TestClient:
    return TestClient(stub_app(limits, models, **more), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def form(*photos: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("photos", (name, content, "image/png")) for name, content in photos]


def test_each_photo_of_a_form_is_answered_in_order_under_its_name(client: TestClient) -> None:
    sent = form(("a.png", photo(3)), ("a.png", photo(16)), ("b.jpg", photo(9, "JPEG")), ("c.webp", photo(5, "WEBP")))
    answer = client.post("/predict", files=sent)
    assert answer.status_code == 200
    assert [(r["photo"], r["class"]) for r in answer.json()][:2] == [("a.png", 3), ("a.png", 16)]
    assert [r["photo"] for r in answer.json()[2:]] == ["b.jpg", "c.webp"]
    assert not any(r["distorted"] for r in answer.json())


def test_a_body_that_is_no_form_is_one_photo(client: TestClient) -> None:
    for kind in ({"Content-Type": "image/jpeg"}, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
        (record,) = client.post("/predict", content=photo(7), headers=kind).json()
        assert (record["photo"], record["class"]) == ("photo", 7)


def test_a_photo_of_another_shape_is_marked_as_distorted_lying_or_not(client: TestClient) -> None:
    lying = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stands upright once it is turned
    Image.new("RGB", (640, 480)).save(lying, "JPEG", exif=exif)
    sent = form(("wide.png", photo(1, size=(64, 48))), ("lying.jpg", lying.getvalue()))
    assert [r["distorted"] for r in client.post("/predict", files=sent).json()] == [True, False]


def test_requests_at_the_same_time_share_a_batch() -> None:
    models = StubModels()
    with client_of(models=models, batch=6, wait=30) as client, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: client.post("/predict", content=photo(n)).json(), range(6)))
        assert [records[0]["class"] for records in found] == list(range(6))
        assert models.batches == [6]  # else they would have waited for half a minute
        metrics = client.get("/metrics").text
        assert 'maskens_batch_photos_bucket{le="4.0"} 0.0' in metrics and "maskens_batch_photos_sum 6.0" in metrics


class Held(StubModels):
    """Answers once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def predict(self, photos: Sequence[Sequence[Pixels]]) -> PhotoPredictions:
        self.entered.set()
        assert self.go.wait(20)
        return super().predict(photos)


@pytest.mark.parametrize("limits", [Limits(queue=2, photos=2), Limits(requests=2)], ids=["photos", "requests"])
def test_beyond_the_queue_the_answer_is_to_come_again(limits: Limits) -> None:
    models = Held()
    with client_of(limits, models, batch=1) as client, ThreadPoolExecutor(2) as pool:

        def ask(photos: int, accept: str = "*/*") -> Response:
            sent = form(*(("a.png", photo(n)) for n in range(photos)))
            return client.post("/predict", files=sent, headers={"Accept": accept})

        first = pool.submit(ask, 1)
        assert models.entered.wait(20)
        second = pool.submit(ask, 2)
        while "maskens_queue_photos 2.0" not in client.get("/metrics").text:
            pass
        for accept in ("*/*", BROWSER):
            third = ask(1, accept)
            assert (third.status_code, third.headers["Retry-After"]) == (429, "1")
        models.go.set()
        assert [answer.result(20).status_code for answer in (first, second)] == [200, 200]
        assert ask(1).status_code == 200
        assert 'maskens_requests_total{path="/predict",status="429"} 2.0' in client.get("/metrics").text


def bomb() -> bytes:
    """A small PNG that claims to be of 12,000 x 12,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no photo", "is not a photo that can be read"),
        (b"", "is not a photo that can be read"),
        (photo(1, "JPEG", size=(480, 640))[:900], "can't be read: image file is truncated"),
        (bomb(), "is too large: 12000 x 12000, and more than 50 million pixels are not read"),
        (EPS, "is not a photo that can be read"),  # Pillow would start Ghostscript
        (photo(1, "GIF"), "is not a photo that can be read"),
    ],
    ids=["text", "empty", "cut off", "bomb", "postscript", "another format"],
)
def test_photos_that_can_t_be_read_are_named_with_the_reason(client: TestClient, content: bytes, reason: str) -> None:
    answer = client.post("/predict", files=form(("good.png", photo(1)), (ODD, content)))
    (bad,) = answer.json()["photos"]
    assert (answer.status_code, bad["photo"]) == (422, ODD.replace('"', "%22")), "as the client encodes it"
    assert bad["reason"].startswith(reason)


def test_a_request_that_is_too_large_is_refused_with_the_limit() -> None:
    limits = Limits(megabytes=0.05, megapixels=0.01, photos=2, queue=2)
    with client_of(limits) as client:
        large = form(("a.png", photo(1)), ("large.png", bytes(200_000)))
        for answer in (client.post("/predict", files=large), client.post("/predict", content=bytes(60_000))):
            assert (answer.status_code, "0.05 MB" in answer.json()["error"]) == (413, True)
        many = client.post("/predict", files=form(*((f"{n}.png", photo(1)) for n in range(3))))
        assert (many.status_code, "the limit is 2" in many.json()["error"]) == (413, True)
        pixels = client.post("/predict", files=form(("p.png", photo(1, size=(100, 101)))))
        assert pixels.status_code == 422
        (problem,) = pixels.json()["photos"]
        assert problem["photo"] == "p.png" and "100 x 101" in problem["reason"]
        assert client.post("/predict", files=form(("p.png", photo(1, size=(100, 100))))).status_code == 200


def test_a_slow_upload_is_refused() -> None:
    sent: list[Message] = []

    async def never() -> Message:
        await asyncio.sleep(20)
        return {}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
    asyncio.run(stub_app(Limits(upload_seconds=0.01))(scope, never, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 408


FORM = "multipart/form-data; boundary=x"
FIELD = b'--x\r\nContent-Disposition: form-data; name="photos"'


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        (FORM, b"", 422),
        (FORM, b"nothing of the kind", 400),
        ("multipart/form-data", b"--x--", 400),
        (FORM, FIELD + b"\r\n\r\n1\r\n--x--", 422),
        (FORM, FIELD + b'; filename=""\r\n\r\n\r\n--x--', 422),  # none was chosen
        ("image/png", b"", 422),
    ],
)
def test_what_is_no_form_with_photos_is_refused(client: TestClient, kind: str, body: bytes, status: int) -> None:
    answer = client.post("/predict", content=body, headers={"Content-Type": kind})
    words = {400: "the form can't be read", 422: "the request holds no photo"}
    assert (answer.status_code, words[status] in answer.json()["error"]) == (status, True), answer.text


@settings(max_examples=25)
@given(st.binary(max_size=200), st.sampled_from(["image/png", "multipart/form-data; boundary=x; charset=utf-7"]))
def test_no_bytes_make_it_fail(client: TestClient, body: bytes, kind: str) -> None:
    for content in (body, b"--x\r\nContent-Disposition: form-data; filename=" + body + b"\r\n\r\n1\r\n--x--"):
        answer = client.post("/predict", content=content, headers={"Content-Type": kind})
        assert answer.status_code in (400, 422), (answer.status_code, answer.text)
        assert answer.json()["error"]


def test_uploads_never_touch_the_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("a temporary file")

    for name in ("NamedTemporaryFile", "TemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    large = photo(1) + bytes(3_000_000)  # decoders leave what follows a photo
    assert client.post("/predict", files=form(("large.png", large))).status_code == 200
    assert client.post("/predict", content=large, headers={"Accept": BROWSER}).status_code == 200


@pytest.mark.parametrize("error", [MaskensError("/secret gives no numbers"), RuntimeError("/secret")])
def test_models_that_fail_show_nothing_of_themselves(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    class Failing(StubModels):
        def predict(self, photos: Sequence[Sequence[Pixels]]) -> PhotoPredictions:
            raise error

    with client_of(models=Failing()) as client:
        for _ in range(2):
            answer = client.post("/predict", content=photo(1))
            assert answer.status_code == 500
            assert "log has the reason" in answer.text
            assert "secret" not in answer.text
        assert client.get("/health").json()["ready"]
        assert 'maskens_requests_total{path="/predict",status="500"} 2.0' in client.get("/metrics").text


def test_a_page_shows_each_photo_with_its_answer_and_escapes_its_name(client: TestClient) -> None:
    answer = client.post(
        "/predict", files=form((ODD, photo(4)), ("wide.png", photo(2, size=(640, 100)))), headers={"Accept": BROWSER}
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = Page()
    page.feed(answer.text)
    assert not page.open
    assert "<b>&" not in answer.text.replace("<b>&amp;", "")
    first, second = page.images
    assert first["alt"] == ODD.replace('"', "%22")
    assert first["src"].startswith("data:image/webp;base64,")
    assert (second["width"], second["height"]) == ("240", "38")
    words = " ".join(answer.text.split())
    assert "wear, female, 30-59" in words
    assert words.count("so it is distorted") == 1
    bad = client.post("/predict", files=form((ODD, b"")), headers={"Accept": BROWSER})
    assert bad.status_code == 422
    assert "&lt;b&gt;&amp;%22x&#39;.png: is not a photo that can be read" in bad.text


def test_pages_load_nothing_and_run_only_what_is_their_own(client: TestClient) -> None:
    answers = [client.get("/"), client.get("/"), client.post("/predict", content=photo(1), headers={"Accept": BROWSER})]
    nonces = set()
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
        nonces.add(nonce)
        assert re.findall(r"<(?:script|style)([^>]*)>", answer.text) == [f' nonce="{nonce}"'] * 2
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.findall(r"""(?:src|href|action)=["']?(?:https?:)?//""", answer.text)
        assert not re.findall(r"\son\w+=|\sstyle=", answer.text)  # neither would run
    assert len(nonces) == 3
    for answer in (*answers, client.get("/health"), client.get("/nothing"), client.post("/predict", content=b"")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


OURS = ("127.0.0.1:8000", "localhost", "LOCALHOST.:80", "[::1]:8000", "::1")
CONNECTED, ALLOWED = "testserver", "faces.example"  # the address that the connection came to; --allow-host
EVIL = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "evil.example:127.0.0.1")


@pytest.mark.parametrize("host", [*OURS, CONNECTED, ALLOWED, *EVIL, "[::1].evil.example", ""])
def test_a_page_elsewhere_can_not_lead_its_own_name_here(host: str) -> None:
    status = 200 if host in (*OURS, CONNECTED, ALLOWED) else 421
    headers = {"Host": host}
    with client_of(hosts=["Faces.example"]) as client:
        for answer in (client.get("/", headers=headers), client.post("/predict", content=photo(1), headers=headers)):
            assert answer.status_code == status
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert status == 200 or "--allow-host" in answer.json()["error"]
    with client_of(hosts=["*"]) as client:
        assert client.get("/health", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/openapi.json"])
def test_head_answers_as_get_without_a_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert client.head("/predict").status_code == 405


def test_the_description_for_machines_names_every_answer(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    assert found["info"]["version"] == importlib.metadata.version("maskens")
    answers = found["paths"]["/predict"]["post"]["responses"]
    assert set(answers) == {"200", "400", "408", "413", "421", "422", "429", "500"}
    (record,) = client.post("/predict", content=photo(7)).json()
    schema = answers["200"]["content"]["application/json"]["schema"]["items"]
    assert set(record) == set(schema["required"])
    for key, value in record.items():
        expected = schema["properties"][key]
        kinds = {"string": str, "integer": int, "number": float, "boolean": bool}
        assert isinstance(value, kinds[expected["type"]]), key
        assert value in expected.get("enum", [value]), key
    assert list(found["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    assert set(found["paths"]["/health"]["get"]["responses"]) == {"200", "421", "500"}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory as Linux reports it")
def test_a_large_photo_does_not_keep_its_memory() -> None:
    configure_process(1)  # as for models: malloc keeps what was freed
    large = io.BytesIO()
    Image.new("RGB", (5000, 5000), (3, 3, 3)).save(large, "PNG", compress_level=1)

    def megabytes() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6

    with client_of() as client:
        client.post("/predict", content=photo(1))
        before = megabytes()
        assert client.post("/predict", content=large.getvalue()).status_code == 200
        assert megabytes() - before < 40


def test_a_sender_that_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.serving.server.HEADER_SECONDS", 0.5)
    monkeypatch.setattr("ensemble.serving.server.BODY_SECONDS", 0.5)
    with serving() as opened:
        first = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
        for sent in (b"", first, first + b"\r\n" + first, first + b"Content-Length: 99\r\n\r\n"):
            with socket.create_connection(opened.getsockname(), timeout=20) as connection:
                connection.sendall(sent)
                answer, until = b"", time.monotonic() + 20
                with contextlib.suppress(ConnectionError):  # it is reset where bytes come after its end
                    while chunk := connection.recv(65536):
                        answer += chunk
                        connection.sendall(b"X")  # a byte now and then does not buy time
                        assert time.monotonic() < until
                assert (b"200 OK" in answer) == (b"\r\n\r\n" in sent)
        with socket.create_connection(opened.getsockname(), timeout=20) as connection:
            for _ in range(2):  # a connection that waits between two requests stays
                connection.sendall(first + b"\r\n")
                answer = b""
                while not answer.endswith(b"}\n"):
                    answer += connection.recv(65536)
                    assert answer
                time.sleep(1)


def test_health_and_metrics_and_what_there_is_not(client: TestClient) -> None:
    assert client.get("/health").json() == {"ready": True, "models": 2, "runs": ["run"]}
    assert client.get("/docs").status_code == 404  # its scripts would come from elsewhere
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert client.get("/predict").status_code == 405
    assert "/predict" in client.get("/openapi.json").json()["paths"]
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    for line in (
        '_requests_total{path="other",status="404"}',
        "_predict_seconds_bucket{",
        "_photos_total ",
        "_queue_photos 0.0",
    ):
        assert f"maskens{line}" in answer.text


@pytest.mark.parametrize(
    ("accept", "html"), [("", False), ("*/*", False), (BROWSER, True), ("application/json", False), ("TEXT/HTML", True)]
)
def test_browsers_get_a_page(client: TestClient, accept: str, html: bool) -> None:
    answer = client.post("/predict", content=photo(1), headers={"Accept": accept})
    assert answer.headers["Content-Type"].startswith("text/html") == html


def test_limits_that_can_not_be_kept_are_refused() -> None:
    with pytest.raises(MaskensError, match="raise --max-queue or lower --max-photos"):
        Limits(photos=32, queue=31)
    for limits in ({"megabytes": float("inf")}, {"megapixels": float("inf")}):
        with pytest.raises(MaskensError, match="--max-mb and --max-megapixels need a finite number"):
            Limits(**limits)  # type: ignore[arg-type]
