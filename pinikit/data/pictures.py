"""Pictures that are files below one folder: finding, checking and decoding them. Imports no torch."""

from __future__ import annotations

import hashlib
import struct
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pinikit.data.catalogue import DataSet, Item, missing_pictures
from pinikit.data.files import sha256_file
from pinikit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image


class PictureFiles(DataSet):
    """A data set whose items are picture files; an item's id is its path below :meth:`picture_folder`."""

    upright: ClassVar[bool] = False
    """Whether the camera's orientation tag is obeyed. CoOp's loader does not."""

    root: str | None

    @abstractmethod
    def picture_folder(self) -> Path:
        """The folder that the items' paths start from.

        Raises:
            ConfigError: ``run.data.root`` is not given.
            DataError: the folder is missing.
        """

    def root_folder(self, what_to_put: str, default: str | None = None) -> Path:
        """The folder named by ``run.data.root``, or else by ``default``, with ``~`` expanded.

        Raises:
            ConfigError: it is not given; ``what_to_put`` says what it must hold.
            DataError: there is no such folder.
        """
        root = self.root or default
        if not root:
            raise ConfigError(
                f"run.data.root is not given: data set {self.name!r} needs the folder "
                f"that holds {what_to_put}."
            )
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"Data set {self.name!r}: run.data.root is {root}, which is not a folder. "
                f"It must hold {what_to_put}."
            )
        return folder

    def open(self, item: Item) -> Image:
        """Decode a picture as RGB; see :meth:`DataSet.open`."""
        return decode(self.picture_folder() / item.id, upright=self.upright)

    def fingerprint(self, item: Item) -> bytes:
        """SHA-256 of the file's bytes; see :meth:`DataSet.fingerprint`."""
        if type(self).open is not PictureFiles.open:
            return super().fingerprint(item)
        digest = sha256_file(self.picture_folder() / item.id)
        return hashlib.sha256(f"{'upright' if self.upright else 'as stored'} {digest}".encode()).digest()

    def check(self, items: Iterable[Item]) -> None:
        """Look whether the picture files exist; see :meth:`DataSet.check`."""
        folder = self.picture_folder()
        names = [item.id for item in items]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise missing_pictures(self.name, f"in {folder}", missing, len(names))


def decode(path: Path, *, upright: bool = False) -> Image:
    """Decode a picture file as RGB.

    Transparency is dropped, as CLIP's and CoOp's loaders do. 16-bit grey is scaled to 8 bits, where a
    plain conversion would clip it to white.

    Args:
        path: the picture file.
        upright: turn the picture as its EXIF orientation tag says.

    Raises:
        DataError: the file is missing, truncated, or not a picture.
    """
    from PIL import Image as PillowImage
    from PIL import ImageOps

    try:
        with PillowImage.open(path) as picture:
            picture.load()
            return to_rgb(ImageOps.exif_transpose(picture) if upright else picture)
    except FileNotFoundError as error:
        raise DataError(f"The picture {path} is missing.") from error
    except (
        OSError,  # truncated, unknown format
        SyntaxError,  # what Pillow raises for a broken PNG
        ValueError,
        EOFError,
        IndexError,
        struct.error,
        PillowImage.DecompressionBombError,
    ) as error:
        raise DataError(f"The picture {path} cannot be read: {error}.") from error


def to_rgb(picture: Image) -> Image:
    """A picture of any Pillow mode as 8-bit RGB."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return _wide_grey_to_rgb(picture)
    if picture.mode == "P" and "transparency" in picture.info:
        return picture.convert("RGBA").convert("RGB")
    return picture.convert("RGB")


def _wide_grey_to_rgb(picture: Image) -> Image:
    """Grey of 16 bits, 0…65535 (Pillow also opens it as the 32-bit mode ``I``), as RGB."""
    import numpy as np
    from PIL import Image as PillowImage

    grey = np.asarray(picture).clip(0, 65535) / 257
    return PillowImage.fromarray(grey.round().astype(np.uint8)).convert("RGB")
