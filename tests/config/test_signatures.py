"""Components as read from their source equal the same components imported, and no import is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pinikit.components import FOLDERS
from pinikit.plugin import registry
from pinikit.registry import KINDS, Entry
from pinikit.signature import inspect_signature, read_signature

ENTRIES = [entry for kind in KINDS for entry in registry().entries(kind)]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}:{entry.name}")
def test_read_equals_imported(entry: Entry) -> None:
    read, imported = read_signature(entry.target), inspect_signature(entry.target)
    assert read.version == imported.version
    assert read.doc == imported.doc
    assert list(read.parameters) == list(imported.parameters)
    for name, parameter in read.parameters.items():
        twin = imported.parameters[name]
        assert (parameter.type, parameter.default) == (twin.type, twin.default)
        assert str(parameter.search) == str(twin.search)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}:{entry.name}")
def test_components_are_documented_and_named(entry: Entry) -> None:
    component = entry.load()
    assert component.name == entry.name
    assert component.version >= 1
    assert entry.doc
    assert entry.doc == entry.signature.doc.partition("\n")[0]


def test_every_file_of_a_component_folder_is_registered() -> None:
    folder = Path(sys.modules["pinikit.components"].__file__ or "").parent
    registered = {entry.target.partition(":")[0] for entry in ENTRIES}
    for name in FOLDERS:
        for path in (folder / name).glob("[!_]*.py"):
            assert f"pinikit.components.{name}.{path.stem}" in registered


def test_reading_all_signatures_imports_no_torch() -> None:
    code = (
        "import sys; from pinikit.plugin import registry; from pinikit.registry import KINDS\n"
        "for kind in KINDS:\n"
        "    for entry in registry().entries(kind): entry.signature\n"
        "print([m for m in ('torch', 'optuna', 'open_clip', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_class_that_cannot_be_read_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "computed_default.py").write_text(
        "class Thing:\n"
        "    '''A thing.'''\n"
        "    version = 3\n"
        "    def __init__(self, size: int = 2 * 3, names: 'list[str] | None' = None) -> None: ...\n"
        "class Child(Thing):\n"
        "    '''A child.'''\n"
        "class Readable(Thing):\n"
        "    '''Readable, but for its version.'''\n"
        "    def __init__(self, size: int = 6) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("Thing", "Child", "Readable"):
        signature = read_signature(f"computed_default:{name}")
        assert signature.version == 3
        assert signature.parameters["size"].default == 6


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("FloatDistribution(low=1.0, high=2.0)", "1 … 2"),
        ("FloatDistribution(1e-3, 1.0, log=True)", "0.001 … 1 (log)"),
        ("IntDistribution(1, high=4)", "1 … 4"),
        ("CategoricalDistribution(choices=[2, 3])", "2 | 3"),
    ],
)
def test_search_ranges_read_as_written(
    written: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"ranged_{abs(hash(written))}"
    (tmp_path / f"{module}.py").write_text(
        "from typing import Annotated\n"
        "from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution\n"
        "class Thing:\n"
        "    version = 1\n"
        f"    def __init__(self, size: Annotated[float, {written}] = 1.0) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for signature in (read_signature(f"{module}:Thing"), inspect_signature(f"{module}:Thing")):
        assert str(signature.parameters["size"].search) == shown
