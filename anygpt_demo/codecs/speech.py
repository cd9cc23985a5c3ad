"""Speech: 50 semantic codes per second (level 1 of SpeechTokenizer); the voice is added when it is spoken."""

from __future__ import annotations

import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anygpt_demo.media import Audio, Voice
from anygpt_demo.modality import Modality, Sampling

if TYPE_CHECKING:
    import torch

    from anygpt_demo.checkpoints import Family
    from anygpt_demo.codecs.base import Rendering
    from anygpt_demo.models.soundstorm import SoundStorm
    from anygpt_demo.models.speechtokenizer import SpeechTokenizer

MODALITY = Modality(
    name="speech",
    kind="audio",
    symbol="🗣\ufe0f",
    marks=("<sosp>", "<eosp>"),
    codebook=1024,
    layers=1,
    frames=range(1, 1501),
    frame_rate_hz=50.0,
    sample_rate_hz=16_000,
    sampling=Sampling(top_p=0.7),
)
VOICES = Path(__file__).resolve().parents[2] / "assets" / "voices"
DEFAULT_VOICE = "slt"
PROMPT_FRAMES = 150  # 3 s of the voice prompt are used, as in the paper's demo of SoundStorm


def built_in_voice(name: str = DEFAULT_VOICE) -> Voice:
    """A voice that comes with the program: assets/voices/<name>.wav, 16 kHz mono."""
    with wave.open(str(VOICES / f"{name}.wav"), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return Voice(name, Audio(samples.astype(np.float32) / 32768, file.getframerate()))


@dataclass(frozen=True)
class SpeechCodec:
    """SpeechTokenizer for both directions and SoundStorm for the voice. T frames of 20 ms.

    Without a SoundStorm the level-1 codes are spoken alone: intelligible, in nobody's voice.
    """

    tokenizer: SpeechTokenizer
    soundstorm: SoundStorm | None
    modality: Modality = MODALITY
    steps: int = 8  # passes over level 2
    clean: bool = True  # sample as the small network was trained; False: the published procedure, pass for pass
    device: str = "cpu"

    @classmethod
    def load(cls, family: Family, device: str = "cpu") -> SpeechCodec:
        """Load both models of a family. Raises BadCheckpoint.

        On a GPU SoundStorm is kept in half precision; the tokenizer is not: its codes are nearest neighbours, and rounding flips some.
        """
        import torch

        from anygpt_demo.checkpoints import assemble
        from anygpt_demo.models.soundstorm import SoundStorm
        from anygpt_demo.models.speechtokenizer import SpeechTokenizer, with_training_buffers

        part = family.component("speech_tokenizer")
        state = with_training_buffers(part.state(device, torch.float32))
        tokenizer = assemble(lambda: SpeechTokenizer(part.config), state, "speech_tokenizer")
        soundstorm, clean, steps = None, True, 8
        if family.has("soundstorm"):
            part = family.component("soundstorm")
            config, dtype = part.config, torch.float32 if device == "cpu" else torch.float16
            soundstorm = assemble(lambda: SoundStorm(config), part.state(device, dtype), "soundstorm")
            clean, steps = bool(part.config.get("clean", family.name == "mini")), int(part.config.get("steps", 8))
        return cls(tokenizer.to(device).fold(), soundstorm, steps=steps, clean=clean, device=device)

    def tuned(self, rendering: Rendering) -> SpeechCodec:
        """The same networks with another number of SoundStorm's steps."""
        return replace(self, steps=rendering.voice_steps or self.steps)

    def encode_all(self, audio: Audio) -> np.ndarray:
        """All levels of 16 kHz speech. Returns int64 (8, T), T = samples / 320 rounded up."""
        import torch

        if audio.rate_hz != self.modality.sample_rate_hz:
            raise ValueError(f"speech must come at {self.modality.sample_rate_hz} Hz, not {audio.rate_hz}")
        with torch.inference_mode():
            wav = torch.from_numpy(np.ascontiguousarray(audio.samples, np.float32)).to(self.device)
            return self.tokenizer.encode(wav[None, None])[:, 0].cpu().numpy()

    def encode(self, media: Audio) -> np.ndarray:
        """Speech at 16 kHz to its semantic codes, int64 (T, 1)."""
        return self.encode_all(media)[:1].T.copy()

    def decode(self, codes: np.ndarray, *, voice: Voice | None = None, seed: int = 0) -> Audio:
        """Semantic codes (T, 1) spoken in a voice (the built-in one if None). Returns T * 320 samples at 16 kHz."""
        import torch

        with torch.inference_mode():
            levels = torch.from_numpy(np.asarray(codes, np.int64).T.copy()).to(self.device)[:, None]
            if self.soundstorm is not None:
                levels = self._fill(self.soundstorm, levels[0], voice or built_in_voice(), seed)
            samples = self.tokenizer.decode(levels)[0, 0].float().cpu().numpy()
        return Audio(np.clip(samples, -1.0, 1.0), self.tokenizer.sample_rate)

    def _fill(self, soundstorm: SoundStorm, semantic: torch.Tensor, voice: Voice, seed: int) -> torch.Tensor:
        """All levels from level 1. semantic: int64 (1, T). Returns int64 (8, 1, T)."""
        import torch

        from anygpt_demo.models.soundstorm import gumbel

        prompt = torch.from_numpy(self.encode_all(voice.audio)[:, :PROMPT_FRAMES].T.copy()).to(self.device)[None]
        generator = torch.Generator(self.device).manual_seed(seed)
        if self.clean:
            vectors = torch.stack([book.embed for book in self.tokenizer.quantizer.codebooks[1 : soundstorm.levels + 1]])
            full = soundstorm.generate_clean(semantic, prompt, self.steps, generator=generator, vectors=vectors)
        else:
            full = soundstorm.generate(semantic, prompt, self.steps, noise=gumbel(generator))
        return full.permute(2, 0, 1)

    def stream(self, codes: Iterable[np.ndarray], *, voice: Voice | None = None, seed: int = 0) -> Iterator[Audio]:
        """One piece when the block has ended: SoundStorm sees the whole sentence, so no earlier piece would be equal to decode()."""
        frames = [np.asarray(frame, np.int64) for frame in codes]
        if frames:
            yield self.decode(np.stack(frames), voice=voice, seed=seed)
