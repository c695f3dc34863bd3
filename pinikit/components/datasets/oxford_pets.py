"""Oxford-IIIT Pet in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class OxfordPets(CoOpDataSet):
    """Cat and dog breeds, 37 classes, in CoOp's split (Parkhi et al., CVPR 2012).

    Args:
        root: the folder that contains ``oxford_pets/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "oxford_pets"
    synonyms = ("oxfordpets", "pets")
    version = 1
    folder = "oxford_pets"
    split_file = "split_zhou_OxfordPets.json"
    pictures = "images"
    plain_template = "a photo of a {}, a type of pet."
    pini_words = "a type of pet, a photo of a"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
