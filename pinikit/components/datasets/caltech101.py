"""Caltech101 in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class Caltech101(CoOpDataSet):
    """100 object classes in CoOp's split (Fei-Fei, Fergus & Perona, CVPR Workshop 2004).

    Args:
        root: the folder that contains ``caltech-101/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "caltech101"
    synonyms = ("caltech-101",)
    version = 1
    folder = "caltech-101"
    split_file = "split_zhou_Caltech101.json"
    pictures = "101_ObjectCategories"
    plain_template = "a photo of a {}."
    pini_words = "a photo of a"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
