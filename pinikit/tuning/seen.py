"""Which validation pictures of fresh seeds the search had seen: they come from one pool. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pinikit.data.manifest import SplitManifest, make_manifest
from pinikit.errors import PinikitError
from pinikit.study.study import Run
from pinikit.tuning.blind import BlindManifest, blind
from pinikit.tuning.results import TuneResult


def share_seen(result: TuneResult, runs: Sequence[Run]) -> float:
    """Share, from 0 to 1, of the runs' validation pictures that the search trained on or chose by.

    A picture counts once for each seed that validates on it. The split manifests of the search are made
    again, and must have the hashes that the search noted.

    Args:
        result: the search.
        runs: of the study of its best arms.

    Returns:
        NaN if the runs have no validation pictures, or a manifest of the search cannot be made again.
    """
    by_seed = {run.seed: run for run in runs}.values()
    pictures = [item.id for run in by_seed for item in run.manifest.val]
    if not pictures:
        return math.nan
    seen: set[str] = set()
    for seed in result.seeds:
        manifest = _of_search(result, seed, next(iter(by_seed)))
        if manifest is None:
            return math.nan
        seen.update(item.id for item in manifest.items)
    return sum(name in seen for name in pictures) / len(pictures)


def _of_search(result: TuneResult, seed: int, run: Run) -> BlindManifest | None:
    """The split manifest that the search had for a seed; None if it cannot be made again."""
    known = result.data.get(str(seed)) if isinstance(result.data, dict) else None
    try:
        for manifest in (run.manifest, _drawn(run, seed)):  # the first where the study fixes the split
            found = blind(manifest, run.dataset)
            if found.hash == known:
                return found
    except PinikitError:  # the data set is not there any more
        return None
    return None


def _drawn(run: Run, seed: int) -> SplitManifest:
    return make_manifest(run.dataset, run.config["data"]["shots"], seed)
