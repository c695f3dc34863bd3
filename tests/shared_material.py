"""Real pictures and models, which are no part of the repository; tests that use them are marked ``real``."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("PINIKIT_SHARED") or Path(__file__).resolve().parents[2] / "shared")
"""``PINIKIT_SHARED``, or the folder ``shared`` beside the checkout."""
