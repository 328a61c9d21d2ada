"""Memory of a GPU or of the host: how much is free, and running out of it, as torch reports it."""

from __future__ import annotations

from pathlib import Path

# torch has a class for its CUDA allocator only. Other devices, the host's allocator, Windows and
# cuBLAS raise a RuntimeError with one of these texts.
_SIGNS = ("out of memory", "DefaultCPUAllocator", "not enough memory", "ALLOC_FAILED")

_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""Limit and use of a container's memory, in versions 2 and 1 of Linux's control groups."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def free_bytes() -> int:
    """Return the main memory that new processes can take, in bytes, also inside a container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit_name, used_name in _CGROUP_FILES:
        try:
            limit, used = (int((_CGROUP / name).read_text()) for name in (limit_name, used_name))
        except (OSError, ValueError):  # no such file, or the limit is "max"
            continue
        free = min(free, max(0, limit - used))
    return free


def give_back_memory() -> None:
    """Return the memory that torch caches to the device.

    Call it after the `except` block: until then the traceback keeps the tensors of the failed pass
    alive.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
