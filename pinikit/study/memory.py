"""Peak memory of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


class PeakMemory:
    """The highest memory in use since it was made: of the CUDA device, or of this process.

    On Linux the process's peak is reset at the start; elsewhere it is the peak since the process began.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:  # a hardened kernel refuses; then the peak counts from the process's start
                return

    def megabytes(self) -> float:
        """The peak in units of 10⁶ bytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 1e6
        return _resident_peak() / 1e6


SHORT = ("DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""What torch says where it has no kind of exception of its own: its allocator, CUDA, CUDA's libraries."""


def lacks_memory(error: BaseException) -> bool:
    """Whether this is how torch or Python says that memory is short, of the device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT)


def _resident_peak() -> int:
    """Peak resident size of this process in bytes."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
