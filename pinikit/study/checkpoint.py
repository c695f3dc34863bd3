"""Checkpoints: what a run learned, as safetensors beside a JSON with everything to use it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pinikit.components.contracts import Predictor
from pinikit.data.files import checksum, read_json, write_atomic, write_json
from pinikit.errors import DataError, WeightsError
from pinikit.study.study import Run

FORMAT = 1
TENSORS = "checkpoint.safetensors"
DESCRIPTION = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A run's learned tensors with the configuration that they belong to."""

    config: dict[str, Any]
    template: str
    class_names: tuple[str, ...]
    weights: str
    """Hash of the backbone's weights that the run was trained on."""
    state: dict[str, Tensor]


def save_checkpoint(folder: Path, run: Run, predictor: Predictor) -> None:
    """Write both files of a checkpoint."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in predictor.state().items()}
    tensors = save(state)
    write_atomic(folder / TENSORS, tensors)
    description = {
        "format": FORMAT,
        "run_id": run.id,
        "config": run.config,
        "template": run.template,
        "class_names": list(run.manifest.class_names),
        "weights": run.identity["weights"],
        "sha256": hashlib.sha256(tensors).hexdigest(),
    }
    write_json(folder / DESCRIPTION, {**description, "checksum": checksum(description)})


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint back and verify it.

    Raises:
        WeightsError: it is missing, damaged, or of a newer format.
    """
    tensors_path, description_path = folder / TENSORS, folder / DESCRIPTION
    for path in (tensors_path, description_path):
        if not path.is_file():
            raise WeightsError(
                f"{folder}: has no {path.name}; the run is not finished, or this is no run's folder"
            )
    try:
        description = read_json(description_path)
        content = tensors_path.read_bytes()
        if description["format"] != FORMAT:
            raise WeightsError(
                f"{description_path}: format {description['format']} is not known to this pinikit"
            )
        if hashlib.sha256(content).hexdigest() != description["sha256"]:
            raise _damaged(tensors_path)
        if checksum(description) != description["checksum"]:
            raise _damaged(description_path)
        state = load(content)
    except (DataError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{folder}: the checkpoint is damaged ({error}); run the study again") from error
    names = tuple(description["class_names"])
    return Checkpoint(description["config"], description["template"], names, description["weights"], state)


def _damaged(path: Path) -> WeightsError:
    return WeightsError(f"{path}: is damaged (its checksum does not match); run the study again")
