"""What a run records beside its metrics: predictions of the test pictures, and where its noise goes.

``record.safetensors`` is one small file of a run's folder, checksummed like the others. Reading and
writing it takes no torch; what goes into it is computed by :mod:`pinikit.study.recording`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pinikit.data.files import write_atomic
from pinikit.errors import DataError

RECORD = "record.safetensors"
FORMAT = 1

Array = NDArray[Any]
Layout = Literal["tokens", "grid", "vector"]

_PARTS = ("mean", "spread", "clean")


@dataclass(frozen=True)
class Predictions:
    """Of each test picture, in the manifest's order."""

    mode: str
    """How noise was treated: that of the headline metric, so ``mean`` wherever it was evaluated."""
    labels: Array  # [N] uint16
    predicted: Array  # [N] uint16
    confidence: Array  # [N] float16, probability of the predicted class


@dataclass(frozen=True)
class NoiseSummary:
    """An injection's noise after training, before it meets what it is added to.

    All numbers are lengths over the channels of a position: of the noise's mean (``mean``), of its standard
    deviations (``spread``, estimated from draws), and of the clean tensor (``clean``).

    * ``tokens``: [P], a position of the prompt each, a mean over classes;
    * ``grid``: [1 + E, h, w], first the mean over the looked-at test pictures, then E of these;
    * ``vector``: [1].
    """

    label: str
    stage: str
    layout: Layout
    mean: Array
    spread: Array
    clean: Array
    tokens: tuple[str, ...] = ()
    """The readable tokens of ``tokens``."""
    examples: tuple[int, ...] = ()
    """The E test pictures, as indices into the manifest's test split."""
    pictures: int = 0
    """How many test pictures the mean is over; 0 for the text side."""


@dataclass(frozen=True)
class Record:
    """Everything that a run records."""

    predictions: Predictions
    noise: tuple[NoiseSummary, ...]


def write_record(path: Path, record: Record) -> None:
    """Write the file, whole or not at all.

    Raises:
        PinikitError: it cannot be written.
    """
    from safetensors.numpy import save

    seen = record.predictions
    tensors = {"labels": seen.labels, "predicted": seen.predicted, "confidence": seen.confidence}
    for index, noise in enumerate(record.noise):
        tensors |= {f"noise.{index}.{part}": getattr(noise, part) for part in _PARTS}
    about = {"format": FORMAT, "mode": seen.mode, "noise": [_about(noise) for noise in record.noise]}
    content = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    write_atomic(path, save(content, metadata={"pinikit": json.dumps(about, ensure_ascii=False)}))


def read_record(path: Path) -> Record:
    """Read a record back.

    Raises:
        DataError: it is missing, damaged, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            about = json.loads(file.metadata()["pinikit"])
            if about["format"] != FORMAT:
                raise DataError(f"{path}: format {about['format']} is not known to this pinikit")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        noise = tuple(_noise(index, item, tensors) for index, item in enumerate(about["noise"]))
        seen = Predictions(about["mode"], tensors["labels"], tensors["predicted"], tensors["confidence"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the record cannot be read ({error})") from error
    return Record(seen, noise)


def _about(noise: NoiseSummary) -> dict[str, Any]:
    return {
        "label": noise.label,
        "stage": noise.stage,
        "layout": noise.layout,
        "tokens": noise.tokens,
        "examples": noise.examples,
        "pictures": noise.pictures,
    }


def _noise(index: int, about: Mapping[str, Any], tensors: Mapping[str, Array]) -> NoiseSummary:
    mean, spread, clean = (tensors[f"noise.{index}.{part}"] for part in _PARTS)
    return NoiseSummary(
        about["label"],
        about["stage"],
        cast(Layout, about["layout"]),
        mean,
        spread,
        clean,
        tokens=tuple(about["tokens"]),
        examples=tuple(about["examples"]),
        pictures=about["pictures"],
    )
