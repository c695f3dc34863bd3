"""From a decoded picture to the pixels that a backbone sees: clean, or as a seeded augmented view.

A transform is geometry on the decoded picture (Pillow, in threads) followed by float and normalise
(torch, in one go). All randomness comes from a generator of the picture's own, so a view is a function
of picture and seed, whatever thread makes it, and the global generators are left alone.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from pinikit.data.catalogue import DataSet, Item
from pinikit.data.files import canonical_json
from pinikit.errors import ConfigError, listing, nearest
from pinikit.seeding import derive_seed

_INTERPOLATIONS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
_RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class Preprocess:
    """A backbone's preprocessing, checked: open_clip's ``preprocess_cfg``."""

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    fill_color: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Preprocess:
        """From ``image_size`` (H, W) or one number, ``mean``, ``std``, ``interpolation``, ``resize_mode``.

        ``fill_color`` (0 unless given) pads what ``resize_mode: longest`` leaves empty.

        Raises:
            ConfigError: interpolation or resize mode is unknown.
        """
        size = values["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        preprocess = cls(
            height=int(height),
            width=int(width),
            mean=tuple(map(float, values["mean"])),
            std=tuple(map(float, values["std"])),
            interpolation=str(values["interpolation"]),
            resize_mode=str(values["resize_mode"]),
            fill_color=int(values.get("fill_color") or 0),
        )
        _check_allowed("interpolation", preprocess.interpolation, _INTERPOLATIONS)
        _check_allowed("resize mode", preprocess.resize_mode, _RESIZE_MODES)
        return preprocess

    @property
    def mode(self) -> InterpolationMode:
        """The interpolation as torchvision names it."""
        return _INTERPOLATIONS[self.interpolation]

    def describe(self) -> dict[str, Any]:
        """All values, ready for canonical JSON."""
        return {
            "image_size": [self.height, self.width],
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "fill_color": self.fill_color,
        }

    def normalise(self, pixels: Tensor) -> Tensor:
        """[N, H, W, 3] uint8 to [N, 3, H, W] float32: divided by 255, minus mean, by standard deviation."""
        scale, mean, std = _constants(self.mean, self.std, pixels.device)
        return pixels.permute(0, 3, 1, 2).contiguous().float().div_(scale).sub_(mean).div_(std)


class EvalTransform:
    """CLIP's evaluation transform, equal to ``open_clip.transform.image_transform(is_train=False)``.

    Resize (``shortest`` side to the size and crop the centre, ``longest`` side and pad, or ``squash``),
    float, normalise.

    Args:
        preprocess: see :meth:`Preprocess.of`.
    """

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        self.preprocess = Preprocess.of(preprocess)

    @property
    def identity(self) -> str:
        """A canonical text with all parameters, for cache keys."""
        return canonical_json({"transform": "eval", "version": 1, **self.preprocess.describe()})

    def geometry(self, picture: Image, seed: int = 0) -> Image:
        """The picture at the backbone's size; the seed has no effect."""
        settings = self.preprocess
        size = [settings.height, settings.width]
        if settings.resize_mode == "squash":
            return functional.resize(picture, size, settings.mode)
        if settings.resize_mode == "shortest" and settings.height == settings.width:
            return functional.center_crop(functional.resize(picture, settings.height, settings.mode), size)
        return self._keep_ratio(picture)

    def _keep_ratio(self, picture: Image) -> Image:
        """The two rarer cases by open_clip's own parts, which are slow to import."""
        from open_clip.transform import ResizeKeepRatio, center_crop_or_pad

        settings = self.preprocess
        size = (settings.height, settings.width)
        if settings.resize_mode == "shortest":
            # Not a square: open_clip resizes bicubically here, whatever the interpolation.
            return functional.center_crop(ResizeKeepRatio(size)(picture), list(size))
        resized = ResizeKeepRatio(size, longest=1, interpolation=settings.mode)(picture)
        return center_crop_or_pad(resized, size, fill=settings.fill_color)

    def __call__(self, picture: Image) -> Tensor:
        """An RGB picture as [3, H, W] float32."""
        return self.preprocess.normalise(_pixels(self.geometry(picture))[None])[0]


class TrainTransform:
    """CoOp's training transform: random resized crop, random flip, float, normalise.

    Draws and arithmetic equal those of torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip``
    after ``torch.manual_seed(seed)``, without touching the global generator. Crop: Szegedy et al.,
    "Going Deeper with Convolutions", CVPR 2015.

    Args:
        preprocess: see :meth:`Preprocess.of`; ``resize_mode`` plays no part.
        crop_scale: smallest and largest share of the picture's area.
        crop_ratio: smallest and largest width / height of the crop before it is resized.
        flip: mirror every other picture.
    """

    def __init__(
        self,
        preprocess: Mapping[str, Any],
        crop_scale: tuple[float, float] = (0.08, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
    ) -> None:
        self.preprocess = Preprocess.of(preprocess)
        self.crop_scale = _range("crop scale", crop_scale, most=1.0)
        self.crop_ratio = _range("crop ratio", crop_ratio)
        self.flip = flip

    @property
    def identity(self) -> str:
        """A canonical text with all parameters, for cache keys."""
        settings = self.preprocess.describe()
        del settings["resize_mode"], settings["fill_color"]
        augmentation = {
            "crop_scale": list(self.crop_scale),
            "crop_ratio": list(self.crop_ratio),
            "flip": self.flip,
        }
        return canonical_json({"transform": "train", "version": 1, **settings, **augmentation})

    def geometry(self, picture: Image, seed: int) -> Image:
        """A random part of the picture, maybe mirrored, at the backbone's size."""
        generator = torch.Generator().manual_seed(seed)
        top, left, height, width = draw_crop(
            picture.height, picture.width, self.crop_scale, self.crop_ratio, generator
        )
        size = [self.preprocess.height, self.preprocess.width]
        view = functional.resized_crop(picture, top, left, height, width, size, self.preprocess.mode)
        if self.flip and torch.rand(1, generator=generator).item() < 0.5:
            return functional.hflip(view)
        return view

    def __call__(self, picture: Image, seed: int) -> Tensor:
        """An RGB picture as [3, H, W] float32: a function of picture and seed only."""
        return self.preprocess.normalise(_pixels(self.geometry(picture, seed))[None])[0]


def draw_crop(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, as torchvision's ``RandomResizedCrop`` draws them.

    Area uniform, ratio log-uniform; after ten draws that do not fit, the largest central crop whose
    ratio is allowed. torchvision's own function can only read the global generator.
    """
    log_ratio = torch.log(torch.tensor(ratio))  # in float32, as there: other bits are other crops
    for _ in range(10):
        area = height * width * _uniform(scale[0], scale[1], generator).item()
        aspect = torch.exp(_uniform(log_ratio[0].item(), log_ratio[1].item(), generator)).item()
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = torch.randint(0, height - crop_height + 1, (1,), generator=generator).item()
            left = torch.randint(0, width - crop_width + 1, (1,), generator=generator).item()
            return int(top), int(left), crop_height, crop_width
    return _central_crop(height, width, ratio)


def transform_for(
    dataset: DataSet, preprocess: Mapping[str, Any], view: int = 0
) -> EvalTransform | TrainTransform:
    """The transform of a view of a data set's pictures: view 0 is clean, the others are augmented."""
    if view == 0:
        return EvalTransform(preprocess)
    return TrainTransform(preprocess, dataset.crop_scale, dataset.crop_ratio, dataset.flip)


def view_seed(item: Item, view: int) -> int:
    """The seed of an augmented view: of the picture and the view only, so that all runs share views."""
    return derive_seed(0, "view", item.id, view)


def load_pictures(
    dataset: DataSet,
    items: Iterable[Item],
    transform: EvalTransform | TrainTransform,
    view: int = 0,
    workers: int | None = None,
) -> Tensor:
    """Decode and transform pictures in a pool of threads.

    Everything is held in memory, so call it with a batch or a few-shot split at a time.

    Args:
        dataset: what opens the pictures.
        items: which of them, in the order of the result.
        transform: of the right kind for ``view``, see :func:`transform_for`.
        view: 0 for the clean picture, from 1 for augmented views.
        workers: threads; one per processor unless given. The result does not depend on it.

    Returns:
        [N, 3, H, W] float32, on the CPU.

    Raises:
        DataError: a picture is missing or cannot be decoded.
        ValueError: transform and view do not belong together.
    """
    batch = [(item, view) for item in items]
    with closing(stream_pixels(dataset, [batch], transform, workers)) as stream:
        return transform.preprocess.normalise(next(stream))


def stream_pixels(
    dataset: DataSet,
    batches: Sequence[Sequence[tuple[Item, int]]],
    transform: EvalTransform | TrainTransform,
    workers: int | None = None,
) -> Generator[Tensor]:
    """Batches of decoded and transformed pictures; the next one is made while one is being used.

    Args:
        dataset: what opens the pictures.
        batches: pictures with their views, in the order of the result.
        transform: of the right kind for the views, see :func:`transform_for`.
        workers: threads; one per processor unless given. The result does not depend on it.

    Yields:
        For each batch [N, H, W, 3] uint8, on the CPU; not normalised yet.

    Raises:
        DataError: a picture is missing or cannot be decoded.
        ValueError: transform and view do not belong together.
    """
    for view in {view for batch in batches for _, view in batch}:
        if (view == 0) != isinstance(transform, EvalTransform) or view < 0:
            raise ValueError(f"View {view} needs {'an evaluation' if view == 0 else 'a training'} transform.")
    settings = transform.preprocess

    def load(pixels: Tensor, row: int, item: Item, view: int) -> None:
        pixels[row] = _pixels(transform.geometry(dataset.open(item), view_seed(item, view)))

    def begin(batch: Sequence[tuple[Item, int]]) -> tuple[Tensor, list[Future[None]]]:
        pixels = torch.empty(len(batch), settings.height, settings.width, 3, dtype=torch.uint8)
        return pixels, [pool.submit(load, pixels, row, *entry) for row, entry in enumerate(batch)]

    def finished(pixels: Tensor, futures: Iterable[Future[None]]) -> Tensor:
        for future in futures:
            future.result()  # raises the first error
        return pixels

    pool = ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1)
    ahead: deque[tuple[Tensor, list[Future[None]]]] = deque()
    try:
        for batch in batches:
            ahead.append(begin(batch))
            if len(ahead) > 1:
                yield finished(*ahead.popleft())
        while ahead:
            yield finished(*ahead.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@cache
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    """255, mean and deviation [1, 3, 1, 1] on a device, sent once, so that no batch waits for them.

    A tensor of 255, as CUDA divides by a plain number with other roundings than the processor.
    """
    return tuple(torch.tensor(values, device=device).view(1, 3, 1, 1) for values in ((255.0,) * 3, mean, std))


def _pixels(picture: Image) -> Tensor:
    """[H, W, 3] uint8."""
    return torch.from_numpy(np.array(picture.convert("RGB")))


def _uniform(low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.empty(1).uniform_(low, high, generator=generator)


def _central_crop(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    crop_height, crop_width = height, width
    if width / height < ratio[0]:
        crop_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        crop_width = round(height * ratio[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _check_allowed(what: str, found: str, allowed: Iterable[str]) -> None:
    if found not in allowed:
        raise ConfigError(
            f"The {what} {found!r} is not known; allowed: {listing(allowed)}{nearest(found, allowed)}."
        )


def _range(what: str, values: Sequence[float], most: float = math.inf) -> tuple[float, float]:
    """Two numbers, 0 < low <= high <= most."""
    if len(values) != 2 or not 0 < values[0] <= values[1] <= most:
        raise ConfigError(f"The {what} is {list(values)}; it must be a smallest and a largest value above 0.")
    return float(values[0]), float(values[1])
