"""The interface of every codec: media -> codes -> media. Codes are int64 arrays (frames, layers).

A codec may also have tuned(rendering), which returns it with other choices and the same networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from anygpt_demo.errors import UserError
from anygpt_demo.modality import Modality

if TYPE_CHECKING:
    import numpy as np

    from anygpt_demo.media import Audio, Picture, Voice

    Media = Audio | Picture


BOUNDS = {  # of the numbers in a Rendering, both ends included
    "picture_steps": (1, 100),
    "picture_guidance": (1.0, 30.0),
    "picture_noise": (0, 999),
    "voice_steps": (1, 32),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class Rendering:
    """How codes become media, where a codec leaves a choice; None: as the codec does it by itself.

    picture_steps: of the picture decoder; picture_guidance, picture_noise: guidance scale and noise level of unCLIP; voice_steps:
    of SoundStorm; seed: of pictures and voices, else it follows from the reply's seed; enhance: pictures of twice the side, where
    the family can. Equal codes, voice, seed and choices give equal media. Raises UserError for a number out of BOUNDS.
    """

    picture_steps: int | None = None
    picture_guidance: float | None = None
    picture_noise: int | None = None
    voice_steps: int | None = None
    seed: int | None = None
    enhance: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                words = name.replace("_", " ")
                raise UserError(f"The {words} cannot be {value}.", f"It must be from {low} to {high}.", "Choose another number.")


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
