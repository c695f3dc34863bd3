"""Where the noise goes: maps over pictures, lengths by token, size over training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pinikit.errors import PinikitError
from pinikit.reporting.html.comparison import shortened
from pinikit.reporting.html.images import heat_map, is_small, thumbnail
from pinikit.reporting.html.learning import draw_ratio, noise_over_training
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.section import (
    Cell,
    Heading,
    Section,
    capped,
    figure,
    join,
    paragraph,
    parts,
    table,
)
from pinikit.reporting.html.svg import FAINT, INK, LOOKS, inline_svg, quiet_axis
from pinikit.reporting.text import number, plural
from pinikit.study.record import Array, NoiseSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pinikit.study.study import Run

MAPS = 4
PROMPTS = 4
"""Injections that are drawn of each kind."""

EVEN_MEAN, EVEN_SPREAD = 0.001, 0.05
"""Maps whose values differ by less than these shares of the largest are the same everywhere: of the mean,
which is exact, and of the spread over all pictures, which is estimated from draws."""

FEWEST_SLOTS = 8
"""Tokens that a row of bars has room for at least."""

_Seen = Mapping[int, NoiseSummary]
"""An injection's summaries by seed."""


def noise(material: Material) -> Section | None:
    """Everything that is known of the noise after training, and during it."""
    found = dict(_injections(material))
    over = noise_over_training(material)
    if not found and over is None:
        return None
    body: list[Markup] = []
    if found:
        body = [_sizes(found), *_maps(material, found), _prompts(material, found)]
    if over is not None:
        note, curves = over
        draw = partial(draw_ratio, curves)
        picture = inline_svg(f"{material.key}-ratio", "Noise-to-feature ratio by epoch.", (7.4, 3.4), draw)
        caption = (
            "Length of the drawn noise relative to what it is added to, in the last step of each epoch. "
        )
        body.append(figure(picture, caption + note))
    return Section("noise", "Where the noise goes", join(body))


def _injections(material: Material) -> Iterator[tuple[tuple[str, str], _Seen]]:
    """By arm and label: what each seed recorded."""
    for arm in material.detailed:
        found: dict[str, dict[int, NoiseSummary]] = {}
        for seed, record in material.records(arm).items():
            for item in record.noise:
                found.setdefault(item.label, {})[seed] = item
        yield from (((arm, label), seen) for label, seen in found.items())


# --- sizes ------------------------------------------------------------------------------------------------


def _sizes(found: Mapping[tuple[str, str], _Seen]) -> Markup:
    """Mean and spread of each injection's noise relative to what it is added to."""
    heads = [
        Heading("arm · injection"),
        Heading("stage"),
        Heading("‖μ‖ / ‖clean‖", True, "Length of the noise's mean relative to what it is added to"),
        Heading("‖σ‖ / ‖clean‖", True, "Length of its standard deviations relative to the same"),
        Heading("‖σ‖ / ‖μ‖", True, "How much of the noise is random"),
    ]
    rows = []
    for (arm, label), seen in found.items():
        lengths = np.array(
            [[_length(getattr(item, part)) for part in ("mean", "spread", "clean")] for item in seen.values()]
        )
        mean, spread, clean = lengths.mean(0)
        ratios = [
            mean / max(clean, 1e-12),
            spread / max(clean, 1e-12),
            spread / mean if mean > 1e-9 else np.nan,
        ]
        cells = [Cell(number(float(value), 3), float(value)) for value in ratios]
        stage = next(iter(seen.values())).stage
        rows.append([Cell(f"{arm} · {label}"), Cell(stage), *cells])
    return table(
        "The noise after training, mean over seeds: its mean μ and its standard deviation σ.", heads, rows
    )


def _length(values: Array) -> float:
    """Over all positions; of maps the first one, which is the mean over pictures."""
    shown = values[0] if values.ndim == 3 else values
    return float(np.sqrt(np.square(shown.astype(float)).sum()))


# --- maps -------------------------------------------------------------------------------------------------


def _maps(material: Material, found: Mapping[tuple[str, str], _Seen]) -> list[Markup]:
    grids = {key: seen for key, seen in found.items() if next(iter(seen.values())).layout == "grid"}
    even = [key for key, seen in grids.items() if _is_even(next(iter(seen.values())))]
    drawn = [(key, seen) for key, seen in grids.items() if key not in even]
    body = [_map_figure(material, *key, seen) for key, seen in drawn[:MAPS]]
    if even:
        names = ", ".join(f"`{arm}` ({label})" for arm, label in even)
        body.append(
            paragraph(f"The noise of {names} is the same at every position, so there is no map of it.")
        )
    if note := capped(min(len(drawn), MAPS), len(drawn), "injections with maps"):
        body.append(paragraph(note))
    return body


def _is_even(item: NoiseSummary) -> bool:
    """Whether no position has more noise than another."""
    return _range(item.mean) <= EVEN_MEAN and _range(item.spread[:1]) <= EVEN_SPREAD


def _range(maps: Array) -> float:
    """The largest difference between positions of a map, as a share of the largest value."""
    return float(np.ptp(maps.astype(float), axis=(1, 2)).max() / (maps.max() or 1.0))


def _map_figure(material: Material, arm: str, label: str, seen: _Seen) -> Markup:
    """Pictures above the maps of μ and σ; first the mean over test pictures."""
    seed, item = next(iter(seen.items()))
    run = material.study.run(arm, seed)
    rows = [("μ", item.mean), ("σ", item.spread)]
    columns = [_column(f"mean over {plural(item.pictures, 'test picture')}", None, rows, 0)]
    for place, index in enumerate(item.examples, 1):
        picture = run.manifest.test[index]
        title = run.manifest.class_names[picture.label]
        columns.append(_column(title, _picture(run, index), rows, place))
    scales = ", ".join(
        f"{name} from {number(float(maps.min()), 3)} to {number(float(maps.max()), 3)}" for name, maps in rows
    )
    caption = (
        f"`{arm}`, injection `{label}` at `{item.stage}`, seed {seed}: length over channels of the noise's "
        f"mean μ (second row) and standard deviation σ (third row) at each position. Blue to yellow: {scales}"
    )
    title = f"Maps of the noise of {arm}"
    return Markup(parts().maps(title, columns, caption))


def _column(
    title: str, picture: dict[str, Any] | None, rows: Sequence[tuple[str, Array]], place: int
) -> dict[str, Any]:
    images = [picture or {"address": "", "text": "all"}]
    for name, maps in rows:
        text = f"Map of {name}, {title}"
        images.append(
            {
                "address": heat_map(maps[place], float(maps.min()), float(maps.max())),
                "text": text,
                "pixels": True,
            }
        )
    return {"title": title, "images": images}


def _picture(run: Run, index: int) -> dict[str, Any]:
    item = run.manifest.test[index]
    address = thumbnail_of(run, index)
    return {
        "address": address,
        "text": item.id if address else "picture cannot be read",
        "pixels": is_small(address),
    }


def thumbnail_of(run: Run, index: int) -> str:
    """A test picture's address in the page; empty where its file is gone or unreadable."""
    try:
        return thumbnail(run.dataset.open(run.manifest.test[index]))
    except (PinikitError, OSError):
        return ""


# --- prompts ----------------------------------------------------------------------------------------------


def _prompts(material: Material, found: Mapping[tuple[str, str], _Seen]) -> Markup:
    shown = {key: seen for key, seen in found.items() if next(iter(seen.values())).layout == "tokens"}
    if not shown:
        return Markup("")
    drawn = dict(list(shown.items())[:PROMPTS])
    picture = inline_svg(
        f"{material.key}-prompts",
        "Length of the noise's mean and standard deviation by token: " + ", ".join(a for a, _ in drawn) + ".",
        (9.6, 2.5 * len(drawn)),
        partial(_draw_prompts, drawn),
    )
    caption = (
        "Length over the embedding of the noise's mean μ and standard deviation σ at each token, mean over "
        "seeds (and over classes, where they differ); dots are single seeds, grey lines the clean token. "
    )
    return figure(picture, caption + capped(len(drawn), len(shown), "prompt injections"))


def _draw_prompts(shown: Mapping[tuple[str, str], _Seen], whole: Figure) -> None:
    grid = whole.subplots(len(shown), 1, squeeze=False)
    for axes, ((arm, label), seen) in zip(grid[:, 0], shown.items(), strict=True):
        first = next(iter(seen.values()))
        places = np.arange(len(first.tokens))
        for index, (name, part) in enumerate((("‖μ‖", "mean"), ("‖σ‖", "spread"))):
            values = np.array([getattr(item, part) for item in seen.values()], dtype=float)
            colour, _ = LOOKS[index]
            at = places + 0.4 * (index - 0.5)
            axes.bar(at, values.mean(0), 0.38, color=colour, label=name, linewidth=0)
            if len(values) > 1:
                axes.plot(np.tile(at, len(values)), values.ravel(), ".", color=INK, markersize=3, alpha=0.7)
        clean = np.mean([item.clean for item in seen.values()], axis=0)
        top = axes.get_ylim()[1]
        if clean.max() < 3 * top:
            axes.hlines(clean, places - 0.42, places + 0.42, color=FAINT, linewidth=1.4, label="clean token")
        axes.set_xticks(
            places, [shortened(token, 12) for token in first.tokens], rotation=45 if len(places) > 12 else 0
        )
        axes.set_xlim(-0.6, max(len(places), FEWEST_SLOTS) - 0.4)
        axes.set_title(f"{shortened(arm)} · {label} at {first.stage}")
        quiet_axis(axes, "x")
    whole.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
