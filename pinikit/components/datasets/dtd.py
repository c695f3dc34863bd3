"""The Describable Textures Dataset in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class DescribableTextures(CoOpDataSet):
    """Describable textures, 47 adjectives, in CoOp's split (Cimpoi et al., CVPR 2014).

    Args:
        root: the folder that contains ``dtd/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "dtd"
    synonyms = ("describable_textures",)
    version = 1
    folder = "dtd"
    split_file = "split_zhou_DescribableTextures.json"
    pictures = "images"
    plain_template = "{} texture."
    # PiNI puts the class name last, so its prompt is "… texture banded."
    pini_words = "texture"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
