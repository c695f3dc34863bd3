"""What injectors of whole pictures share."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from pinikit.components.contracts import Event, Noise
from pinikit.errors import ConfigError


def check_picture(injector: str, noise: Noise, event: Event) -> None:
    """Refuse an event that is no picture, and a noise whose parameters are none.

    Raises:
        ConfigError: says what was found.
    """
    if event.channel_axis != 0:
        raise ConfigError(
            f"injector {injector!r}: needs a picture, found an event of shape {event.shape}; "
            "allowed: site pixels"
        )
    for name, shape in noise.parameter_shapes(event.shape).items():
        if shape != event.shape:
            raise ConfigError(
                f"injector {injector!r}: yields maps of shape {event.shape}, but the noise's parameter "
                f"{name!r} has the shape {shape}; allowed: noise with one number per pixel and channel"
            )


def to_level(maps: Tensor, level: float) -> Tensor:
    """Every map of [B, channels, H, W] scaled to a root mean square of ``level``; a map of zeros stays."""
    flat = maps.flatten(2)  # [B, channels, H·W]
    size: float = level * flat.shape[-1] ** 0.5
    return size * functional.normalize(flat, dim=-1).view_as(maps)
