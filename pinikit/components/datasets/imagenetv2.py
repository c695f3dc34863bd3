"""ImageNetV2 in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._imagenet import NAMES, ImageNetFolder, pictures_in, tested
from pinikit.data.catalogue import Catalogue
from pinikit.errors import DataError


class ImageNetV2(ImageNetFolder):
    """ImageNet's 1,000 classes photographed anew, matched-frequency; to test on (Recht et al., ICML 2019).

    The folders' names are labels: places in the list of ``classnames.txt``, which is ImageNet's.

    Args:
        root: the folder that contains ``imagenetv2/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "imagenetv2"
    synonyms = ("imagenet_v2",)
    version = 1
    folder = "imagenetv2"
    pictures = "imagenetv2-matched-frequency-format-val"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)

    def read(self) -> Catalogue:
        """Class names from ``classnames.txt``, pictures from the folders ``0``, ``1`` and so on."""
        place, names = self.picture_folder(), list(self.class_names().values())
        labels = [str(label) for label in range(len(names))]
        found = self.class_folders(place)
        if unknown := sorted(set(found) - set(labels)):
            raise DataError(
                f"Data set {self.name!r}: the folder {unknown[0]} in {place} is no label; {NAMES} has 0 to "
                f"{len(names) - 1}."
            )
        if lacking := sorted(set(labels) - set(found), key=int):
            raise DataError(f"Data set {self.name!r}: the folder {lacking[0]} is not in {place}.")
        return tested(self.name, names, pictures_in(place, labels))
