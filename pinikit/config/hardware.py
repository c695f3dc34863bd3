"""What ``auto`` stands for on this machine, found out without importing torch."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pinikit.backbones.spec import GLYPH

_COMPUTE_CAPABILITY_MAJOR = 75
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of the CUDA driver API."""

_CPU_INFO = Path("/proc/cpuinfo")


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


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether the processor has bf16 matrix units (Intel's AMX). Known on Linux only; False elsewhere."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return {"amx_tile", "amx_bf16"} <= set(flags)


def resolve_precision(name: str, device: str, backbone: str) -> str:
    """``auto`` is bf16 where the device multiplies in it: CUDA from Ampere on, processors with AMX.

    For the embedded glyph it is fp32 everywhere: its matrices (width 128) are too small to gain from
    bf16 (measured with AMX: text sites 6 to 9 % slower), and so its results are alike on all machines.
    """
    if name != "auto":
        return name
    if backbone == GLYPH:
        return "fp32"
    has_bf16 = cuda_capability() >= 8 if device.startswith("cuda") else cpu_multiplies_bf16()
    return "bf16" if has_bf16 else "fp32"
