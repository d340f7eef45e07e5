"""The port, and the loop that answers on it."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from folds.errors import MaskensError

BACKLOG = 128  # connections that wait to be accepted
KEEP_ALIVE = 75  # seconds; longer than proxies keep an idle connection, else one closes it just as the other asks
LAST_ANSWERS = 30  # seconds for what is under way when it is to stop


def reserve_port(host: str, port: int) -> socket.socket:
    """A socket that has the port but takes no connections yet.

    Args:
        port: 0 takes any that is free.

    Raises:
        MaskensError: there is no such host here, or the port can't be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        reserved = socket.socket(family, kind, protocol)
        try:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a server before may linger
            reserved.bind(address)
        except OSError:
            reserved.close()
            raise
    except (OSError, OverflowError) as error:
        raise _refused(host, port, error) from error
    return reserved


def url_of(reserved: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = reserved.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def open_port(reserved: socket.socket) -> None:
    """Take connections; they wait until `serve_until_stopped` answers them.

    Raises:
        MaskensError: another program opened the port meanwhile.
    """
    try:
        reserved.listen(BACKLOG)
    except OSError as error:
        host, port = reserved.getsockname()[:2]
        raise _refused(host, port, error) from error


def serve_until_stopped(app: ASGIApp, opened: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM: then nothing new is accepted, what is under way is answered, and the signal does
    what it would have done before."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=LAST_ANSWERS,
    )
    uvicorn.Server(config).run(sockets=[opened])


def _refused(host: str, port: int, error: Exception) -> MaskensError:
    reason = getattr(error, "strerror", None) or str(error)
    return MaskensError(f"can't serve on {host} port {port}: {reason}. Name another with --host or --port.")
