"""Food-101 in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class Food101(CoOpDataSet):
    """Dishes, 101 classes, in CoOp's split (Bossard et al., ECCV 2014).

    Args:
        root: the folder that contains ``food-101/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "food101"
    synonyms = ("food-101",)
    version = 1
    folder = "food-101"
    split_file = "split_zhou_Food101.json"
    pictures = "images"
    plain_template = "a photo of {}, a type of food."
    pini_words = "a type of food, a photo of"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
