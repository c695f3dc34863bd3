"""Peak memory of the text path, forward and backward, over the number of classes: naive beside pinikit.

Each measurement is a process of its own: the peak of resident memory (on CUDA: of allocated memory) less
what was in use before the pass, when the backbone was loaded.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import _tools
from benchmarks._tools import Row, Table
from benchmarks.pini import make_model, make_prompts
from benchmarks.step import bytes_per_class, make_naive
from pinikit.backbones.base import Backbone
from pinikit.study.memory import PeakMemory
from pinikit.training.draws import FixedDraw

TARGET = {1000: 0.2}
"""Largest share of naive's peak that counts as done, by the number of classes."""


def main(arguments: Sequence[str] | None = None) -> Table | None:
    """Measure in child processes and print."""
    parser = _tools.parser(__doc__, classes=(10, 100, 300, 1000), repeat=1)
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "PRECISION"), help="one measurement, as JSON")
    options = parser.parse_args(arguments)
    if options.child:
        side, precision = options.child
        backbone = _tools.make_backbone(options.backbone, torch.device(options.device), precision)
        print(json.dumps(peak(side, backbone, _tools.class_names(options.classes[0]))))
        return None
    rows: list[Row] = []
    for device in _tools.devices(options.device):

        def child(side: str, precision: str, count: int, device: torch.device = device) -> dict[str, Any]:
            flags = ["--child", side, precision, "--classes", str(count), "--device", device.type]
            flags += ["--backbone", options.backbone]
            found = [
                _tools.in_child("benchmarks.memory", flags, options.threads) for _ in range(options.repeat)
            ]
            return max(found, key=lambda row: row["bytes"])

        rows += measure(child, sorted(options.classes), device, _tools.precisions(device, options.backbone))
    table = Table("memory", "Peak memory of the text path", rows, NOTES)
    _tools.publish(table, options, arguments)
    return table


NOTES = (
    "One forward and one backward pass of the noisy text features; MB are 10⁶ bytes over what was in use "
    "before the pass. naive runs in float32.",
    "naive is computed, in proportion to the largest number of classes that was measured, where it would "
    "take more than 70 % of the free memory.",
    "saved MB: what autograd keeps for the backward pass of the naive text tower, counted.",
)


def measure(
    child: Callable[[str, str, int], dict[str, Any]],
    counts: Sequence[int],
    device: torch.device,
    precisions: Sequence[str],
) -> list[Row]:
    """A row for each number of classes (ascending) and precision."""
    rows: list[Row] = []
    largest: tuple[int, int, int] | None = None  # classes, peak bytes, saved bytes per class
    for count in counts:
        needed = 0 if largest is None else largest[1] / largest[0] * count
        fits = needed < 0.7 * _tools.free_bytes(device)
        if fits:
            found = child("naive", "fp32", count)
            largest = (count, found["bytes"], found["saved_bytes_per_class"])
        assert largest is not None
        naive = largest[1] / largest[0] * count
        for precision in precisions:
            ours = child("pinikit", precision, count)["bytes"]
            rows.append(
                {
                    "device": device.type,
                    "classes": count,
                    "precision": precision,
                    "naive MB": naive / 1e6,
                    "naive is": "measured" if fits else "computed",
                    "saved MB": largest[2] * count / 1e6,
                    "pinikit MB": ours / 1e6,
                    "pinikit / naive": ours / naive,
                    "target": TARGET.get(count),
                }
            )
    return rows


def peak(side: str, backbone: Backbone, names: Sequence[str]) -> dict[str, int]:
    """Bytes that the text path of one side takes at its peak, with what is compared of its result.

    Raises:
        ValueError: ``side`` is neither ``naive`` nor ``pinikit``.
    """
    if side not in ("naive", "pinikit"):
        raise ValueError(f"side: found {side!r}; allowed: naive, pinikit")
    run, facts = (naive_pass if side == "naive" else pinikit_pass)(backbone, names)
    release_free_memory()
    memory = PeakMemory(backbone.logit_scale.device)
    before = memory.megabytes()
    run()
    return {"bytes": round((memory.megabytes() - before) * 1e6), **facts}


def release_free_memory() -> None:
    """Give back what was freed already: a pass that moves into it would seem smaller than it is."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def naive_pass(backbone: Backbone, names: Sequence[str]) -> tuple[Callable[[], object], dict[str, int]]:
    """Forward and backward of the naive twin's text path, and what autograd keeps for a class."""
    naive = make_naive(backbone, names)
    draw = torch.ones_like(naive.generators.text_mean)
    facts = {"saved_bytes_per_class": bytes_per_class(naive, draw)}
    return lambda: naive.encode_text(draw).sum().backward(), facts


def pinikit_pass(backbone: Backbone, names: Sequence[str]) -> tuple[Callable[[], object], dict[str, int]]:
    """Forward and backward of pinikit's text path."""
    model = make_model(backbone, make_prompts(backbone, names))
    noise = next(iter(model.injections["text"].parameters()))  # of the same shape as the draw
    draw = FixedDraw({"text": torch.ones_like(noise)})
    return lambda: model.text(draw).features.sum().backward(), {}


if __name__ == "__main__":
    main()
