"""Speech: 50 semantic codes per second (level 1 of SpeechTokenizer); the voice is added when it is spoken."""

from __future__ import annotations

import hashlib
import threading
import wave
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
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
    anything="Please say something.",
)
VOICES = Path(__file__).resolve().parents[2] / "assets" / "voices"
DEFAULT_VOICE = "slt"
FIRST = 25  # codes of a piece of sound
OPENING, LATER = 36, 50  # codes that SoundStorm fills at first: a piece, and what the decoder hears ahead of its end; and then
CONTEXT = 50  # frames that were filled before and that the next window sees
PROMPT_FRAMES = 150  # 3 s of the voice prompt are used, as in the paper's demo of SoundStorm
VOICES_KEPT = 8  # whose codes a codec keeps, 10 kB each


def built_in_voice(name: str = DEFAULT_VOICE) -> Voice:
    """A voice that comes with the program: assets/voices/<name>.wav, 16 kHz mono."""
    with wave.open(str(VOICES / f"{name}.wav"), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return Voice(name, Audio(samples.astype(np.float32) / 32768, file.getframerate()))


class Prompts:
    """The codes of the voices that were heard last, by their samples. For all threads."""

    def __init__(self) -> None:
        self._held: dict[bytes, torch.Tensor] = {}  # last used last
        self._lock = threading.Lock()

    def of(self, audio: Audio, encode: Callable[[Audio], torch.Tensor]) -> torch.Tensor:
        """The codes of a voice, as encode(audio) gives them: what is kept, else encoded now."""
        samples = np.ascontiguousarray(audio.samples, np.float32)
        key = hashlib.sha256(samples.tobytes() + str(audio.rate_hz).encode()).digest()
        with self._lock:
            found = self._held.get(key)
        if found is None:
            found = encode(audio)
        with self._lock:
            self._held.pop(key, None)
            self._held[key] = found
            for oldest in list(self._held)[:-VOICES_KEPT]:
                del self._held[oldest]
        return found


def precision(device: str) -> torch.dtype:
    """The type in which SoundStorm computes: on a CPU float32, on a GPU half of it, bfloat16 where the card computes in that."""
    import torch

    if device == "cpu":
        # bfloat16 needs 0.10 s of a thread instead of 0.16 for a sentence of 3 s where the processor has it, but changes an eighth of the
        # codes, a third of those of the last two levels; and other processors only imitate it.
        return torch.float32
    native = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


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
    prompts: Prompts = field(default_factory=Prompts, repr=False, compare=False)  # encoded by this tokenizer

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
            config, dtype = part.config, precision(device)
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
                filler = Filler(self, voice or built_in_voice(), seed)
                whole = levels.shape[-1]
                cuts = [0, *range(OPENING, whole, LATER), whole] if self.clean else [0, whole]
                windows = [filler.fill(levels[0, :, a:b]) for a, b in zip(cuts, cuts[1:], strict=False) if a < b]
                levels = torch.cat(windows, 1).permute(2, 0, 1)
            samples = self.tokenizer.decode(levels)[0, 0].float().cpu().numpy()
        return Audio(np.clip(samples, -1.0, 1.0), self.tokenizer.sample_rate)

    def prompt(self, voice: Voice) -> torch.Tensor:
        """The codes of a voice's first seconds, int64 (1, p, 8). They are kept for the next reply in the same voice."""
        import torch

        def encode(audio: Audio) -> torch.Tensor:
            return torch.from_numpy(self.encode_all(audio)[:, :PROMPT_FRAMES].T.copy()).to(self.device)[None]

        return self.prompts.of(voice.audio, encode)

    def fill(self, semantic: torch.Tensor, prompt: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """All levels of semantic codes int64 (1, T) in the voice of a prompt int64 (1, p, 8). Returns int64 (1, T, 8)."""
        import torch

        from anygpt_demo.models.soundstorm import gumbel

        soundstorm = self.soundstorm
        assert soundstorm is not None
        if not self.clean:
            return soundstorm.generate(semantic, prompt, self.steps, noise=gumbel(generator))
        vectors = torch.stack([book.embed for book in self.tokenizer.quantizer.codebooks[1 : soundstorm.levels + 1]])
        return soundstorm.generate_clean(semantic, prompt, vectors, self.steps)

    def streamer(self, *, voice: Voice | None = None, seed: int = 0) -> SpeechStream:
        """Speaks codes as they come. Without a SoundStorm the pieces joined equal decode() within 1e-5."""
        return SpeechStream(self, voice or built_in_voice(), seed)

    def layers(self, audio: Audio, count: int) -> Audio:
        """16 kHz speech through the first `count` of the eight levels."""
        import torch

        with torch.inference_mode():
            levels = torch.from_numpy(self.encode_all(audio)[:count]).to(self.device)[:, None]
            samples = self.tokenizer.decode(levels)[0, 0].float().cpu().numpy()
        return Audio(np.clip(samples, -1.0, 1.0), self.tokenizer.sample_rate)

    def stream(self, codes: Iterable[np.ndarray], *, voice: Voice | None = None, seed: int = 0) -> Iterator[Audio]:
        """The pieces of streamer() for codes that arrive one by one."""
        streamer = self.streamer(voice=voice, seed=seed)
        for frame in codes:
            yield from streamer.feed(frame)
        yield from streamer.finish()


class Filler:
    """SoundStorm on one window of semantic codes after another, in one voice.

    A window is filled after the voice prompt and the last CONTEXT frames that were filled, which stay as they are; so the voice
    goes on where it was, and the waveform is that of one line of codes. Of the prompt its codes can be kept, not what a pass computes
    for it: attention and convolution look both ways, so its frames change with every code that is filled after them.
    """

    def __init__(self, codec: SpeechCodec, voice: Voice, seed: int) -> None:
        import torch

        self.codec = codec
        self.generator = torch.Generator(codec.device).manual_seed(seed)
        with torch.inference_mode():
            self.prompt = codec.prompt(voice)
        self.recent = self.prompt[:, :0]

    def fill(self, semantic: torch.Tensor) -> torch.Tensor:
        """All levels of the next codes. int64 (1, n) -> (1, n, 8)."""
        import torch

        with torch.inference_mode():
            filled = self.codec.fill(semantic, torch.cat([self.prompt, self.recent], 1), self.generator)
            self.recent = torch.cat([self.recent, filled], 1)[:, -CONTEXT:]
        return filled


class SpeechStream:
    """Speech while its codes still arrive: SoundStorm fills windows of codes, the decoder runs on without a seam.

    The pieces joined are what decode() gives; only the published way of sampling fills a whole sentence at once there, and gives other
    codes of the same voice. They too are one line of codes for the decoder: where windows meet, level and steps are as anywhere else.
    """

    def __init__(self, codec: SpeechCodec, voice: Voice, seed: int) -> None:

        from anygpt_demo.codecs.wave import WaveStream

        self.codec = codec
        self.filler = None if codec.soundstorm is None else Filler(codec, voice, seed)
        self.waiting: list[np.ndarray] = []
        self.window = OPENING
        tokenizer = codec.tokenizer

        def vectors(codes: torch.Tensor) -> torch.Tensor:
            return tokenizer.quantizer.decode(codes.T[:, None].to(codec.device))

        self.wave = WaveStream(vectors, list(tokenizer.decoder.model), tokenizer.hop, tokenizer.sample_rate, FIRST, FIRST)

    def feed(self, frame: np.ndarray) -> list[Audio]:
        """One more semantic code, int64 (1,); the sound that it completes."""
        self.waiting.append(np.asarray(frame, np.int64).reshape(-1))
        if self.filler is None:
            return self.wave.feed(self.waiting.pop())
        return self._fill() if len(self.waiting) >= self.window else []

    def finish(self) -> list[Audio]:
        """The rest."""
        return [*(self._fill() if self.waiting else []), *self.wave.finish()]

    def _fill(self) -> list[Audio]:
        """Fill what waits and decode it."""
        import torch

        assert self.filler is not None
        filled = self.filler.fill(torch.from_numpy(np.concatenate(self.waiting)).to(self.codec.device)[None])
        self.waiting, self.window = [], LATER
        return [piece for frame in filled[0].cpu().numpy() for piece in self.wave.feed(frame)]
