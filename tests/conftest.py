"""One thread and one cache for each test process and what it starts: the tests run side by side."""

from __future__ import annotations

import os
import tempfile

import torch

os.environ["OMP_NUM_THREADS"] = "1"
_cache = tempfile.TemporaryDirectory(prefix="pinikit-tests-")  # removed when the process ends
os.environ["PINIKIT_CACHE"] = _cache.name
os.environ["PINIKIT_CONFIG"] = f"{_cache.name}/config"
os.environ.pop("PINIKIT_DATA", None)
os.environ.pop("PINIKIT_PLUGINS_DIR", None)
torch.set_num_threads(1)
