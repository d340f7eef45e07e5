"""The command line: the Typer app, its commands, and what an error does to the exit code.

Each command is a module of ensemble/commands, imported when it is called: its top imports heavy libraries.
"""

from __future__ import annotations

import errno
import functools
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from ensemble.commands import options, recipes
from ensemble.commands.step import command
from ensemble.commands.terminal import discard_if_broken, fail, print_anything
from ensemble.jobs.stopping import Interruption
from folds.errors import MaskensError, expected, first_line

COMMANDS: dict[str, dict[str, type]] = {
    "Start": {"run": options.RunOptions},
    "Data": {"sample": options.SampleOptions, "explore": options.ExploreOptions, "folds": options.FoldsOptions},
    "Training": {
        "recommend": options.RecommendOptions,
        "train": options.TrainOptions,
        "distil": options.DistilOptions,
        "sweep": options.SweepOptions,
    },
    "Prediction": {
        "infer": options.InferOptions,
        "check_submission": options.CheckSubmissionOptions,
        "predict": options.PredictOptions,
        "serve": options.ServeOptions,
        "export": options.ExportOptions,
    },
    "Evaluation": {
        "score": options.ScoreOptions,
        "tune": options.TuneOptions,
        "compare": options.CompareOptions,
        "report": options.ReportOptions,
        "audit": options.AuditOptions,
        "verify": options.VerifyOptions,
    },
}
CTRL_C = 128 + signal.SIGINT  # exit codes of what a signal stopped, as shells have them
NO_MEMORY = ("failed to map segment", "annot allocate memory")  # in messages of the dynamic linker and of others
BROKEN_PIPE = 128 + signal.SIGPIPE
REFUSED = {  # errors of the system, whatever the file; any other OSError without a file's name is an internal error
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE),
    *(errno.EACCES, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT),
}
LEAST_MEMORY = 1_000_000_000  # bytes of address space; with fewer, numpy's OpenBLAS hangs


class WithoutTypes:
    """A command or group whose help shows the values that parameters name, and no Python types."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if isinstance(param, typer.core.TyperArgument):
                param.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
            elif param.metavar is None:
                param.metavar = ""
        return params


class PlainCommand(WithoutTypes, typer.core.TyperCommand): ...


class PlainGroup(WithoutTypes, typer.core.TyperGroup): ...


app = typer.Typer(
    name="maskens",
    cls=PlainGroup,
    help="Person-grouped folds, one model per fold and task, test-time augmentation, one ensemble, one CSV.",
    epilog="First run:  maskens sample data && maskens run --recipe demo\n\n"
    "Environment: MASKENS_RUN sets --run; so do MASKENS_DATA, _RECIPE, _SEED, _DEVICE, _WORKERS, _CACHE, "
    "_BACKEND, _ADDRESS and _QUIET their options.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
recipes_app = typer.Typer(
    cls=PlainGroup, help="List the recipes that come with maskens, or show one.", add_completion=False
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version as version_of

        typer.echo(f"maskens {version_of('maskens')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


class Passed(Exception):
    """Carries an error that typer would handle itself to `run`."""

    def __init__(self, error: Exception | KeyboardInterrupt) -> None:
        super().__init__(error)
        self.error = error


def passing(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors reach `run`."""

    @functools.wraps(function)
    def run(*args: Any, **values: Any) -> None:
        try:
            refuse_small_memory()
            function(*args, **values)
        except (KeyboardInterrupt, EOFError, OSError) as error:
            raise Passed(error) from error

    return run


def refuse_small_memory() -> None:
    """Raise MaskensError if the memory limit is too small to import anything."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= limit < LEAST_MEMORY:
        raise MaskensError(f"the memory limit of {limit / 1e6:.0f} MB (ulimit -v) is too small for any command")


for panel, commands in COMMANDS.items():
    for name, its_options in commands.items():
        app.command(name=name.replace("_", "-"), cls=PlainCommand, rich_help_panel=panel)(
            passing(command(name, its_options))
        )
app.add_typer(recipes_app, name="recipes", rich_help_panel="Training")
recipes_app.callback(invoke_without_command=True)(passing(recipes.list_recipes))
recipes_app.command(cls=PlainCommand)(passing(recipes.show))


def main() -> None:
    """Entry point of the command `maskens`."""
    print_anything()
    if os.path.expanduser("~") == "~":  # a user id without an entry, and no HOME: libraries would make a folder "~"
        os.environ["HOME"] = "/"
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes started import nothing from the working folder
    stop = Interruption()
    stop.install()
    try:
        code = run(stop)
    finally:
        stop.restore()
    sys.exit(code)


def run(stop: Interruption) -> Any:
    """Run the command that was typed; returns its exit code."""
    try:
        code = app(prog_name="maskens", standalone_mode=False)
        if code == CTRL_C:  # typer returns it for an interruption outside of the command itself
            raise KeyboardInterrupt
        sys.stdout.flush()
        number = stop.settle()
    except SystemExit as end:
        number, code = stop.settle(), end.code
    except (Exception, KeyboardInterrupt) as error:
        number = stop.settle()
        try:
            report_error(error.error if isinstance(error, Passed) else error, number)
        except SystemExit as end:
            code = end.code
    return 128 + number if number and code == CTRL_C else code


def report_error(error: Exception | KeyboardInterrupt, number: int) -> NoReturn:
    """Print one message on the error and exit: 2 for an error that the user can correct, 1 for an internal one.
    `number` is that of the signal that stopped the command, 0 for none."""
    if number or isinstance(error, KeyboardInterrupt):  # an import that is interrupted may end in any error
        fail(f"stopped. {saved(error)} The same command resumes.", code=CTRL_C)
    if isinstance(error, typer.TyperException):
        explain(error)
    if isinstance(error, MaskensError):
        fail(str(error))
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        fail(f"there is not enough memory ({first_line(error)}): free some, or raise its limit (ulimit -v)")
    if isinstance(error, OSError):
        if broken := discard_if_broken(sys.stdout):
            if broken.errno == errno.EPIPE:  # its reader has ended, like `head`
                sys.exit(BROKEN_PIPE)
            fail(f"can't write to the standard output: {broken.strerror or broken}")
        if error.filename or error.errno in REFUSED:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"the system refused: {where}{error.strerror or error}")
    if isinstance(error, EOFError):
        fail("the question was not answered, so nothing was done. To skip it: --yes")
    fail(f"internal error ({type(error).__name__}: {first_line(error)}). {kept_traceback(error)}", code=1)


def saved(error: BaseException | None) -> str:
    """What is saved, by the message of the interruption that led to an error."""
    while error:
        if isinstance(error, KeyboardInterrupt) and str(error):
            return f"Saved: {error}."
        error = error.__context__
    return "What was finished is saved."


def kept_traceback(error: BaseException) -> str:
    """Where the traceback was written; the traceback itself if no file can be written."""
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="maskens-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return f"Its traceback:\n{text}"
    return f"Its traceback: {path}"


def explain(error: typer.TyperException) -> NoReturn:
    """Print typer's message on a wrong option or argument, with pydantic's wording replaced."""
    from typer.rich_utils import rich_format_error

    if error.format_message():  # a command without any argument has shown its help
        error.message = expected(error.message)
        context = getattr(error, "ctx", None)
        repeated = [p.opts[0] for p in context.command.params if getattr(p, "multiple", False)] if context else []
        if "unexpected extra argument" in error.message and repeated:
            error.message += f". To give several values, repeat the option: {', '.join(repeated)}."
        rich_format_error(error)  # type: ignore[arg-type]
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
