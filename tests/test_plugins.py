"""The plug-in door: installed distributions add components and listen; broken ones are left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from typer.testing import CliRunner

from pinikit import run_study
from pinikit.cli.app import app
from pinikit.components import _components
from pinikit.errors import PluginError
from pinikit.plugin import Problem, plugins, registry

TRIANGULAR = '''
"""Triangular noise."""
from __future__ import annotations

import torch

from pinikit.components.contracts import Noise


class Triangular(Noise):
    """Diagonal Triangular noise."""

    parameters = ("location", "scale")
    constraints = {"scale": "softplus"}

    def __init__(self, widen: float = 1.0) -> None:
        if widen <= 0:
            raise ValueError(f"widen: found {widen}; allowed: above 0")
        self.widen = widen

    def base(self, shape, generator):
        return torch.rand(shape, generator=generator) + torch.rand(shape, generator=generator) - 1

    def sample(self, params, base):
        return params["location"] + self.widen * params["scale"] * base

    def mean(self, params):
        return params["location"]
'''
GOOD = """
import pinikit

@pinikit.hookimpl
def pinikit_register(registry):
    registry.noise("triangular", "my_noise.triangular:Triangular", doc="Diagonal Triangular noise", synonyms=["tent"])
"""
STUDY = """
name: plugged
run:
  data: {name: digits, shots: 1, views: 0}
  method:
    name: pini
    injections:
      image: {site: image_feature, injector: cross_attention, noise: {name: triangular, widen: 2.0}, share: image}
    optim: {epochs: 1}
  evaluate: {noise: [mean, sample]}
  device: cpu
  threads: 1
design: {arms: {triangular: {}, gaussian: {method.injections.image.noise: gaussian}}}
seeds: [1]
"""


class Site:
    """A folder of installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self,
        name: str,
        modules: dict[str, str],
        version: str = "1.2",
        point: str | None = None,
        needs: str = "pinikit>=0.1",
    ) -> None:
        """A distribution whose entry point is ``NAME.plugin``."""
        for file, text in {"__init__": "", **modules}.items():
            path = self.folder / name / f"{file}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")
        info = self.folder / f"{name}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: {needs}\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(f"[pinikit]\n{point or name} = {name}.plugin\n")

    def open(self) -> Any:
        """The door, opened anew."""
        plugins.cache_clear()
        return plugins()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    plugins.cache_clear()
    yield Site(folder)
    plugins.cache_clear()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def names(kind: str = "noise") -> set[str]:
    return {entry.name for entry in registry().entries(kind)}


BUILT_IN = {attributes["name"] for _, _, attributes in _components("noise")}


# --- plug-ins that work -----------------------------------------------------------------------------------


def test_a_study_uses_a_component_of_a_plugin(site: Site, tmp_path: Path) -> None:
    site.install("my_noise", {"plugin": GOOD, "triangular": TRIANGULAR})
    assert site.open().problems == []
    assert "my_noise.triangular" not in sys.modules, "components are imported when they are used"
    assert registry().find("noise", "tent").source == "my_noise 1.2"
    (tmp_path / "plugged.yaml").write_text(STUDY)
    result = run_study(tmp_path / "plugged.yaml", runs=tmp_path / "runs")
    assert result.failed == []
    triangular, gaussian = (result.results[arm, 1] for arm in ("triangular", "gaussian"))
    assert triangular.metrics("test", "sample")["nll"] != gaussian.metrics("test", "sample")["nll"]
    assert triangular.content["identity"]["components"]["noise:triangular"] == [1, "my_noise 1.2"]
    for report in ("report.md", "report.html"):
        text = (result.folder / report).read_text(encoding="utf-8")
        assert "From plug-ins: noise triangular (version 1) of my_noise 1.2." in text
    folder = tmp_path / "runs" / "by-id" / triangular.run_id
    done = CliRunner().invoke(app, ["predict", str(folder), str(picture(tmp_path))])
    assert done.exit_code == 0, done.output


def picture(folder: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (8, 8), "white").save(folder / "white.png")
    return folder / "white.png"


def test_another_version_of_a_plugin_is_another_run(site: Site, tmp_path: Path) -> None:
    from pinikit.study.study import resolve_study

    (tmp_path / "plugged.yaml").write_text(STUDY)
    found = []
    for version in ("1.2", "1.3"):
        site.install("my_noise", {"plugin": GOOD, "triangular": TRIANGULAR}, version)
        site.open()
        found.append({run.arm: run.id for run in resolve_study(tmp_path / "plugged.yaml").runs})
        (site.folder / f"my_noise-{version}.dist-info" / "METADATA").unlink()
        (site.folder / f"my_noise-{version}.dist-info" / "entry_points.txt").unlink()
        (site.folder / f"my_noise-{version}.dist-info").rmdir()
    assert found[0]["triangular"] != found[1]["triangular"]
    assert found[0]["gaussian"] == found[1]["gaussian"], "which uses nothing of it"


def test_list_and_show_know_the_source(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    site.install("my_noise", {"plugin": GOOD, "triangular": TRIANGULAR})
    site.open()
    done = CliRunner().invoke(app, ["list", "noise"])
    assert any("triangular" in line and "my_noise 1.2" in line for line in done.stdout.splitlines())
    done = CliRunner().invoke(app, ["show", "noise", "triangular"])
    assert "from my_noise 1.2 (my_noise.triangular:Triangular)" in done.stdout
    assert "widen" in done.stdout


def test_a_refused_parameter_of_a_plugin(site: Site, tmp_path: Path) -> None:
    site.install("my_noise", {"plugin": GOOD, "triangular": TRIANGULAR})
    site.open()
    (tmp_path / "plugged.yaml").write_text(STUDY)
    key = "design.arms.triangular.method.injections.image.noise.widen"
    for value, message in (
        ("-1", "noise.widen: found -1.0; allowed: above 0"),
        ("wide", f"{key}: found 'wide'"),
    ):
        done = CliRunner().invoke(
            app, ["run", str(tmp_path / "plugged.yaml"), f"{key}={value}", "--runs", str(tmp_path / "runs")]
        )
        assert done.exit_code == 2, done.output
        assert message in done.stderr


# --- plug-ins that do not ---------------------------------------------------------------------------------

BROKEN: dict[str, tuple[str, str]] = {
    "import error": (
        "import a_module_that_nobody_has\n",
        "import of 'broken.plugin' failed: ModuleNotFoundError",
    ),
    "syntax error": ("def (\n", "import of 'broken.plugin' failed: SyntaxError"),
    "raises on registration": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half", "broken.x:X", doc="registered before it raises")
            raise RuntimeError("no licence")
        """,
        "RuntimeError: no licence",
    ),
    "name of a built-in": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half", "broken.x:X", doc="")
            registry.noise("gaussian", "broken.x:X", doc="")
        """,
        "noise 'gaussian' is already registered by pinikit",
    ),
    "synonym of a built-in": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("mine", "broken.x:X", doc="", synonyms=["gaussian_diag"])
        """,
        "noise 'gaussian_diag' is already registered by pinikit",
    ),
    "unknown kind": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.add("niose", "x", "broken.x:X", doc="")
        """,
        "unknown kind 'niose' (did you mean 'noise'?)",
    ),
    "no import path": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half", "broken.x.X", doc="")
        """,
        "target 'broken.x.X' must read 'package.module:Class'",
    ),
    "signature of a hook": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half", "broken.x:X", doc="")

        @pinikit.hookimpl
        def pinikit_run_finished(run_id, colour):
            pass
        """,
        "PluginValidationError",
    ),
    "unknown hook": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half", "broken.x:X", doc="")

        @pinikit.hookimpl
        def pinikit_run_finnished(run_id):
            pass
        """,
        "pinikit_run_finnished",
    ),
    "a hook without its mark": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half", "broken.x:X", doc="")

        def pinikit_report(study):
            pass
        """,
        "pinikit_report is not marked with @pinikit.hookimpl",
    ),
    "no hook": ("x = 1\n", "it has no hook; there are pinikit_register, "),
    "a hook around others": (
        """
        import pinikit

        @pinikit.hookimpl(wrapper=True)
        def pinikit_report(study):
            yield
        """,
        "pinikit_report: hooks cannot be wrapped",
    ),
    "hooks of a later version": (
        """
        import pinikit
        pinikit_hooks = 2

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half", "broken.x:X", doc="")
        """,
        "needs hook specifications 2, this pinikit has 1: it needs a newer one",
    ),
    "a text for synonyms": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half", "broken.x:X", doc="", synonyms="tent")
        """,
        "noise 'half': synonyms: found 'tent'; allowed: a list of names",
    ),
    "no name": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("half.1", "broken.x:X", doc="")
        """,
        "noise 'half.1': allowed: a letter, then letters, digits, _ and -",
    ),
    "nothing to replace": (
        """
        import pinikit

        @pinikit.hookimpl
        def pinikit_register(registry):
            registry.noise("gausian", "broken.x:X", doc="", replace=True)
        """,
        "replace=True is for a built-in noise, found none (did you mean 'gaussian'?)",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_reported_and_left_out(site: Site, what: str) -> None:
    text, reason = BROKEN[what]
    site.install("broken", {"plugin": text})
    site.install("my_noise", {"plugin": GOOD, "triangular": TRIANGULAR})
    opened = site.open()
    assert [problem.plugin for problem in opened.problems] == ["broken"]
    assert reason in opened.problems[0].reason
    assert names() == BUILT_IN | {"triangular"}, "nothing of it is registered, everything else is"
    done = CliRunner().invoke(app, ["list", "noise"])
    assert done.exit_code == 0
    assert "pinikit: plug-in 'broken' was left out: " in done.stderr
    opened.notify("pinikit_run_started", run_id="x", arm="y", seed=1)


@pytest.mark.parametrize("needs", ["pinikit>=99", "PiniKit ~= 99.0 ; python_version > '3'"])
def test_a_plugin_that_needs_another_pinikit_is_left_out(site: Site, needs: str) -> None:
    site.install("my_noise", {"plugin": GOOD, "triangular": TRIANGULAR}, needs=needs)
    (problem,) = site.open().problems
    assert problem.reason.startswith("needs pinikit ")
    assert problem.reason.endswith("this is 0.1.0")
    assert names() == BUILT_IN


def test_a_built_in_is_replaced_only_by_name(site: Site) -> None:
    """It takes the synonyms, too, and identities tell it from the built-in; another one cannot replace it again."""
    good = GOOD.replace('"triangular",', '"gaussian",').replace(', synonyms=["tent"]', ", replace=True")
    site.install("my_noise", {"plugin": good, "triangular": TRIANGULAR})
    site.install("your_noise", {"plugin": good})
    opened = site.open()
    assert [problem.plugin for problem in opened.problems] == ["your_noise"]
    assert "found that of my_noise 1.2" in opened.problems[0].reason
    for name in ("gaussian", "gaussian_diag"):
        entry = registry().find("noise", name)
        assert (entry.source, entry.replaces) == ("my_noise 1.2", True)
    assert names() == BUILT_IN


def test_a_broken_plugin_is_said_when_a_study_runs(site: Site, tmp_path: Path) -> None:
    site.install("broken", {"plugin": BROKEN["import error"][0]})
    site.open()
    done = CliRunner().invoke(app, ["run", "no_such_study", "--runs", str(tmp_path)])
    assert done.exit_code == 2
    assert "plug-in 'broken' was left out: import of 'broken.plugin' failed" in done.stderr


@pytest.mark.parametrize("point", ["my_noise", "pinikit"])
def test_a_second_plugin_of_a_name_does_not_remove_the_first(site: Site, point: str) -> None:
    heard = """
    import pinikit
    calls = []

    @pinikit.hookimpl
    def pinikit_report(study):
        calls.append(study)
    """
    site.install("my_noise", {"plugin": GOOD + dedent(heard), "triangular": TRIANGULAR})
    site.install("usurper", {"plugin": heard}, point=point)
    opened = site.open()
    assert [problem.plugin for problem in opened.problems] == [point]
    assert "already registered" in opened.problems[0].reason
    assert names() == BUILT_IN | {"triangular"}
    opened.notify("pinikit_report", study="s", folder=Path())
    first, second = ("my_noise", "usurper") if point == "pinikit" else sorted(("my_noise", "usurper"))
    assert sys.modules[f"{first}.plugin"].calls == ["s"]
    assert sys.modules[f"{second}.plugin"].calls == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD.replace("my_noise.triangular:Triangular", "my_noise.nowhere:Triangular"), "nowhere"),
        (GOOD.replace("my_noise.triangular:Triangular", "my_noise.triangular:Gone"), "Gone"),
    ],
)
def test_a_component_that_is_not_there(site: Site, tmp_path: Path, text: str, reason: str) -> None:
    site.install("my_noise", {"plugin": text, "triangular": TRIANGULAR})
    site.open()
    assert CliRunner().invoke(app, ["list", "noise"]).exit_code == 0
    (tmp_path / "plugged.yaml").write_text(STUDY)
    done = CliRunner().invoke(app, ["run", str(tmp_path / "plugged.yaml"), "--runs", str(tmp_path / "runs")])
    assert done.exit_code == PluginError.exit_code, done.output
    assert "my_noise" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "runs").exists()
    (tmp_path / "plugged.yaml").write_text(STUDY.replace("{name: triangular, widen: 2.0}", "gaussian"))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "plugged.yaml"), "--dry-run"])
    assert done.exit_code == 0, done.output


# --- notification -----------------------------------------------------------------------------------------

TRACKER = """
import pinikit
calls = []

@pinikit.hookimpl
def pinikit_study_started(study, folder, runs):
    calls.append(("study", study, folder.name, runs))

@pinikit.hookimpl
def pinikit_run_started(run_id, arm, seed):
    calls.append(("started", arm, seed))

@pinikit.hookimpl
def pinikit_run_finished(arm, result):
    calls.append(("finished", arm, result["status"], result["metrics"]["test"]["mean"]["accuracy"] > 10))

@pinikit.hookimpl
def pinikit_report(folder):
    calls.append(("report", (folder / "report.md").is_file()))
"""
SULKING = """
import pinikit

@pinikit.hookimpl
def pinikit_run_started(run_id):
    raise ConnectionError("the tracker is down")

@pinikit.hookimpl
def pinikit_report(study):
    raise ConnectionError("still down")
"""


def test_trackers_hear_of_everything_and_may_fail(site: Site, tmp_path: Path) -> None:
    site.install("a_sulking", {"plugin": SULKING})
    site.install("tracker", {"plugin": TRACKER})
    assert site.open().problems == []
    (tmp_path / "plugged.yaml").write_text(STUDY.replace("{name: triangular, widen: 2.0}", "gaussian"))
    with pytest.warns(
        UserWarning, match="plug-in 'a_sulking': pinikit_(run_started|report) raised Conn"
    ) as found:
        result = run_study(tmp_path / "plugged.yaml", runs=tmp_path / "runs", arms="gaussian")
    assert result.failed == []
    assert len(found) >= 2
    calls = sys.modules["tracker.plugin"].calls
    assert calls == [
        ("study", "plugged", "plugged", 1),
        ("started", "gaussian", 1),
        ("finished", "gaussian", "finished", True),
        ("report", True),
    ]
    calls.clear()
    with pytest.warns(UserWarning, match="still down"):
        run_study(tmp_path / "plugged.yaml", runs=tmp_path / "runs", arms="gaussian")
    assert calls == [("study", "plugged", "plugged", 0), ("report", True)], "nothing was trained"


def test_problems_are_plain_values() -> None:
    assert Problem("a", "b") == Problem("a", "b")


# --- single files -----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site) -> Path:
    """A folder of single-file plug-ins."""
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setenv("PINIKIT_PLUGINS_DIR", str(folder))
    return folder


def test_a_file_is_a_plugin(files: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its classes are components, without being imported; another content is another version."""
    named = '    name = "tri"\n    version = 1\n    synonyms = ("peak",)\n'
    text = TRIANGULAR.replace("    parameters =", f"{named}    parameters =")
    path = files / "shapes.py"
    path.write_text(text, encoding="utf-8")
    (files / "test_shapes.py").write_text("raise SystemExit\n")
    (files / "_parts.py").write_text("raise SystemExit\n")
    assert site.open().problems == []
    entry = registry().find("noise", "peak")
    assert entry.doc == "Diagonal Triangular noise."
    assert list(entry.signature.parameters) == ["widen"]
    assert "pinikit_plugins.shapes" not in sys.modules
    assert entry.load()().widen == 1.0
    path.write_text(text + "# more\n", encoding="utf-8")
    site.open()
    changed = registry().find("noise", "tri").source
    assert changed != entry.source
    (files / "_parts.py").write_text("raise SystemExit  # which it may import\n")
    site.open()
    assert registry().find("noise", "tri").source not in (entry.source, changed)
    monkeypatch.setenv("PINIKIT_PLUGINS_DIR", str(files / "none"))
    plugins.cache_clear()
    done = CliRunner().invoke(app, ["list", "noise"])
    assert done.exit_code == 2
    assert "which is no folder" in done.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class X(:\n", "reading wrong.py failed: SyntaxError"),
        ("class X(Gaussian):\n    name = 'x'\n", "wrong.py has no component"),
        ("def pinikit_report(study): ...\n", "pinikit_report is not marked with @pinikit.hookimpl"),
        ("def pinikit_report(study): ...\nraise OSError('no')\n", "import of wrong.py failed: OSError('no')"),
        ("class X(Noise):\n    name = 'gaussian'\n", "noise 'gaussian' is already registered by pinikit"),
        ("pinikit_hooks = 9\nclass X(Noise):\n    name = 'x'\n", "needs hook specifications 9"),
    ],
)
def test_a_broken_file_is_left_out(files: Path, site: Site, text: str, reason: str) -> None:
    (files / "wrong.py").write_text(text)
    (problem,) = site.open().problems
    assert problem.plugin == "wrong"
    assert reason in problem.reason
    assert names() == BUILT_IN


OLD_STUDY = """
name: old
run:
  data: {name: old_dataset, shots: 1, views: 0}
  device: cpu
  threads: 1
design:
  arms:
    old: {method: {name: old_method, blend: 0.1}}
    noise:
      method:
        name: pini
        injections:
          text: {site: old_site, injector: old_injector, noise: {name: older_noise, size: 0.5}, combine: old_combine}
        losses: {classify: {name: old_loss, penalty: 0.1, weight: 2}}
        optim: {epochs: 1}
seeds: [1]
"""


def test_a_plugin_of_the_first_hook_specifications_still_works(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of component and every hook, as they were in version 1."""
    monkeypatch.setenv("PINIKIT_PLUGINS_DIR", str(Path(__file__).parent / "old_plugins"))
    assert site.open().problems == []
    (tmp_path / "old.yaml").write_text(OLD_STUDY)
    result = run_study(tmp_path / "old.yaml", runs=tmp_path / "runs")
    assert result.failed == []
    source = next(item for item in plugins().sources if item.name == "hooks_1").label
    found = result.results["noise", 1].content["identity"]["components"]
    assert found["noise:old_noise"] == [2, source]
    assert {key for key, (_, of) in found.items() if of == source} >= {
        "combine:old_combine",
        "dataset:old_dataset",
        "injector:old_injector",
        "loss:old_loss",
        "site:old_site",
    }
    heard = sys.modules["pinikit_plugins.hooks_1"].heard
    kinds = [item[0] for item in heard]
    assert (kinds[0], kinds[-1]) == ("study started", "report")
    assert sorted(kinds[1:-1]) == ["run finished"] * 2 + ["run started"] * 2
    assert {item[-1] for item in heard if item[0] == "run finished"} == {"finished"}
