"""Encode whole sets of speech with the frozen codec.

    python -m anygpt_demo.train.speech_codes --set runs/data/speech/synth1 --family runs/family/mini
    python -m anygpt_demo.train.speech_codes --set runs/data/speech/synth1 --family runs/family/mini --augmented 1

writes codes.u16 beside the set: uint16 (frames, 8), frames in the order of phones.u8, so that a clip's codes are rows
frames_start .. frames_start + frames. With --augmented N: codes_augN.u16, uint16 (frames, 1), level 1 of a disturbed copy of each clip
(another voice, equaliser, noise, level; in the time of the original). The work lies in a .part file until it is complete and is taken up
again where it stopped; a set that has grown is completed.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.speech import SpeechCodec
from anygpt_demo.train.speech_data import Clip, SpeechSet

LEVELS = 8
WINDOW = 200  # clips per piece


OTHER_VOICE = (0.6, 0.16)  # share of disturbed copies that are played at another speed, and the most, as a logarithm


def disturbed(wave: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Another voice at another microphone: playing speed, equaliser, level, noise. Returns float32 (n / speed,) and the speed."""
    share, most = OTHER_VOICE
    speed = math.exp(rng.uniform(-most, most)) if rng.random() < share else 1.0
    wave = np.interp(np.arange(int(len(wave) / speed)) * speed, np.arange(len(wave)), wave)
    spectrum = np.fft.rfft(wave)
    curve = np.interp(np.linspace(0, 5, len(spectrum)), range(6), rng.normal(0, 4, 6))  # dB
    wave = np.fft.irfft(spectrum * 10 ** (curve / 20), len(wave))
    wave = wave * rng.uniform(0.25, 0.9) / (np.abs(wave).max() + 1e-3)
    return (wave + rng.normal(0, 10 ** rng.uniform(-3.5, -2.0), len(wave))).astype(np.float32), speed


def disturbed_codes(codec: SpeechCodec, wave: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Level 1 of a disturbed copy, at the frames of the original: int64 (frames, 1). wave: float32 (n,)."""
    copied, speed = disturbed(wave, rng)
    with torch.inference_mode():
        codes = codec.tokenizer.encode(torch.from_numpy(copied)[None, None], 1)[0, 0].numpy()
    rows = ((np.arange(frames) + 0.5) / speed).astype(int).clip(max=len(codes) - 1)
    return codes[rows][:, None]


def window_codes(codec: SpeechCodec, home: SpeechSet, clips: list[Clip], augmented: int) -> bytes:
    """Codes of some clips, one after another, uint16 (frames, levels). Clips of one length go through the encoder together."""
    if augmented:
        made = [disturbed_codes(codec, home.wave(c), c.frames, np.random.default_rng([augmented, c.start])) for c in clips]
        return b"".join(rows.astype("<u2").tobytes() for rows in made)
    found: list[np.ndarray] = [np.empty(0)] * len(clips)
    by_length: dict[int, list[int]] = {}
    for number, clip in enumerate(clips):
        by_length.setdefault(clip.samples, []).append(number)
    for numbers in by_length.values():
        for start in range(0, len(numbers), 4):
            part = numbers[start : start + 4]
            waves = [home.wave(clips[number]) for number in part]
            with torch.inference_mode():
                codes = codec.tokenizer.encode(torch.from_numpy(np.stack(waves))[:, None], LEVELS).permute(1, 2, 0)
            for number, rows in zip(part, codes.numpy(), strict=True):
                rows = rows[: clips[number].frames]
                found[number] = np.pad(rows, ((0, clips[number].frames - len(rows)), (0, 0)), mode="edge").astype("<u2")
    return b"".join(rows.tobytes() for rows in found)


def encode_set(folder: Path, codec: SpeechCodec, augmented: int = 0) -> int:
    """Write or complete the codes of a set. Returns the number of frames. Clips lie in index order without gaps."""
    home = SpeechSet(folder)
    levels = 1 if augmented else LEVELS
    path = folder / (f"codes_aug{augmented}.u16" if augmented else "codes.u16")
    part = path.with_suffix(".u16.part")
    if path.is_file() and not part.is_file():
        shutil.copy(path, part)
    done = part.stat().st_size // (2 * levels) if part.is_file() else 0
    starts = sorted({0, *(clip.frames_start for clip in home.clips), sum(clip.frames for clip in home.clips)})
    done = max(start for start in starts if start <= done)  # a kill may have cut the last clip
    with part.open("r+b" if part.is_file() else "wb") as file:
        file.truncate(done * levels * 2)
        file.seek(0, 2)
        waiting = [clip for clip in home.clips if clip.frames_start >= done]
        for number in range(0, len(waiting), WINDOW):
            file.write(window_codes(codec, home, waiting[number : number + WINDOW], augmented))
            file.flush()
            print(f"{folder.name}: {len(waiting) - number} clips to go", file=sys.stderr, flush=True)
    part.replace(path)
    return starts[-1]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True, action="append", help="folder of a set; may be given more than once")
    parser.add_argument("--family", type=Path, default=Path("runs/family/mini"))
    parser.add_argument("--augmented", type=int, default=0, help="number of the disturbed copy; 0: the clips as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = SpeechCodec.load(Family.open(arguments.family))
    for folder in arguments.set:
        encode_set(folder, codec, arguments.augmented)


if __name__ == "__main__":
    main()
