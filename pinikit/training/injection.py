"""One injection: a bound site, an injector, a noise and how their sample meets the clean tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pinikit.components.contracts import BoundSite, Combine, Draw, Injector, Noise, Surroundings
from pinikit.components.initialise import Initialiser
from pinikit.errors import ConfigError
from pinikit.training.precision import at_least_float32

_SHARES: Mapping[str, tuple[str, ...]] = {"text": ("batch", "class"), "image": ("batch", "image")}


@dataclass(frozen=True)
class Noisy:
    """What an injection made of a clean tensor."""

    value: Tensor
    shared: bool
    """One noise for all rows."""
    ratio: Tensor
    """‖value − clean‖ / ‖clean‖ of each row over the site's own positions, detached, [N]."""


class Injection(nn.Module):
    """Adds learned noise at one site; the only part of a model that is trained."""

    def __init__(
        self, label: str, site: BoundSite, injector: Injector, noise: Noise, combine: Combine, share: str
    ) -> None:
        super().__init__()
        if share not in _SHARES[site.side]:
            raise ConfigError(
                f"injection {label!r}: share: found {share!r}; allowed at a site of the {site.side} side: "
                f"{', '.join(_SHARES[site.side])}"
            )
        self.label, self.site, self.share = label, site, share
        self.injector, self.noise, self.combine = injector, noise, combine

    @property
    def requires(self) -> frozenset[str]:
        """The context that the injector reads; nothing where the noise has no parameters to inject."""
        return self.injector.requires if self.noise.parameters else frozenset()

    def build(self, around: Surroundings, seed: int | None) -> None:
        """Create the injector's parameters, if the noise has any."""
        if self.noise.parameters:
            self.injector.build(self.noise, around, Initialiser(seed, self.label))

    def forward(self, clean: Tensor, context: Mapping[str, Tensor], draw: Draw) -> Noisy:
        """Noise ``clean`` [N, *event]; the result has as many rows, or 1 if both noise and clean have.

        In float32 or better whatever the tower computes in: injectors are trained in float32.
        """
        clean = at_least_float32(clean)
        params = self.distribution(clean, context)
        noise = self.realise(params, clean, context, draw)
        one = self._rows(clean, context) == 1
        shared = one and all(len(value) == 1 for value in params.values())  # but for a mask
        value = self._combine(clean, noise)
        return Noisy(value, shared, self._ratio(value, clean))

    def distribution(self, clean: Tensor, context: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The noise's parameters at ``clean`` [N, *event], each broadcastable to it."""
        clean = at_least_float32(clean)
        raw = self.injector({"here": clean, **context}) if self.noise.parameters else {}
        return {name: value.to(clean.dtype) for name, value in self.noise.constrain(raw).items()}

    def realise(
        self, params: Mapping[str, Tensor], clean: Tensor, context: Mapping[str, Tensor], draw: Draw
    ) -> Tensor:
        """The noise under one draw, before it meets ``clean``: [1 or more, *event], 0 outside the mask."""
        clean = at_least_float32(clean)
        base = draw.base(self.label, self.noise, (self._rows(clean, context), *self.site.event.shape))
        noise = (
            self.noise.mean(params) if base is None else self.noise.sample(params, _cast(base, clean.dtype))
        )
        noise = noise.to(clean).expand(torch.broadcast_shapes(noise.shape, (1, *self.site.event.shape)))
        if self.site.mask is not None:
            noise = noise * self.site.mask.to(noise.device)[..., None]
        return noise

    def _ratio(self, value: Tensor, clean: Tensor) -> Tensor:
        """Size of the change relative to what it meets, for each row."""
        with torch.no_grad():
            mask = 1.0 if self.site.mask is None else self.site.mask.to(clean.device)[..., None]
            met = (clean * mask).flatten(1).norm(dim=1).clamp_min(1e-12)
            ratio: Tensor = (value - clean).flatten(1).norm(dim=1) / met
            return ratio

    def _rows(self, clean: Tensor, context: Mapping[str, Tensor]) -> int:
        """Draws per call: one, or one per class or image (a prefix may have one row for all classes)."""
        if self.share == "batch":
            return 1
        return len(context["text_feature"]) if self.site.side == "text" else len(clean)

    def _combine(self, clean: Tensor, noise: Tensor) -> Tensor:
        axis = self.site.event.channel_axis
        if axis == -1:
            return self.combine(clean, noise)
        moved = self.combine(clean.movedim(axis + 1, -1), noise.movedim(axis + 1, -1))
        return moved.movedim(-1, axis + 1)


def _cast(base: Any, dtype: torch.dtype) -> Any:
    """Base randomness, a tensor or a mapping of them, in the number format of the parameters."""
    if isinstance(base, Mapping):
        return {name: _cast(part, dtype) for name, part in base.items()}
    return base.to(dtype) if isinstance(base, Tensor) else base
