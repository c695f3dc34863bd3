"""Reports of studies with axes, tests and marks in reports, and the critical-difference diagram."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from fabricated import STUDY, make_axes_result, make_result

from pinikit.reporting import draw_ranks
from pinikit.reporting.differences import differences_section
from pinikit.reporting.markdown import report_text
from pinikit.reporting.rank_figure import rank_figure
from pinikit.reporting.settings import _untested_note
from pinikit.reporting.tables import results_csv, summary_csv
from pinikit.study.statistics import ranking, series_summaries
from pinikit.study.statistics.comparison import compare

SEVEN = STUDY.replace("[1, 2, 3]", "[1, 2, 3, 4, 5, 6, 7]")
STEADY = {
    "zero_shot": (55.0,) * 7,
    "text_side": (61.0, 60.0, 62.0, 61.5, 60.5, 63.0, 64.0),
    "image_side": (55.2,) * 7,
    "both": (56.0, 54.0, 57.0, 53.0, 58.0, 52.0, 55.5),
}


def test_series_at_settings_and_over_them(tmp_path: Path) -> None:
    text = report_text(make_axes_result(tmp_path))
    assert (
        "Over 4 settings (data.name: digits, dtd; data.shots: 1, 16), `both` is the most accurate of 4 series: "
        "81.20 % test accuracy on average, +21.20 points against `zero_shot` (60.00 %); 95 % interval over 3 seeds "
        "[+18.09, +24.31]; over 2 data sets [+21.20, +21.20]." in text
    )
    assert "| series at data.name, data.shots | digits, 1 | digits, 16 | dtd, 1 | dtd, 16 |" in text
    assert "| `both` | **76.20 ± 3.11** | **81.20 ± 3.11** | **81.20 ± 3.11** | **86.20 ± 3.11** |" in text
    assert text.count("| `text_side` | +6.40 [+2.90, +9.90] ° | +6.40") == 1
    assert "| `both` | 4 | 81.20 | +21.20 | [+18.09, +24.31] | [+21.20, +21.20] | 2/0/0 | 1.00 |" in text
    assert "Wilcoxon's signed-rank test needs 6, there are 2." in text
    assert "2 data sets are too few for Friedman's test" in text
    assert "ranks.png" not in text


def test_many_settings_are_rows(tmp_path: Path) -> None:
    text = report_text(make_axes_result(tmp_path, ["digits", "dtd", "caltech101", "image_folder"]))
    assert "| data.name, data.shots | `zero_shot` | `text_side` | `image_side` | `both` |" in text
    assert "| caltech101, 16 | 70.00 ± 0.00 |" in text


def test_tables_have_the_axes(tmp_path: Path) -> None:
    result = make_axes_result(tmp_path)
    (tmp_path / "results.csv").write_text(results_csv(result))
    (tmp_path / "summary.csv").write_text(summary_csv(result))
    long = pd.read_csv(tmp_path / "results.csv")
    assert set(long["at.data.name"]) == {"digits", "dtd"}
    assert set(long["at.data.shots"]) == {1, 16}
    row = pd.read_csv(tmp_path / "summary.csv").set_index("arm").loc["both, data=dtd, shots=16"]
    assert (row["series"], row["setting"]) == ("both", "data.name=dtd, data.shots=16")
    assert row["baseline"] == "zero_shot, data=dtd, shots=16"


def test_tests_and_marks(tmp_path: Path) -> None:
    """Seven seeds allow three tests; one arm wins always, one depends on no seed, one is a draw."""
    text = report_text(make_result(tmp_path, SEVEN, STEADY))
    assert "| `text_side` | +6.71 | [+5.41, +8.02] | 7 | 7/0/0 | +4.14 | 0.016 | 0.031 | 1.79 |" in text
    assert (
        "| `image_side` | +0.20 | [+0.20, +0.20] | 7 | 7/0/0 | – | the same difference every time | – | – |"
        in text
    )
    assert "| 7 | 61.71 ± 1.30 | +6.71 [+5.41, +8.02] * |" in text
    assert "- `*`: p < 0.05 by Wilcoxon's signed-rank test, corrected for all arms (Holm)" in text
    assert "corrected for the 2 tests of this study" in text
    assert "[+0.20, +0.20] °" not in text
    assert "Too few seeds" not in text


def test_too_few_seeds_for_the_number_of_arms(tmp_path: Path) -> None:
    six = SEVEN.replace(", 7]", "]")
    values = {arm: values[:6] for arm, values in STEADY.items()} | {"image_side": STEADY["text_side"][:6]}
    text = report_text(make_result(tmp_path, six, values))
    assert (
        "With 6 pairs and 3 tests no corrected p can fall below 0.094: below 0.05 only from 7 seeds on."
        in text
    )
    text = report_text(make_result(tmp_path))
    assert "needs 6 differing pairs to reach 0.05 at all, and 7 for the 3 comparisons of this study" in text
    assert "p (Holm)" not in text


def test_bootstrap_intervals_from_twenty_seeds_on(tmp_path: Path) -> None:
    seeds = list(range(1, 21))
    values = {
        arm: [base[0] + (seed * 7 % 11) / 4 * (arm != "zero_shot") for seed in seeds]
        for arm, base in STEADY.items()
    }
    text = report_text(make_result(tmp_path, STUDY.replace("[1, 2, 3]", str(seeds)), values))
    assert (
        "| arm | Δ | 95 % interval | bootstrap | pairs | won/tied/lost | g | p | p (Holm) | could show |"
        in text
    )
    assert "*bootstrap* is the 95 % BCa interval" in text


def test_one_split_for_all_seeds_is_said(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    first = result.study.runs[0].manifest
    for run in result.study.runs:
        object.__setattr__(run, "manifest", first)
    assert "`both` have the same few-shot split: their ± is the spread of training alone." in report_text(
        result
    )


def test_published_numbers_are_beside_ours(tmp_path: Path) -> None:
    expect = "expect: {both: {value: 77.5, tolerance: 1.0, protocol: CoOp, source: 'X 2025, table 1'}}\n"
    text = report_text(make_result(tmp_path, STUDY + expect))
    row = (
        "| `both` | accuracy | 77.50 | 76.20 ± 3.11 | −1.30 | 1.00 | no, but the interval reaches it | CoOp |"
    )
    assert f"{row} X 2025, table 1 |" in text


def test_critical_difference_diagram_comes_and_goes(tmp_path: Path) -> None:
    result = make_axes_result(tmp_path, ["digits", "dtd"])
    (result.folder / "ranks.png").parent.mkdir(parents=True)
    (result.folder / "ranks.png").write_bytes(b"of an earlier study")
    draw_ranks(result)
    assert not (result.folder / "ranks.png").exists()


def test_ranks_of_many_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = make_axes_result(tmp_path, ["digits", "dtd"])
    monkeypatch.setattr("pinikit.study.statistics.ranks.FEWEST", 2)
    found = ranking(result.study, result.results)
    assert found is not None
    assert found.tested
    png, svg = rank_figure(found)
    assert png.startswith(b"\x89PNG")
    assert rank_figure(found) == (png, svg)
    text = report_text(result)
    assert "![Average ranks with critical difference](ranks.png)" in text
    assert "Friedman's test that all are alike: p < 0.001" in text
    draw_ranks(result)
    assert (result.folder / "ranks.png").read_bytes() == png
    assert (result.folder / "ranks.svg").read_bytes() == svg


def test_a_finished_report_with_axes_needs_no_slow_import(tmp_path: Path) -> None:
    """The second call of a command only looks whether the report is there."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from fabricated import *; from pinikit.reporting.markdown import report_text\n"
        "from pinikit.reporting.latex import table_tex\n"
        f"result = make_axes_result(Path({str(tmp_path)!r}))\n"
        "report_text(result); table_tex(result)\n"
        "assert not {'matplotlib', 'pandas', 'torch', 'scipy.stats'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_notes_on_tests_say_the_real_reason(tmp_path: Path) -> None:
    """Seven data sets are enough; that each has the same difference is why nothing is tested."""
    result = make_axes_result(tmp_path)
    row = series_summaries(result.study, result.results)[-1]
    assert "needs 6, there are 2" in "".join(_untested_note([row]))
    assert list(_untested_note([replace(row, over_datasets=compare(()))])) == []
    note = "".join(_untested_note([replace(row, over_datasets=compare([1.0] * 7))]))
    assert note == "Nothing was tested over the data sets: the same difference every time."


def test_a_cut_table_keeps_its_notes(tmp_path: Path) -> None:
    rows = make_result(tmp_path).summaries
    text = differences_section(rows, {"zero_shot", "both"})
    assert "1 of 3 compared arms are shown" in text
    assert "for the 3 comparisons of this study" in text
    assert "| `text_side` |" not in text
