"""What components ask of their numbers."""

from __future__ import annotations

import math


def check_above_zero(**numbers: float) -> None:
    """Refuse numbers that are not finite and above 0.

    Raises:
        ValueError: names the first such number.
    """
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name}: found {number}; allowed: above 0")


def check_not_negative(**numbers: float) -> None:
    """Refuse numbers that are not finite and 0 or more.

    Raises:
        ValueError: names the first such number.
    """
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"{name}: found {number}; allowed: 0 or more")
