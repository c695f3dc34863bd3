"""How to get the same results again: command, machine, versions, pictures, settings; and what failed."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from pinikit.data.files import read_json
from pinikit.errors import DataError
from pinikit.reporting.html.material import Material
from pinikit.reporting.html.section import (
    Cell,
    Heading,
    Section,
    capped,
    details,
    join,
    paragraph,
    parts,
    table,
)
from pinikit.reporting.plugins import plugins_sentence
from pinikit.reporting.text import plural
from pinikit.study.index import command
from pinikit.study.study import Run

ROWS = 100
"""Of a table of manifests, failures or dropped arms."""


def failures(material: Material) -> Section | None:
    """Runs that failed, and arms that were left out."""
    failed = [
        [Cell(f"{arm}, seed {seed}"), Cell(item.run_id), Cell(" ".join(item.error.split()))]
        for (arm, seed), item in material.result.results.items()
        if not item.finished
    ]
    dropped = [[Cell(arm), Cell(reason)] for arm, reason in material.study.dropped.items()]
    body = []
    if failed:
        caption = (
            f"{plural(len(failed), 'run')} failed. {capped(min(len(failed), ROWS), len(failed), 'failures')}"
        )
        body.append(table(caption, _heads("run", "identity", "reason"), failed[:ROWS]))
    if dropped:
        caption = "Arms that cannot be built on their backbone were left out. "
        caption += capped(min(len(dropped), ROWS), len(dropped), "arms")
        body.append(table(caption, _heads("arm", "reason"), dropped[:ROWS]))
    return Section("failures", "What is missing", join(body)) if body else None


def provenance(material: Material) -> Section:
    """Everything that a reader needs to repeat the study."""
    study = material.study
    plugins = plugins_sentence(study.runs)
    body = [
        paragraph("The command that gives these results; finished runs are not trained again:"),
        Markup(parts().command(command(study))),
        *map(paragraph, _environments(material)),
        *([paragraph(plugins)] if plugins else []),
        _manifests(study.runs, len(study.arms)),
        _settings(material),
    ]
    return Section("reproduce", "How to reproduce it", join(body))


def _heads(*texts: str) -> list[Heading]:
    return [Heading(text) for text in texts]


def _environments(material: Material) -> list[str]:
    """Where the finished runs were trained, as their own records say."""
    by_id = material.result.folder.parent.parent / "by-id"
    found: dict[str, int] = {}
    for item in material.result.results.values():
        if item.finished:
            try:
                line = _environment(read_json(by_id / item.run_id / "environment.json"))
            except (DataError, KeyError, TypeError, ValueError, AttributeError):
                continue
            found[line] = found.get(line, 0) + 1
    if not found:
        return ["Nothing is known of where it was trained."]
    return [f"{plural(amount, 'run')} trained with {line}." for line, amount in found.items()]


def _environment(content: dict[str, object]) -> str:
    versions = content["versions"]
    assert isinstance(versions, dict)
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    machine = f"{content['device']}, {plural(int(str(content['threads'])), 'thread')}"
    return f"Python {content['python']} on {content['platform']} ({machine}): {packages}"


def _manifests(runs: Sequence[Run], arms: int) -> Markup:
    """Each split manifest once, with the arms that use it if not all do."""
    users: dict[str, dict[str, Run]] = {}
    for run in runs:
        users.setdefault(run.manifest.hash, {})[run.arm] = run
    rows = []
    for key, members in list(users.items())[:ROWS]:
        manifest = next(iter(members.values())).manifest
        sizes = f"{len(manifest.train)} / {len(manifest.val)} / {len(manifest.test)}"
        names = "all" if len(members) == arms else ", ".join(members)
        names = names if len(names) <= 80 else plural(len(members), "arm")
        numbers = (manifest.shots, manifest.split_seed, len(manifest.class_names))
        rows.append(
            [
                Cell(manifest.dataset),
                *(Cell(str(value)) for value in numbers),
                Cell(sizes),
                Cell(names),
                Cell(f"`{key}`"),
            ]
        )
    heads = _heads("data set", "shots", "split seed", "classes", "train / val / test", "arms", "SHA-256")
    caption = "Split manifests: exactly which pictures. Each run's folder has its own as `manifest.json`. "
    return table(caption + capped(len(rows), len(users), "manifests"), heads, rows)


def _settings(material: Material) -> Markup:
    """What all arms share."""
    shared = [(key, f"`{text}`") for key, text in material.settings.shared.items()]
    if not shared:
        return Markup("")
    body = Markup(parts().definitions(shared))
    return details("Settings that all arms share; keys are relative to run", body)
