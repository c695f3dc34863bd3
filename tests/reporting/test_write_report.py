"""The files of a report, from made-up results."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fabricated import ACCURACIES, STUDY, make_result
from PIL import Image

from pinikit.api import StudyResult
from pinikit.reporting import write_report
from pinikit.reporting.figure import accuracy_figure, cost_group, limits, make_rows
from pinikit.reporting.markdown import report_text

ONE_SEED = STUDY.replace("[1, 2, 3]", "[7]")
NO_BASELINE = STUDY.replace("  baseline: zero_shot\n", "")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """A study with a failed run, and its report."""
    accuracies = {**ACCURACIES, "text_side": (61.2, None, 62.9)}
    result = make_result(tmp_path_factory.mktemp("study"), accuracies=accuracies)
    write_report(result)
    return result


def test_all_files_are_there(written: StudyResult) -> None:
    names = sorted(path.name for path in written.folder.iterdir())
    tables = ["report.html", "report.md", "results.csv", "summary.csv", "table.tex"]
    assert names == ["accuracy.png", "accuracy.svg", *tables]
    assert write_report(written)[0].name == "report.md"


def test_results_hold_every_run_and_mode(written: StudyResult) -> None:
    table = pd.read_csv(written.folder / "results.csv")
    assert len(table) == 11 * 3 + 1
    assert table["accuracy"][table["arm"] == "both"].max() == 77.9
    assert list(table["error"].dropna()) == ["FloatingPointError: the loss is NaN in epoch 3"]


def test_summary_equals_the_table(written: StudyResult) -> None:
    found = pd.read_csv(written.folder / "summary.csv", keep_default_na=True)
    table = written.table()
    assert list(found.columns) == list(table.columns)
    numbers = table.select_dtypes("number").columns
    pd.testing.assert_frame_equal(found[numbers], table[numbers], check_dtype=False)


def test_csv_files_are_plain(written: StudyResult) -> None:
    with (written.folder / "summary.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["difference"] == ""
    assert rows[3]["arm"] == "both"


def test_report_says_what_came_out(written: StudyResult) -> None:
    text = (written.folder / "report.md").read_text(encoding="utf-8")
    assert "**Where does learned noise help most?**" in text
    assert "`both` is the most accurate: 76.20 ± 3.11 % test accuracy on digits with 4 shots" in text
    assert "+21.20 [+18.09, +24.31] points against `zero_shot` (55.00 %), ahead on 3 of 3 seeds." in text
    assert "- `text_side`, seed 2 (run `" in text
    assert "FloatingPointError: the loss is NaN" in text
    assert "| `text_side` | 2 (1 failed) |" in text
    assert "differences are over the seeds that both arms have: `text_side` 2." in text
    assert "`zero_shot` the same accuracy" in text
    assert all(run.manifest.hash[:16] in text for run in written.study.runs)


def test_report_says_what_it_cost(written: StudyResult) -> None:
    text = (written.folder / "report.md").read_text(encoding="utf-8")
    head = "| arm | cost class | parameters | training | evaluation | images/s | text tokens | text GFLOP/s |"
    assert f"{head} of matmul % | peak MB |" in text
    row = "| `text_side` | text tower | 12,345 | 4.0 s | 0.3 s | 1,512 | 5,000 | 25.0 | 61.5 | 612 |"
    assert row in text
    assert "| `zero_shot` | nothing trained | 0 | 0.0 s | 0.3 s | 0 | 52 | – | – | 612 |" in text
    assert (
        "loaded in 16 s; the frozen image tower encoded 1,100 views of pictures, and 440 were found" in text
    )


def test_report_says_what_each_arm_changes(written: StudyResult) -> None:
    text = report_text(written)
    assert "- `zero_shot` (baseline): `method` `zero_shot`; `prompt.template` `plain`" in text
    assert "`method.injections.text` `gaussian(std=sign_free) from free at prompt_template`" in text
    assert "`gaussian from cross_attention at image_block.middle, one draw per image`" in text
    assert "cross_attention(reduction=2) at image_feature" in text
    assert "- `pini: method.optim.epochs`: `50`" in text


def test_environment_is_that_of_the_runs(tmp_path: Path) -> None:
    result = make_result(tmp_path)
    folder = tmp_path / "runs" / "by-id" / result.study.runs[0].id
    folder.mkdir(parents=True)
    content = {
        "python": "3.12.1",
        "platform": "Linux",
        "device": "cpu",
        "threads": 2,
        "versions": {"torch": "2.6"},
    }
    (folder / "environment.json").write_text(json.dumps(content), encoding="utf-8")
    assert "Trained with Python 3.12.1 on Linux (cpu, 2 threads): torch 2.6." in report_text(result)


def test_equal_results_give_equal_bytes(written: StudyResult) -> None:
    again = accuracy_figure(written)
    assert again[0] == (written.folder / "accuracy.png").read_bytes()
    assert again[1] == (written.folder / "accuracy.svg").read_bytes()


def test_a_report_that_is_there_is_left_alone(written: StudyResult) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.folder.iterdir()}
    write_report(written)
    assert {path: path.stat().st_mtime_ns for path in written.folder.iterdir()} == before


def test_a_lost_figure_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinikit.reporting.html.page.html_page", lambda results, digest: f"page {digest}")
    result = make_result(tmp_path, ONE_SEED, {arm: values[:1] for arm, values in ACCURACIES.items()})
    write_report(result)
    (result.folder / "accuracy.svg").unlink()
    write_report(result)
    assert (result.folder / "accuracy.svg").is_file()


def test_figure_is_a_slide(written: StudyResult) -> None:
    with Image.open(written.folder / "accuracy.png") as picture:
        assert picture.size == (1920, 1080)


def test_one_seed(tmp_path: Path) -> None:
    result = make_result(tmp_path, ONE_SEED, {arm: values[:1] for arm, values in ACCURACIES.items()})
    text = report_text(result)
    assert "75.00 % test accuracy on digits with 4 shots (mean over 1 seed, which gives no interval)" in text
    assert "No interval for `zero_shot`, `text_side`, `image_side`, `both`: one seed shows no spread." in text
    assert "nan" not in text
    assert accuracy_figure(result)[0].startswith(b"\x89PNG")


def test_noise_that_is_nothing_at_its_mean_is_told(tmp_path: Path) -> None:
    """Such an arm equals the one without noise whatever it learned, so its headline is no measurement."""
    result = make_result(tmp_path)
    said = "The noise of `image_side` has mean 0: at its mean such an arm predicts as without noise."
    assert "has mean 0" not in report_text(result)
    for (arm, _), item in result.results.items():
        if arm == "image_side":
            item.content["metrics"]["test"]["mean"]["noise_ratio"] = {"image": 0.0}
    assert said in report_text(result)


def test_without_a_baseline(tmp_path: Path) -> None:
    result = make_result(tmp_path, NO_BASELINE)
    text = report_text(result)
    assert "What each arm changes against what all arms share" in text
    assert "- `zero_shot`: `method` `zero_shot`; `prompt.template` `plain`" in text
    assert "paired" not in text
    assert "| arm | seeds | test accuracy | one draw |" in text
    assert b"<svg" in accuracy_figure(result)[1]


def test_when_everything_failed(tmp_path: Path) -> None:
    result = make_result(tmp_path, accuracies=dict.fromkeys(ACCURACIES, (None,) * 3))
    assert "No run finished" in report_text(result)
    assert limits(make_rows(result)) == (0.0, 100.0)
    assert accuracy_figure(result)[0].startswith(b"\x89PNG")


def test_when_nothing_beats_the_baseline(tmp_path: Path) -> None:
    result = make_result(tmp_path, accuracies={**ACCURACIES, "zero_shot": (90.0, 91.0, 92.0)})
    assert "no arm beats the baseline" in report_text(result)


def test_when_seeds_cannot_tell(tmp_path: Path) -> None:
    result = make_result(tmp_path, accuracies={**ACCURACIES, "zero_shot": (75.0, 75.5, 77.0)})
    assert "so these seeds do not tell the two apart" in report_text(result)


def test_other_data_than_the_baseline_is_said(tmp_path: Path) -> None:
    text = STUDY.replace("    both:\n", "    both:\n      data.shots: 8\n")
    report = report_text(make_result(tmp_path, text))
    assert "`both` ran on other split manifests than the baseline" in report
    assert "`data.shots` `8`" in report


def test_many_long_names_fit(tmp_path: Path) -> None:
    names = [f"an_arm_with_quite_a_long_name_{index}" for index in range(20)]
    arms = "".join(f"    {name}: {{method: {{name: zero_shot}}}}\n" for name in names)
    text = STUDY.split("  baseline")[0] + f"  baseline: {names[3]}\n  arms:\n{arms}seeds: [1, 2]\n"
    result = make_result(tmp_path, text, {name: (50.0, 51.0 + index) for index, name in enumerate(names)})
    assert accuracy_figure(result)[0].startswith(b"\x89PNG")


def test_cost_groups_forget_the_stage() -> None:
    assert cost_group("text tower + image tower from pixels") == "text tower + image tower"


def test_intervals_do_not_dwarf_the_seeds(tmp_path: Path) -> None:
    text = STUDY.replace("[1, 2, 3]", "[1, 2]")
    low, high = limits(make_rows(make_result(tmp_path, text)))
    assert 30 < low < 55
    assert 77 < high <= 103


def test_a_finished_report_needs_neither_matplotlib_nor_pandas(written: StudyResult) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from fabricated import *; from pinikit.reporting import write_report\n"
        "accuracies = {**ACCURACIES, 'text_side': (61.2, None, 62.9)}\n"
        f"write_report(make_result(Path({str(written.folder.parents[2])!r}), accuracies=accuracies))\n"
        "assert not {'matplotlib', 'pandas', 'torch', 'scipy.stats'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
