"""What a page is made of: sections, tables and their cells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Section:
    """A part of a study's page."""

    key: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    sort: float | str | None = None
    """What rows are sorted by; None: the text. An unknown number goes last."""
    note: str = ""
    """A second, smaller line."""
    strong: bool = False
    shade: float = 0.0
    """From 0 to 1: how much of an accent colour stands behind it."""

    @property
    def key(self) -> str:
        """``sort`` as an attribute."""
        if isinstance(self.sort, float) and math.isnan(self.sort):
            return ""
        return str(self.text if self.sort is None else self.sort)


@dataclass(frozen=True)
class Heading:
    """The head of a column."""

    text: str
    number: bool = False
    hint: str = ""
    """What the column means."""


def parts() -> Any:
    """The macros of ``parts.html``."""
    return environment().get_template("parts.html").module


@cache
def environment() -> Any:
    """Where templates come from; everything is escaped that is not markup already."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pinikit.reporting.html", "templates")
    found = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["rich"] = rich
    return found


def table(
    caption: str, headings: Sequence[Heading], rows: Sequence[Sequence[Cell]], *, sortable: bool = True
) -> Markup:
    """A table; the first cell of each row is its heading."""
    return Markup(parts().table(caption, headings, rows, sortable))


def figure(picture: Markup, caption: str) -> Markup:
    """A picture with its caption."""
    return Markup(parts().figure(picture, caption))


def heading(text: str, level: int) -> Markup:
    """A heading inside a section."""
    return Markup("<h{0}>{1}</h{0}>").format(level, text)


def paragraph(text: str) -> Markup:
    """A paragraph; words between backticks are set as code, between double stars bold."""
    return Markup("<p>{}</p>").format(rich(text))


def rich(text: str) -> Markup:
    """Text with the few signs that ``report.md`` uses as markup."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    marked = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)
    return Markup(re.sub(r"(?<!\w)\*([^*\s][^*]*)\*", r"<em>\1</em>", marked))


def lines_of(texts: Sequence[str]) -> Markup:
    """A list."""
    return Markup(parts().lines(texts))


def details(summary: str, body: Markup) -> Markup:
    """What is unfolded on demand."""
    return Markup(parts().details(summary, body))


def join(bodies: Sequence[Markup]) -> Markup:
    """Several bodies one below the other."""
    return Markup("\n").join(body for body in bodies if body)


def capped(shown: int, total: int, what: str, where: str = "") -> str:
    """The sentence that says what was left out; empty if nothing was."""
    if shown >= total:
        return ""
    return f"{shown:,} of {total:,} {what} are shown{where}."
