"""Paths that are others on another node."""

from __future__ import annotations

import io
import os
import pickle
import socket
from pathlib import Path, PurePath
from typing import Any

from folds.errors import MaskensError

VARIABLE = "MASKENS_PATHS"  # of a node's environment: PAIR, several with os.pathsep between
PAIR = "/path/of/the/command=/path/on/this/node"


class _Pickler(pickle.Pickler):
    """Paths travel as absolute ones and become what they are on the node that reads them."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, PurePath):
            return node_path, (os.path.abspath(value),)
        return NotImplemented


def pack(value: Any) -> bytes:
    """Pickle for another node; `pickle.loads` there."""
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def node_path(path: str) -> Path:
    """Where a path of the machine that started a call is on this node, as MASKENS_PATHS says; the same without it.

    Raises:
        MaskensError: the variable is malformed.
    """
    pairs = []
    for item in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        there, equals, here = item.partition("=")
        if not (equals and os.path.isabs(there) and os.path.isabs(here)):
            raise MaskensError(
                f"node {socket.gethostname()}: {VARIABLE} holds {item!r}, which is not {PAIR} (several are "
                f"separated by {os.pathsep})."
            )
        pairs.append((Path(there), Path(here)))
    for source, target in sorted(pairs, key=lambda pair: -len(pair[0].parts)):  # the most exact one first
        if Path(path).is_relative_to(source):
            return target / Path(path).relative_to(source)
    return Path(path)


def refuse_missing(folders: tuple[Path, ...]) -> None:
    """Refuse a node on which folders are not there.

    Raises:
        MaskensError: naming node and folders.
    """
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        known = os.environ.get(VARIABLE)
        raise MaskensError(
            f"node {socket.gethostname()}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not there"
            f"{f' (with {VARIABLE}={known})' if known else ''}. Mount it, or start the node's worker with "
            f"{VARIABLE}={PAIR}, where the node has it elsewhere."
        )
