"""Draws: where the base randomness of all injections comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pinikit.components.contracts import Draw, Noise, Shape
from pinikit.seeding import generator

_LOSSES = "losses."
"""Begins the label of a loss's generator; an injection's has no dot."""


class MeanDraw(Draw):
    """No randomness: every noise at its mean."""

    def base(self, label: str, noise: Noise, shape: Shape) -> None:
        """None, which stands for the mean."""
        return


class RandomDraw(Draw):
    """Base randomness from one generator per injection, so injections do not disturb each other."""

    def __init__(self, seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> None:
        self._seed, self._purpose, self._device = seed, purpose, device
        self._generators: dict[str, torch.Generator] = {}

    def base(self, label: str, noise: Noise, shape: Shape) -> Any:
        """The next base randomness of the injection ``label``."""
        return noise.base(shape, self._generator(label))

    def uniform(self, loss: str, rows: int, count: int) -> Tensor:
        """The next numbers on [0, 1) for the loss of that label, [rows, count], from its own generator."""
        stream = self._generator(_LOSSES + loss)
        return torch.rand((rows, count), generator=stream, device=stream.device)

    def _generator(self, label: str) -> torch.Generator:
        if label not in self._generators:
            self._generators[label] = generator(
                self._seed, "noise", *self._purpose, label, device=self._device
            )
        return self._generators[label]

    def state(self) -> dict[str, Tensor]:
        """How far each generator is."""
        return {label: stream.get_state() for label, stream in self._generators.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave."""
        for label, stream in state.items():
            self._generators[label] = torch.Generator(device=self._device)
            self._generators[label].set_state(stream)


class FixedDraw(Draw):
    """Base randomness given beforehand, by injection label."""

    def __init__(self, base: Mapping[str, Any]) -> None:
        self._base = base

    def base(self, label: str, noise: Noise, shape: Shape) -> Any:
        """What was given for ``label``."""
        return self._base[label]
