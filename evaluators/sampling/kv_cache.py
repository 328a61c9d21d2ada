"""Key-value caches: their size, and one that grows in place.

transformers' `DynamicLayer` concatenates at every token, so drawing T tokens copies the cache T
times. Here new keys and values are written into buffers whose room doubles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig
    from transformers.cache_utils import DynamicCache

_FIRST_ROOM = 64
"""Tokens of room that a cache begins with beyond its prompt."""


def cache_bytes_per_token(config: PreTrainedConfig, n_bytes: int) -> int | None:
    """Return the bytes of the keys and values of one token in all layers.

    Layers with a window or with linear attention need less, so this is an upper bound.

    Args:
        config: configuration of the model.
        n_bytes: bytes of a number.

    Returns:
        None if the configuration does not have the usual names.
    """
    text = config.get_text_config()
    n_heads = getattr(text, "num_attention_heads", None)
    n_layers = getattr(text, "num_hidden_layers", None)
    if not n_heads or not n_layers:
        return None
    size = getattr(text, "head_dim", None) or text.hidden_size // n_heads
    n_kv_heads = getattr(text, "num_key_value_heads", None) or n_heads
    return int(2 * n_layers * n_kv_heads * size * n_bytes)


def growing_cache(config: PreTrainedConfig, max_length: int) -> DynamicCache:
    """Return an empty cache for a model, whose ordinary attention layers grow in place.

    Other layers (sliding window, linear attention) remain those of transformers.

    Args:
        config: configuration of the model.
        max_length: largest number of tokens that the cache has room for.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    class GrowingLayer(DynamicLayer):
        """Keys and values as views into buffers of shape (rows, heads, room, head_dim)."""

        _room: tuple[torch.Tensor, torch.Tensor] | None = None

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            begin = self.get_seq_length()
            end = begin + key_states.shape[-2]
            if self._room is None or self._room[0].shape[-2] < end:
                self._room = (
                    roomy(self.keys, key_states, begin, end),
                    roomy(self.values, value_states, begin, end),
                )
            for buffer, states in zip(self._room, (key_states, value_states), strict=True):
                buffer[:, :, begin:end] = states
            self.keys, self.values = (buffer[:, :, :end] for buffer in self._room)
            return self.keys, self.values

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            # The selection is a copy without room; the next update makes new room for it.
            super().batch_select_indices(indices)
            self._room = None

    def roomy(old: torch.Tensor | None, new: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        room = max(end, min(max_length, max(2 * begin, end + _FIRST_ROOM)))
        buffer = new.new_empty((*new.shape[:-2], room, new.shape[-1]))
        if old is not None and begin:
            buffer[:, :, :begin] = old
        return buffer

    cache = DynamicCache(config=config)
    cache.layers = [
        # transformers has no annotation of the constructor
        GrowingLayer() if type(layer) is DynamicLayer else layer  # type: ignore[no-untyped-call]
        for layer in cache.layers
    ]
    return cache
