"""What a CSV says, read a second way: character by character, and refused where it could be read otherwise."""

from __future__ import annotations

from collections.abc import Sequence


def plain_rows(content: bytes, needed: Sequence[str]) -> list[dict[str, str]] | None:
    """The rows of a CSV as stripped text, cells that a row lacks empty; None where it has to be refused: no UTF-8,
    quotes that don't match, a needed column missing or there twice, cells without a column, no rows."""
    try:
        records = _records(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None
    if not records or any(records[0].count(column) != 1 for column in needed):
        return None
    header, *rows = records
    if not rows or any(any(row[len(header) :]) for row in rows):
        return None
    return [dict(zip(header, row + [""] * len(header), strict=False)) for row in rows]


def _records(text: str) -> list[list[str]] | None:
    records, row, at = list[list[str]](), list[str](), 0
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    while at < len(text):
        while text[at : at + 1] == " ":
            at += 1
        if text[at : at + 1] == '"':
            cell, at = _quoted(text, at + 1)
            if at < 0 or text[at : at + 1] not in ("", ",", "\n"):
                return None
        else:
            end = min(i for i in (text.find(",", at), text.find("\n", at), len(text)) if i >= 0)
            cell, at = text[at:end], end
        row.append(cell.strip())
        if text[at : at + 1] == "," and at + 1 == len(text):
            row.append("")
        if text[at : at + 1] != ",":
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
