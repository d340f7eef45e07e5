"""A parsed HTML page, as tests look at it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "wbr", "source", "input", "link", "hr"}


@dataclass
class Page(HTMLParser):
    """Tables as rows of words, figures as (alt, src, caption), and whether every tag is closed in turn."""

    tables: list[list[list[str]]] = field(default_factory=list)
    figures: list[tuple[str, str, str]] = field(default_factory=list)
    images: list[dict[str, str]] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    open: list[str] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)  # of each section
    section: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {k: v or "" for k, v in attrs}
        self.tags.add(tag)
        if tag == "section":
            self.section = given["id"]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "figure":
            self.figures.append(("", "", ""))
        if tag == "img":
            self.images.append(given)
            if "figure" in self.open:
                self.figures[-1] = (given["alt"], given["src"], "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words[self.section] = self.words.get(self.section, "") + data
        if self.open and self.open[-1] in ("td", "th", "a", "b") and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if "figcaption" in self.open:
            alt, src, caption = self.figures[-1]
            self.figures[-1] = (alt, src, caption + data)


def assert_accessible(html: str) -> None:
    """A main landmark, headers with a scope, areas that scroll that a keyboard reaches, each with its own name."""
    assert html.count("<main>") == 1
    heads = re.findall(r"<th\b[^>]*>(.*?)</th>", html)
    assert heads
    assert all(heads), "no empty headers"
    assert "<th>" not in html
    assert len(re.findall(r"<th\b[^>]* scope=", html)) == len(re.findall(r"<th\b", html))
    areas = re.findall(r'<div class="scroll"([^>]*)>', html)
    names = [re.fullmatch(r' tabindex="0" role="region" aria-label="([^"]+)"', area) for area in areas]
    assert areas
    assert all(names)
    assert len({name[1] for name in names if name}) == len(areas)
