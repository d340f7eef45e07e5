"""maskens serve."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from ensemble.backends.choose import choose_hardware
from ensemble.commands.options import ServeOptions
from ensemble.commands.step import step
from ensemble.commands.terminal import Observer, Terminal, fail
from ensemble.decision.members import choose_ensembles
from ensemble.models.engine import engine_options
from ensemble.serving.limits import Limits
from folds.errors import refuse_without
from folds.run_folder import load_run

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@dataclass(frozen=True)
class Server:
    """Loaded models behind an open port; `run` answers."""

    app: Callable[..., object]  # ASGI
    url: str
    used: str  # describes models, views and tuning
    warnings: tuple[str, ...]  # what the user should know of the models
    notes: tuple[str, ...]  # engines that predict, and kept graphs
    opened: socket.socket

    def run(self) -> None:
        """Answer until Ctrl-C or SIGTERM, which interrupt once what is under way is answered."""
        from ensemble.serving.server import server_of

        server_of(self.app).run(sockets=[self.opened])  # type: ignore[arg-type]


def _run(server: Server, options: ServeOptions, terminal: Terminal) -> None:
    terminal.note(server.warnings, "warning")
    terminal.lines((*server.notes, server.used))
    terminal.say(f"serving on {server.url} (stop with Ctrl-C)")
    try:
        server.run()
    except KeyboardInterrupt:
        fail("stopped; all accepted requests were answered.", code=128 + signal.SIGINT)


@step(ServeOptions, show=_run, first="run")
def serve(options: ServeOptions, observer: Observer) -> Server:
    """
    Returns:
        The loaded models behind an open port; its `run` answers until Ctrl-C, and its `app` is an ASGI application.

    Raises:
        MaskensError: the extra `serve` is not installed, the port is taken, models missing, runs of other folds.
    """
    limits = Limits(options.max_mb, options.max_megapixels, options.max_photos, options.max_queue)
    refuse_without(PACKAGES, "serve", "maskens serve")
    from ensemble.serving.server import open_port, url_of

    runs = [load_run(folder) for folder in options.run]
    chosen = choose_ensembles(runs, options.tta, not options.no_tuning, options.allow_missing, options.only)
    opened = open_port(options.host, options.port)  # before the models are loaded, which takes longer
    try:
        from ensemble.prediction.photo_classifier import PhotoClassifier
        from ensemble.serving.app import create_app
        from ensemble.serving.requests import ServedModels

        hardware = choose_hardware(options.device, options.workers)
        engine = engine_options(options.engine, device=hardware.device, graphs=not options.no_graphs)

        def load() -> PhotoClassifier:
            return PhotoClassifier(chosen.ensembles, chosen.fitted, hardware, engine)

        models = ServedModels(load, chosen.aspect, limits.megapixels)
    except BaseException:
        opened.close()
        raise
    health = {
        "models": chosen.models,
        "runs": [str(folder) for folder in options.run],
        "views": chosen.fitted.tta,
        "tuning": chosen.tuning.description,
    }
    hosts = (options.host, *(options.allow_host or ()))
    wait, readers = options.wait_ms / 1000, hardware.decoding_threads
    app = create_app(models, chosen.description, health, limits, wait=wait, readers=readers, hosts=hosts)
    return Server(app, url_of(opened), chosen.description, chosen.notes, tuple(models.notes), opened)
