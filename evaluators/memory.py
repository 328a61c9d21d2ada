"""Running out of memory, on a GPU or on the host, as torch reports it."""

from __future__ import annotations

# torch has a class for its CUDA allocator only. Other devices, the host's allocator, Windows and
# cuBLAS raise a RuntimeError with one of these texts.
_SIGNS = ("out of memory", "DefaultCPUAllocator", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def give_back_memory() -> None:
    """Return the memory that torch caches to the device.

    Call it after the `except` block: until then the traceback keeps the tensors of the failed pass
    alive.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
