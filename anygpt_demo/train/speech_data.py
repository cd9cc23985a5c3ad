"""Speech on disk for training: folders of concatenated clips, read through memory maps.

runs/data/speech/<set>/audio.i16    int16, 16 kHz, clips one after another
runs/data/speech/<set>/phones.u8    phone class of each 20 ms frame (255: unknown), ceil(samples / 320) per clip
runs/data/speech/<set>/index.json   [{"start", "samples", "frames_start", "frames", "text", "voice", "source", "split"}, ...]
runs/data/speech/<set>/codes.u16    once the codec is frozen: 8 codes per frame, frames as in phones.u8
runs/data/speech/<set>/words.u16    where each word ends (word_spans.py)
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RATE_HZ = 16_000
HOP = 320  # samples per frame
PHONES = 41  # classes of phones.u8
UNKNOWN = 255


@dataclass(frozen=True)
class Clip:
    """Where one clip lies in its set, and what is known about it."""

    set: str
    start: int  # in audio.i16
    samples: int
    frames_start: int  # in phones.u8 and codes.u16
    frames: int
    text: str
    voice: str
    source: str
    split: str  # "train", "test", ...


class SpeechSet:
    """One folder of clips."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys = Clip.__dataclass_fields__.keys() - {"set"}
        rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.audio = np.memmap(folder / "audio.i16", np.int16, "r")
        self.phones = np.memmap(folder / "phones.u8", np.uint8, "r")
        clips = [Clip(set=folder.name, **{key: row[key] for key in keys}) for row in rows]
        complete = (len(self.audio), len(self.phones))  # a set may still be growing
        path = folder / "codes.u16"
        self.codes = np.memmap(path, "<u2", "r", shape=(path.stat().st_size // 16, 8)) if path.is_file() and path.stat().st_size else None
        self.clips = [c for c in clips if c.start + c.samples <= complete[0] and c.frames_start + c.frames <= complete[1]]

    def coded(self, clip: Clip) -> bool:
        """Whether the codes of a clip are there."""
        return self.codes is not None and clip.frames_start + clip.frames <= len(self.codes)

    def split(self, name: str) -> list[Clip]:
        """The clips of one split."""
        return [clip for clip in self.clips if clip.split == name]

    def wave(self, clip: Clip, first: int = 0, frames: int | None = None) -> np.ndarray:
        """float32 samples in [-1, 1] from frame `first` on, `frames` frames or to the end of the clip."""
        end = clip.samples if frames is None else min(clip.samples, (first + frames) * HOP)
        return np.asarray(self.audio[clip.start + first * HOP : clip.start + end], np.float32) / 32768

    def labels(self, clip: Clip, first: int = 0, frames: int | None = None) -> np.ndarray:
        """int64 phone classes, -1 where unknown."""
        end = clip.frames if frames is None else min(clip.frames, first + frames)
        raw = np.asarray(self.phones[clip.frames_start + first : clip.frames_start + end], np.int64)
        return np.where(raw == UNKNOWN, -1, raw)


def open_sets(folder: Path) -> dict[str, SpeechSet]:
    """Every finished set below a folder (its index.json is written last), by name."""
    return {path.parent.name: SpeechSet(path.parent) for path in sorted(folder.glob("*/index.json"))}


def disturb(
    wave: np.ndarray, phones: np.ndarray, rng: np.random.Generator, frames: int, speed: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Another speaker, room and microphone: resampled (pitch, tempo, formants to 16 %), equalised, scaled; only the heard one is noisy.

    wave: (m,), phones: (m / HOP rounded up,). speed: of playing, drawn if None.
    Returns heard (frames * HOP,), clean of the same shape and phones (frames,).
    """
    n = frames * HOP
    ratio = speed or (math.exp(rng.uniform(-0.15, 0.15)) if rng.random() < 0.6 else 1.0)
    need = math.ceil(n * ratio) + 1
    wave = np.pad(wave, (0, max(0, need - len(wave))))[:need]
    phones = np.pad(phones, (0, max(0, math.ceil(need / HOP) - len(phones))), constant_values=-1)
    clean = np.interp(np.arange(n) * ratio, np.arange(need), wave) if ratio != 1 else wave[:n]
    labels = phones[((np.arange(frames) + 0.5) * ratio).astype(int)]
    spectrum = np.fft.rfft(clean)
    curve = np.interp(np.linspace(0, 5, len(spectrum)), range(6), rng.normal(0, 4, 6))  # dB
    clean = np.fft.irfft(spectrum * 10 ** (curve / 20), n)
    peak = np.abs(clean).max()
    if peak > 0.02:
        clean = clean * rng.uniform(0.25, 0.9) / peak
    level = rng.uniform(-3.5, -1.9) if rng.random() < 0.4 else -3.7  # log10 of the noise's deviation; never exact zeros
    heard = clean + rng.normal(0, 10**level, n)
    return heard.astype(np.float32), clean.astype(np.float32), labels
