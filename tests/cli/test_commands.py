"""The commands as a user types them, without training anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fabricated import ACCURACIES, make_result, make_study
from typer.testing import CliRunner

from pinikit import __version__, api
from pinikit.cli.app import app
from pinikit.cli.catalogue import EXAMPLES, example
from pinikit.config.checking import Checker, Slot, Where
from pinikit.config.schema import RunConfig
from pinikit.errors import ConfigError, DataError, PluginError
from pinikit.plugin import Problem, plugins, registry
from pinikit.registry import KINDS
from pinikit.study.bank_plan import BankPlan

HEAVY = {"torch", "optuna", "matplotlib", "pandas", "open_clip", "timm", "scipy", "sklearn"}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command; gives what click's runner gives."""
    monkeypatch.setenv("COLUMNS", "150")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Let ``run_study`` give made-up results; the keyword arguments are those of ``make_result``."""

    def prepare(todo: int = 12, **arguments: Any) -> api.StudyResult:
        result = make_result(tmp_path, **arguments)

        def run_study(
            source: str, overrides: Any = (), *, reporter: api.Reporter, **_: Any
        ) -> api.StudyResult:
            reporter.study_started(result.study, todo, 12 - todo)
            for index, run in enumerate(result.study.runs[:todo], 1):
                reporter.group_started([run], index, todo)
                reporter.run_finished(run, result.results[run.arm, run.seed])
            reporter.study_finished()
            return result

        monkeypatch.setattr(api, "run_study", run_study)
        return result

    return prepare


# --- starting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["--help"], ["list"], ["show", "method", "pini"], ["status"], ["runs", "ls"], ["tune", "--help"]],
)
def test_start_is_light(words: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['pinikit', *sys.argv[1:]]\n"
        "from pinikit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


def test_version(call: Any) -> None:
    assert call("--version").output == f"pinikit {__version__}\n"


def test_help_tells_commands_and_exit_codes(call: Any) -> None:
    text = call("--help").output
    assert all(word in text for word in ("run", "list", "show", "predict", "130 interrupted"))


@pytest.mark.parametrize("words", [["nonsense"], ["run"], ["run", "x", "--nonsense"], ["predict", "x"]])
def test_usage_errors_exit_with_2(call: Any, words: list[str]) -> None:
    assert call(*words).exit_code == 2


# --- list and show -----------------------------------------------------------------------------------


def test_list_shows_every_kind_and_component(call: Any) -> None:
    text = call("list").output
    assert all(kind in text for kind in KINDS)
    assert all(entry.name in text for kind in KINDS for entry in registry().entries(kind))
    assert "also gaussian_diag" in text
    assert "``" not in text


def test_list_of_one_kind(call: Any) -> None:
    text = call("list", "noise").output
    assert "gaussian" in text
    assert "cross_entropy" not in text


def test_list_of_an_unknown_kind(call: Any) -> None:
    done = call("list", "niose")
    assert done.exit_code == 2
    assert "did you mean 'noise'?" in done.stderr
    assert "Traceback" not in done.output


def test_list_tells_broken_plugins(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins(), "problems", [Problem("broken", "import failed")])
    done = call("list", "noise")
    assert done.exit_code == 0
    assert "plug-in 'broken' was left out: import failed" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_show_explains_every_component(call: Any, kind: str) -> None:
    for entry in registry().entries(kind):
        done = call("show", kind, entry.name)
        assert done.exit_code == 0, done.output
        assert f"version {entry.signature.version}" in done.output
        assert all(name in done.output for name in entry.signature.parameters)


def test_show_gives_types_defaults_ranges_and_paper(call: Any) -> None:
    text = call("show", "injector", "cross_attention").output
    assert "1 | 2 | 4 | 8" in text
    assert "AAAI 2025" in text
    text = call("show", "noise", "gaussian_diag").output
    assert "'abs' | 'softplus' | 'exp' | 'sign_free'" in text
    assert "required" in call("show", "site", "image_block").output


def test_show_explains_nested_keys(call: Any) -> None:
    text = call("show", "method", "pini").output
    assert "injections.LABEL.site" in text
    assert "batch | class | image" in text
    assert "optim.warmup_lr" in text
    assert "cosine | constant" in text


def test_show_of_an_unknown_component(call: Any) -> None:
    done = call("show", "noise", "gausian")
    assert done.exit_code == 2
    assert "did you mean 'gaussian'?" in done.stderr
    assert call("show", "niose", "gaussian").exit_code == 2


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_are_valid_configuration(kind: str) -> None:
    checker, slot = Checker(registry()), Slot(RunConfig)
    for entry in registry().entries(kind):
        text = yaml.safe_load(yaml.safe_dump(example(entry)))
        merged = checker.merge({}, text["run"], slot, Where("example"))
        checker.complete(merged, slot, Where("example"))


# --- run -----------------------------------------------------------------------------------------------


def test_run_compares_the_arms(call: Any, ran: Any) -> None:
    result = ran()
    done = call("run", "sites")
    assert done.exit_code == 0
    assert "76.20 ± 3.11" in done.stdout
    assert "+21.20 [+18.09, +24.31]" in done.stdout
    assert str(result.folder / "report.md") in done.stdout
    assert "[1/12] zero_shot, seed 1: started" in done.stderr
    assert "nothing was trained" not in done.output


def test_run_with_everything_finished(call: Any, ran: Any) -> None:
    ran(todo=0)
    assert "all 12 runs were finished before; nothing was trained" in call("run", "sites").stdout


def test_run_with_failed_runs_exits_with_1(call: Any, ran: Any) -> None:
    ran(accuracies={**ACCURACIES, "both": (75.0, None, 76.1)})
    done = call("run", "sites", "--runs", "elsewhere")
    assert done.exit_code == 1
    assert "1 of 12 runs failed:" in done.stderr
    assert "both, seed 2: FloatingPointError: the loss is NaN in epoch 3 (log: elsewhere" in done.stderr


def test_quiet_shows_nothing_but_errors(call: Any, ran: Any) -> None:
    ran()
    assert call("run", "sites", "--quiet").output == ""
    ran(accuracies={**ACCURACIES, "both": (75.0, None, 76.1)})
    assert "failed" in call("run", "sites", "-q").stderr


def test_arguments_reach_the_api(call: Any, ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = ran()
    seen: dict[str, Any] = {}

    def run_study(source: str, overrides: Any = (), **options: Any) -> api.StudyResult:
        seen.update(options, source=source, overrides=overrides)
        return result

    monkeypatch.setattr(api, "run_study", run_study)
    call("run", "a.yaml", "--arms", "pini*", "run.data.shots=4", "seeds=[1,2]", "--runs", "r")
    assert (seen["source"], seen["overrides"]) == ("a.yaml", ["run.data.shots=4", "seeds=[1,2]"])
    assert (seen["arms"], seen["runs"]) == ("pini*", Path("r"))


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("no"), 2), (DataError("no"), 3), (PluginError("no"), 4)]
)
def test_errors_are_one_message_and_a_code(
    call: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def run_study(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(api, "run_study", run_study)
    done = call("run", "sites")
    assert (done.exit_code, done.stderr, done.stdout) == (code, "pinikit: no\n", "")


def test_unexpected_errors_keep_their_traceback(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "run_study", lambda *_, **__: 1 / 0)
    assert isinstance(call("run", "sites").exception, ZeroDivisionError)


def test_interruption_says_how_to_go_on(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_study(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run_study", run_study)
    done = call("run", "sites")
    assert done.exit_code == 130
    assert done.stderr.endswith("finished runs are kept in runs; type the same command again to go on\n")
    again = "; runs that were replaced already are trained again\n"
    assert call("run", "sites", "--rerun", "all").stderr.endswith(f"to go on{again}")
    assert not call("run", "sites", "--rerun", "failed").stderr.endswith(again)


def test_interruption_of_other_commands(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "predict", predict)
    assert call("predict", "abc", "a.png").exit_code == 130


def test_unknown_study_is_an_error_of_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pinikit", "run", "injection_sitse"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


# --- dry run and predict -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 150])
def test_dry_run_shows_the_plan(
    call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    study = make_study(tmp_path)
    footprint: Any = SimpleNamespace(cost_class="image tower from pixels", trainable_parameters=12345)
    plan = api.Plan(
        study,
        dict.fromkeys(study.arms, footprint),
        frozenset(run.id for run in study.runs[:3]),
        groups=(study.runs[:6], study.runs[6:10], *((run,) for run in study.runs[10:])),
        bank=BankPlan(2_000_000_000, 500_000_000, 1234, 10**9, 5 * 10**9, Path("views")),
        messages=("look at this",),
    )
    monkeypatch.setattr(api, "plan_study", lambda *_, **__: plan)
    monkeypatch.setattr(api, "run_study", None)
    monkeypatch.setenv("COLUMNS", str(width))
    done = CliRunner().invoke(app, ["run", "sites", "--dry-run"])
    assert done.exit_code == 0
    assert "4 arms × 3 seeds = 12 runs: 3 done, 9 to do." in done.stdout
    assert "10 runs are trained together in 2 groups of up to 6." in done.stdout
    assert f"1: {study.runs[0].id[:8]} done" in done.stdout
    assert f"3: {study.runs[5].id[:8]} to do" in done.stdout
    assert "12,345" in done.stdout
    assert "gaussian(std=sign_free)" in done.stdout
    text = " ".join(done.stdout.split())
    assert "view bank: 2.00 GB of activations, 500 MB of them there; 1234 pictures to encode" in text
    assert "1.00 GB are free in views" in text, "1.5 GB are lacking"
    assert "note: look at this" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= width


def test_predict_prints_the_top_classes(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def predict(run: str, images: list[Path], **options: Any) -> list[list[tuple[str, float]]]:
        seen.update(options, run=run, images=images)
        return [[("nine", 0.9231), ("four", 0.05)]] * len(images)

    monkeypatch.setattr(api, "predict", predict)
    done = call("predict", "ab12", "a.png", "b.png", "--top", "2")
    assert done.stdout == "".join(
        f"{name}\n   92.31 %  nine\n    5.00 %  four\n" for name in ("a.png", "b.png")
    )
    assert seen == {"run": "ab12", "images": [Path("a.png"), Path("b.png")], "runs": Path("runs"), "top": 2}
