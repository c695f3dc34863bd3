"""PiNI's pixel noise generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from optuna.distributions import FloatDistribution
from torch import Tensor, nn
from torch.nn import functional

from pinikit.components.bounds import check_above_zero
from pinikit.components.contracts import Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.components.injectors._pictures import check_picture, to_level


class CnnPixel(Injector):
    """A small residual CNN on the picture: PiNI's pixel variant.

    3x3 convolution to 64 channels, batch norm, ReLU; basic residual blocks of 64, 64, 128 and 64
    channels, stride 1; one 3x3 head per noise parameter. Every head map is scaled to a root mean square
    of ``level``, for each image and channel. Site ``pixels`` only (Huang, Zhang, Li, AAAI 2025; released
    code: trainers/clip_vpn_cnn_image.py).
    """

    name = "cnn_pixel"
    version = 1

    def __init__(self, level: Annotated[float, FloatDistribution(0.01, 1.0, log=True)] = 0.1) -> None:
        super().__init__()
        check_above_zero(level=level)
        self._level = level

    @property
    def requires(self) -> frozenset[str]:
        """The clean picture."""
        return frozenset({"here"})

    def build(self, noise: Noise, around: Surroundings, initialise: Initialiser) -> None:
        """The trunk and one head per noise parameter."""
        check_picture("cnn_pixel", noise, around.event)
        channels = around.event.channels
        self.trunk = nn.Sequential(
            initialise.conv("stem", channels, 64, 3),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            _Residual("block0", 64, 64, initialise),
            _Residual("block1", 64, 64, initialise),
            _Residual("block2", 64, 128, initialise),
            _Residual("block3", 128, 64, initialise),
        )
        self.heads = nn.ModuleDict(
            {name: initialise.conv(name, 64, channels, 3) for name in noise.parameters}
        )

    def forward(self, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each parameter [B, 3, H, W]."""
        hidden = self.trunk(context["here"])
        return {name: to_level(head(hidden), self._level) for name, head in self.heads.items()}


class _Residual(nn.Module):
    """Two 3x3 convolutions with batch norm; a 1x1 shortcut where the width changes."""

    def __init__(self, name: str, inputs: int, outputs: int, initialise: Initialiser) -> None:
        super().__init__()
        self.conv1 = initialise.conv(f"{name}.conv1", inputs, outputs, 3)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = initialise.conv(f"{name}.conv2", outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            shortcut = initialise.conv(f"{name}.shortcut", inputs, outputs, 1)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(maps)))
        return functional.relu(self.bn2(self.conv2(hidden)) + self.shortcut(maps))
