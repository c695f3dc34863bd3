"""SUN397 in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class Sun397(CoOpDataSet):
    """Scenes, 397 classes, in CoOp's split (Xiao et al., CVPR 2010).

    Args:
        root: the folder that contains ``sun397/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "sun397"
    version = 1
    folder = "sun397"
    split_file = "split_zhou_SUN397.json"
    pictures = "SUN397"
    plain_template = "a photo of a {}."
    pini_words = "a photo of a"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
