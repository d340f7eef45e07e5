"""The port, and the loop that answers on it."""

from __future__ import annotations

import asyncio
import socket

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from folds.errors import MaskensError

BACKLOG = 128  # connections that wait to be accepted
KEEP_ALIVE = 75  # seconds; longer than proxies keep an idle connection, else one closes it just as the other asks
HEADER_SECONDS = 20  # for the headers of a request to come in
BODY_SECONDS = 90  # for a body that nobody reads any more; one that is read has `Limits.upload_seconds`
LAST_ANSWERS = 30  # seconds for what is under way when it is to stop


class TimedProtocol(H11Protocol):
    """Closes a connection whose sender takes too long over a request: uvicorn would wait for its headers for ever."""

    _deadline: asyncio.TimerHandle | None = None
    _state: object = None  # of the sender, for which there is a deadline

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        state = self.conn.their_state
        if state is self._state:
            return
        self._forget()
        self._state = state
        if seconds := {h11.IDLE: HEADER_SECONDS, h11.SEND_BODY: BODY_SECONDS}.get(state):
            self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _forget(self) -> None:
        if self._deadline:
            self._deadline.cancel()

    def _too_slow(self) -> None:
        if self._state is h11.IDLE:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()


def open_port(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; they wait until `server_of` runs on it. Port 0 takes any that is free. Raises
    MaskensError: there is no such host here, or the port can't be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MaskensError(f"can't serve on {host} port {port}: {reason}. Choose another --host or --port.") from error


def url_of(opened: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server that runs until Ctrl-C or SIGTERM: then nothing new is accepted, what is under way is answered, and the
    signal does what it would have done before."""
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=LAST_ANSWERS,
    )
    return uvicorn.Server(config)
