"""Marks beside a difference that say how sure it is, the same in terminal, report and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from pinikit.study.statistics import LEVEL, ArmSummary

TESTED, INTERVAL = "*", "°"

MEANING = {
    TESTED: f"p < {LEVEL} by Wilcoxon's signed-rank test, corrected for all arms (Holm)",
    INTERVAL: "the 95 % interval of the difference leaves out 0, without correction for the number of arms",
}


def mark(row: ArmSummary) -> str:
    """``*`` where the corrected test is significant, else ``°`` where the interval leaves out 0.

    Nothing where the difference is the same for every seed: its interval has no width, but says nothing.
    """
    if row.p_holm < LEVEL:
        return TESTED
    apart = row.difference_low > 0 or row.difference_high < 0  # False for NaN
    return INTERVAL if apart and row.difference_low < row.difference_high else ""


def marked(text: str, row: ArmSummary) -> str:
    """A difference with its mark."""
    return f"{text} {mark(row)}".rstrip()


def marks_in(rows: Sequence[ArmSummary]) -> dict[str, str]:
    """The marks that occur, each with its meaning."""
    used = {mark(row) for row in rows}
    return {sign: meaning for sign, meaning in MEANING.items() if sign in used}
