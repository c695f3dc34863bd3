"""A look at each plug-in in a process of its own: what is wrong, whose it is and how to switch it off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from pinikit.errors import ConfigError, listing, nearest
from pinikit.plugin import Plugins, plugins
from pinikit.plugin_sources import BASES, Source, all_sources
from pinikit.registry import Entry

SECONDS = 120
"""After which a plug-in that is still being imported counts as stuck."""


@dataclass(frozen=True)
class Examined:
    """What a plug-in did in a process of its own."""

    components: tuple[str, ...] = ()
    """``kind name`` of what it registered."""
    findings: tuple[str, ...] = ()
    """What is wrong with it, one sentence each."""


@dataclass(frozen=True)
class Diagnosis:
    """What there is to say of one plug-in."""

    source: Source
    disabled: bool
    components: tuple[str, ...]
    findings: tuple[str, ...]

    @property
    def owner(self) -> str:
        """Who to turn to, as its distribution says; empty if it does not."""
        if self.source.distribution is None:
            return ""
        about = self.source.distribution.metadata
        keys = ("Author", "Author-email", "Maintainer", "Maintainer-email", "Home-page", "Project-URL")
        found = [text for key in keys for text in about.get_all(key) or [] if text != "UNKNOWN"]
        return ", ".join(dict.fromkeys(found))


def examine(name: str | None = None) -> list[Diagnosis]:
    """Import every plug-in, or those of that name, each in a process of its own, and their components.

    Those that are switched off are looked at, too.

    Raises:
        ConfigError: there is no plug-in of that name.
    """
    loaded = plugins()
    chosen = [source for source in loaded.sources if name in (None, source.name)]
    if name is not None and not chosen:
        raise unknown(name, [source.name for source in loaded.sources])
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = pool.map(lambda source: _in_a_process(loaded.sources.index(source)), chosen)
        return [_diagnosis(source, loaded, examined) for source, examined in zip(chosen, found, strict=True)]


def unknown(name: str, names: Sequence[str]) -> ConfigError:
    """The error for the name of a plug-in that is not there."""
    return ConfigError(f"unknown plug-in {name!r}{nearest(name, names)}; there are: {listing(names)}")


def _diagnosis(source: Source, loaded: Plugins, examined: Examined) -> Diagnosis:
    """What it did alone, and beside the others."""
    findings = list(examined.findings)
    who = (source.name, source.origin)
    if not findings:  # alone it is fine: another one may be in its way
        reasons = [item.reason for item in loaded.problems if (item.plugin, item.origin) == who]
        findings = [f"beside the other plug-ins: {reason}" for reason in reasons]
    return Diagnosis(source, source.name in loaded.disabled, examined.components, tuple(findings))


def _in_a_process(index: int) -> Examined:
    """Examine one of the sources; a process that crashes or hangs is a finding."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"  # a plug-in may write what it likes to the standard output
        command = [sys.executable, "-P", "-m", "pinikit.plugin_doctor", str(index), str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return Examined(findings=(f"its import did not end within {SECONDS} s",))
        if answer.is_file():
            content = json.loads(answer.read_text(encoding="utf-8"))
            return Examined(tuple(content["components"]), tuple(content["findings"]))
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    ended = f"by signal {-done.returncode}" if done.returncode < 0 else f"with code {done.returncode}"
    return Examined(findings=(f"the process that imported it ended {ended}: {last}",))


# --- in that process --------------------------------------------------------------------------------------


def _examine_alone(source: Source) -> Examined:
    opened = Plugins([source])
    findings = [problem.reason for problem in opened.problems]
    entries = [
        entry
        for kind in BASES.values()
        for entry in opened.registry.entries(kind)
        if entry.source == source.label
    ]
    for entry in entries:
        findings += [f"{entry.kind} {entry.name!r}: {text}" for text in _wrong_with(entry)]
    return Examined(tuple(f"{entry.kind} {entry.name}" for entry in entries), tuple(findings))


def _wrong_with(entry: Entry) -> Iterator[str]:
    """What stands in the way of a component's use."""
    try:
        component = entry.load()
        entry.signature  # noqa: B018  # raises where its parameters cannot be read
    except Exception as error:
        yield " ".join(str(error).split())
        return
    if not entry.doc:
        yield "it has no doc line"
    base = _contract(entry.kind)
    if not isinstance(component, type) or not issubclass(component, base):
        yield f"{entry.target} is no subclass of pinikit.{base.__name__}"
    elif missing := sorted(getattr(component, "__abstractmethods__", ())):
        yield f"{entry.target} lacks the methods {listing(missing)}"


def _contract(kind: str) -> type:
    import pinikit

    base: type = getattr(pinikit, next(name for name, of in BASES.items() if of == kind))
    return base


def main(index: str, answer: str) -> None:
    """Examine the source at ``index`` and write what was found to the file ``answer``."""
    examined = _examine_alone(all_sources()[int(index)])
    Path(answer).write_text(json.dumps(asdict(examined)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
