"""The page to drop photos on, which is also the answer to a browser's form."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ensemble.serving.limits import Limits, Refused
from ensemble.serving.photos import ReadPhoto, Record
from folds.data.labels import AGES, GENDERS, MASKS
from folds.pages.html import render

PARTS = (("mask", MASKS), ("gender", GENDERS), ("age", AGES))


@dataclass(frozen=True)
class Page:
    """HTML and the policy it needs: its own style and script, by a number used once, and pictures inside the text."""

    html: str
    policy: str


def prefers_html(accept: str) -> bool:
    """Whether an Accept header would rather have HTML than JSON, as those of browsers would."""
    weights: dict[str, float] = {}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        try:
            weights[kind] = float(quality)
        except ValueError:
            continue

    def weight(kind: str) -> float:
        return weights.get(kind, weights.get(f"{kind.split('/')[0]}/*", weights.get("*/*", 0.0)))

    return weight("text/html") > weight("application/json")


def page(
    about: str, limits: Limits, answered: Sequence[tuple[Record, ReadPhoto]] = (), refused: Refused | None = None
) -> Page:
    """The form, with answers or the reason why there are none.

    Args:
        about: the models, in words.
        answered: records with the photos that they are of, `picture` included.
    """
    nonce = secrets.token_urlsafe(16)
    html = render(
        "serve.html",
        generator="maskens serve",
        title="maskens",
        nonce=nonce,
        about=about,
        limits=limits,
        answers=[_answer(record, photo) for record, photo in answered],
        refused=refused,
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return Page(html, policy)


def _answer(record: Record, photo: ReadPhoto) -> dict[str, Any]:
    parts = [(part, [(label, record[f"p {part} {label}"]) for label in labels]) for part, labels in PARTS]
    return record | {"picture": photo.picture, "parts": parts}
