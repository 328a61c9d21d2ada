"""The base class of callbacks, which transformers defines."""

from __future__ import annotations

try:
    # A callback is a subclass, so that transformers is needed when these modules are imported.
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "callbacks of trainers need transformers: pip install 'rlready[train]'"
    ) from error

__all__ = ["TrainerCallback"]
