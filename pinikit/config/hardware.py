"""What ``auto`` stands for on this machine, found out without importing torch."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.metadata import version

_COMPUTE_CAPABILITY_MAJOR = 75
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of the CUDA driver API."""


@cache
def cuda_capability() -> int:
    """Major compute capability of the first visible CUDA device; 0 if torch could not use one."""
    if version("torch").endswith("+cpu"):
        return 0
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    device, major = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return 0
    driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
    return major.value


def resolve_device(name: str) -> str:
    """``auto`` is the first CUDA device if there is one, else the processor."""
    if name != "auto":
        return name
    return "cuda" if cuda_capability() else "cpu"


def resolve_precision(name: str, device: str) -> str:
    """``auto`` is bf16 on CUDA devices that have it in hardware (Ampere and later), else fp32."""
    if name != "auto":
        return name
    return "bf16" if device.startswith("cuda") and cuda_capability() >= 8 else "fp32"
