"""An HTML page, parsed as tests look at it, or opened in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "wbr", "source", "input", "link", "hr"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


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

    @classmethod
    def of(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        assert page.open == []
        return page

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
        if {"style", "script"} & set(self.open):
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
    heads = re.findall(r"<th\b([^>]*)>(.*?)</th>", html)
    assert heads
    assert all(words and " scope=" in attributes for attributes, words in heads)
    areas = re.findall(r'<div class="scroll"([^>]*)>', html)
    names = [re.fullmatch(r' tabindex="0" role="region" aria-label="([^"]+)"', area) for area in areas]
    assert len({name[1] for name in names if name}) == len(areas) > 0


def assert_self_contained(html: str, page: Page) -> None:
    """No address, no file beside it, every picture in the page with words; each section begins with its finding."""
    bare = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)
    assert not re.search(r"https?:|url\(|@import|//[a-z]|<script [^>]*src", bare)
    assert not {"link", "iframe", "base"} & page.tags
    assert all(i["src"].startswith("data:image/") and i["alt"] for i in page.images)
    first = dict(re.findall(r'<section id="([\w-]+)">\s*<h2>[^<]+</h2>\s*<([^>]*)>', bare))
    assert list(first) == re.findall(r'<section id="([\w-]+)"', bare)
    assert {name for name, tag in first.items() if tag != 'p class="finding"'} <= {"glossary"}


LOOK = """
const found = [...document.querySelectorAll('iframe')].map(frame => {
  const d = frame.contentDocument, e = d.documentElement, head = d.querySelector('table.sort thead th.number');
  const figures = () => [...head.closest('table').querySelectorAll('tbody tr:not(.sum)')]
    .map(row => parseFloat(row.cells[head.cellIndex].textContent));
  const before = figures();
  head.firstChild.click();
  head.firstChild.click();
  return {
    wide: e.scrollWidth, seen: e.clientWidth, before, after: figures(),
    broken: [...d.images].filter(i => !i.naturalWidth).length,
    cut: [...d.querySelectorAll('.scroll')].filter(s => !s.querySelector('.compare') && s.scrollWidth > s.clientWidth)
      .map(s => s.ariaLabel),
  };
});
document.body.append('FOUND ' + JSON.stringify(found) + ' END');
"""


def assert_readable_in_a_browser(page: Path, folder: Path) -> None:
    """On a phone and on a wide screen nothing scrolls sideways, no table is cut, and clicks on a head sort.

    In frames, because a window of a headless browser can't be as narrow as a phone.
    """
    frames = "".join(f'<iframe src="{page.as_uri()}" width="{width}" height="900"></iframe>' for width in (390, 1600))
    wrapper = folder / "wrapper.html"
    wrapper.write_text(f"<body>{frames}<script>onload = () => {{ {LOOK} }}</script></body>")
    flags = "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=10000"
    profile = f"--user-data-dir={folder / 'profile'}"
    call = [str(BROWSER), *flags.split(), "--dump-dom", profile, wrapper.as_uri()]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    match = re.search(r"FOUND (\[.*\]) END</body>", done.stdout)
    assert match, done.stdout[-500:] + done.stderr[-2000:]
    for seen in json.loads(match[1]):
        assert seen["wide"] <= seen["seen"]
        assert (seen["broken"], seen["cut"]) == (0, [])
        assert seen["after"] == sorted(seen["before"], reverse=True)
