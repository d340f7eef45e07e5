"""The command serve: the answers of `maskens predict`, and how it starts and stops."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from run_command import Outcome, maskens, refused, started
from starlette.testclient import TestClient

import ensemble
from ensemble.commands.serve import Server

TOLERANCE = 1e-5
"""Of a probability: the last digits of a logit depend on how many photos are in a batch."""


@pytest.mark.parametrize("tta", [None, "none"])
def test_photos_are_answered_as_predict_answers_them(there: Path, tta: str | None) -> None:
    photos = sorted(Path("data/eval/images").iterdir())[:9]
    expected = json.loads(maskens("predict", *photos, "--json", *(["--tta", tta] if tta else [])).out)
    server = ensemble.serve("runs/default", port=0, tta=tta, wait_ms=50, allow_host="faces.example")
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
    refused(maskens("serve", "--max-photos", 9, "--max-queue", 8), "raise --max-queue or lower --max-photos")
    refused(maskens("serve", "--run", "runs/none"), "there is no run in runs/none yet")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    refused(maskens("serve"), "maskens serve needs uvicorn, not installed here. ", "pip install 'maskens[serve]'")


def connect(url: str) -> contextlib.closing[http.client.HTTPConnection]:
    where = urlsplit(url)
    return contextlib.closing(http.client.HTTPConnection(str(where.hostname), where.port, timeout=60))


def get(url: str, path: str) -> str:
    with connect(url) as connection:
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def accepts(url: str) -> bool:
    """Whether a new connection is taken."""
    with connect(url) as connection:
        try:
            connection.connect()
        except OSError:
            return False
        return True


def post_and_stop(url: str, photo: bytes, stop: Callable[[], None]) -> tuple[int, bool]:
    """Have the server stop while a photo waits: (status of its answer, whether new connections are refused by then)."""
    until = time.monotonic() + 60
    with connect(url) as connection:
        connection.request("POST", "/predict", body=photo)
        while "maskens_queue_photos 1.0" not in get(url, "/metrics"):
            assert time.monotonic() < until
            if select.select([connection.sock], [], [], 0)[0]:  # a slow machine has not looked in time: once more
                connection.getresponse().read()
                connection.request("POST", "/predict", body=photo)
        stop()
        while accepts(url):
            assert time.monotonic() < until
        return connection.getresponse().status, not accepts(url)


WAITING = ("serve", "--port", 0, "--wait-ms", 1000)  # a photo alone waits for a second


def test_ctrl_c_answers_what_was_accepted(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = next(Path("data/eval/images").iterdir()).read_bytes()
    found: list[tuple[int, bool]] = []

    run = Server.run

    def asked(server: Server) -> None:
        def ask_and_stop() -> None:
            found.append(post_and_stop(server.url, photo, lambda: os.kill(os.getpid(), signal.SIGINT)))

        threading.Thread(target=ask_and_stop, daemon=True).start()
        run(server)

    monkeypatch.setattr(Server, "run", asked)
    outcome = maskens(*WAITING)
    until = time.monotonic() + 20
    while not found and time.monotonic() < until:
        time.sleep(0.05)
    assert (found, outcome.code) == ([(200, True)], 130)
    assert "12 models, views: flip" in outcome.out
    assert "stopped; all accepted requests were answered." in outcome.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_sigterm_answers_what_was_accepted(there: Path) -> None:
    photo = next(Path("data/eval/images").iterdir()).read_bytes()
    process = started(*WAITING, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout
        url = ""
        while not url:
            line = process.stdout.readline()
            assert line, process.communicate()
            url = next((word for word in line.split() if word.startswith("http://")), "")
        assert json.loads(get(url, "/health"))["ready"]
        assert post_and_stop(url, photo, process.terminate) == (200, True)
        out, err = process.communicate(timeout=60)
        assert Outcome(process.returncode, out, err) == Outcome(
            143, "", "error: stopped; all accepted requests were answered.\n"
        )
    finally:
        process.kill()
        process.wait()
