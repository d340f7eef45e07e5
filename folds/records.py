"""Records of a run folder (run.json, job.json, tuning.json, ...): JSON with a format number and its own checksum."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from folds.errors import MaskensError
from folds.files import json_text, read_json, sha256, write_text

T = TypeVar("T")
RECORD_FORMAT = 1
SEAL = "sha256"  # the key of a record's own checksum


def sealed(record: Mapping[str, Any], *free: str) -> dict[str, Any]:
    """A record for JSON with its own sha256, by which `read_record` detects edits; keys in `free` may be edited."""
    hashed = {k: v for k, v in record.items() if k not in (SEAL, *free)}
    return {**record, SEAL: sha256(json.dumps(hashed, sort_keys=True))}


@functools.cache
def type_adapter(kind: Any) -> Any:
    """pydantic's TypeAdapter of a class; to make one takes longer than to read a small record."""
    from pydantic import TypeAdapter  # here, because not every command has a record

    return TypeAdapter(kind)


def record_text(value: Any, *free: str, without: Collection[str] = ()) -> str:
    """A dataclass or pydantic model as JSON with a checksum, for `read_record`; fields in `free` may be edited, and
    those in `without` are not written."""
    fields = type_adapter(type(value)).dump_python(value, mode="json", exclude=set(without))  # type: ignore[arg-type]
    return json_text(sealed({"format": RECORD_FORMAT} | fields, *free))


def write_record(path: Path, value: Any, *free: str, without: Collection[str] = ()) -> None:
    """Replace `path` with `record_text`, atomically."""
    write_text(path, record_text(value, *free, without=without))


def read_record(
    path: Path,
    kind: type[T],
    *free: str,
    advice: str = "Put it back as it was.",
    check: Callable[[T], None] = lambda value: None,
    **given: Any,
) -> T:
    """The dataclass or model that `write_record` wrote, with `given` values of the fields that are not written.

    `check` raises ValueError for impossible values. Raises MaskensError, with `advice`: it can't be read, was edited,
    is of another version, or holds impossible values.
    """
    from pydantic import ValidationError

    try:
        record = read_json(path)
        if not isinstance(record, dict) or record.get(SEAL) != sealed(record, *free)[SEAL]:
            raise ValueError("it was edited or damaged after it was made")
        del record[SEAL]
        if record.pop("format", None) != RECORD_FORMAT:
            raise ValueError("made by another version of maskens")
        value: T = type_adapter(kind).validate_python(record | given)  # type: ignore[arg-type]
        check(value)
        return value
    except OSError as error:
        fault = error.strerror or str(error)
    except ValidationError as error:
        first = error.errors()[0]
        fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    except ValueError as error:
        fault = str(error)
    raise MaskensError(f"{path} can't be used: {fault}. {advice}")
