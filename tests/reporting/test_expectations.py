"""Published numbers held against results."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated import ACCURACIES, STUDY, make_result

from pinikit.config.schema import ExpectConfig
from pinikit.reporting.html.translated import from_markdown
from pinikit.reporting.text import markdown_table
from pinikit.study.expectations import Verdict, verdicts
from pinikit.study.statistics import Estimate

PAPER = STUDY + (
    "expect:\n"
    "  both: {value: 76.0, tolerance: 0.2, protocol: CoOp, source: 'A & B 2025, table 1'}\n"
    "  zero_shot:\n"
    "  - {value: 50.0, tolerance: 1.0, protocol: CoOp, source: C 2024}\n"
    "  - {value: 54.9, tolerance: 0.1, metric: macro_accuracy, protocol: CoOp, source: C 2024}\n"
)


def verdict(mean: float, interval: float, tolerance: float = 1.0) -> Verdict:
    expected = ExpectConfig(value=77.0, tolerance=tolerance, protocol="p", source="s")
    return Verdict("arm", expected, 3, Estimate(mean, interval))


@pytest.mark.parametrize(
    ("mean", "interval", "met", "text"),
    [
        (77.5, 0.4, True, "yes"),
        (77.5, 0.6, True, "yes, but the interval leaves it"),
        (78.5, 0.4, False, "no"),
        (78.5, 0.6, False, "no, but the interval reaches it"),
        (75.5, 0.4, False, "no"),
        (78.0, 0.0, True, "yes"),
        (77.5, float("nan"), True, "yes, by one seed"),
        (70.5, float("nan"), False, "no, by one seed"),
    ],
)
def test_the_mean_decides_and_the_interval_is_said(
    mean: float, interval: float, met: bool, text: str
) -> None:
    found = verdict(mean, interval)
    assert (found.met, found.text) == (met, text)


def test_the_border_is_within() -> None:
    assert verdict(77.3, 0.0, tolerance=0.3).text == "yes"


def test_verdicts_follow_the_arms_and_their_metrics(tmp_path: Path) -> None:
    result = make_result(tmp_path, PAPER)
    found = verdicts(result.study, result.results)
    assert [(item.arm, item.met) for item in found] == [
        ("zero_shot", False),
        ("zero_shot", True),
        ("both", True),
    ]
    assert found[1].ours == Estimate(54.9, 0.0)


def test_an_arm_without_results_meets_nothing(tmp_path: Path) -> None:
    result = make_result(tmp_path, PAPER, {**ACCURACIES, "both": (None, None, None)})
    found = verdicts(result.study, result.results)[-1]
    assert (found.met, found.text) == (False, "no finished run")


def test_a_source_of_several_lines_stays_in_its_row() -> None:
    """A folded scalar of YAML ends with a newline, which must not end the table's row."""
    text = markdown_table(("arm", "source"), [("one", "A & B\n2025\n"), ("two", "C")])
    assert "| one | A & B 2025 |\n| two | C |" in text
    assert "A &amp; B 2025" in from_markdown(text, "Paper and ours")
