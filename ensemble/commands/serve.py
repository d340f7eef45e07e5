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

    host: Annotated[str, typer.Option("--host", help="Address to answer on; 0.0.0.0 is every one.")] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 8000
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="Another host name to answer for; * is any. May be repeated."
        ),
    ] = None
    tta: TtaOption = None
    no_tuning: NoTuningOption = False
    allow_missing: MissingOption = False
    max_mb: Annotated[float, typer.Option("--max-mb", min=0.001, help="Of a request, all its photos together.")] = (
        LIMITS.megabytes
    )
    max_megapixels: Annotated[float, typer.Option("--max-megapixels", min=0.001, help="Of a photo.")] = (
        LIMITS.megapixels
    )
    max_photos: Annotated[int, typer.Option("--max-photos", min=1, help="Of a request.")] = LIMITS.photos
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, help="Photos that wait for the models; beyond, 429 is the answer.")
    ] = LIMITS.queue
    wait_ms: Annotated[
        float,
        typer.Option("--wait-ms", min=0, max=1000, help="How long a photo waits for others to be answered with."),
    ] = 5
    run: RunsOption = DEFAULT_RUNS
    device: DeviceOption = "auto"
    workers: WorkersOption = None
    quiet: QuietOption = False


@dataclass(frozen=True)
class Server:
    """Models that are loaded and a port that is open: who connects now is answered by `run`."""

    app: Callable[..., object]  # ASGI
    url: str
    words: str  # models, views and tuning
    notes: tuple[str, ...]  # what the user should know of the models
    opened: socket.socket

    def run(self) -> None:
        """Answer until Ctrl-C or SIGTERM, which interrupt once what is under way is answered."""
        from ensemble.serving.server import serve_until_stopped

        serve_until_stopped(self.app, self.opened)  # type: ignore[arg-type]


def _run(server: Server, options: Options, terminal: Terminal) -> None:
    terminal.note(server.notes, "warning")
    terminal.say(server.words)
    terminal.say(f"serving on {server.url} (Ctrl-C stops it)")
    try:
        server.run()
    except KeyboardInterrupt:
        fail("stopped. What had been accepted is answered.", code=128 + signal.SIGINT)


@step(Options, show=_run, first="run")
def serve(options: Options, observer: Observer) -> Server:
    """Answer photos by HTTP as `maskens predict` does: a page to drop them on, JSON, metrics. There is no password.

    Needs the extra: pip install 'maskens\\[serve]'. What it answers and promises: docs/serve.md.

    Example:  maskens serve --run runs/default --port 8000
    Example:  curl -F photos=@me.jpg http://127.0.0.1:8000/predict
    \f
    Returns:
        The loaded models behind an open port; its `run` answers until Ctrl-C, and its `app` is an ASGI application.

    Raises:
        MaskensError: the extra `serve` is not installed, the port is taken, models missing, runs of other folds.
    """
    limits = Limits(options.max_mb, options.max_megapixels, options.max_photos, options.max_queue)
    refuse_without_packages()
    from ensemble.commands.predict import choose_ensembles
    from ensemble.jobs.hardware import Hardware, choose_device
    from ensemble.prediction.predictions import ResidentEnsemble
    from ensemble.serving.app import AppSettings, create_app
    from ensemble.serving.requests import PhotoAnswers
    from ensemble.serving.server import open_port, reserve_port, url_of

    hardware = Hardware(choose_device(options.device), options.workers)
    chosen = choose_ensembles(options.run, options.tta, not options.no_tuning, options.allow_missing)
    reserved = reserve_port(options.host, options.port)
    try:  # it is reserved before the models are loaded, so that a port in use is told at once
        answers = PhotoAnswers(
            lambda: ResidentEnsemble(chosen.ensembles, chosen.fitted, hardware), chosen.aspect, limits.megapixels
        )
        open_port(reserved)
    except BaseException:
        reserved.close()
        raise
    settings = AppSettings(
        about=chosen.words,
        health={
            "models": chosen.models,
            "runs": [str(folder) for folder in options.run],
            "views": chosen.fitted.tta,
            "tuning": chosen.tuning,
        },
        limits=limits,
        wait=options.wait_ms / 1000,
        readers=hardware.decoding_threads,
        hosts=(options.host, *(options.allow_host or ())),
    )
    notes = (*chosen.notes, *answers.notes)
    return Server(create_app(answers, settings), url_of(reserved), chosen.words, notes, reserved)


def refuse_without_packages() -> None:
    """Find out now whether the extra is installed.

    Raises:
        MaskensError: it is not, and how to install it.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MaskensError(
            f"maskens serve needs {', '.join(missing).replace('_', '-')}, not installed here. "
            "Install it: pip install 'maskens[serve]'"
        )
