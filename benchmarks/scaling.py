"""How pinikit's training step grows with classes, shots, draws and fused arms: fitted exponents.

An exponent of 1 is proportional growth, 0 none: the slope of log seconds over log size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from benchmarks import _tools
from benchmarks._tools import Row, Table
from benchmarks.pini import BATCH, SEED, epoch_seconds, make_dataset, make_learner, make_task
from pinikit.backbones.base import Backbone
from pinikit.training.loop import Learner

SHOTS = (4, 8, 16)
DRAWS = (1, 4, 16)
ARMS = (1, 2, 4, 8, 16)


def main(arguments: Sequence[str] | None = None) -> Table:
    """Measure and print."""
    parser = _tools.parser(__doc__, classes=(10, 30, 100, 300), repeat=5)
    parser.add_argument("--arms", type=int, nargs="+", default=list(ARMS), metavar="N")
    parser.add_argument("--draws", type=int, nargs="+", default=list(DRAWS), metavar="N")
    parser.add_argument("--shots", type=int, nargs="+", default=list(SHOTS), metavar="N")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sizes = {key: sorted(getattr(options, key)) for key in ("classes", "shots", "draws", "arms")}
    rows: list[Row] = []
    with _tools.private_folder():
        for device in _tools.devices(options.device):
            for precision in _tools.precisions(device, options.backbone):
                backbone = _tools.make_backbone(options.backbone, device, precision)
                for over, taken in measure(backbone, precision, sizes, options.repeat).items():
                    rows.append({"device": device.type, "precision": precision, **summary(over, taken)})
    table = Table("scaling", "Growth of a training step", rows, notes(options.backbone, sizes))
    _tools.publish(table, options, arguments)
    return table


def notes(backbone: str, sizes: Mapping[str, Sequence[int]]) -> list[str]:
    """What a reader of the table must know."""
    return [
        f"{backbone}, noise on prompt_template and image_feature, batch {BATCH}. Seconds are medians: of a "
        "step, but over shots (pictures a class) of an epoch.",
        f"Shots with {sizes['classes'][0]} classes; draws (noise samples per picture) and arms (fused in one "
        f"group) with {base_of(sizes)}.",
        "Exponent: slope of log seconds over log size by least squares.",
    ]


def base_of(sizes: Mapping[str, Sequence[int]]) -> int:
    """How many classes draws and arms are measured with."""
    return max(count for count in sizes["classes"] if count <= max(100, sizes["classes"][0]))


def summary(over: str, taken: Mapping[int, float]) -> Row:
    """A row: sizes, seconds, exponent."""
    return {
        "over": over,
        "sizes": " · ".join(map(str, taken)),
        "seconds": " · ".join(map(_tools.as_text, taken.values())),
        "exponent": exponent(taken),
    }


def exponent(taken: Mapping[int, float]) -> float | None:
    """The slope of log seconds over log size; None for a single size."""
    if len(taken) < 2:
        return None
    sizes, seconds = np.log(list(taken)), np.log(list(taken.values()))
    return float(np.polyfit(sizes, seconds, 1)[0])


def measure(
    backbone: Backbone, precision: str, sizes: Mapping[str, Sequence[int]], repeat: int
) -> dict[str, dict[int, float]]:
    """Seconds by what grows and by its size."""
    base, few = base_of(sizes), sizes["classes"][0]

    def learner(classes: int, shots: int | None = None, samples: int = 1, seed: int = SEED) -> Learner:
        pictures = BATCH if shots is None else shots * classes
        dataset = make_dataset(backbone, _tools.class_names(classes), pictures)
        return make_learner(make_task(backbone, precision, dataset), precision, samples=samples, seed=seed)

    def group(arms: int) -> list[Learner]:
        return [learner(base, seed=SEED + arm) for arm in range(arms)]

    def epoch(learners: Sequence[Learner]) -> float:
        """The median, after one that warms up; a single step but for shots."""
        return _tools.median(epoch_seconds(learners, repeat + 1, backbone.logit_scale.device)[1:])

    return {
        "classes": {count: epoch([learner(count)]) for count in sizes["classes"]},
        "shots": {shots: epoch([learner(few, shots=shots)]) for shots in sizes["shots"]},
        "draws": {count: epoch([learner(base, samples=count)]) for count in sizes["draws"]},
        "arms": {count: epoch(group(count)) for count in sizes["arms"]},
    }


if __name__ == "__main__":
    main()
