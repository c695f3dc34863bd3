"""The words of ``prompt.template`` as text. Imports no torch."""

from __future__ import annotations

from pinikit.data.catalogue import DataSet
from pinikit.errors import ConfigError, nearest

PINI_CONTEXT = "x " * 16
"""The sixteen context words that PiNI puts in front of the template."""


def resolve_template(template: str, dataset: DataSet) -> str:
    """``plain``, ``pini`` or a text with one ``{}``, as text.

    Raises:
        ConfigError: another word.
    """
    if template == "plain":
        return dataset.plain_template
    if template == "pini":
        return f"{PINI_CONTEXT}{dataset.pini_words} {{}}."
    if template.count("{}") != 1:
        hint = nearest(template, ["plain", "pini"])
        raise ConfigError(
            f"run.prompt.template: found {template!r}{hint}; allowed: plain, pini, or a text with one {{}} "
            "for the class name"
        )
    return template
