"""EuroSAT in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._coop import CoOpDataSet


class EuroSat(CoOpDataSet):
    """Satellite pictures, 10 kinds of land use, in CoOp's split (Helber et al., JSTARS 2019).

    Args:
        root: the folder that contains ``eurosat/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "eurosat"
    version = 1
    folder = "eurosat"
    split_file = "split_zhou_EuroSAT.json"
    pictures = "2750"
    plain_template = "a centered satellite photo of {}."
    pini_words = "a centered satellite photo of"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
