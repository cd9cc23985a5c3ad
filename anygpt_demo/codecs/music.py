"""Music: 50 frames per second of 4 codes, one from each codebook of EnCodec 32 kHz."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anygpt_demo.media import Audio, Voice
from anygpt_demo.modality import Modality, Sampling

if TYPE_CHECKING:
    import torch
    from transformers import EncodecModel

    from anygpt_demo.checkpoints import Family
    from anygpt_demo.codecs.wave import WaveStream

MODALITY = Modality(
    name="music",
    kind="audio",
    symbol="🎶",
    marks=("<somu>", "<eomu>"),
    codebook=2048,
    layers=4,
    frames=range(1, 251),
    frame_rate_hz=50.0,
    sample_rate_hz=32_000,
    sampling=Sampling(top_k=200, repetition_penalty=1.15),
    anything="Play some music.",
)
HOP = 640  # samples of one frame
PIECE = 25  # frames of one streamed piece: half a second


@dataclass(frozen=True)
class MusicCodec:
    """EnCodec in both directions. T frames of 20 ms."""

    model: EncodecModel
    modality: Modality = MODALITY
    device: str = "cpu"
    heard_s: float = 5.0  # of a piece that somebody plays to the language model

    @classmethod
    def load(cls, family: Family, device: str = "cpu", heard_s: float | None = None) -> MusicCodec:
        """Load the codec of a family. heard_s: instead of the length that the family's language model is given. Raises BadCheckpoint."""
        from anygpt_demo.checkpoints import load_strict
        from anygpt_demo.models import encodec

        part = family.component("music_codec")
        model = encodec.build(part.config)
        load_strict(model, encodec.with_training_buffers(part.state()), "music_codec")
        return cls(model.to(device), device=device, heard_s=heard_s or float(part.config.get("heard_s", 5.0)))

    def encode(self, media: Audio) -> np.ndarray:
        """The first `heard_s` of mono music at 32 kHz. Returns int64 (T, 4), T = samples / 640 rounded up."""
        import torch

        from anygpt_demo.models import encodec

        if media.rate_hz != self.modality.sample_rate_hz:
            raise ValueError(f"music must come at {self.modality.sample_rate_hz} Hz, not {media.rate_hz}")
        samples = np.ascontiguousarray(media.samples[: int(self.heard_s * media.rate_hz)], np.float32)
        return encodec.encode(self.model, torch.from_numpy(samples)[None, None].to(self.device))[0].cpu().numpy()

    def decode(self, codes: np.ndarray, *, voice: Voice | None = None, seed: int = 0) -> Audio:
        """Codes (T, 4) to 640 T samples at 32 kHz. voice and seed have no effect."""
        import torch

        from anygpt_demo.models import encodec

        wav = encodec.decode(self.model, torch.from_numpy(np.array(codes, np.int64))[None].to(self.device))
        return self._audio(wav)

    def _audio(self, wav: torch.Tensor) -> Audio:
        """wav: float (1, 1, n)."""
        return Audio(np.clip(wav[0, 0].float().cpu().numpy(), -1.0, 1.0), int(self.modality.sample_rate_hz or 0))

    def streamer(self, *, voice: Voice | None = None, seed: int = 0) -> WaveStream:
        """Decodes frames as they come: pieces of half a second, 8 frames behind the codes. Joined they equal decode() within 1e-5."""
        from anygpt_demo.codecs.wave import WaveStream

        def vectors(codes: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model.quantizer.decode(codes.T[:, None].to(self.device))
            return found

        return WaveStream(vectors, self.model.decoder.layers, HOP, int(self.modality.sample_rate_hz or 0), PIECE, PIECE)

    def layers(self, codes: np.ndarray, count: int) -> Audio:
        """Codes (T, 4) to sound, through the first `count` codebooks only."""
        return self.decode(np.asarray(codes)[:, :count])

    def stream(self, codes: Iterable[np.ndarray], *, voice: Voice | None = None, seed: int = 0) -> Iterator[Audio]:
        """The pieces of streamer() for codes that arrive one by one."""
        streamer = self.streamer()
        for frame in codes:
            yield from streamer.feed(frame)
        yield from streamer.finish()
