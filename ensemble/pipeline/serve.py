"""The trained ensemble behind a port."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from ensemble.jobs.hardware import Hardware, choose_device
from ensemble.pipeline.ensembles import choose_ensembles
from ensemble.pipeline.inputs import DEFAULT_RUN, Folders, folders, load_runs
from ensemble.prediction.predictions import ResidentEnsemble
from ensemble.recipes.views import Tta
from ensemble.serving.limits import Limits
from folds.errors import MaskensError

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@dataclass(frozen=True)
class ServeOptions:
    """How photos are served; the defaults are those of `maskens serve` without options.

    Attributes:
        port: 0 takes any that is free.
        tta, tuned, allow_missing, device: as of `predict`.
        workers: threads that decode photos; no result depends on it.
        limits: beyond which a request is refused.
        wait_ms: how long a photo waits for others to be answered with.
        allow_hosts: names beside this machine's that a request may give as its host; "*" is any.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tta: Tta | None = None
    tuned: bool = True
    allow_missing: bool = False
    device: str = "auto"
    workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    wait_ms: float = 5
    allow_hosts: tuple[str, ...] = ()


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


def prepare_server(runs: Folders = DEFAULT_RUN, options: ServeOptions | None = None) -> Server:
    """Check everything, load the models, and open the port.

    Args:
        runs: several on the same folds are blended.

    Raises:
        MaskensError: the extra `serve` is not installed, the port is taken, or as `predict`.
    """
    options = options or ServeOptions()
    refuse_without_packages()
    from ensemble.serving.app import AppSettings, create_app  # here, as they need the extra
    from ensemble.serving.requests import PhotoAnswers
    from ensemble.serving.server import open_port, reserve_port, url_of

    hardware = Hardware(choose_device(options.device), options.workers)
    chosen = choose_ensembles(load_runs(runs), options.tta, options.tuned, options.allow_missing)
    reserved = reserve_port(options.host, options.port)
    try:  # it is reserved before the models are loaded, so that a port in use is told at once
        answers = PhotoAnswers(
            lambda: ResidentEnsemble(chosen.ensembles, chosen.fitted, hardware),
            chosen.aspect,
            options.limits.megapixels,
        )
        open_port(reserved)
    except BaseException:
        reserved.close()
        raise
    settings = AppSettings(
        about=chosen.words,
        health={
            "models": chosen.models,
            "runs": [str(folder) for folder in folders(runs)],
            "views": chosen.fitted.tta,
            "tuning": chosen.tuning,
        },
        limits=options.limits,
        wait=options.wait_ms / 1000,
        readers=hardware.decoding_threads,
        hosts=(options.host, *options.allow_hosts),
    )
    notes = (*chosen.notes, *answers.notes)
    return Server(create_app(answers, settings), url_of(reserved), chosen.words, notes, reserved)


def serve(runs: Folders = DEFAULT_RUN, options: ServeOptions | None = None) -> None:
    """Answer photos by HTTP until Ctrl-C or SIGTERM.

    Args:
        runs, options: as of `prepare_server`.

    Raises:
        MaskensError: as `prepare_server`.
    """
    prepare_server(runs, options).run()


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
