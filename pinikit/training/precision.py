"""Devices and number formats."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from pinikit.errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision widened to float32; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The autocast context for ``fp32`` (none), ``bf16`` or ``fp16``."""
    return torch.autocast(device.type, _DTYPES.get(precision), enabled=precision in _DTYPES)


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
