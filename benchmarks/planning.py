"""How long a study of many arms takes to be read, checked and planned, and how much memory.

The arms are a grid: sites × injectors × noise × shots and two numbers. Imports are timed apart, as every
command that trains pays for them.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STUDY = """
name: planning
run:
  data: {{name: digits, shots: 2}}
  prompt: {{template: pini}}
  method:
    name: pini
    injections: {{image: {{site: image_feature, share: image}}}}
    optim: {{epochs: 5}}
design:
  kind: grid
  baseline: zero_shot
  arms: {{zero_shot: {{method: zero_shot}}}}
  factors:
    method.injections.image.site: [pixels, image_block.middle, spatial_feature, image_feature]
    method.injections.image.injector: [free, mlp, cross_attention, cross_attention_spatial]
    method.injections.image.noise: [gaussian, mu_only, sigma_only, laplace, zero]
    method.optim.lr: {rates}
    method.optim.weight_decay: [0, 1.0e-5, 2.0e-5, 5.0e-5, 1.0e-4, 2.0e-4, 5.0e-4, 1.0e-3, 2.0e-3, 0.01]
seeds: [1]
"""
ARMS_PER_RATE = 4 * 4 * 5 * 10


def main() -> None:
    """Measure, and print one line a step."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--arms", type=int, default=10_000)
    options.add_argument("--json", action="store_true", help="print JSON instead of lines")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), given.arms)
    if given.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        times = f"{row['seconds']:7.2f} s ({row['cpu_seconds']:.2f} s of the processor)"
        print(f"{row['step']:34s} {times:38s} peak {row['peak_mb']:5.0f} MB   {row['what']}")


def measure(folder: Path, arms: int) -> list[dict[str, Any]]:
    """Seconds and the process's peak memory after each step."""
    path = folder / "planning.yaml"
    rates = [round(1e-4 * (1 + index), 6) for index in range(-(-arms // ARMS_PER_RATE))]
    path.write_text(STUDY.format(rates=rates), encoding="utf-8")
    rows: list[dict[str, Any]] = []

    def step(name: str, work: Callable[[], Any], what: Callable[[Any], str]) -> Any:
        start, processor = time.perf_counter(), time.process_time()
        found = work()
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        row = {"step": name, "seconds": seconds, "cpu_seconds": processor, "peak_mb": peak_mb()}
        rows.append({**row, "what": what(found)})
        return found

    step("import what reads studies", _import_reading, lambda _: "")
    from pinikit.study.study import resolve_study

    step("resolve the study", lambda: resolve_study(path), lambda study: f"{len(study.arms)} arms")
    step("import what builds models", _import_models, lambda _: "")
    from pinikit import api

    plan = step(
        "plan it (resolves it once more)",
        lambda: api.plan_study(path, runs=folder / "runs"),
        lambda plan: (
            f"{len(plan.study.arms)} arms, {len(plan.groups)} groups, {len(plan.study.dropped)} dropped"
        ),
    )
    step("show the plan", lambda: _show(plan), lambda text: f"{len(text.splitlines())} lines")
    return rows


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _import_reading() -> None:
    import pinikit.study.study  # noqa: F401


def _import_models() -> None:
    import pinikit.study.bank_plan
    import pinikit.study.run
    import pinikit.training.loop  # noqa: F401


def _show(plan: Any) -> str:
    from rich.console import Console

    from pinikit.cli.tables import print_plan

    text = io.StringIO()
    print_plan(Console(file=text, width=120), plan)
    return text.getvalue()


if __name__ == "__main__":
    main()
