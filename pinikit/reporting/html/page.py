"""The page: one study's sections, or several studies side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pinikit import __version__
from pinikit.reporting.html.classes import calibration, classes
from pinikit.reporting.html.comparison import accuracy, comparison, costs
from pinikit.reporting.html.examples import examples
from pinikit.reporting.html.learning import learning_curves
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.noise import noise
from pinikit.reporting.html.provenance import failures, provenance
from pinikit.reporting.html.remarks import headline, remarks
from pinikit.reporting.html.section import Cell, Heading, Section, capped, environment, join, rich, table
from pinikit.reporting.html.translated import differences, other_data, published, settings
from pinikit.reporting.text import plural, plus_minus

if TYPE_CHECKING:
    from pinikit.api import StudyResult

SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    comparison,
    accuracy,
    differences,
    settings,
    other_data,
    published,
    costs,
    learning_curves,
    classes,
    calibration,
    noise,
    examples,
    failures,
    remarks,
    provenance,
)
"""In the page's order; one that has nothing to say gives None."""

TOGETHER = 300
"""Rows of the table that has several studies side by side."""


def html_page(results: Sequence[StudyResult], digest: str = "") -> str:
    """A self-contained page about one study or several; equal results give equal text.

    Args:
        results: studies with their results.
        digest: tells what the page was made of, see :func:`pinikit.reporting.html.written_digest`.
    """
    several = len(results) > 1
    level = 4 if several else 3
    materials = [Material(result, f"s{index}", level) for index, result in enumerate(results, 1)]
    studies = [_study(material) for material in materials]
    links = studies if several else studies[0]["sections"]
    page = environment().get_template("page.html")
    text: str = page.render(
        version=__version__,
        digest=digest,
        title=" · ".join(material.study.name for material in materials),
        question="" if several else materials[0].study.question,
        overview=_side_by_side(materials) if several else _headline(materials[0]),
        studies=studies,
        several=several,
        links=links,
        style=Markup(asset("style.css")),
        script=Markup(asset("script.js")),
    )
    return text


def _study(material: Material) -> dict[str, Any]:
    found = [section for make in SECTIONS if (section := make(material)) is not None]
    sections = [Section(f"{material.key}-{item.key}", item.title, item.body) for item in found]
    return {
        "key": material.key,
        "title": material.study.name,
        "question": material.study.question,
        "sections": sections,
    }


def _headline(material: Material) -> Markup:
    return Markup('<p class="headline">{}</p>').format(rich(headline(material)))


def _side_by_side(materials: Sequence[Material]) -> Markup:
    """The studies' headlines, and every arm's accuracy in each study."""
    lines = [
        Markup('<p class="headline"><a href="#{}">{}</a>: {}</p>').format(
            material.key, material.study.name, rich(headline(material))
        )
        for material in materials
    ]
    arms = list(dict.fromkeys(row.arm for material in materials for row in material.ranked))
    heads = [Heading("arm"), *(Heading(material.study.name, True) for material in materials)]
    rows = [[Cell(arm), *(_accuracy(material, arm) for material in materials)] for arm in arms[:TOGETHER]]
    caption = (
        f"Test accuracy (%) of {plural(len(arms), 'arm')} in {len(materials)} studies"
        ", ± 95 % over seeds; arms stand in one row by their names. Studies may differ in data and settings. "
    )
    return join([*lines, table(caption + capped(len(rows), len(arms), "arms"), heads, rows)])


def _accuracy(material: Material, arm: str) -> Cell:
    row = material.by_arm.get(arm)
    if row is None or not row.seeds:
        return Cell("", "")
    best = material.ranked[0].arm == arm
    return Cell(plus_minus(row.accuracy, row.accuracy_interval), row.accuracy, strong=best)


def asset(name: str) -> str:
    """A file beside the templates: the pages' style or script."""
    return resources.files("pinikit.reporting.html").joinpath("templates", name).read_text(encoding="utf-8")
