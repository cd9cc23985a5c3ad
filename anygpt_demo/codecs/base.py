"""The interface of every codec: media -> codes -> media. Codes are int64 arrays (frames, layers)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from anygpt_demo.modality import Modality

if TYPE_CHECKING:
    import numpy as np

    from anygpt_demo.media import Audio, Picture, Voice

    Media = Audio | Picture


class Codec(Protocol):
    """Media to codes and back, for one modality. Implementations hold read-only models; voice and seed are arguments."""

    modality: Modality

    def encode(self, media: Media) -> np.ndarray:
        """Clean media to codes. Returns int64 (frames, layers), every value in [0, modality.codebook)."""
        ...

    def decode(self, codes: np.ndarray, *, voice: Voice | None = None, seed: int = 0) -> Media:
        """Codes to media. codes: int64 (frames, layers). Equal codes, voice and seed give equal media."""
        ...

    def stream(self, codes: Iterable[np.ndarray], *, voice: Voice | None = None, seed: int = 0) -> Iterator[Media]:
        """Decode while codes still arrive. codes: frames as int64 (layers,). The pieces joined equal decode()."""
        ...
