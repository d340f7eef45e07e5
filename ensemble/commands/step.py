"""A step of the pipeline as a command and as a Python call, both made from one dataclass of options.

A module of this package holds one step: the dataclass of its options, each written once; the function that does it and
reports to an observer; and the function that prints the result. Heavy libraries are imported inside these functions.
What a docstring says after a form feed is for Python and not shown by --help.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ensemble.commands.terminal import SILENT, Observer, Terminal
from folds.errors import MaskensError

Options = TypeVar("Options")
Result = TypeVar("Result")


class Step(Generic[Options, Result]):
    """A step: called from Python with its options, `train("runs/a", fold="0..2")`; `command` is what typer runs.

    Options that are lists take one value too, and paths may be text. Positional values are the options in their order,
    after the one that is named as the first.
    """

    def __init__(
        self,
        options: type[Options],
        do: Callable[[Options, Observer], Result],
        show: Callable[[Result, Options, Terminal], None],
        first: str = "",
    ) -> None:
        self.options, self.do, self.show = options, do, show
        self.__name__ = do.__name__
        functools.update_wrapper(self, do)
        hints = get_type_hints(options, include_extras=True)
        names = [field.name for field in dataclasses.fields(options)]  # type: ignore[arg-type]
        self._fields = {name: hints[name] for name in sorted(names, key=lambda name: name != first)}

    def __call__(self, *values: Any, observer: Observer = SILENT, **options: Any) -> Result:
        return self.do(self.typed(*values, **options), observer)

    def typed(self, *values: Any, **options: Any) -> Options:
        """The options of a call."""
        given = dict(zip(self._fields, values, strict=False)) | options
        unknown = [name for name in given if name not in self._fields]
        if unknown or len(values) > len(self._fields):
            raise TypeError(f"{self.__name__} takes {', '.join(self._fields)}; not {', '.join(unknown) or values}")
        return self.options(**{name: _as_typed(name, self._fields[name], value) for name, value in given.items()})

    @property
    def command(self) -> Callable[..., None]:
        """The function whose signature typer reads: a parameter for each option."""

        def run(**values: Any) -> None:
            options = self.options(**values)
            terminal = Terminal(values.get("quiet", False), stderr=values.get("json", False))  # stdout is the JSON's
            self.show(self.do(options, terminal), options, terminal)

        run.__name__, run.__doc__ = self.__name__, (self.__doc__ or "").partition("\f")[0]
        kind = inspect.Parameter.KEYWORD_ONLY
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(f.name, kind, default=_default(f), annotation=self._fields[f.name])
                for f in dataclasses.fields(self.options)  # type: ignore[arg-type]
            ]
        )
        return run


def step(
    options: type[Options], show: Callable[[Result, Options, Terminal], None], first: str = ""
) -> Callable[[Callable[[Options, Observer], Result]], Step[Options, Result]]:
    """Make a step of the function that does it.

    Args:
        options: a frozen dataclass; a field's annotation holds its `typer.Option`.
        show: prints what came of it, and raises `typer.Exit` for an exit code other than 0.
        first: the option that a Python call takes as its first value, whatever its place in --help.
    """
    return lambda do: Step(options, do, show, first)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return list(field.default) if isinstance(field.default, tuple) else field.default
    return inspect.Parameter.empty


def _as_typed(name: str, hint: Any, value: Any) -> Any:
    """A value from Python as the command line would give it: a list of one for a list, a path for its text, the text of
    a path or number, a fraction for a whole number.

    Raises:
        MaskensError: it is none of an option's choices.
    """
    if get_origin(hint) in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        return value if value is None or len(inner) != 1 else _as_typed(name, inner[0], value)
    if hasattr(hint, "__metadata__"):
        return _as_typed(name, get_args(hint)[0], value)
    if get_origin(hint) is list:
        each = [value] if isinstance(value, (str, Path)) or not isinstance(value, Iterable) else list(value)
        return [_as_typed(name, get_args(hint)[0], v) for v in each]
    if get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, StrEnum)):
        choices = get_args(hint) or tuple(hint)
        if value not in choices:
            raise MaskensError(f"{name}={value!r} is none of {', '.join(map(str, choices))}.")
    if hint is float and isinstance(value, int):
        return float(value)
    if hint is str and isinstance(value, (int, Path)):
        return str(value)
    return Path(value) if hint is Path and isinstance(value, str) else value
