"""``pinikit plugins``: what it lists, what the doctor finds, what it writes, and what is off stays off."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pinikit.cli.app import app
from pinikit.plugin import plugins, registry
from pinikit.plugin_sources import settings_file
from pinikit.plugin_template import write_plugin

HOOK = "import pinikit\n\n@pinikit.hookimpl\ndef pinikit_register(registry):\n"
BROKEN = {
    "crashing": ("import os\nos._exit(7)\n", "ended with code 7"),
    "importing": ("import a_module_that_nobody_has\n", "No module named 'a_module_that_nobody_has'"),
    "naming": (HOOK + '    registry.noise("gaussian", "x:X", doc="")\n', "already registered by pinikit"),
    "promising": (
        HOOK + '    registry.noise("gone", "promising_gone:Gone", doc="Nothing")\n',
        "noise 'gone' of plug-in 'promising 1.0' cannot be imported",
    ),
    "unfinished": (
        HOOK + f'    registry.dataset("half", "{__name__}_half:Half", doc="Half a data set")\n',
        "lacks the methods check, open, read",
    ),
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Install a distribution of one module; what is installed goes away with the test."""
    monkeypatch.setenv("PINIKIT_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(site))  # of the doctor's processes
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)

    def install(name: str, text: str, *metadata: str, version: str = "1.0") -> None:
        (site / f"{name}.py").write_text(text, encoding="utf-8")
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[pinikit]\n{name} = {name}\n")
        plugins.cache_clear()

    install.site = site  # type: ignore[attr-defined]  # a function carries it
    plugins.cache_clear()
    yield install
    plugins.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def call(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


GOOD = HOOK + '    registry.dataset("twice", "pinikit.components.datasets.digits:Digits", doc="Digits")\n'


def test_list_says_where_they_come_from_and_what_they_add(installed: Any) -> None:
    assert "no plug-ins" in call("plugins", "list").stdout
    installed("doubling", GOOD)
    installed("importing", BROKEN["importing"][0])
    done = call("plugins", "list")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "doubling 1.0" in rows["doubling"]
    assert rows["doubling"].rstrip().endswith("dataset twice")
    assert "left out" in rows["importing"]
    assert "plug-in 'importing' was left out" in done.stderr


def test_one_that_is_off_is_not_imported_until_it_is_on_again(installed: Any) -> None:
    installed("importing", BROKEN["importing"][0])
    installed("doubling", GOOD)
    assert call("plugins", "disable", "importing").exit_code == 0
    assert call("plugins", "disable", "doubling").exit_code == 0
    plugins.cache_clear()
    assert plugins().problems == []
    assert "twice" not in [entry.name for entry in registry().entries("dataset")]
    assert "doubling" not in sys.modules
    assert call("plugins", "list").stdout.count(" off ") == 2
    done = call("plugins", "disable", "doubling", "--enable")
    assert done.stdout == f"doubling is on ({settings_file()})\n"
    plugins.cache_clear()
    assert registry().find("dataset", "twice").source == "doubling 1.0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["disable", "dubling"], "unknown plug-in 'dubling' (did you mean 'doubling'?); there are: doubling"),
        (["disable", "doubling", "--enable"], "plug-in 'doubling' is not off; off are: none"),
        (["doctor", "nobody"], "unknown plug-in 'nobody'"),
        (["new", "niose", "x-y"], "no kind 'niose' (did you mean 'noise'?); allowed: noise, injector, loss"),
        (["new", "noise", "../x"], "found the name '../x'"),
        (["new", "noise", "noise"], "the name 'noise' is taken"),
        (["new", "noise", "none"], "the name 'none' is taken"),
        (["new", "noise", "student-t"], "the name 'student-t' is a noise's"),
        (["new", "noise", "torch"], "the name 'torch' is that of something installed"),
        (["new", "noise", "random"], "the name 'random' is that of something installed"),
    ],
)
def test_mistakes(installed: Any, words: list[str], message: str) -> None:
    installed("doubling", GOOD)
    done = call("plugins", *words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not settings_file().exists()


def test_a_damaged_list_of_what_is_off_is_told_with_its_place(installed: Any) -> None:
    installed("doubling", GOOD)
    settings_file().parent.mkdir()
    settings_file().write_text('{"disabled": "doubling"}')
    done = call("list", "combine")
    assert done.exit_code == 2
    assert str(settings_file()) in done.stderr
    assert "no list of names" in done.stderr


def test_the_doctor_looks_at_each_alone_and_says_whose_it_is(installed: Any) -> None:
    installed("doubling", GOOD)
    site = installed.site
    (site / f"{__name__}_half.py").write_text(
        "import pinikit\n\nclass Half(pinikit.DataSet):\n    '''Half.'''\n    def __init__(self) -> None: ...\n"
    )
    for name, (text, _) in BROKEN.items():
        if name != "crashing":  # which ends any process that imports it, this one, too
            installed(name, text, "Author-email: Ada <ada@example.org>")
    done = call("plugins", "doctor")
    assert done.exit_code == 4, done.output
    blocks = done.stdout.split("\n")
    assert "doubling 1.0, from doubling 1.0: fine; dataset twice" in blocks
    for name, (_, reason) in BROKEN.items():
        if name != "crashing":
            start = next(i for i, line in enumerate(blocks) if line.startswith(f"{name} 1.0"))
            assert reason in blocks[start + 1]
            assert "Ada <ada@example.org>" in blocks[start + 2]
            assert f"pinikit plugins disable {name}" in blocks[start + 3]


def test_the_doctor_survives_what_ends_its_process(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installed("doubling", GOOD)
    plugins()  # loaded before the other is there
    installed("crashing", BROKEN["crashing"][0])
    call("plugins", "disable", "crashing")
    plugins.cache_clear()
    done = call("plugins", "doctor", "crashing")
    assert done.exit_code == 0, "it is off"
    assert BROKEN["crashing"][1] in done.stdout
    assert "it is off" in done.stdout


# --- new --------------------------------------------------------------------------------------------------


def installed_as_pip_would(folder: Path, site: Path) -> None:
    """What an editable installation leaves behind: the metadata, and the path of the sources."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    needs = [f"Requires-Dist: {text}" for text in project["dependencies"]]
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}", *needs]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    points = [f"{name} = {target}" for name, target in project["entry-points"]["pinikit"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[pinikit]", *points]) + "\n")


KINDS = ("noise", "injector", "loss")


@pytest.fixture
def written(tmp_path: Path) -> tuple[list[Path], str]:
    """A distribution of each kind, installed, and the paths that Python must look at for that."""
    place = tmp_path / "written"
    folders = [write_plugin(kind, f"my-own-{kind}", place) for kind in KINDS]
    for folder in folders:
        installed_as_pip_would(folder, place / "site")
    return folders, os.pathsep.join(map(str, [place / "site", *(folder / "src" for folder in folders)]))


def test_what_new_writes_is_found_without_torch(written: tuple[list[Path], str]) -> None:
    code = "import json, sys; from pinikit.plugin import plugins, registry as r\n"
    code += f"names = [e.source for k in {KINDS} for e in r().entries(k) if e.signature.version]\n"
    code += "print(json.dumps([names, len(plugins().problems), 'torch' in sys.modules]))"
    environment = {**os.environ, "PYTHONPATH": written[1]}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    names, problems, heavy = json.loads(done.stdout)
    assert [name for name in names if name != "pinikit"] == [f"my_own_{kind} 0.1.0" for kind in KINDS]
    assert (problems, heavy) == (0, False)


@pytest.mark.parametrize("kind", KINDS)
def test_what_new_writes_passes_its_own_tests(
    written: tuple[list[Path], str], installed: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """All but what takes another process, which the drill below has."""
    for path in written[1].split(os.pathsep):
        monkeypatch.syspath_prepend(path)
    plugins.cache_clear()
    (path,) = (written[0][0].parent / f"my-own-{kind}" / "tests").glob("*.py")
    space: dict[str, Any] = {}
    exec(path.read_text(encoding="utf-8"), space)
    case = space[f"TestMyOwn{kind.capitalize()}"]()
    checks = [name for name in dir(case) if name.startswith("test_")]
    assert len(checks) > 10
    for check in checks:
        if check != "test_it_is_the_same_in_another_process":
            getattr(case, check)()


@pytest.mark.drill
def test_what_new_writes_passes_its_own_tests_by_pytest(written: tuple[list[Path], str]) -> None:
    """As authors run them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, written[0])]
    environment = {**os.environ, "PYTHONPATH": written[1]}
    done = subprocess.run(command, capture_output=True, text=True, cwd=written[0][0].parent, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_new_leaves_what_is_there_alone(tmp_path: Path) -> None:
    (tmp_path / "my-noise").mkdir()
    done = call("plugins", "new", "noise", "my-noise", "--into", tmp_path)
    assert done.exit_code == 2
    assert "is there already; nothing was written" in done.stderr
    assert list((tmp_path / "my-noise").iterdir()) == []


# --- docs/plugins.md --------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_what_the_docs_show_can_be_typed(
    installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are those that ``new`` writes, or are written here; commands are run in their order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PINIKIT_PLUGINS_DIR", "")  # so that what --plugins-dir sets goes away
    for text in blocks("yaml") + blocks("python"):
        first, _, rest = text.partition("\n")
        path = Path(first.removeprefix("# "))
        if "my_noise" not in first:
            path.parent.mkdir(exist_ok=True)
            path.write_text(rest, encoding="utf-8")
    for line in "".join(blocks("console")).splitlines():
        if line.startswith("pip install -e 'my-noise[test]'"):
            installed_as_pip_would(Path("my-noise"), installed.site / "more")
            monkeypatch.syspath_prepend(installed.site / "more")
            monkeypatch.syspath_prepend("my-noise/src")
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            continue
        plugins.cache_clear()
        assert line.startswith("pinikit "), line
        done = call(*shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}: {done.output}"
    shown = {text.partition("\n")[0]: text.partition("\n")[2] for text in blocks("python") + blocks("toml")}
    for first, text in shown.items():
        if "my_noise" in first or "pyproject" in first:
            assert text in (Path("my-noise") / first.removeprefix("# ")).read_text(encoding="utf-8"), first
    names = [source.name for source in plugins().sources]
    assert names == ["my_noise", "half_noise", "tracker"]
    assert plugins().problems == []
    assert registry().find("noise", "half_normal").load()().parameters == ("scale",)


def test_an_exception_that_the_docs_show_is_one(installed: Any) -> None:
    (text,) = (item for item in blocks("python") if item.startswith("# tests/test_masks.py"))
    space: dict[str, Any] = {}
    exec(text, space)
    case = space["TestMask"]()
    case.test_it_is_documented()
    with pytest.raises(AssertionError):
        case.test_zero_parameters_are_no_noise()
