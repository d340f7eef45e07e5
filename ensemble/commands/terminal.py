"""What commands print with: lines, notes, warnings, progress bars, and the one message of an error."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from folds.errors import typed

if TYPE_CHECKING:
    from rich.console import Console

OnProgress = Callable[[str, int, int], None]
"""(what is done, done so far, in all)."""

PLAIN = {"±": "+-", "…": "..."}  # what a stream can print that lacks the character


def print_anything() -> None:
    """Let stdout and stderr replace characters that their encoding lacks, like ± or a file's name in ASCII or cp949."""
    codecs.register_error("maskens", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="maskens")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in missing), error.end


def make_console(quiet: bool = False, stderr: bool = False) -> Console:
    """A console that takes text as it is: names may hold markup or emoji codes. A quiet one prints nothing."""
    from rich.console import Console

    class Broken(Console):
        def on_broken_pipe(self) -> None:
            raise  # `cli` knows what to do; rich would exit

    return Broken(quiet=quiet, stderr=stderr, markup=False, emoji=False, highlight=False)


def fail(message: str, code: int = 2) -> NoReturn:
    """One message on stderr, and the end."""
    console = make_console(stderr=True)
    with contextlib.suppress(OSError):  # a terminal that was closed
        console.print("error:", style="bold red", end=" ")
        console.print(message, soft_wrap=True)
    discard_if_broken(sys.stderr)
    sys.exit(code)


def discard_if_broken(stream: TextIO) -> OSError | None:
    """The error of a stream that can't be written, else None; what is buffered for it is dropped, so that the
    interpreter's exit doesn't fail."""
    try:
        stream.flush()
        if _has_no_reader(stream):  # flushing an unbuffered stream raises nothing
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # a stream without a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))
    return False


def run_options(runs: Sequence[Path]) -> str:
    """The runs as they are typed."""
    return "".join(f" --run {typed(run)}" for run in runs)


class Observer:
    """What a step reports to while it works. This one is silent; `Terminal` prints."""

    def say(self, message: str, style: str | None = None, wrap: bool = True) -> None:
        """A line of text; `wrap` is False for a command, which is copied whole."""

    def lines(self, messages: Iterable[str], style: str | None = None) -> None:
        """Several lines of text."""
        for message in messages:
            self.say(message, style)

    def note(self, notes: Iterable[str], kind: str = "note") -> None:
        """What the user should know, a line each."""

    def next(self, command: str) -> None:
        """What the user may do next."""

    def print(self, *tables: object) -> None:
        """Tables, or whatever else rich renders."""

    def progress(self) -> contextlib.AbstractContextManager[OnProgress]:
        """A context whose callback takes how far each part of the work is."""
        return contextlib.nullcontext(lambda what, done, total: None)

    def jobs(self, title: str, runs: Sequence[str] = ()) -> contextlib.AbstractContextManager[Any]:
        """A context whose `update` takes the `JobStatus` of every job a few times a second; `runs` names each one's
        run."""
        return contextlib.nullcontext(SimpleNamespace(update=lambda statuses: None))

    def confirm(self, question: Callable[[], str], meanwhile: str) -> None:
        """Ask what `question` returns before hours of work, "" for nothing to ask; returns if the user agrees."""


SILENT = Observer()


class Terminal(Observer):
    """Prints what a step reports: live tables and bars on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool = False, stderr: bool = False) -> None:
        self.console = make_console(quiet, stderr)

    def say(self, message: str, style: str | None = None, wrap: bool = True) -> None:
        longest = max(map(len, message.split()), default=0)  # a path that is wider than the terminal stays whole
        fits = wrap and self.console.is_terminal and longest <= self.console.width
        self.console.print(message, style=style, soft_wrap=not fits)

    def note(self, notes: Iterable[str], kind: str = "note") -> None:
        self.lines((f"{kind}: {line}" for line in notes), "yellow")

    def saved(self, path: Path, earlier: Path | None) -> None:
        """Where a file was written, and where the earlier one is kept, if there was one."""
        if earlier:
            self.say(f"the earlier file is kept as {earlier}")
        self.say(f"saved: {path}")

    def next(self, command: str) -> None:
        self.say(f"next: {command}", "dim", wrap=False)

    def print(self, *tables: object) -> None:
        for table in tables:
            self.console.print(table)

    @contextlib.contextmanager
    def progress(self) -> Iterator[OnProgress]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Elapsed(), Remaining())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            bars: dict[str, TaskID] = {}

            def update(what: str, done: int, total: int) -> None:
                if what not in bars:
                    bars[what] = progress.add_task(what, total=total)
                progress.update(bars[what], completed=done, total=total)

            yield update

    def jobs(self, title: str, runs: Sequence[str] = ()) -> contextlib.AbstractContextManager[Any]:
        from ensemble.reporting.live_table import jobs_display

        return jobs_display(self.console, title, runs)

    def confirm(self, question: Callable[[], str], meanwhile: str) -> None:
        with self.console.status(meanwhile) if self.console.is_terminal else contextlib.nullcontext():
            asked = question()
        if asked and not self.console.is_terminal:
            fail(asked)
        try:
            if asked and not typer.confirm(f"{asked}\nGo ahead?"):
                raise typer.Exit(2)
        except typer.Abort as abort:
            typer.echo()  # the message gets a line of its own
            raise abort.__context__ or abort from None  # Ctrl-C, or Ctrl-D, which says neither yes nor no
