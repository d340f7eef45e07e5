"""What a CSV says, read a second way: character by character, and refused where it could be read otherwise."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def plain_rows(content: bytes, needed: Sequence[str]) -> list[dict[str, str]] | None:
    """The rows of a CSV as stripped text, cells that a row lacks empty; None where it has to be refused: no UTF-8 and
    no UTF-16 with a mark, quotes that don't match, a needed column missing or there twice, cells without a column, no
    rows."""
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return None
    head = text.lstrip().split("\n")[0]
    separator = "," if "," in head else ";" if ";" in head else "\t" if "\t" in head else ","
    records = None if "\0" in text else _records(text, separator)
    if not records or any(records[0].count(column) != 1 for column in needed):
        return None
    header, *rows = records
    if not rows or any(any(row[len(header) :]) for row in rows):
        return None
    found = [dict(zip(header, row + [""] * len(header), strict=False)) for row in rows]
    if "ImageID" in needed:
        return found
    return [{column: unicodedata.normalize("NFC", cell) for column, cell in row.items()} for row in found]


def plain_number(cell: str) -> int:
    """A whole number from 0 up, `20` or `20.0`; -1 for another cell."""
    whole, point, rest = cell.partition(".")
    fits = whole.isdecimal() and len(whole) <= 18 and (not point or bool(rest)) and not rest.strip("0")
    return int(whole) if fits else -1


def _records(text: str, separator: str) -> list[list[str]] | None:
    records, row, at = list[list[str]](), list[str](), 0
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    while at < len(text):
        while text[at : at + 1] == " ":
            at += 1
        if text[at : at + 1] == '"':
            cell, at = _quoted(text, at + 1)
            if at < 0 or text[at : at + 1] not in ("", separator, "\n"):
                return None
        else:
            end = min(i for i in (text.find(separator, at), text.find("\n", at), len(text)) if i >= 0)
            cell, at = text[at:end], end
        row.append(cell.strip())
        if text[at : at + 1] == separator and at + 1 == len(text):
            row.append("")
        if text[at : at + 1] != separator:
            records += [row] if row != [""] else []
            row = []
        at += 1
    return records + ([row] if row else [])


def _quoted(text: str, at: int) -> tuple[str, int]:
    """(the cell, the place after its closing quote, or -1 if there is none)."""
    cell = ""
    while (end := text.find('"', at)) >= 0:
        cell += text[at:end]
        if text[end + 1 : end + 2] != '"':
            return cell, end + 1
        cell, at = cell + '"', end + 2
    return cell, -1
