"""Using what a run learned on new pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image

from pinikit.backbones.loading import load_backbone
from pinikit.backbones.precision import DTYPES
from pinikit.backbones.spec import BackboneSpec
from pinikit.components.contracts import Draw, Method
from pinikit.config.build import create
from pinikit.data.files import read_json
from pinikit.data.pictures import decode
from pinikit.data.transforms import EvalTransform
from pinikit.errors import WeightsError
from pinikit.plugin import registry
from pinikit.study.checkpoint import load_checkpoint
from pinikit.study.store import RESULT
from pinikit.training.draws import MeanDraw, RandomDraw
from pinikit.training.evaluation import draws_of
from pinikit.training.precision import torch_device

Picture: TypeAlias = str | Path | Image.Image


class LoadedPredictor:
    """A finished run, ready to classify pictures."""

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        from pinikit.config.hardware import resolve_device

        _refuse_failed(Path(folder))
        checkpoint = load_checkpoint(Path(folder))
        config = checkpoint.config
        self.class_names = checkpoint.class_names
        self._device = torch_device(resolve_device(device))
        self._seed: int = config["seed"]
        dtype = DTYPES[config["precision"]]
        backbone = load_backbone(BackboneSpec(**config["backbone"])).to(self._device, dtype)
        if backbone.weights_hash != checkpoint.weights:
            raise WeightsError(
                f"{folder}: was trained on other weights than backbone {backbone.name!r} has now; "
                "run the study again"
            )
        prompts = backbone.text.tokenize(checkpoint.template, self.class_names)
        method: Method = create("method", config["method"], "run.method")
        self._predictor = method.restore(backbone, prompts, checkpoint.state)
        self._backbone = backbone
        self._transform = EvalTransform(backbone.preprocess)
        dataset = registry().find("dataset", config["data"]["name"], "run.data").load()
        self._upright = bool(getattr(dataset, "upright", False))  # pictures are opened as in training

    def probabilities(self, pictures: Sequence[Picture], noise: str = "mean") -> torch.Tensor:
        """Class probabilities [N, C] of pictures, given as paths or PIL images.

        Args:
            pictures: what to classify.
            noise: ``mean``, ``sample`` or ``mc-K``, as in ``evaluate.noise``.

        Raises:
            DataError: a picture cannot be read.
            ConfigError: no such treatment of noise.
        """
        opened = (self._opened(picture) for picture in pictures)
        pixels = torch.stack([self._transform(picture) for picture in opened]).to(self._device)
        draws: list[Draw] = [
            RandomDraw(self._seed, "predict", k, device=self._device) for k in range(draws_of(noise))
        ]
        with torch.no_grad():
            activations = self._backbone.image.read(pixels, self._predictor.requires)
            logits = [self._predictor.classifier(draw)(activations).logits for draw in draws or [MeanDraw()]]
        return torch.stack([row.float().softmax(1) for row in logits]).mean(0).cpu()

    def classify(
        self, pictures: Sequence[Picture], top: int = 5, noise: str = "mean"
    ) -> list[list[tuple[str, float]]]:
        """The ``top`` classes of each picture with their probabilities, most probable first."""
        probabilities, classes = self.probabilities(pictures, noise).topk(min(top, len(self.class_names)))
        return [
            [
                (self.class_names[int(index)], float(value))
                for value, index in zip(values, indices, strict=True)
            ]
            for values, indices in zip(probabilities, classes, strict=True)
        ]

    def _opened(self, picture: Picture) -> Image.Image:
        if isinstance(picture, Image.Image):
            return picture
        return decode(Path(picture), upright=self._upright)


def _refuse_failed(folder: Path) -> None:
    path = folder / RESULT
    if path.is_file() and (result := read_json(path)).get("status") == "failed":
        raise WeightsError(f"{folder}: the run failed ({result.get('error')}), so it predicts nothing")
