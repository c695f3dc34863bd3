"""Tables in wide and narrow terminals, and progress as lines and as bars."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from fabricated import ACCURACIES, STUDY, failed, finished, make_axes_result, make_result, make_study
from rich.console import Console

from pinikit.cli.progress import BarReporter, LineReporter
from pinikit.cli.tables import best_row, print_result
from pinikit.study.statistics import arm_summaries


def rendered(result: Any, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_result(console, result)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_wide_terminal_shows_everything(tmp_path: Path) -> None:
    text = rendered(make_result(tmp_path), 140)
    words = (
        "Δ to zero_shot",
        "sample",
        "mc-16",
        "params",
        "time",
        "cost class",
        "12,345",
        "5.1 s",
        "text tower",
    )
    assert all(word in text for word in words)
    assert "Too narrow" not in text


@pytest.mark.parametrize("width", [100, 80, 60, 40])
def test_narrow_terminals_lose_columns_not_lines(tmp_path: Path, width: int) -> None:
    text = rendered(make_result(tmp_path), width)
    table = [line for line in text.splitlines() if line.startswith(" ")]
    assert len([line for line in table if "±" in line]) == 4
    assert max(map(len, table)) <= width
    assert "Too narrow for cost class" in text
    assert ("+21.20 [+18.09, +24.31]" in text) == (width >= 60)


def test_very_narrow_terminals_shorten_names(tmp_path: Path) -> None:
    text = rendered(make_result(tmp_path), 24)
    assert "…" in text


def test_the_best_arm_is_bold(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=140, force_terminal=True, color_system="standard")
    result = make_result(tmp_path)
    print_result(console, result)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    (line,) = [line for line in text.splitlines() if "76.20" in line]
    assert "\x1b[1mboth" in line
    assert sum("\x1b[1m" in line for line in text.splitlines()) == 2  # the head is the other one
    assert best_row(arm_summaries(result.study, result.results)) == 3


def test_no_baseline_no_difference(tmp_path: Path) -> None:
    text = rendered(make_result(tmp_path, STUDY.replace("  baseline: zero_shot\n", "")), 140)
    assert "Δ" not in text


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    one = {arm: values[:1] for arm, values in ACCURACIES.items()}
    text = rendered(make_result(tmp_path, STUDY.replace("[1, 2, 3]", "[1]"), one), 140)
    assert "one seed, so no interval" in text
    assert "±" not in text
    assert "nan" not in text


def test_arms_without_a_finished_run_stay_in_the_table(tmp_path: Path) -> None:
    text = rendered(make_result(tmp_path, accuracies={**ACCURACIES, "both": (None, None, None)}), 140)
    (line,) = [line for line in text.splitlines() if line.startswith(" both")]
    assert "–" in line
    assert "nan" not in text


def test_modes_that_were_left_out_have_no_column(tmp_path: Path) -> None:
    text = rendered(make_result(tmp_path, overrides=["run.evaluate.noise=[sample]"]), 140)
    table = text.split("test accuracy: last epoch")[0]
    assert "mc-" not in table
    assert "noise as the report says" in text


def test_settings_are_columns_where_there_is_room(tmp_path: Path) -> None:
    result = make_axes_result(tmp_path)
    wide, narrow = rendered(result, 150), rendered(result, 100)
    assert "at data.name, data.shots" in wide
    (line,) = [line for line in wide.splitlines() if line.startswith(" both")]
    assert line.split("  ")[-1].strip() == "+21.20 [+18.09, +24.31]"
    assert line.count("±") == 4
    assert "sample" not in wide
    assert "both, data=dtd, shots=16" in narrow


def test_published_numbers_follow_the_table(tmp_path: Path) -> None:
    expect = "expect: {both: {value: 77.5, tolerance: 1.0, protocol: CoOp, source: X 2025}}\n"
    text = rendered(make_result(tmp_path, STUDY + expect), 140)
    assert "both: accuracy 76.20 ± 3.11, published 77.50 (tolerance 1.00): within? no, but" in text


def test_lines_come_at_start_and_end_and_now_and_then(tmp_path: Path) -> None:
    lines: list[str] = []
    now = [0.0]
    reporter = LineReporter(lines.append, lambda: now[0])
    study = make_study(tmp_path)
    run = study.run("both", 2)
    reporter.study_started(study, 2, 10)
    reporter.message("careful")
    steps = reporter.group_started([run], 1, 2)
    for now[0], done in ((1.0, 10), (6.0, 60), (7.0, 70)):
        steps.encoding(done, 100)
    for now[0], epoch in ((8.0, 1), (12.0, 2), (13.0, 3)):
        steps.training(epoch, 50, loss=1.2, accuracy=51.0)
    now[0] = 20.0
    reporter.run_finished(run, finished(run, 75.0))
    assert reporter.todo == 2
    assert lines == [
        "study sites: 2 runs to do, 10 finished before",
        "note: careful",
        "[1/2] both, seed 2: started",
        "[1/2] both, seed 2: encoding, 60 of 100 pictures",
        "[1/2] both, seed 2: training, epoch 2 of 50, loss 1.200, train 51 %",
        "[1/2] both, seed 2: 75.00 % in 5.1 s",
    ]


def test_a_failed_run_is_a_line(tmp_path: Path) -> None:
    lines: list[str] = []
    reporter = LineReporter(lines.append)
    run = make_study(tmp_path).run("both", 2)
    reporter.group_started([run], 1, 1).evaluating(1, 2)
    reporter.run_finished(run, failed(run, "Error: a\nb"))
    assert lines[-1].startswith("[1/1] both, seed 2: failed: Error: a b")


def test_lines_of_groups_side_by_side(tmp_path: Path) -> None:
    lines: list[str] = []
    now = [0.0]
    reporter = LineReporter(lines.append, lambda: now[0])
    first, second, third = make_study(tmp_path).runs[:3]
    groups = [reporter.group_started([first, second], 1, 3), reporter.group_started([third], 3, 3)]
    now[0] = 6.0
    for steps in groups:
        steps.training(1, 2)
    for run in (third, second, first):
        reporter.run_finished(run, finished(run, 75.0))
    reporter.run_finished(make_study(tmp_path).run("both", 1), finished(first, 75.0))
    assert [line.rpartition(": ")[0] for line in lines] == [
        "[1-2/3] zero_shot, seeds 1, 2",
        "[3/3] zero_shot, seed 3",
        "[1-2/3] zero_shot, seeds 1, 2",
        "[3/3] zero_shot, seed 3",
        "[3/3] zero_shot, seed 3",
        "[2/3] zero_shot, seed 2",
        "[1/3] zero_shot, seed 1",
        "[by another process] both, seed 1",
    ]


@pytest.mark.parametrize("width", [80, 130])
def test_bars_fit_the_terminal_and_vanish(tmp_path: Path, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    study = make_study(tmp_path)
    with BarReporter(console) as reporter:
        reporter.message("careful")
        reporter.study_started(study, 2, 10)
        groups = [
            (run, reporter.group_started([run], index, 2)) for index, run in enumerate(study.runs[-2:], 1)
        ]
        for run, steps in groups:
            for done in (10, 1000):
                steps.encoding(done, 1000)
            for epoch in (1, 2, 50):
                steps.training(epoch, 50, loss=1.25, accuracy=50.0)
            reporter._bars.refresh()
            steps.evaluating(3, 16)
            reporter.run_finished(run, finished(run, 75.0) if run is groups[0][0] else failed(run))
        reporter._bars.refresh()
        assert len(reporter._bars.tasks) == 1, "no group is under way"
        reporter.study_finished()
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert "careful" in text
    assert "training 50/50" in text
    assert "1/2 runs" in text
    assert "both, seed 3: failed: FloatingPointError" in text
    assert "loss 1.250" in text
    assert reporter.todo == 2
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert max(len(line) for line in plain.replace("\r", "\n").split("\n")) <= width
