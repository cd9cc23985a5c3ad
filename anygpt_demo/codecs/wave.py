"""A SEANet decoder while its codes still arrive: pieces of sound that joined equal the whole.

    codes -> vectors -> first convolution -> LSTM -> upsampling convolutions -> samples
             a window    a window            its state  a window

Each layer is run once per frame, plus a few frames of margin. The LSTM remembers everything before a frame, and its state is
kept; the convolutions see AHEAD frames (the first one) and MARGIN frames (those above the LSTM) on either side.
Music (EnCodec) and speech (SpeechTokenizer) have this decoder, of different width and with different bells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from anygpt_demo.media import Audio

AHEAD = 3  # frames on either side that the first convolution (kernel 7) sees
MARGIN = 5  # frames on either side that the layers above the LSTM see


class WaveStream:
    """Decodes frames as they come.

    vectors: codes int64 (n, levels) -> float (1, D, n). layers: of the decoder, in order; the second one holds an `lstm`.
    hop: samples per frame. first, later: frames of the first piece and of the others. The pieces come AHEAD + MARGIN frames late.
    """

    def __init__(
        self, vectors: Callable[[Tensor], Tensor], layers: Sequence[nn.Module], hop: int, rate_hz: int, first: int = 25, later: int = 25
    ) -> None:
        self.vectors, self.hop, self.rate_hz = vectors, hop, rate_hz
        self.entry, self.memory, self.rest = layers[0], layers[1], layers[2:]
        self.next, self.later = first, later
        self.frames: list[np.ndarray] = []
        self.hidden = torch.empty(0)  # (1, C, n): what left the LSTM, from frame `base` on
        self.base = self.known = self.told = 0  # first frame in `hidden`; frames through the LSTM; frames told
        self.state: tuple[Tensor, Tensor] | None = None

    def feed(self, frame: np.ndarray) -> list[Audio]:
        """One more frame, int64 (levels,); the piece that it completes, if it does."""
        self.frames.append(np.asarray(frame, np.int64))
        if len(self.frames) < self.told + self.next + AHEAD + MARGIN:
            return []
        piece = self._piece(self.told + self.next, ended=False)
        self.next = self.later
        return [piece]

    def finish(self) -> list[Audio]:
        """The rest."""
        return [self._piece(len(self.frames), ended=True)] if self.told < len(self.frames) else []

    @torch.inference_mode()
    def _piece(self, last: int, ended: bool) -> Audio:
        """Samples of the frames from `told` to `last` - 1."""
        self._remember(len(self.frames) if ended else len(self.frames) - AHEAD, ended)
        start = max(0, self.told - MARGIN)
        hidden = self.hidden[..., start - self.base :]
        if not ended:
            hidden = hidden[..., : last + MARGIN - start]
        for layer in self.rest:
            hidden = layer(hidden)
        samples = hidden[0, 0, (self.told - start) * self.hop : (last - start) * self.hop].float().cpu().numpy()
        self.told = last
        keep = max(0, last - MARGIN)
        self.hidden, self.base = self.hidden[..., keep - self.base :], keep
        return Audio(np.clip(samples, -1.0, 1.0), self.rate_hz)

    def _remember(self, upto: int, ended: bool) -> None:
        """Take frames `known`..`upto` - 1 through the first convolution and the LSTM."""
        start = max(0, self.known - AHEAD)
        window = self.vectors(torch.from_numpy(np.stack(self.frames[start : len(self.frames) if ended else upto + AHEAD])))
        fresh = self.entry(window)[..., self.known - start : upto - start]
        steps = fresh.permute(2, 0, 1)
        found, self.state = self.memory.lstm(steps, self.state)  # type: ignore[operator]
        fresh = (found + steps).permute(1, 2, 0)
        self.hidden = torch.cat([self.hidden, fresh], -1) if self.known else fresh
        self.known = upto
