"""Oxford Flowers 102 in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class OxfordFlowers(CoOpDataSet):
    """Flowers, 102 species, in CoOp's split (Nilsback & Zisserman, ICVGIP 2008).

    Args:
        root: the folder that contains ``oxford_flowers/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "oxford_flowers"
    synonyms = ("flowers102", "oxfordflowers")
    version = 1
    folder = "oxford_flowers"
    split_file = "split_zhou_OxfordFlowers.json"
    pictures = "jpg"
    plain_template = "a photo of a {}, a type of flower."
    pini_words = "a type of flower, a photo of a"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
