"""The command serve: the answers of `maskens predict`, and how it starts and stops."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from edits import hide_package
from run_command import maskens, refused
from starlette.testclient import TestClient

import ensemble
from ensemble.commands.serve import Server, serve
from ensemble.commands.terminal import Terminal

TOLERANCE = 1e-5
"""Of a probability: the last digits of a logit depend on how many photos are in a batch."""


def test_photos_are_answered_as_predict_answers_them(there: Path) -> None:
    photos = sorted(Path("data/eval/images").iterdir())[:9]
    expected = json.loads(maskens("predict", *photos, "--json", "--tta", "none").out)
    server = ensemble.serve("runs/default", port=0, tta="none", wait_ms=50, allow_host="faces.example")
    found: dict[int, Any] = {}
    with TestClient(server.app) as client:

        def ask(first: int, photos: list[Path]) -> None:
            found[first] = client.post("/predict", files=[("photos", (str(p), p.read_bytes())) for p in photos]).json()

        requests = [threading.Thread(target=ask, args=(n, photos[n : n + 3])) for n in (0, 3, 6)]
        for request in requests:
            request.start()
        for request in requests:
            request.join(60)
        records = [record for first in (0, 3, 6) for record in found[first]]
        (alone,) = client.post("/predict", content=photos[0].read_bytes()).json()
        assert client.get("/health").json()["models"] == 12
        for host, status in (("faces.example", 200), ("127.0.0.1", 200), ("evil.example", 421)):
            assert client.get("/health", headers={"Host": host}).status_code == status
    server.opened.close()
    assert [list(r) for r in records] == [list(r) for r in expected]
    for ours, theirs in zip([alone | {"photo": str(photos[0])}, *records], [expected[0], *expected], strict=True):
        for key, value in theirs.items():
            assert ours[key] == (pytest.approx(value, abs=TOLERANCE) if isinstance(value, float) else value), key


def test_what_can_t_be_served_is_refused(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(maskens("serve", "--port", port), f"can't serve on 127.0.0.1 port {port}: Address already in use")
    refused(maskens("serve", "--host", "203.0.113.1"), "can't serve on 203.0.113.1 port 8000: ")
    refused(maskens("serve", "--run", "runs/none"), "there is no run in runs/none yet")
    hide_package(monkeypatch, "uvicorn")
    refused(maskens("serve"), "maskens serve needs uvicorn", "pip install 'maskens[serve]'")


def test_only_warnings_are_printed_as_such(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Server, "run", lambda self: None)
    engine = "graphs of 12 models kept beside their checkpoints"
    server = Server(
        app=print, url="", used="", warnings=("fold 3 is missing",), notes=(engine,), opened=socket.socket()
    )
    serve.show(server, serve.parse(), Terminal())
    server.opened.close()
    assert capsys.readouterr().out.splitlines()[:2] == ["warning: fold 3 is missing", engine]


def connect(url: str) -> contextlib.closing[http.client.HTTPConnection]:
    where = urlsplit(url)
    return contextlib.closing(http.client.HTTPConnection(str(where.hostname), where.port, timeout=60))


def accepts(url: str) -> bool:
    """Whether a new connection is taken."""
    with connect(url) as connection, contextlib.suppress(OSError):
        connection.connect()
        return True
    return False


def post_and_stop(url: str, photo: bytes, number: signal.Signals) -> tuple[int, bool]:
    """Have the server stop while a photo waits: (status of its answer, whether new connections are refused by then)."""
    until = time.monotonic() + 60
    with connect(url) as connection, connect(url) as other:
        connection.request("POST", "/predict", body=photo)
        queued = ""
        while "maskens_queue_photos 1.0" not in queued:
            assert time.monotonic() < until
            if select.select([connection.sock], [], [], 0)[0]:  # a slow machine has not looked in time: once more
                connection.getresponse().read()
                connection.request("POST", "/predict", body=photo)
            other.request("GET", "/metrics")
            queued = other.getresponse().read().decode()
        os.kill(os.getpid(), number)
        while accepts(url):
            assert time.monotonic() < until
        return connection.getresponse().status, not accepts(url)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_once_accepted_requests_are_answered(
    there: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    photo = next(Path("data/eval/images").iterdir()).read_bytes()
    run = Server.run
    with ThreadPoolExecutor(1) as pool:
        found: list[Future[tuple[int, bool]]] = []

        def asked(server: Server) -> None:
            found.append(pool.submit(post_and_stop, server.url, photo, number))
            run(server)

        monkeypatch.setattr(Server, "run", asked)
        outcome = maskens("serve", "--port", 0, "--wait-ms", 1000)  # a photo alone waits for a second
        assert (found[0].result(20), outcome.code) == ((200, True), 128 + number)
    assert "12 models, views: flip" in outcome.out
    assert "stopped; all accepted requests were answered." in outcome.err
