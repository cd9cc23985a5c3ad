"""The LLaMA of models/llama.py behind the engine, layer by layer as it stands: on a GPU, and with bitsandbytes layers anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anygpt_demo.models.llama import ROOM, SCALE_BYTES, Cache, Llama


class EagerHead:
    """Some ids and their positions among the scores. ids: int64 (N,); place: id -> position, or -1."""

    def __init__(self, ranges: tuple[tuple[int, int], ...], vocabulary: int) -> None:
        self.ranges = ranges
        self.ids: NDArray[np.int64] = np.concatenate([np.arange(low, high) for low, high in ranges])
        self.place: NDArray[np.int64] = np.full(vocabulary, -1)
        self.place[self.ids] = np.arange(len(self.ids))


class Eager:
    """Runs a Llama as it is. Pieces are computed one after the other.

    kv: how keys and values are kept: "none", in the type of the weights, or "int8", which takes half the memory and a little longer.
    """

    unit = 1
    block = 512

    def __init__(self, model: Llama, device: str, kv: str = "none") -> None:
        self.model, self.device, self.kv = model, device, kv
        self.stored = torch.int8 if kv == "int8" else model.model.norm.weight.dtype  # type of what is kept
        self.extra = SCALE_BYTES if kv == "int8" else 0
        self._heads: dict[tuple[tuple[int, int], ...], EagerHead] = {}

    def cache(self, capacity: int) -> Cache:
        """An empty cache; it grows when it has to."""
        return Cache(self.model.config, min(capacity, ROOM), self.stored, self.device, extra=self.extra)

    def run(self, pieces: Sequence[tuple[Sequence[int], Cache]]) -> list[Tensor]:
        """Continue caches by ids. Returns the last hidden state (D,) of each piece."""
        rows = []
        for ids, cache in pieces:
            cache.reserve(len(cache.ids) + len(ids))
            rows.append(self.model.hidden(torch.tensor([list(ids)], device=self.device), cache)[0, -1])
            cache.ids += ids
        return rows

    def head(self, ranges: tuple[tuple[int, int], ...]) -> EagerHead:
        """The head of these ids."""
        if ranges not in self._heads:
            self._heads[ranges] = EagerHead(ranges, self.model.config.vocab_size)
        return self._heads[ranges]

    def scores(self, row: Tensor, head: EagerHead) -> NDArray[np.float32]:
        """Scores of a head's ids after a hidden state (D,); float32 (N,)."""
        found: NDArray[np.float32] = self.model.logits(row, head.ranges).float().cpu().numpy()
        return found
