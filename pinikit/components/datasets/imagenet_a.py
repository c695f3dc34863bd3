"""ImageNet-A in CoOp's layout."""

from __future__ import annotations

from pinikit.components.datasets._imagenet import ImageNetVariant


class ImageNetA(ImageNetVariant):
    """Photographs of 200 ImageNet classes that fool a ResNet-50; to test on (Hendrycks et al., CVPR 2021).

    Args:
        root: the folder that contains ``imagenet-adversarial/``, or that folder; ``PINIKIT_DATA`` unless
            given.
    """

    name = "imagenet_a"
    version = 1
    folder = "imagenet-adversarial"
    pictures = "imagenet-a"

    def __init__(self, root: str | None = None) -> None:
        super().__init__(root)
