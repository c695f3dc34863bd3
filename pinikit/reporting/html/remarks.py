"""What a reader must know before believing the numbers."""

from __future__ import annotations

from pinikit.reporting.headline import headline_sentence
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.section import Section, heading, join, lines_of
from pinikit.reporting.markdown import caveats, method_lines
from pinikit.study.statistics import series_summaries


def headline(material: Material) -> str:
    """The study in one sentence, as ``report.md`` has it."""
    study = material.study
    series = series_summaries(study, material.result.results)
    return headline_sentence(study, material.summaries, series)


def remarks(material: Material) -> Section:
    """Caveats, and how the numbers were measured."""
    warnings = [*material.study.notes, *caveats(material.result, material.summaries)]
    body = [heading("Before believing the table", material.level), lines_of(warnings)] if warnings else []
    body += [heading("How it was measured", material.level)]
    body += [lines_of(method_lines(material.result, material.summaries))]
    return Section("remarks", "How to read the numbers", join(body))
