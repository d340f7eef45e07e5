"""maskens serve."""

from __future__ import annotations

import importlib.util
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from ensemble.commands.options import (
    DEFAULT_RUNS,
    DeviceOption,
    MissingOption,
    NoTuningOption,
    QuietOption,
    RunsOption,
    TtaOption,
    WorkersOption,
)
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal, fail
from ensemble.serving.limits import Limits
from folds.errors import MaskensError

LIMITS = Limits()
PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@dataclass(frozen=True)
class Options:
    """Which models answer, where, and up to which limits."""

    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 8000
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="Another accepted host name; * accepts any. May be repeated."
        ),
    ] = None
    tta: TtaOption = None
    no_tuning: NoTuningOption = False
    allow_missing: MissingOption = False
    max_mb: Annotated[float, typer.Option("--max-mb", min=0.001, help="Largest request, all its photos together.")] = (
        LIMITS.megabytes
    )
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", min=0.001, help="Largest photo.")] = (
        LIMITS.megapixels
    )
    max_photos: Annotated[int, typer.Option("--max-photos", min=1, help="Most photos of a request.")] = LIMITS.photos
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, help="Photos that may wait for the models; others get status 429.")
    ] = LIMITS.queue
    wait_ms: Annotated[
        float,
        typer.Option("--wait-ms", min=0, max=1000, help="How long a photo waits for others to form a batch."),
    ] = 5
    run: RunsOption = DEFAULT_RUNS
    device: DeviceOption = "auto"
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Server:
    """Loaded models behind an open port; `run` answers."""

    app: Callable[..., object]  # ASGI
    url: str
    used: str  # describes models, views and tuning
    notes: tuple[str, ...]  # what the user should know of the models
    opened: socket.socket

    def run(self) -> None:
        """Answer until Ctrl-C or SIGTERM, which interrupt once what is under way is answered."""
        from ensemble.serving.server import serve_until_stopped

        serve_until_stopped(self.app, self.opened)  # type: ignore[arg-type]


def _run(server: Server, options: Options, terminal: Terminal) -> None:
    terminal.note(server.notes, "warning")
    terminal.say(server.used)
    terminal.say(f"serving on {server.url} (stop with Ctrl-C)")
    try:
        server.run()
    except KeyboardInterrupt:
        fail("stopped; all accepted requests were answered.", code=128 + signal.SIGINT)


@step(Options, show=_run, first="run")
def serve(options: Options, observer: Observer) -> Server:
    """Answer photos by HTTP as `maskens predict` does: a page to drop them on, JSON, metrics. There is no password.

    Needs the extra: pip install 'maskens\\[serve]'. Paths, statuses and limits: docs/serve.md.

    Example:  maskens serve --run runs/default --port 8000
    Example:  curl -F photos=@me.jpg http://127.0.0.1:8000/predict
    \f
    Returns:
        The loaded models behind an open port; its `run` answers until Ctrl-C, and its `app` is an ASGI application.

    Raises:
        MaskensError: the extra `serve` is not installed, the port is taken, models missing, runs of other folds.
    """
    limits = Limits(options.max_mb, options.max_megapixels, options.max_photos, options.max_queue)
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise MaskensError(
            f"maskens serve needs {', '.join(missing).replace('_', '-')}, not installed here. "
            "Install it: pip install 'maskens[serve]'"
        )
    from ensemble.commands.predict import choose_ensembles
    from ensemble.jobs.hardware import Hardware, choose_device
    from ensemble.prediction.records import PhotoClassifier
    from ensemble.serving.app import create_app
    from ensemble.serving.requests import ServedModels
    from ensemble.serving.server import open_port, url_of

    hardware = Hardware(choose_device(options.device), options.workers)
    chosen = choose_ensembles(options.run, options.tta, not options.no_tuning, options.allow_missing)
    opened = open_port(options.host, options.port)  # before the models are loaded, which takes longer
    try:
        models = ServedModels(
            lambda: PhotoClassifier(chosen.ensembles, chosen.fitted, hardware), chosen.aspect, limits.megapixels
        )
    except BaseException:
        opened.close()
        raise
    health = {
        "models": chosen.models,
        "runs": [str(folder) for folder in options.run],
        "views": chosen.fitted.tta,
        "tuning": chosen.tuning,
    }
    hosts = (options.host, *(options.allow_host or ()))
    wait, readers = options.wait_ms / 1000, hardware.decoding_threads
    app = create_app(models, chosen.description, health, limits, wait=wait, readers=readers, hosts=hosts)
    return Server(app, url_of(opened), chosen.description, (*chosen.notes, *models.notes), opened)
