"""FGVC-Aircraft in CoOp's layout."""

from __future__ import annotations

from collections.abc import Iterator

from pinikit.components.datasets._coop import CoOpFolder
from pinikit.data.catalogue import Catalogue, Item
from pinikit.data.files import read_text
from pinikit.errors import DataError, nearest

VARIANTS = "variants.txt"


class FgvcAircraft(CoOpFolder):
    """Aircraft, 100 variants, in the data set's own splits as CoOp takes them (Maji et al., 2013).

    Args:
        root: the folder that contains ``fgvc_aircraft/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "fgvc_aircraft"
    synonyms = ("fgvc", "aircraft")
    version = 1
    folder = "fgvc_aircraft"
    split_file = VARIANTS
    pictures = "images"
    plain_template = "a photo of a {}, a type of aircraft."
    pini_words = "a type of aircraft, a photo of a"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)

    def read(self) -> Catalogue:
        """Class names from ``variants.txt``, pictures from ``images_variant_{train,val,test}.txt``."""
        text = read_text(self.file(VARIANTS), f"class name file of data set {self.name!r}")
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
        labels = {name: label for label, name in enumerate(names)}
        train, val, test = (tuple(self._items(split, labels)) for split in ("train", "val", "test"))
        return Catalogue(self.name, names, train, val, test)

    def _items(self, split: str, labels: dict[str, int]) -> Iterator[Item]:
        """The pictures of a split: lines of a picture's number and the name of its variant."""
        path = self.file(f"images_variant_{split}.txt")
        lines = read_text(path, f"list of pictures of data set {self.name!r}").splitlines()
        for number, line in enumerate(lines, start=1):
            picture, _, name = line.strip().partition(" ")
            if name not in labels:
                raise DataError(
                    f"{path}, line {number}: unknown variant {name!r}{nearest(name, labels)}; "
                    f"{VARIANTS} names {len(labels)}."
                )
            yield Item(f"{picture}.jpg", labels[name])
