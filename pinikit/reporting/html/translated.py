"""Sections that ``report.md`` has too: its Markdown as HTML, so that both say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from pinikit.reporting.differences import differences_section
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.section import Cell, Heading, Section, figure, join, lines_of, paragraph, table
from pinikit.reporting.html.svg import adopted
from pinikit.reporting.markdown import published_section
from pinikit.reporting.other_data import other_data_section
from pinikit.reporting.rank_figure import WIDTH, rank_figure
from pinikit.reporting.settings import grid_of, grid_section, series_section
from pinikit.study.statistics import ranking, series_summaries

TABLE_ROWS = 400

_NUMBER = re.compile(r"^\**([+−-]?\d[\d,]*(?:\.\d+)?)")


def differences(material: Material) -> Section | None:
    """Paired differences with intervals, tests, effect sizes and what could have been shown."""
    shown = {row.arm for row in material.leading(TABLE_ROWS)}
    text = differences_section(material.summaries, shown)
    if not text:
        return None
    title = f"Differences to {material.study.baseline}"
    return Section("differences", title, from_markdown(text, "Paired differences in points"))


def other_data(material: Material) -> Section | None:
    """Arms on data that they were not trained on."""
    text = other_data_section(material.result, {row.arm for row in material.leading(TABLE_ROWS)})
    if not text:
        return None
    return Section("other-data", "On other data", from_markdown(text, "On other data"))


def published(material: Material) -> Section | None:
    """Published numbers beside ours."""
    text = published_section(material.result)
    return Section("published", "Published numbers", from_markdown(text, "Paper and ours")) if text else None


def settings(material: Material) -> Section | None:
    """Series at each setting and over all of them; only studies with axes have these."""
    result, study = material.result, material.study
    grid = grid_of(study, result.results, material.summaries)
    if grid is None:
        return None
    ranks = ranking(study, result.results)
    series = series_summaries(study, result.results)
    body = [from_markdown(grid_section(grid, study.baseline), f"By {grid.axes}")]
    body.append(from_markdown(series_section(series, ranks, ""), "Over all settings"))
    if ranks is not None and ranks.tested:
        svg = rank_figure(ranks)[1].decode()
        named = zip(ranks.series, ranks.ranks, strict=True)
        said = "Average ranks: " + ", ".join(f"{name} {rank:.2f}" for name, rank in named)
        drawn = adopted(svg, f"{material.key}-ranks", said, WIDTH)
        body.append(figure(drawn, "Average ranks; bars join series that are not told apart."))
    return Section("settings", "Settings", join(body))


def from_markdown(text: str, caption: str) -> Markup:
    """Paragraphs, lists and tables, as the sections of ``report.md`` are made of; pictures are left out."""
    blocks = [block for block in text.split("\n\n") if block.strip() and not block.startswith("![")]
    return join([_block(block, caption) for block in blocks])


def _block(block: str, caption: str) -> Markup:
    lines = block.splitlines()
    if lines[0].startswith("| "):
        return _table(lines, caption)
    if all(line.startswith("- ") for line in lines):
        return lines_of([line.removeprefix("- ") for line in lines])
    return paragraph(block)


def _table(lines: Sequence[str], caption: str) -> Markup:
    head, _, *body = ([_plain(cell) for cell in re.split(r" \| |^\| | \|$", line)[1:-1]] for line in lines)
    rows = [[_cell(cell) for cell in row] for row in body]
    headings = [
        Heading(re.sub(r"[`*]", "", title), place > 0 and all(row[place].sort is not None for row in rows))
        for place, title in enumerate(head)
    ]
    return table(caption, headings, rows)


def _plain(cell: str) -> str:
    return cell.replace("\\|", "|").strip()


def _cell(text: str) -> Cell:
    """A cell that begins with a number is sorted by it, an unknown one goes last."""
    found = _NUMBER.match(text)
    if found:
        return Cell(text, float(found.group(1).replace(",", "").replace("−", "-")))
    return Cell(text, "" if text in ("", "–") else None)
