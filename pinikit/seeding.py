"""Randomness: every stream is a generator derived from a run's seed and the purpose it serves.

Deriving by hashing makes streams independent of each other and of the order in which they are
used, so a run gives the same bits whatever ran before it. Nothing touches the global generators.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from ``seed`` and the purpose, e.g. ``derive_seed(1, "noise", "image")``."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` on ``device``, seeded by :func:`derive_seed`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))
