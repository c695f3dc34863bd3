"""The report's section on differences to the baseline: intervals, tests, and what could have been shown."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from pinikit.reporting.marks import marks_in
from pinikit.reporting.text import interval, markdown_table, number, p_value, plural, signed
from pinikit.study.statistics import LEVEL, ArmSummary, seeds_needed

_EFFECT = (
    "*g* is the mean difference in units of the differences' spread (Cohen's d of paired differences with "
    "Hedges' correction for few pairs)."
)
_BOOTSTRAP = "*bootstrap* is the 95 % BCa interval of the same mean, which assumes no distribution."
_TEST = (
    "*p* is of Wilcoxon's signed-rank test, two-sided and exact; *p (Holm)* is corrected for the {tests} of "
    "this study."
)


def differences_section(summaries: Sequence[ArmSummary], shown: Container[str] | None = None) -> str:
    """A table with a row for each arm that is compared, and what to make of it; empty if none is.

    Args:
        summaries: all arms of the study, which the notes on tests and power are about.
        shown: the arms that have a row, and their number is told; all unless given.
    """
    rows = [row for row in summaries if row.baseline and not row.is_baseline]
    listed = [row for row in rows if shown is None or row.arm in shown]
    if not listed:
        return ""
    lines = [*(f"`{sign}`: {meaning}." for sign, meaning in marks_in(listed).items()), _EFFECT]
    if len(listed) < len(rows):
        lines.insert(0, f"{len(listed)} of {len(rows)} compared arms are shown; what follows is of all.")
    if any(not math.isnan(row.bootstrap_low) for row in rows):
        lines.append(_BOOTSTRAP)
    tests = sum(not math.isnan(row.p) for row in rows)
    if tests:
        lines.append(_TEST.format(tests=plural(tests, "test")))
    lines += [line for line in (few_seeds_note(rows), power_note(rows)) if line]
    return "\n\n".join([_table(listed), "\n".join(f"- {line}" for line in lines)])


def few_seeds_note(summaries: Sequence[ArmSummary]) -> str:
    """Why there are no p-values, or why none can be significant; empty if there is no reason."""
    rows = [row for row in summaries if row.baseline and not row.is_baseline and row.pairs]
    if not rows:
        return ""
    most = max(row.pairs for row in rows)
    if all(math.isnan(row.p) for row in rows):
        if most >= seeds_needed(1, LEVEL):
            return f"Nothing was tested: {'; '.join(sorted({row.untested for row in rows}))}."
        needed = seeds_needed(len(rows), LEVEL)
        correction = "" if len(rows) == 1 else f", and {needed} for the {len(rows)} comparisons of this study"
        return (
            f"Too few seeds for a test: Wilcoxon's signed-rank test needs {seeds_needed(1, LEVEL)} differing "
            f"pairs to reach {LEVEL} at all{correction}; at most {most} are there, so no p-value is given."
        )
    tests = sum(not math.isnan(row.p) for row in rows)
    needed = seeds_needed(tests, LEVEL)
    if most < needed:
        return (
            f"With {plural(most, 'pair')} and {plural(tests, 'test')} no corrected p can fall below "
            f"{p_value(min(1.0, tests * 2.0 ** (1 - most)))}: below {LEVEL} only from {needed} seeds on."
        )
    return ""


def power_note(summaries: Sequence[ArmSummary]) -> str:
    """Which differences the study could have shown; empty where no spread is known."""
    rows = [row for row in summaries if row.smallest_shown > 0]  # False for NaN
    if not rows:
        return ""
    least, most = (pick(rows, key=lambda row: row.smallest_shown) for pick in (min, max))
    span = f"{number(least.smallest_shown)} points for `{least.arm}`"
    if most is not least:
        span = f"from {span} to {number(most.smallest_shown)} for `{most.arm}`"
    return (
        "*could show* is the smallest true difference that a paired t-test with these seeds and this spread "
        f"would find four times in five (two-sided, {LEVEL}, not corrected): {span}. Smaller differences may "
        "be there unseen."
    )


def _table(rows: Sequence[ArmSummary]) -> str:
    tested = any(not math.isnan(row.p) for row in rows)
    resampled = any(not math.isnan(row.bootstrap_low) for row in rows)
    head = ["arm", "Δ", "95 % interval", *(["bootstrap"] if resampled else []), "pairs", "won/tied/lost", "g"]
    head += [*(["p", "p (Holm)"] if tested else []), "could show"]
    return markdown_table(head, [_cells(row, tested, resampled) for row in rows])


def _cells(row: ArmSummary, tested: bool, resampled: bool) -> list[str]:
    cells = [f"`{row.arm}`", signed(row.difference), interval(row.difference_low, row.difference_high)]
    if resampled:
        cells.append(interval(row.bootstrap_low, row.bootstrap_high))
    counts = f"{row.wins}/{row.ties}/{row.losses}" if row.pairs else ""
    cells += [str(row.pairs), counts, signed(row.effect)]
    if tested:
        cells += [p_value(row.p) if not math.isnan(row.p) else row.untested, p_value(row.p_holm)]
    return [*cells, number(row.smallest_shown) if row.smallest_shown > 0 else number(math.nan)]
