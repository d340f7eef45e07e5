"""What a cluster offers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """How many calls a cluster takes at a time, and what each of them has."""

    slots: int
    gpus: int  # of all nodes
    cores: int  # of a node, for each call
    largest: int | None = None  # cores of the largest node, where calls that want more would wait for ever
