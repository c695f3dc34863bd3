"""UCF101 in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class Ucf101(CoOpDataSet):
    """Middle frames of videos, 101 actions, in CoOp's split (Soomro et al., 2012).

    Args:
        root: the folder that contains ``ucf101/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "ucf101"
    version = 1
    folder = "ucf101"
    split_file = "split_zhou_UCF101.json"
    pictures = "UCF-101-midframes"
    plain_template = "a photo of a person doing {}."
    pini_words = "a photo of a person doing"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
