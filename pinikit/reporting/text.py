"""Numbers as a reader wants them, the same in terminal, report and figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

UNKNOWN = "–"


def number(value: float, digits: int = 2) -> str:
    """A plain number, or a dash if it is unknown."""
    return UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"


def plus_minus(mean: float, interval: float, digits: int = 2) -> str:
    """``78.31 ± 1.20``; the mean alone when the interval is unknown."""
    if math.isnan(mean) or math.isnan(interval):
        return number(mean, digits)
    return f"{mean:.{digits}f} ± {interval:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """With its sign, a true minus among them; what rounds to zero has none."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def signed_interval(mean: float, low: float, high: float, digits: int = 2) -> str:
    """``+12.30 [+10.10, +14.50]``; the mean alone when the interval is unknown."""
    if math.isnan(mean):
        return ""
    if math.isnan(low):
        return signed(mean, digits)
    return f"{signed(mean, digits)} [{signed(low, digits)}, {signed(high, digits)}]"


def count(value: float) -> str:
    """A whole number with thin groups of thousands."""
    return UNKNOWN if math.isnan(value) else f"{int(value):,}"


def duration(seconds: float) -> str:
    """``0.8 s``, ``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if math.isnan(seconds):
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(amount: int, noun: str) -> str:
    """``1 run``, ``3 runs``."""
    return f"{amount} {noun}" + ("" if amount == 1 else "s")


def p_value(value: float) -> str:
    """``0.031``; never 0."""
    if math.isnan(value):
        return UNKNOWN
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float, high: float, digits: int = 2) -> str:
    """``[+0.18, +3.24]``, or a dash if it is unknown."""
    return UNKNOWN if math.isnan(low) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells may hold bars and several lines, which are joined."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_in_cell, line)) + " |" for line in lines)


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
