"""Keys and values in a cache, position by position, however they lie there."""

from __future__ import annotations

import numpy as np

from anygpt_demo.models.compiled import OUTS, SCALE
from anygpt_demo.models.llama import Cache


def kept(cache: Cache, count: int) -> tuple[np.ndarray, ...]:
    """The first keys and values in a cache; of one of the kernels codes (2, layers, G, count, E) and scales (2, layers, G, count)."""
    if cache.tile == 1:
        return (cache.both[..., :count, :].numpy(),)
    layers, _, groups, capacity, wide = cache.shape
    width = wide - SCALE
    blocks = cache.both.numpy().reshape(2, layers, groups, capacity // OUTS, OUTS * wide)
    codes = np.empty((2, layers, groups, capacity // OUTS, OUTS, width), np.int8)
    keys, values = (blocks[..., : OUTS * width] ^ 128).view(np.int8)
    codes[0] = np.moveaxis(keys.reshape(*keys.shape[:-1], width // 4, OUTS, 4), -2, -3).reshape(codes[0].shape)
    tiles = values.reshape(*values.shape[:-1], width // OUTS, OUTS // 4, OUTS, 4)
    codes[1] = np.moveaxis(tiles, (-3, -1), (-4, -3)).reshape(codes[1].shape)
    scales = np.ascontiguousarray(blocks[..., OUTS * width :]).view(np.float32)
    return codes.reshape(2, layers, groups, capacity, width)[..., :count, :], scales.reshape(2, layers, groups, capacity)[..., :count]
