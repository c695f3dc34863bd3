"""A small U-Net on the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from torch import Tensor, nn
from torch.nn import functional

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors._pictures import check_picture, to_level


class UnetPixel(Injector):
    """A U-Net that sees the picture at ``depth`` + 1 resolutions, with group norm.

    Two 3x3 convolutions at each resolution, mean pooling by 2 on the way down, bilinear interpolation and
    the same resolution's maps on the way up; one 3x3 head per noise parameter, its maps scaled to a root
    mean square of ``level`` as ``cnn_pixel``'s are. No batch statistics: a picture's noise does not
    depend on its neighbours. Site ``pixels`` only; a design of pinikit's own (after Ronneberger, Fischer,
    Brox, "U-Net", MICCAI 2015).

    ``width`` is the number of channels at the finest resolution.
    """

    name = "unet_pixel"
    version = 1

    def __init__(
        self,
        width: Annotated[int, CategoricalDistribution([8, 16, 32])] = 16,
        depth: Annotated[int, CategoricalDistribution([1, 2, 3])] = 2,
        level: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.1,
    ) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width: found {width}; allowed: multiples of 8, the size of a norm's group")
        if depth < 1:
            raise ValueError(f"depth: found {depth}; allowed: 1 or more")
        check_above_zero(level=level)
        self._width, self._depth, self._level = width, depth, level

    @property
    def requires(self) -> frozenset[str]:
        """The clean picture."""
        return frozenset({"here"})

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """Blocks on the way down and up, and one head per noise parameter."""
        check_picture("unet_pixel", noise, around.event)
        channels, widths = around.event.channels, [self._width * 2**k for k in range(self._depth + 1)]
        inputs = [channels, *widths]
        self.down = nn.ModuleList(
            [_block(f"down{k}", inputs[k], width, initialise) for k, width in enumerate(widths)]
        )
        self.up = nn.ModuleList(
            [
                _block(f"up{k}", widths[k] + widths[k + 1], widths[k], initialise)
                for k in reversed(range(self._depth))
            ]
        )
        self.heads = nn.ModuleDict(
            {name: initialise.conv(f"head.{name}", self._width, channels, 3) for name in noise.parameters}
        )

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each parameter [B, channels, H, W]."""
        maps, seen = context["here"], []
        for k, block in enumerate(self.down):
            maps = block(functional.avg_pool2d(maps, 2, ceil_mode=True) if k else maps)
            seen.append(maps)
        for block, fine in zip(self.up, reversed(seen[:-1]), strict=True):
            wide = functional.interpolate(maps, size=fine.shape[-2:], mode="bilinear", align_corners=False)
            maps = block(torch.cat([wide, fine], 1))
        return {name: to_level(head(maps), self._level) for name, head in self.heads.items()}


def _block(name: str, inputs: int, outputs: int, initialise: Initialiser) -> nn.Sequential:
    """Two 3x3 convolutions with group norm and ReLU."""
    return nn.Sequential(
        initialise.conv(f"{name}.0", inputs, outputs, 3),
        nn.GroupNorm(outputs // 8, outputs),
        nn.ReLU(),
        initialise.conv(f"{name}.1", outputs, outputs, 3),
        nn.GroupNorm(outputs // 8, outputs),
        nn.ReLU(),
    )
