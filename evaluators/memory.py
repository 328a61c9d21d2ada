"""Running out of memory, on a GPU or on the host, as torch tells it."""

from __future__ import annotations

# torch has a class for its CUDA allocator only. What other devices, the host's allocator, Windows
# and cuBLAS say comes as a RuntimeError with one of these in it.
_SIGNS = ("out of memory", "DefaultCPUAllocator", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host ran out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def give_back_memory() -> None:
    """Return what torch keeps for later to the device.

    Call it after the `except` block: until that ends, the traceback keeps the tensors of the
    failed pass alive.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
