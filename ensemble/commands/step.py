"""A step of the pipeline as a command and as a Python call, both made from one dataclass of options.

`options.py` holds the options. A module of this package holds one step: the function that does it and reports to an
observer, and the function that prints the result. `cli` imports it when the step is called.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import typer

from ensemble.commands.options import PANELS
from ensemble.commands.terminal import SILENT, Observer, Terminal
from folds.errors import MaskensError, expected, typed

Options = TypeVar("Options")
Result = TypeVar("Result")


class Step(Generic[Options, Result]):
    """A step, called from Python with its options: `train("runs/a", fold="0..2")`.

    The first option may be positional. Options that are lists take one value too, and paths may be text.
    """

    def __init__(
        self,
        options: type[Options],
        do: Callable[[Options, Observer], Result],
        show: Callable[[Result, Options, Terminal], None],
        first: str,
    ) -> None:
        self.options, self.do, self.show = options, do, show
        self.__name__ = do.__name__
        self.__doc__ = f"{inspect.getdoc(options)}\n\n{inspect.getdoc(do) or ''}".rstrip()
        parameters = _parameters(options)
        parameters.sort(key=lambda parameter: parameter.name != first)
        parameters[0] = parameters[0].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self.__signature__ = inspect.Signature(parameters)

    def __call__(self, *values: Any, observer: Observer = SILENT, **options: Any) -> Result:
        return self.do(self.parse(*values, **options), observer)

    def command_line(self, options: Options) -> str:
        """The command that does the same, as it is typed: --run and all that is not at its default."""
        words = [f"maskens {self.__name__.replace('_', '-')}"]
        for parameter in self.__signature__.parameters.values():
            name, value = parameter.name, getattr(options, parameter.name)
            option = get_args(parameter.annotation)[-1].default  # an argument has none
            if name == "run" or value != parameter.default:
                for given in value if isinstance(value, list) else [value]:
                    words += [option] if isinstance(option, str) else []
                    words += [] if given is True else [f"{given:.12g}" if isinstance(given, float) else typed(given)]
        return " ".join(words)

    def parse(self, *values: Any, **options: Any) -> Options:
        """Validate the options of a call.

        Raises:
            TypeError: no such option, or one given twice, as in any call.
            MaskensError: a value of the wrong type, none of an option's choices, or out of its range.
        """
        import pydantic

        given = self.__signature__.bind(*values, **options).arguments
        hints = get_type_hints(self.options)
        try:
            found: Options = pydantic.TypeAdapter(self.options).validate_python(
                {name: _as_typed(value, hints[name]) for name, value in given.items()}
            )
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            raise MaskensError(f"{'.'.join(map(str, first['loc']))}: {expected(first['msg'])}.") from None
        for field in dataclasses.fields(self.options):  # type: ignore[arg-type]
            if check := field.metadata["check"]:
                try:
                    check(getattr(found, field.name))
                except typer.BadParameter as error:
                    raise MaskensError(f"{field.name}: {error.message}") from None
        return found


def _as_typed(value: Any, hint: Any) -> Any:
    """A value as it would be typed: text for a path or number, a list for an option that may be repeated."""
    if value is not None and list in (get_origin(hint), *map(get_origin, get_args(hint))):
        return [_as_typed(item, str) for item in (value if isinstance(value, (list, tuple)) else [value])]
    return str(value) if isinstance(value, (int, Path)) and not isinstance(value, bool) else value


def _parameters(options: type[Any]) -> list[inspect.Parameter]:
    """The options of a class as keyword parameters: by panel, a command's own before those that it inherits."""
    hints, fields = get_type_hints(options), {field.name: field for field in dataclasses.fields(options)}
    own = dict.fromkeys(name for base in options.__mro__ for name in vars(base).get("__annotations__", {}))
    found = []
    for name in sorted(own, key=lambda name: PANELS.index(fields[name].metadata["panel"])):
        default, make = fields[name].default, fields[name].metadata["make"]
        if isinstance(default, tuple):
            default = list(default)
        elif default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        annotation: Any = Annotated[hints[name], make(name)]
        found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return found


def command(name: str, options: type[Any]) -> Callable[..., None]:
    """The function that typer runs: its parameters are the options, and its first call imports the step."""

    def run(**values: Any) -> None:
        step: Step[Any, Any] = getattr(import_module(f"ensemble.commands.{name}"), name)
        given = options(**values)
        json = values.get("json", False)  # takes stdout for itself
        terminal = Terminal(values.get("quiet", False), stderr=json)
        step.show(step.do(given, terminal), given, terminal)

    run.__name__, run.__doc__ = name, options.__doc__
    run.__signature__ = inspect.Signature(_parameters(options))  # type: ignore[attr-defined]
    return run


def step(
    options: type[Options], show: Callable[[Result, Options, Terminal], None], first: str
) -> Callable[[Callable[[Options, Observer], Result]], Step[Options, Result]]:
    """Make a step of the function that does it.

    Args:
        options: a class of `options`.
        show: prints what came of it, and raises `typer.Exit` for an exit code other than 0.
        first: the option that a Python call takes as its first value.
    """
    return lambda do: Step(options, do, show, first)
