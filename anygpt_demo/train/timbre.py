"""The timbre of a voice as acoustic codes that stand still.

Frame by frame the acoustic codes of a small codec tell the phase of a voice, which nobody can foresee; their mean over a few seconds tells
who speaks (of 19 unknown people .63 are recognised by it). So what a cloned voice is given are the codes of that mean, enlarged to the
size of the code vectors and the same in every frame. SoundStorm learns to find it behind a prompt, the decoder to speak with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from anygpt_demo.models.speechtokenizer import ResidualQuantizer
from anygpt_demo.train.speech_data import HOP, Clip, SpeechSet

GAIN = 3.0  # the mean of frames is small beside the code vectors; of 2, 3, 4 and 6 it survives coding best with 3 and 4
LOUD = 0.25  # share of a clip's mean level from which a frame counts
ONE_EACH = ("pico_intent", "librispeech_clean251")  # sources with one recording of each speaker
SETS = ("synth0", "human")
OWN_VOICE = "slt"  # mini's standard voice
SHORTEST = 60  # frames of a clip that is used


def mean_vector(codes: np.ndarray, wave: np.ndarray, books: np.ndarray) -> np.ndarray:
    """Mean acoustic vector of the loud frames. codes: (T, 8), wave: (n,), books: (8, K, d). Returns float32 (d,)."""
    frames = min(len(codes), len(wave) // HOP)
    level = np.sqrt(np.square(wave[: frames * HOP].reshape(frames, HOP)).mean(1))
    loud = codes[:frames][level >= LOUD * level.mean()]
    vectors = sum(books[number][loud[:, number]] for number in range(1, books.shape[0]))
    return np.asarray(vectors.mean(0), np.float32) if len(loud) else np.zeros(books.shape[2], np.float32)


def codes_of(vectors: Tensor, quantizer: ResidualQuantizer) -> tuple[Tensor, Tensor]:
    """Mean vectors (B, d) to acoustic codes int64 (B, levels) and what they add up to, (B, d)."""
    codes, parts = quantizer.quantize(GAIN * vectors[..., None], len(quantizer.codebooks), 1)
    return codes[..., 0].T, torch.stack(parts).sum(0)[..., 0]


class Timbres:
    """Training clips with their timbre, by voice."""

    def __init__(self, sets: Mapping[str, SpeechSet], quantizer: ResidualQuantizer) -> None:
        """Reads the codes on disk, which must be of this quantizer."""
        self.sets = {name: sets[name] for name in SETS if name in sets}
        books = torch.stack([book.embed for book in quantizer.codebooks]).numpy()
        self.voices: dict[str, dict[str, list[tuple[Clip, np.ndarray]]]] = {}  # source -> voice -> clips
        for home in self.sets.values():
            if home.codes is None:
                continue
            for number, clip in enumerate(home.split("train")):
                if not home.coded(clip) or clip.frames < SHORTEST or clip.source == "pico_wake":
                    continue
                codes = np.asarray(home.codes[clip.frames_start : clip.frames_start + clip.frames], np.int64)
                source = clip.source if home.folder.name == "human" else "standard" if clip.voice == OWN_VOICE else "synthetic"
                voice = f"{number}" if source in ONE_EACH else clip.voice
                vector = mean_vector(codes, home.wave(clip), books)
                self.voices.setdefault(source, {}).setdefault(voice, []).append((clip, vector))

    def draw(self, rng: np.random.Generator, shares: Mapping[str, float]) -> tuple[Clip, np.ndarray]:
        """A clip, and the timbre of its voice: of all clips of that voice (of the only one, if there is one)."""
        names = [name for name in shares if name in self.voices]
        weights = np.array([shares[name] for name in names])
        groups = self.voices[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
        clips = list(groups.values())[int(rng.integers(len(groups)))]
        chosen = clips[int(rng.integers(len(clips)))]
        return chosen[0], np.mean([vector for _, vector in few(clips, rng)], 0)


def few(clips: Sequence[tuple[Clip, np.ndarray]], rng: np.random.Generator, most: int = 20) -> list[tuple[Clip, np.ndarray]]:
    """At most so many of them, at random."""
    return [clips[number] for number in rng.permutation(len(clips))[:most]]
