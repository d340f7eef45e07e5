"""The page in a real browser, which is driven through the pipes of its debugging protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_models import photo, serving

from ensemble.serving.server import url_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
ODD = '<img src=x onerror="alert(1)">.png'

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine"),
    pytest.mark.skipif(sys.platform == "win32", reason="its pipes are file descriptors"),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a server in a thread of this process."""
    with serving() as opened:
        yield url_of(opened)


class Tab:
    """A tab of a headless browser (Chrome DevTools Protocol, messages end with a zero byte)."""

    def __init__(self, process: subprocess.Popen[bytes], send: int, receive: int) -> None:
        self.process, self._send, self._receive = process, send, receive
        self._numbers, self._session, self._buffer = itertools.count(1), "", b""
        self.events: list[dict[str, Any]] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == number:
                assert "result" in found, found
                return dict(found["result"])
            self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready = select.select([self._receive], [], [], 60)[0]
            assert ready, "the browser is silent"
            self._buffer += os.read(self._receive, 2**16)
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def value(self, expression: str) -> Any:
        """What a line of JavaScript gives."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Until it is true."""
        until = time.monotonic() + 60
        while not self.value(expression):
            assert time.monotonic() < until, self.value("document.body.innerText")
            time.sleep(0.05)


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    (from_us, to_browser), (from_browser, to_us) = os.pipe(), os.pipe()

    def third_and_fourth() -> None:  # where the browser looks for them
        os.dup2(from_us, 103)
        os.dup2(to_us, 104)
        os.dup2(103, 3)
        os.dup2(104, 4)

    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
    process = subprocess.Popen(
        [str(BROWSER), *flags, f"--user-data-dir={tmp_path / 'profile'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(3, 4),
        preexec_fn=third_and_fourth,
    )
    os.close(from_us)
    os.close(to_us)
    try:
        tab = Tab(process, to_browser, from_browser)
        yield tab
        with contextlib.suppress(AssertionError, OSError):
            tab._session = ""
            tab("Browser.close")
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        os.close(to_browser)
        os.close(from_browser)


def test_photos_dropped_or_chosen_are_shown_with_their_answers(url: str, tab: Tab, tmp_path: Path) -> None:
    tab("Page.navigate", url=url)
    tab.wait_for("document.readyState == 'complete' && location.protocol == 'http:'")
    assert tab.value("document.querySelectorAll('figure').length") == 0
    assert tab.value("getComputedStyle(document.querySelector('section')).borderRadius") == "10px"  # its style counts

    dropped = json.dumps([[ODD, base64.b64encode(photo(4)).decode()], ["b.png", base64.b64encode(photo(11)).decode()]])
    tab.value(
        f"""
        const files = new DataTransfer();
        for (const [name, content] of {dropped}) {{
          const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
          files.items.add(new File([bytes], name, {{type: "image/png"}}));
        }}
        document.body.dispatchEvent(new DragEvent("drop", {{dataTransfer: files, bubbles: true, cancelable: true}}));
        """
    )
    tab.wait_for("document.querySelectorAll('figure').length == 2 && document.readyState == 'complete'")
    assert tab.value("[...document.images].map(i => [i.alt, i.naturalWidth, i.naturalHeight])") == [
        [ODD.replace('"', "%22"), 48, 64],
        ["b.png", 48, 64],
    ]
    words = tab.value("[...document.querySelectorAll('figure')].map(f => f.innerText)")
    assert "wear, female, 30-59" in words[0]
    assert "incorrect, female, >=60" in words[1]
    assert "83%" in words[1]

    (tmp_path / "bad.png").write_bytes(b"no photo")
    root = tab("DOM.getDocument")["root"]["nodeId"]
    field = tab("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
    tab(
        "DOM.setFileInputFiles", nodeId=field, files=[str(tmp_path / "bad.png")]
    )  # as by its button: it is sent at once
    tab.wait_for("document.querySelector('[role=alert]') != null")
    assert "bad.png: is not a photo that can be read" in tab.value("document.querySelector('[role=alert]').innerText")

    assert tab.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    asked = [e["params"]["request"]["url"] for e in tab.events if e.get("method") == "Network.requestWillBeSent"]
    assert {a for a in asked if not a.startswith("data:")} <= {f"{url}/", f"{url}/predict", f"{url}/favicon.ico"}
    found = [e["params"]["entry"]["text"] for e in tab.events if e.get("method") == "Log.entryAdded"]
    assert [t for t in found if "Content Security Policy" in t] == []
