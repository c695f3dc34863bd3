"""Number formats of a tower: it computes in that of its weights; whatever leaves it is at least float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the frozen weights, by the word for it in ``run.precision``."""


def at_least_float32(value: Tensor) -> Tensor:
    """Half precision widened to float32, which is exact; float32 and float64 stay as they are."""
    return value.to(_wide(value.dtype))


def weight_dtype(module: nn.Module) -> torch.dtype:
    """What ``module`` computes in: the number format of its first matrix or kernel."""
    return next(parameter.dtype for parameter in module.parameters() if parameter.ndim > 1)


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Turn the weights of ``module`` into ``dtype``, in place.

    Batch normalisation keeps at least float32, which its kernels take beside half-precision maps: a
    channel's running mean can be far larger than the differences that it is to bring out.
    """
    for part in module.modules():
        own = _wide(dtype) if isinstance(part, _BatchNorm) else dtype
        for weight in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if weight.is_floating_point():
                weight.data = weight.data.to(own)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype
