"""Pictures per second of the view bank beside a plain loop over open_clip's own transform and model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import _tools
from benchmarks._tools import SHARED, Row, Table
from benchmarks.step import naive_transform, relative
from pinikit.backbones.base import Backbone
from pinikit.backbones.precision import DTYPES
from pinikit.config.build import create
from pinikit.data.catalogue import DataSet, Item
from pinikit.data.view_bank import user_bank
from pinikit.training.bank import Bank

BATCH = 64
TARGET = 0.95
MODEL = SHARED / "models" / "effl0-causal"
PICTURES = SHARED / "data"


def main(arguments: Sequence[str] | None = None) -> Table:
    """Measure and print."""
    options = read_options(arguments)
    torch.set_num_threads(options.threads)
    dataset = open_dataset(options.data)
    items = spread(dataset.catalogue().items, options.pictures)
    rows = [
        compare(options.backbone, device, precision, dataset, items, options.repeat)
        for device in _tools.devices(options.device)
        for precision in _tools.precisions(device, options.backbone)
    ]
    notes = [
        f"{_label(options.backbone)}, {len(items)} pictures of {options.data}, clean, batches of {BATCH}; "
        "medians over alternating repetitions.",
        "plain: open pictures one after the other, open_clip's evaluation transform, `encode_image` in the "
        "same precision. bank: with an empty cache, written to the disk.",
        "Δ: ‖bank − plain‖ / ‖plain‖ of the image features.",
    ]
    table = Table("bank", "View bank against plain batch inference", rows, notes)
    _tools.publish(table, options, arguments)
    return table


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Real pictures and a trained backbone where they are at hand."""
    parser = _tools.parser(__doc__, classes=(), repeat=3)
    real = MODEL.is_dir() and PICTURES.is_dir()
    backbone = f"local-dir:{MODEL}" if real else "ViT-B-16"
    parser.set_defaults(backbone=backbone)
    parser.add_argument(
        "--data", choices=("caltech101", "digits"), default="caltech101" if real else "digits"
    )
    parser.add_argument("--pictures", type=int, default=512)
    return parser.parse_args(arguments)


def _label(backbone: str) -> str:
    """The backbone without the folder that holds it."""
    return backbone.rpartition("/")[2]


def open_dataset(name: str) -> DataSet:
    """Caltech101 of the shared folder, or the digits."""
    values = {"name": name, **({"root": str(PICTURES)} if name == "caltech101" else {})}
    dataset: DataSet = create("dataset", values, "benchmark")
    return dataset


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """``count`` items, evenly spread, or all there are."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def compare(
    name: str, device: torch.device, precision: str, dataset: DataSet, items: Sequence[Item], repeat: int
) -> Row:
    """Both ways, in turns."""
    plain = _tools.make_backbone(name, device, "fp32")
    plain.model.to(DTYPES[precision])
    backbone = _tools.make_backbone(name, device, precision)
    features: dict[str, Tensor] = {}

    def run_plain() -> None:
        features["plain"] = plain_features(plain, DTYPES[precision], dataset, items)

    def run_bank() -> None:
        features["bank"] = bank_features(backbone, precision, dataset, items)

    ways = {"plain": run_plain, "bank": run_bank}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for attempt in range(repeat + 1):
        for way, run in ways.items():
            with _tools.private_folder():
                spent = _tools.seconds(run, device)
            if attempt > 0:  # the first one warms up
                taken[way].append(spent)
    rates = {way: len(items) / _tools.median(values) for way, values in taken.items()}
    return {
        "device": device.type,
        "precision": precision,
        "plain pictures/s": rates["plain"],
        "bank pictures/s": rates["bank"],
        "ratio": rates["bank"] / rates["plain"],
        "target": TARGET,
        "Δ": relative([features["bank"]], [features["plain"]]),
    }


@torch.no_grad()
def plain_features(backbone: Backbone, dtype: torch.dtype, dataset: DataSet, items: Sequence[Item]) -> Tensor:
    """Image features [N, D] by open_clip alone."""
    transform, device = naive_transform(backbone), backbone.logit_scale.device
    found = []
    for first in range(0, len(items), BATCH):
        pictures = [transform(dataset.open(item)) for item in items[first : first + BATCH]]
        found.append(backbone.model.encode_image(torch.stack(pictures).to(device, dtype)))
    return torch.cat(found).float().cpu()


def bank_features(backbone: Backbone, precision: str, dataset: DataSet, items: Sequence[Item]) -> Tensor:
    """Image features [N, D] from a bank that has none of them yet."""
    bank = Bank(backbone, dataset, precision, user_bank())
    return bank.get({"image_feature"}, items, 0)["image_feature"].cpu()


if __name__ == "__main__":
    main()
