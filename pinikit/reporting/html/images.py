"""Small pictures inside the page: thumbnails and maps as ``data:`` addresses."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

from pinikit.study.record import Array

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL = 120
"""Pixels of the longer side."""


def thumbnail(picture: Image) -> str:
    """The address of a small copy of a picture; smaller ones keep their pixels."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    as_png = max(small.size) <= THUMBNAIL // 2  # where JPEG would blur what is there
    return _address(small, "png") if as_png else _address(small, "jpeg", quality=80)


def is_small(address: str) -> bool:
    """Whether a thumbnail kept its pixels, which are then to be shown as squares."""
    return address.startswith("data:image/png")


def heat_map(values: Array, low: float, high: float) -> str:
    """The address of a map [h, w] with one pixel a value, coloured from ``low`` to ``high`` by cividis."""
    import matplotlib as mpl
    from PIL import Image

    share = np.clip((values.astype(float) - low) / (high - low or 1.0), 0, 1)
    colours = mpl.colormaps["cividis"](share, bytes=True)[..., :3]
    return _address(Image.fromarray(np.ascontiguousarray(colours)), "png")


def _address(picture: Image, kind: str, **options: int) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
