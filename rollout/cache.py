"""A KV cache with spare room: a token is appended to it without copying what is there."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class GrowingLayer(DynamicLayer):
    """A DynamicLayer that appends into spare room instead of copying the whole cache for every token."""

    _keys: Tensor | None = None
    _values: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._keys is None or self._values is None or self._keys.shape[-2] < end:
            capacity = end + max(end // 2, 64)
            self._keys = _with_room(self.keys, key_states, capacity)
            self._values = _with_room(self.values, value_states, capacity)
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        if self._keys is not None and self._values is not None:
            end = self.get_seq_length()
            self._keys, self._values = self._keys.index_select(0, indices), self._values.index_select(0, indices)
            self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]


def _with_room(old: Tensor | None, like: Tensor, capacity: int) -> Tensor:
    room = like.new_empty(*like.shape[:-2], capacity, like.shape[-1])
    if old is not None and old.numel():
        room[:, :, : old.shape[-2]] = old
    return room


def growing_cache(config: Any) -> DynamicCache:
    """The model's own cache, its plain layers replaced by growing ones (sliding-window and other layers stay)."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if not cache.layers:
        cache.layer_class_to_replicate = GrowingLayer
    return cache
