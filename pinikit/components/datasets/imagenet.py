"""ImageNet in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._imagenet import NAMES, ImageNetFolder, pictures_in
from pinikit.data.catalogue import Catalogue
from pinikit.errors import DataError


class ImageNet(ImageNetFolder):
    """ImageNet, 1,000 classes, tested on its validation pictures as in CoOp (Deng et al., CVPR 2009).

    CoOp also validates on them; here there is no val pool, so that nothing is chosen on what is tested.
    Pictures are in the order of their names; CoOp samples from the order of the file system, so its few
    shots cannot be drawn again from a seed.

    Args:
        root: the folder that contains ``imagenet/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "imagenet"
    version = 1
    folder = "imagenet"
    pictures = "images"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)

    def read(self) -> Catalogue:
        """Class names from ``classnames.txt``, pictures from ``images/train`` and ``images/val``."""
        place, named = self.picture_folder(), self.class_names()
        folders = self.class_folders(place / "train")
        for folder in {*folders, *self.class_folders(place / "val")}:
            if folder not in named or folder not in folders:
                lacks = NAMES if folder not in named else place / "train"
                raise DataError(f"Data set {self.name!r}: the class {folder} is not in {lacks}.")
        train, test = (tuple(pictures_in(place / split, folders, f"{split}/")) for split in ("train", "val"))
        # CLIP's list of names, which CoOp took, has "missile" and "sunglasses" twice.
        names = tuple(named[folder] for folder in folders)
        return Catalogue(self.name, names, train, (), test, repeated_names=True)
