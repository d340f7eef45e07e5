"""maskens serve."""

from __future__ import annotations

import signal
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
from ensemble.commands.terminal import fail, make_console, note, say
from ensemble.serving.limits import Limits

LIMITS = Limits()


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to answer on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="Another host name to answer for; * is any. May be repeated."
        ),
    ] = None,
    tta: TtaOption = None,
    no_tuning: NoTuningOption = False,
    allow_missing: MissingOption = False,
    max_mb: Annotated[
        float, typer.Option("--max-mb", min=0.001, help="Of a request, all its photos together.")
    ] = LIMITS.megabytes,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", min=0.001, help="Of a photo.")
    ] = LIMITS.megapixels,
    max_photos: Annotated[int, typer.Option("--max-photos", min=1, help="Of a request.")] = LIMITS.photos,
    max_queue: Annotated[
        int, typer.Option("--max-queue", min=1, help="Photos that wait for the models; beyond, 429 is the answer.")
    ] = LIMITS.queue,
    wait_ms: Annotated[
        float,
        typer.Option("--wait-ms", min=0, max=1000, help="How long a photo waits for others to be answered with."),
    ] = 5,
    run: RunsOption = DEFAULT_RUNS,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Answer photos by HTTP as `maskens predict` does: a page to drop them on, JSON, metrics. There is no password.

    Needs the extra: pip install 'maskens\\[serve]'. What it answers and promises: docs/serve.md.

    Example:  maskens serve --run runs/default --port 8000
    Example:  curl -F photos=@me.jpg http://127.0.0.1:8000/predict
    """
    from ensemble.pipeline.serve import ServeOptions, prepare_server

    console = make_console(quiet)
    limits = Limits(max_mb, max_megapixels, max_photos, max_queue)
    options = ServeOptions(
        host=host,
        port=port,
        tta=tta,
        tuned=not no_tuning,
        allow_missing=allow_missing,
        device=device,
        workers=workers,
        limits=limits,
        wait_ms=wait_ms,
        allow_hosts=tuple(allow_host or ()),
    )
    try:
        server = prepare_server(run, options)
        note(console, server.notes, "warning")
        say(console, server.words)
        say(console, f"serving on {server.url} (Ctrl-C stops it)")
        server.run()
    except KeyboardInterrupt:
        fail("stopped. What had been accepted is answered.", code=128 + signal.SIGINT)
