"""ImageNet-R in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._imagenet import ImageNetVariant


class ImageNetR(ImageNetVariant):
    """Paintings, toys and the like of 200 of ImageNet's classes; to test on (Hendrycks et al., ICCV 2021).

    Args:
        root: the folder that contains ``imagenet-rendition/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "imagenet_r"
    version = 1
    folder = "imagenet-rendition"
    pictures = "imagenet-r"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
