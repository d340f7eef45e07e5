"""The command line: the Typer app, its commands, and what an error does to the exit code.

Each command is a module of ensemble/commands. Heavy libraries are imported inside the commands.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from ensemble.commands import recipes
from ensemble.commands.audit import audit
from ensemble.commands.check_submission import check_submission
from ensemble.commands.compare import compare
from ensemble.commands.distil import distil
from ensemble.commands.explore import explore
from ensemble.commands.export import export
from ensemble.commands.folds import folds
from ensemble.commands.infer import infer
from ensemble.commands.predict import predict
from ensemble.commands.recommend import recommend
from ensemble.commands.report import report
from ensemble.commands.sample import sample
from ensemble.commands.score import score
from ensemble.commands.serve import serve
from ensemble.commands.sweep import sweep
from ensemble.commands.terminal import fail, print_anything
from ensemble.commands.train import train
from ensemble.commands.tune import tune
from ensemble.commands.verify import verify
from folds.errors import MaskensError

COMMANDS = (
    sample,
    explore,
    folds,
    recommend,
    train,
    distil,
    sweep,
    infer,
    predict,
    serve,
    score,
    tune,
    compare,
    audit,
    report,
    verify,
    check_submission,
    export,
)

CTRL_C = 128 + signal.SIGINT  # exit codes of what a signal stopped, as shells have them
TERMINATED = 128 + signal.SIGTERM

app = typer.Typer(
    name="maskens",
    help="Person-grouped folds, one model per fold and task, test-time augmentation, one honest ensemble, one CSV.",
    epilog="First run:  maskens sample data  &&  maskens folds  &&  maskens train --recipe demo  &&  "
    "maskens infer --tta flip  &&  maskens score",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
recipes_app = typer.Typer(help="The recipes that come with maskens.", add_completion=False)


def _show_version(asked: bool) -> None:
    if asked:
        from folds.versions import library_versions

        typer.echo(f"maskens {library_versions()['maskens']}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what the user can mend into one message and exit code 2, Ctrl-C into 130 (`main`: SIGTERM into 143); a
    crash exits with 1."""

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> None:
        try:
            command(*args, **values)
        except MaskensError as error:
            fail(str(error))
        except KeyboardInterrupt as stop:
            saved = f"Saved: {stop}. The" if str(stop) else "What was finished is saved; the"
            fail(f"stopped. {saved} same command goes on from there.", code=CTRL_C)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"the system refused: {where}{error.strerror or error}")

    return run


for command in COMMANDS:
    app.command(name=command.__name__.replace("_", "-"))(exit_codes(command))
app.add_typer(recipes_app, name="recipes")
recipes_app.callback(invoke_without_command=True)(exit_codes(recipes.list_recipes))
recipes_app.command()(exit_codes(recipes.show))


def main() -> None:
    """Entry point of the command `maskens`."""
    print_anything()
    if os.path.expanduser("~") == "~":  # a user id without an entry, and no HOME: libraries would make a folder "~"
        os.environ["HOME"] = "/"
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # processes started import nothing from the working folder
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, _terminate(os.getpid(), received))
    try:
        sys.exit(app(prog_name="maskens", standalone_mode=False))
    except SystemExit as end:
        if received and end.code == CTRL_C:
            end.code = TERMINATED
        raise
    except typer.TyperException as error:
        explain(error)
    finally:
        signal.signal(signal.SIGTERM, before)


def explain(error: typer.TyperException) -> NoReturn:
    """Show a wrong option or argument as typer does, but for pydantic's own words, which are not the user's."""
    from typer.rich_utils import rich_format_error

    if error.format_message():  # a command without any argument has shown its help
        error.message = error.message.replace("Value error, ", "")
        rich_format_error(error)  # type: ignore[arg-type]
    sys.exit(error.exit_code)


def _terminate(owner: int, received: list[int]) -> Callable[[int, object], None]:
    """A handler that stops this process as Ctrl-C does. Forked loader processes inherit it and must just end: one that
    goes on after the exception would be waited for."""

    def handle(number: int, frame: object) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        received.append(number)
        raise KeyboardInterrupt

    return handle


if __name__ == "__main__":
    main()
