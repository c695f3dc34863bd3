"""What a component does, as tensors that can be compared between processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from pinikit.components.contracts import Event, Noise
from pinikit.errors import ConfigError

Probe = Callable[[Any], Mapping[str, Tensor]]

VECTOR, TOKENS, PICTURE = Event((12,)), Event((4, 10)), Event((3, 6, 6), channel_axis=0)
EVENTS = (VECTOR, TOKENS, PICTURE)
"""Of the kinds of sites that there are: a feature, tokens or patches, pixels."""


def stream(seed: int = 0) -> torch.Generator:
    """A generator on the processor."""
    return torch.Generator().manual_seed(seed)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that depend on shape and seed."""
    return torch.randn(shape, generator=stream(seed), dtype=dtype)


def events_of(noise: Noise) -> list[Event]:
    """The events that a noise does not refuse."""
    found = []
    for event in EVENTS:
        try:
            noise.check_event(event)
            noise.parameter_shapes(event.shape)
        except ConfigError:
            continue
        found.append(event)
    return found


def raw_parameters(noise: Noise, event: Event, rows: int = 1, seed: int = 1) -> dict[str, Tensor]:
    """What an injector might yield: normal numbers, float64, [rows, *shape]."""
    shapes = noise.parameter_shapes(event.shape)
    return {
        name: numbers(rows, *shape, seed=seed + index) for index, (name, shape) in enumerate(shapes.items())
    }


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bits."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().contiguous()
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.numpy().tobytes())
    return found.hexdigest()


def probe_of(kind: str) -> Probe:
    """What is compared of a component of that kind."""
    module = import_module(f"pinikit.testing.{kind}")
    found: Probe = getattr(module, f"{kind.capitalize()}Conformance").probe
    return found
