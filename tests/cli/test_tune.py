"""``pinikit tune`` as a user types it, and its progress; nothing is trained."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "tuning"))

from made_up import make_search

from pinikit import api
from pinikit.cli.app import app
from pinikit.cli.tune_progress import QuietSearch, SearchBars, SearchLines
from pinikit.study.store import Store
from pinikit.tuning.publishing import publish
from pinikit.tuning.request import Request
from pinikit.tuning.results import collect
from pinikit.tuning.storage import open_storage

TRIALS = 24


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a command; gives what click's runner gives."""
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Let ``pinikit.tune`` publish a made-up search; what it is asked for is noted."""
    study, found = make_search(tmp_path, trials=TRIALS)
    noted: list[dict[str, Any]] = []

    def tune(source: str, overrides: Any, *, runs: Path, reporter: QuietSearch, **words: Any) -> Any:
        noted.append({"source": source, "overrides": overrides, **words})
        done = found.get_trials(deepcopy=False)
        known = done if len(noted) > 1 else []
        reporter.started(study, TRIALS, len(known), known)
        for trial in done[len(known) :]:
            reporter.trial_started(trial.number)
            reporter.trial_finished(trial)
        reporter.finished()
        store = Store(runs)
        request = Request(source, tuple(overrides), storage=words["storage"], trials=words["trials"])
        request.save(store.study_folder(study.name))
        result = collect(study, found, request)
        publish(result, store)
        return result

    monkeypatch.setattr(api, "tune", tune)
    monkeypatch.setattr("pinikit.reporting.html.tuning.tuning_page", lambda *material: "drawn elsewhere")
    return noted


def test_help_tells_all_options(call: Any) -> None:
    text = call("tune", "--help").output
    assert "Usage: pinikit tune [OPTIONS]" in text or "tune [OPTIONS]" in text
    for option in (
        "--trials",
        "--timeout",
        "--jobs",
        "--storage",
        "--sampler",
        "--pruner",
        "--seed",
        "--resume",
    ):
        assert option in text
    assert "pinikit tune export" in text
    assert "--output" in call("tune", "export", "--help").output
    assert "tune" in call("--help").output


def test_words_become_a_request(call: Any, asked: list[dict[str, Any]]) -> None:
    done = call("tune", "x.yaml", "run.data.shots=2", "--trials", TRIALS, "--timeout", "10m", "--seed", 3)
    assert done.exit_code == 0, done.output
    assert asked == [
        {
            "source": "x.yaml",
            "overrides": ("run.data.shots=2", "tune.seed=3"),
            "trials": TRIALS,
            "timeout": 600.0,
            "jobs": 1,
            "storage": None,
        }
    ]


def test_without_a_study_it_is_the_shipped_one(call: Any, asked: list[dict[str, Any]]) -> None:
    assert call("tune", "--trials", TRIALS).exit_code == 0
    assert (asked[0]["source"], asked[0]["trials"]) == ("tune", TRIALS)
    assert call("tune", "run.data.shots=2", "seeds=[1]", "--trials", TRIALS).exit_code == 0
    assert (asked[1]["source"], asked[1]["overrides"]) == ("tune", ("run.data.shots=2", "seeds=[1]"))


def test_the_best_are_shown_and_how_to_go_on(call: Any, asked: list[dict[str, Any]]) -> None:
    done = call("tune", "made_up.yaml", "--trials", TRIALS)
    assert f"[{TRIALS}/{TRIALS}] trial {TRIALS - 1}:" in done.stderr
    assert "pruned at epoch 2" in done.stderr
    assert "trial 9: failed: FloatingPointError" in done.stderr
    assert "accuracy (%)" in done.stdout
    assert "1 trial failed; the page says why" in done.stdout
    assert "only fresh seeds tell" in done.stdout
    assert "`" not in done.stdout
    command = next(line for line in done.stdout.splitlines() if "pinikit run" in line)
    assert command.endswith("runs/studies/made_up/best.yaml")
    folder = Path("runs/studies/made_up")
    assert {path.name for path in folder.iterdir()} == {
        "tune.json",
        "tuning.json",
        "tuning.html",
        "best.yaml",
    }
    again = call("tune", "made_up.yaml", "--trials", TRIALS)
    assert f"all {TRIALS} trials were over before; nothing was evaluated" in again.stdout
    assert call("tune", "made_up.yaml", "--trials", TRIALS, "--quiet").output == ""


def test_runs_that_do_not_count_are_explained(
    call: Any, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pinikit.cli.tuning.confirmation", lambda result, store: "its seeds are odd")
    done = call("tune", "made_up.yaml", "--trials", TRIALS)
    assert "the runs of made_up_best do not count: its seeds are odd" in done.stdout
    assert "only fresh seeds tell" in done.stdout
    assert "pinikit run runs/studies/made_up/best.yaml" in done.stdout


def test_resume_asks_for_the_same_again(call: Any, asked: list[dict[str, Any]]) -> None:
    call("tune", "made_up.yaml", "run.data.shots=2", "--trials", TRIALS, "--sampler", "random")
    assert call("tune", "made_up", "--resume", "--jobs", 2).exit_code == 0
    assert asked[1] == {**asked[0], "jobs": 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["made_up.yaml", "--resume"], "--resume: runs has no search 'made_up.yaml'"),
        (["made_up.yaml", "--timeout", "soon"], "--timeout: found 'soon'"),
        (["export", "made_up.yaml"], "no search of this name"),
        (["export", "made_pu.yaml"], "no such file"),
    ],
)
def test_mistakes_are_told(call: Any, asked: list[dict[str, Any]], words: list[str], message: str) -> None:
    done = call("tune", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_export_reads_the_storage(call: Any, tmp_path: Path) -> None:
    study, found = make_search(tmp_path, trials=6)
    url = f"journal:{tmp_path}/trials.log"
    optuna.copy_study(
        from_study_name=study.name,
        from_storage=found._storage,
        to_storage=open_storage(url, tmp_path, print),
        to_study_name=study.name,
    )
    done = call("tune", "export", "made_up.yaml", "--storage", url)
    assert [row["number"] for row in csv.DictReader(io.StringIO(done.stdout))] == list("012345")
    done = call("tune", "export", "made_up.yaml", "--storage", url, "-o", "trials.csv")
    assert done.stdout == "6 trials in trials.csv\n"
    assert Path("trials.csv").read_text().startswith("number,state,label,accuracy,param.")


def test_lines_count_places_not_attempts(tmp_path: Path) -> None:
    study, found = make_search(tmp_path, trials=44)
    lines: list[str] = []
    view = SearchLines(lines.append)
    view.started(study, 50, 0)
    for trial in found.get_trials():
        if trial.number == 9:
            trial.user_attrs["failure_kind"] = "failure"  # is tried again
        view.trial_finished(trial)
    assert view.over == 43
    assert lines[0] == "search made_up: 50 trials in all, 0 over before"
    assert lines[1].startswith("[1/50] trial 0 (base): 73.")
    assert any(line.startswith("matters most so far: ") for line in lines)
    assert " left" in lines[-1] or " left" in lines[-2]


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    study, found = make_search(tmp_path, trials=10)
    said = "trial 9: FloatingPointError: the loss is NaN in epoch 2"
    for first_said in (True, False):
        console = Console(file=io.StringIO(), force_terminal=True, width=110, color_system=None)
        view = SearchBars(console)
        view.started(study, 10, 0)
        with console.capture() as capture:
            if first_said:
                view.message(said)
            view.trial_finished(found.get_trials()[9])
            view.message(said)
            view.message("another note")
        assert capture.get().count("FloatingPointError") == 1
        assert "another note" in capture.get()


def test_steps_are_seeds_where_the_pruner_compares_seeds(tmp_path: Path) -> None:
    changes = ["tune.pruner=wilcoxon", "seeds=[1, 2, 3, 4, 5, 6]"]
    study, found = make_search(tmp_path, changes, trials=6)
    lines: list[str] = []
    view = SearchLines(lines.append)
    view.started(study, 6, 0)
    view.trial_finished(found.get_trials()[5])
    assert "trial 5: pruned after 2 of 6 seeds" in lines[1]


def test_the_live_view_tells_best_counts_and_time(tmp_path: Path) -> None:
    study, found = make_search(tmp_path, trials=40)
    console = Console(file=io.StringIO(), force_terminal=True, width=110, color_system=None)
    view = SearchBars(console)
    view.started(study, 50, 0)
    view.trial_started(77)
    for trial in found.get_trials():
        view.trial_finished(trial)
    with console.capture() as capture:
        console.print(view._view())
    text = capture.get()
    assert "40/50 trials" in text
    assert "left" in text
    assert "trials/min" in text
    assert view.best is not None
    assert f"best: {view.best.values[0]:.2f} % in trial {view.best.number} (base 73." in text
    assert "running 1, complete 34, pruned 5, failed 1" in text
    assert "matters most: " in text
