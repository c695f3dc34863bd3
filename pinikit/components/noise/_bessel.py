"""Modified Bessel functions of large order."""

from __future__ import annotations

import math

from scipy import special


def log_bessel(order: float, x: float) -> float:
    """log I_order(x) for x > 0, also where I itself is below what a float can hold.

    There the order is large, and the uniform expansion has an error of about order⁻⁴ (DLMF 10.41.3,
    10.41.10).
    """
    scaled = float(special.ive(order, x))
    if scaled > 1e-250:
        return math.log(scaled) + x
    z = x / order
    root = math.hypot(1.0, z)
    p = 1 / root
    terms = (
        (3 * p - 5 * p**3) / 24,
        (81 * p**2 - 462 * p**4 + 385 * p**6) / 1152,
        (30375 * p**3 - 369603 * p**5 + 765765 * p**7 - 425425 * p**9) / 414720,
    )
    series = sum(term / order ** (k + 1) for k, term in enumerate(terms))
    eta = root + math.log(z / (1 + root))
    return order * eta - 0.5 * math.log(2 * math.pi * order * root) + math.log1p(series)
