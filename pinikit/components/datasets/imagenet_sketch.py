"""ImageNet-Sketch in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._imagenet import ImageNetVariant


class ImageNetSketch(ImageNetVariant):
    """Black-and-white sketches of ImageNet's 1,000 classes; to test on (Wang et al., NeurIPS 2019).

    Args:
        root: the folder that contains ``imagenet-sketch/``, or that folder; ``PINIKIT_DATA`` unless given.
    """

    name = "imagenet_sketch"
    version = 1
    folder = "imagenet-sketch"
    pictures = "images"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
