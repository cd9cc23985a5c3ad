"""The facts of one modality; the vocabulary, grammar, parser, page and tests derive everything else from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Sampling:
    """How the next code (or word piece) is drawn. Paper Table 9 and the official generation configs."""

    temperature: float = 1.0
    top_k: int = 0  # 0: no limit
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # applied to codes already in the same block
    beams: int = 1
    guidance: float = 1.0  # of codes: how far they are led away from what nobody asked for (arXiv 2207.12598); 1: not
    tries: int = 1  # of codes: how often a block is drawn; the likeliest for its length is kept


@dataclass(frozen=True)
class Modality:
    """One modality as the language model sees it: a block `start mark, frames of codes, end mark`.

    A frame holds `layers` codes, one from each codebook in order, so a block has frames x layers codes.
    """

    name: str  # "music"
    kind: Literal["image", "audio"]
    symbol: str  # spelling of one code in the tokenizer: "<" + symbol + number + ">"
    marks: tuple[str, str]  # ("<somu>", "<eomu>")
    codebook: int  # entries of one codebook; the checkpoint's manifest may replace it
    layers: int  # codebooks that the language model reads and writes
    frames: range  # legal numbers of frames in one block
    frame_rate_hz: float | None  # frames per second; None for a still picture
    sample_rate_hz: int | None  # of the waveform; None for a picture
    sampling: Sampling
    anything: str = ""  # what a person says who wants just anything of this kind: what guidance leads away from

    @property
    def codes(self) -> int:
        """Number of distinct code tokens: codebook x layers."""
        return self.codebook * self.layers


CHAT_WORDS = Sampling(temperature=0.7, top_p=0.9)  # how words are drawn in a chat, unless the family states otherwise
HEARD_WORDS = Sampling(temperature=0.0)  # how those of a transcript are, likewise: what was said leaves no choice
