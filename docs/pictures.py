"""Make the pictures of README and docs anew, from generated faces: `python docs/pictures.py`.

Tables become SVG by rich, pages PNG by a headless Chromium or Chrome, all in docs/pictures/. Takes about five minutes.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

import ensemble
from ensemble.commands.terminal import Terminal
from ensemble.jobs.job import JobStatus
from ensemble.reporting.live_table import jobs_table

PICTURES = Path(__file__).parent / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIMIT = 200_000  # bytes of a picture


class Recorder(Terminal):
    """Keeps what the terminal would show, and the live table of the middle of a training."""

    def __init__(self) -> None:
        super().__init__()
        as_commands = {"markup": False, "emoji": False, "highlight": False}
        recorded = {"record": True, "file": io.StringIO(), "force_terminal": True, "color_system": "truecolor"}
        self.console = Console(width=92, **recorded, **as_commands)  # type: ignore[arg-type]
        self.seen: list[list[JobStatus]] = []

    def update(self, statuses: Sequence[JobStatus]) -> None:
        self.seen.append(list(statuses))

    @contextlib.contextmanager
    def jobs(self, title: str, runs: Sequence[str] = ()) -> Iterator[Any]:
        yield self

    def confirm(self, question: Callable[[], str], meanwhile: str) -> None:
        """Nobody is asked."""

    def save(self, name: str, title: str) -> None:
        self.console.save_svg(str(PICTURES / name), title=title)


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of these is installed: {', '.join(BROWSERS)}")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        ensemble.sample("data", people=90, size="192x256")
        ensemble.folds("data")
        training, table, scoring = Recorder(), Recorder(), Recorder()
        ensemble.train(recipe="demo", fold="all", observer=training)
        halfway = [seen for seen in training.seen if sum(s.state == "done" for s in seen) == len(seen) // 2]
        table.console.print(jobs_table(halfway[len(halfway) // 2], "10 of 20 jobs done", None))
        table.save("train.svg", "maskens train --recipe demo --fold 0..4")
        ensemble.infer(tta="flip")
        options = ensemble.score.parse()
        ensemble.score.show(ensemble.score.do(options, scoring), options, scoring)
        scoring.save("score.svg", "maskens score")
        pages = {
            "report": ensemble.report().path,
            "explore": Path("runs/explore/index.html"),
            "audit": Path("runs/default/audit/index.html"),
        }
        ensemble.explore("data", recipe="demo")
        ensemble.audit()
        for name, page in pages.items():
            photograph(browser, page.resolve(), PICTURES / f"{name}.png")


def photograph(browser: str, page: Path, picture: Path) -> None:
    """The top of a page, 1280 pixels wide, in few enough colours for its limit of bytes."""
    shot = Path("shot.png").resolve()
    subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,1100"),
            *(f"--screenshot={shot}", page.as_uri()),
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    with Image.open(shot) as image:
        for colours in (256, 128, 64, 32):
            image.convert("RGB").quantize(colours).save(picture, optimize=True)
            if picture.stat().st_size < LIMIT:
                return
    raise ValueError(f"{picture.name} is larger than {LIMIT} bytes")


if __name__ == "__main__":
    main()
