"""A conversation: turns of ordered parts that keep their codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TextPart:
    """Words of a person or of the model."""

    text: str


@dataclass(frozen=True, eq=False)
class MediaPart:
    """A picture or a sound, as the codes the language model reads.

    codes: int64 (frames, layers); file: name of the media file in the session folder, None if there is none;
    text: transcript or caption when one is known.
    """

    modality: str
    codes: np.ndarray
    file: str | None = None
    text: str = ""


Part = TextPart | MediaPart


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side said. `heard`: the model's transcript of the person's speech (the first step of a speech reply).

    ids: what the model wrote, word for word, so that it is read again and never re-tokenized; empty for a
    person's turn and for turns made by hand.
    """

    role: Literal["human", "mmgpt"]
    parts: tuple[Part, ...]
    heard: str | None = None
    ids: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """All its words."""
        return " ".join(part.text for part in self.parts if isinstance(part, TextPart))
