"""Stanford Cars in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class StanfordCars(CoOpDataSet):
    """Cars, 196 models with their years, in CoOp's split (Krause et al., 3dRR 2013).

    Args:
        root: the folder that contains ``stanford_cars/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "stanford_cars"
    synonyms = ("stanfordcars", "cars")
    version = 1
    folder = "stanford_cars"
    split_file = "split_zhou_StanfordCars.json"
    # The split file's paths begin with cars_train/ and cars_test/.
    pictures = "."
    plain_template = "a photo of a {}."
    pini_words = "a photo of a"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
