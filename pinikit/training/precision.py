"""Devices and how exactly they compute."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from pinikit.backbones.precision import at_least_float32 as at_least_float32
from pinikit.errors import ConfigError


def torch_device(name: str) -> torch.device:
    """The device, checked to be there.

    Raises:
        ConfigError: no such device in this process.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"run.device: found {name!r}, which cannot be used here ({reason}); run.device=cpu always works"
        ) from error
    return device


def exact_convolutions() -> AbstractContextManager[None]:
    """On CUDA: convolutions in real float32 and with the same result every time."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags
