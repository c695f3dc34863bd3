"""Test pictures that the best arm classifies otherwise than its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pinikit.reporting.html.images import is_small
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.noise import thumbnail_of
from pinikit.reporting.html.predictions import Changed, changed_pictures, pairs
from pinikit.reporting.html.section import Section, heading, join, paragraph, parts
from pinikit.reporting.text import plural

if TYPE_CHECKING:
    from pinikit.study.study import Run

EXAMPLES = 8
"""Of each kind."""


def examples(material: Material) -> Section | None:
    """What became right and what became wrong, most seeds first."""
    if material.pair is None:
        return None
    arm, baseline = material.pair
    seen = pairs(material.records(arm), material.records(baseline))
    runs = {seed: material.study.run(arm, seed) for seed in seen}
    if not seen:
        return None
    first = runs[next(iter(seen))]
    same = [seed for seed in seen if runs[seed].manifest.test == first.manifest.test]
    found = changed_pictures([seen[seed] for seed in same])
    gained = [item for item in found if item.after == item.label]
    lost = [item for item in found if item.after != item.label]
    if not found:
        return None
    body = [
        paragraph(
            f"`{baseline}` → `{arm}`, {plural(len(same), 'seed')} with the same test pictures: "
            f"{plural(len({item.index for item in gained}), 'picture')} become right on some seed, "
            f"{len({item.index for item in lost})} become wrong. Those on which most seeds agree come first, "
            "then those of which the arm is surest."
        ),
        _gallery("Became right", material.level, first, gained[:EXAMPLES], len(same)),
        _gallery("Became wrong", material.level, first, lost[:EXAMPLES], len(same)),
    ]
    return Section("examples", "Pictures whose prediction changed", join(body))


def _gallery(title: str, level: int, run: Run, found: Sequence[Changed], seeds: int) -> Markup:
    if not found:
        return Markup("")
    names = run.manifest.class_names
    pictures: list[dict[str, Any]] = [
        {
            "name": run.manifest.test[item.index].id,
            "address": (address := thumbnail_of(run, item.index)),
            "pixels": is_small(address),
            "truth": names[item.label],
            "before": names[item.before],
            "after": names[item.after],
            "votes": f"{100 * item.confidence:.0f} % sure, {item.votes} of {plural(seeds, 'seed')}",
        }
        for item in found
    ]
    return join([heading(title, level), Markup(parts().gallery(pictures))])
