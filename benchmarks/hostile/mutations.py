"""Ways to spoil bytes, text, and trees of JSON or TOML; each is drawn from a seeded generator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from random import Random
from typing import Any

import tomli_w

ODD_TEXTS = (
    *("", " ", "0", "-1", "+1", "1e3", "1.0", "nan", "007", "999", "1" * 40, "none", "null", "*", "?", "%s%n", "{}"),
    *("\u0663\u0660", "\uff11\uff12", "\u00b2", "\ufeff", "\u202e", "e\u0301", "\u00e9", "\u00df", "\U0001f600"),
    *("../..", "/etc/passwd", ".", "*a" * 40, "a/../b", "C:\\x", "a\0b", "\0", "\t", "x" * 300, "x" * 140_000),
    *("=1+1", "'=1", "'", '"', '""', 'a"b', "a,b", "a\nb", "a\rb", "[", "]]"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(True, False, 0, -1, 1, 2, 3, 17, 18, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "1", "0.5", "true", "a\0b", "mask", "../x", [], {}, [[]], [0], ["x"], [1, 2], {"x": 1}, {"": {}}),
)
DEEP = 100_000  # brackets, one in the other


def spoiled_bytes(rng: Random, data: bytes) -> bytes:
    """The bytes with some flipped, lost, repeated, zeroed, swapped or put in between; never those that they were."""
    ways: list[Callable[[], bytes]] = [
        lambda: _flipped(rng, data),
        lambda: _flipped(rng, data),
        lambda: data[: rng.randrange(len(data))],
        lambda: _without_block(rng, data, b""),
        lambda: _without_block(rng, data, bytes(rng.randrange(1, 64))),
        lambda: _without_block(rng, data, rng.randbytes(rng.randrange(1, 64))),
        lambda: data + rng.randbytes(rng.randrange(1, 64)),
        lambda: data + data,
        lambda: rng.randbytes(rng.choice((1, 16, 1000))),
        lambda: b"",
    ]
    while (found := rng.choice(ways)()) == data:
        pass
    return found


def _flipped(rng: Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 4, 32))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _without_block(rng: Random, data: bytes, instead: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + instead + data[start + rng.randrange(1, 64) :]


def spoiled_text(rng: Random, text: str) -> bytes:
    """A text file with characters, lines, line ends or its encoding otherwise."""
    lines = text.splitlines(keepends=True)
    where, there, line = rng.randrange(len(text)), rng.randrange(len(text)), rng.randrange(len(lines))
    odd = rng.choice(('"', ",", ";", "\n", "\r", "\0", "'", " ", "\t", "\ufeff", "=", "[", "]", "#", *ODD_TEXTS))
    ways: list[Callable[[], str | bytes]] = [
        lambda: text[:where] + odd + text[where:],
        lambda: text[: min(where, there)] + '"' + text[min(where, there) : max(where, there)] + '"' + text[there:],
        lambda: text[:where] + text[where + rng.randrange(1, 12) :],
        lambda: text[:where],
        lambda: "".join(lines[:line] + lines[line + 1 :]),
        lambda: "".join([*lines, lines[line]]),
        lambda: "".join(rng.sample(lines, len(lines))),
        lambda: "".join([lines[0], *rng.sample(lines[1:], len(lines) - 1)]),
        lambda: text.replace("\n", rng.choice(("\r\n", "\r", "\n\n", " \n", ",\n"))),
        lambda: text.replace(",", rng.choice((";", "\t", " , ", ",,", "|"))),
        lambda: rng.choice((str.upper, str.title, str.swapcase))(text),
        lambda: text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32"))),
        lambda: text.replace("a", "é", 1).encode("latin-1"),
        lambda: spoiled_bytes(rng, text.encode()),
    ]
    found = rng.choice(ways)()
    return found if isinstance(found, bytes) else found.encode(errors="replace")


def spoiled_tree(rng: Random, tree: Any) -> Any:
    """A tree of dicts, lists and values with one or a few things otherwise."""
    found = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 1, 2))):
        places = list(_places(found))
        if not places:
            return found
        node, key = rng.choice(places)
        _change(rng, node, key, [n[k] for n, k in places])
    return found


def spoiled_toml(rng: Random, tree: Any) -> str:
    """TOML of a spoiled tree."""
    found = spoiled_tree(rng, tree)
    try:
        return tomli_w.dumps(found)
    except (TypeError, ValueError):  # a spoiled tree may hold what TOML has no word for
        return repr(found)


def _places(node: Any) -> list[tuple[Any, Any]]:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((node, key), *_places(node[key]))]


def _change(rng: Random, node: Any, key: Any, others: list[Any]) -> None:
    way = rng.randrange(6)
    if way == 0:
        del node[key]
    elif way == 1 and isinstance(node, dict):
        node[key + rng.choice(("x", "_", " "))] = node.pop(key)
    elif way == 1:
        node.append(copy.deepcopy(node[key]))
    elif way == 2:
        node[key] = copy.deepcopy(rng.choice(others))
    elif way == 3:
        node[key] = _near(rng, node[key])
    else:
        node[key] = copy.deepcopy(rng.choice((*ODD_VALUES, *ODD_TEXTS)))


def _near(rng: Random, value: Any) -> Any:
    """A value of the same type that is another."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + rng.choice((1, -1, 0.5, 1000))
    if isinstance(value, str) and value:
        place = rng.randrange(len(value))
        return value[:place] + rng.choice("0af-_/ *") + value[place + 1 :]
    return [value]
