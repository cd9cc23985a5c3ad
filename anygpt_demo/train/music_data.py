"""Rendered pieces on disk with what their score says about every frame.

<folder>/pieces.jsonl   one Piece a line, captions beside it
<folder>/clips.npy      int16 (n, SAMPLES), mono, 32 kHz
<folder>/labels.npz     Labels, arrays (n, FRAMES)
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anygpt_demo.synth import music
from anygpt_demo.train.loop import Settings

RATE_HZ = 32000
HOP = 640  # samples of one codec frame
SECONDS = 5.0
FRAMES = 250
SAMPLES = FRAMES * HOP
FAMILIES, TEMPOS = tuple(music.FAMILIES), tuple(music.TEMPOS)
KICK, SNARE = (35, 36, 41, 45), (37, 38, 39, 40)  # keys of the General MIDI drum kit; the rest counts as cymbals
BEATS = {"slow": (40, 44, 48, 52), "medium": (30, 32, 34), "fast": (20, 22)}  # frames of a beat, for on_grid()
TEST_SEED = 900_001  # of the pieces that only evaluation uses


@dataclass(frozen=True)
class Labels:
    """What sounds in each 20 ms frame. All arrays (n, FRAMES)."""

    bits: np.ndarray  # uint8: 1 any onset, 2 melody onset, 4 kick, 8 snare, 16 cymbals
    lead: np.ndarray  # uint8: pitch of the melody, 0 none
    chords: np.ndarray  # uint16: bit k = pitch class k sounds in the accompaniment
    bass: np.ndarray  # uint8: pitch of the bass, 0 none


def unpack(packed: Tensor, bits: int) -> Tensor:
    """packed: int64 (B, T). Returns float32 (B, T, bits)."""
    return (packed[..., None] >> torch.arange(bits) & 1).float()


def pitch_class(pitch: Tensor) -> Tensor:
    """pitch: int64 (B, T), 0 none. Returns 0..11, or 12 for none."""
    return torch.where(pitch > 0, pitch % 12, 12)


def label(notes: list[music.Note]) -> Labels:
    """Frame labels of one score, arrays (FRAMES,)."""
    bits, lead, bass = (np.zeros(FRAMES, np.uint8) for _ in range(3))
    chords = np.zeros(FRAMES, np.uint16)
    for note in notes:
        first = min(FRAMES - 1, int(note.start * RATE_HZ / HOP + 1e-6))
        span = slice(first, max(first + 1, int(note.end * RATE_HZ / HOP)))
        onset = slice(first, first + 2)
        bits[onset] |= 1
        if note.channel == 9:
            bits[onset] |= 4 if note.pitch in KICK else 8 if note.pitch in SNARE else 16
        elif note.channel == 0:
            bits[onset] |= 2
            lead[span] = note.pitch
        elif note.channel == 1:
            chords[span] |= 1 << (note.pitch % 12)
        else:
            bass[span] = note.pitch
    return Labels(bits, lead, chords, bass)


def draw(count: int, seed: int, heldout: float = 0.0) -> Iterator[music.Piece]:
    """`count` pieces; a share `heldout` of them uses held-out instrument x genre pairs."""
    rng = random.Random(seed)
    for _ in range(count):
        yield music.sample_piece(rng, heldout=rng.random() < heldout)


def on_grid(piece: music.Piece, rng: random.Random) -> music.Piece:
    """The piece at a tempo of its class whose beats last whole codec frames, played exactly: its codes repeat as its rhythm does."""
    frames = rng.choice(BEATS[piece.tempo])
    return dataclasses.replace(piece, bpm=60 * RATE_HZ / HOP / frames, timing=0.0)


def make(folder: Path, count: int, seed: int, heldout: float = 0.0) -> None:
    """Render `count` pieces into a folder (about .03 CPU seconds each); does nothing if they are there."""
    if (folder / "labels.npz").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    clips = np.lib.format.open_memmap(folder / "clips.npy", "w+", np.int16, (count, SAMPLES))
    rows: list[Labels] = []
    with (folder / "pieces.jsonl").open("w", encoding="utf-8") as file:
        for number, piece in enumerate(draw(count, seed, heldout)):
            notes = music.compose(piece, SECONDS)
            clips[number] = np.round(music.play(notes, piece, SECONDS, RATE_HZ) * 32767).astype(np.int16)
            rows.append(label(notes))
            file.write(json.dumps(dataclasses.asdict(piece)) + "\n")
            if number % 500 == 499:
                print(f"music-data {number + 1} / {count}", file=sys.stderr, flush=True)
    clips.flush()
    arrays = {field.name: np.stack([getattr(row, field.name) for row in rows]) for field in dataclasses.fields(Labels)}
    np.savez(folder / "labels.npz", **arrays)


@dataclass(frozen=True)
class MusicSet:
    """A folder of rendered pieces, opened."""

    clips: np.ndarray  # int16 (n, SAMPLES), memory-mapped
    labels: Labels
    pieces: tuple[music.Piece, ...]

    @classmethod
    def open(cls, folder: Path) -> MusicSet:
        """Open what make() wrote."""
        lines = (folder / "pieces.jsonl").read_text(encoding="utf-8").splitlines()
        with np.load(folder / "labels.npz") as arrays:
            labels = Labels(**{field.name: arrays[field.name] for field in dataclasses.fields(Labels)})
        return cls(np.load(folder / "clips.npy", mmap_mode="r"), labels, tuple(music.Piece(**json.loads(line)) for line in lines))

    def wave(self, number: int, first: int = 0, frames: int = FRAMES) -> np.ndarray:
        """Float32 (frames * HOP,) of a clip, from a frame on."""
        return self.clips[number, first * HOP : (first + frames) * HOP].astype(np.float32) / 32767


def sets(settings: Settings, count: int = 6000, tests: int = 300) -> tuple[MusicSet, MusicSet]:
    """The training and the test set under runs/data/music, made if absent. A third of the tests uses held-out pairs."""
    home = settings.runs / "data" / "music"
    make(home / "train", count, settings.seed)
    make(home / "test", tests, TEST_SEED, heldout=1 / 3)
    return MusicSet.open(home / "train"), MusicSet.open(home / "test")
