"""Small helpers that make a person's material better before a model sees it. Torch-free."""

from __future__ import annotations

import numpy as np

from anygpt_demo.errors import BadAudio
from anygpt_demo.media import Audio

FRAME_S = 0.04
HOP_S = 0.02
BLOCK = 1000  # frames looked at together
PITCH_HZ = (60.0, 400.0)  # range of human voices
VOICED = 0.45  # least normalised autocorrelation peak of a voiced frame
FULL_SCALE = 0.985  # samples beyond this count as clipped
PEAK = 0.7
PROMPT_S = 3.0  # of a voice prompt are used, as in the paper
SHORTEST_PROMPT_S = 1.0


def _frames(audio: Audio) -> np.ndarray:
    """Overlapping frames: float64 (frames, samples of FRAME_S), one every HOP_S."""
    size, hop = round(FRAME_S * audio.rate_hz), round(HOP_S * audio.rate_hz)
    samples = audio.samples.astype(np.float64)
    samples = np.pad(samples, (0, max(0, size - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]


def voicing(frames: np.ndarray, rate_hz: int) -> np.ndarray:
    """How periodic each frame is at the pitch of a voice: (frames,) in [0, 1], the normalised autocorrelation peak."""
    centred = frames - frames.mean(1, keepdims=True)
    size = frames.shape[1]
    spectrum = np.fft.rfft(centred, 2 * size)
    correlation = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[:, :size]
    low, high = int(rate_hz / PITCH_HZ[1]), min(size - 1, int(rate_hz / PITCH_HZ[0]))
    taper = size / (size - np.arange(low, high + 1))  # fewer samples overlap at longer lags
    peak = (correlation[:, low : high + 1] * taper).max(1)
    return np.clip(peak / np.maximum(correlation[:, 0], 1e-9), 0.0, 1.0)


def frame_scores(audio: Audio) -> np.ndarray:
    """How well each 20 ms shows a voice: loud above the floor and voiced is good, clipped is bad. (frames,)."""
    every = _frames(audio)
    parts = []
    for start in range(0, len(every), BLOCK):  # a long recording is not held frame by frame all at once
        frames = every[start : start + BLOCK]
        parts.append((np.mean(frames**2, axis=1), (np.abs(frames) >= FULL_SCALE).mean(1), voicing(frames, audio.rate_hz) > VOICED))
    power, clipped, voiced = (np.concatenate(column) for column in zip(*parts, strict=True))
    level_db = 10 * np.log10(power + 1e-10)
    floor_db = max(float(np.percentile(level_db, 10)), -70.0)
    loud = np.clip((level_db - floor_db) / 30.0, 0.0, 1.0)
    steady = np.exp(-np.abs(np.diff(level_db, prepend=level_db[:1])) / 20.0)
    return loud * voiced * steady - 20.0 * clipped + 0.1 * loud


def best_prompt(audio: Audio, seconds: float = PROMPT_S) -> Audio:
    """The `seconds` of a recording that show a voice best: loud, steady, voiced and not clipped; peak set to 0.7.

    A shorter recording comes back whole. Equal input gives equal output; of equally good places the first is taken.
    """
    return prompt_at(audio, best_start(audio, seconds), seconds)


def best_start(audio: Audio, seconds: float = PROMPT_S) -> int:
    """Where the best `seconds` begin: a sample number, 0 for a shorter recording."""
    length = round(seconds * audio.rate_hz)
    if len(audio.samples) <= length:
        return 0
    scores = frame_scores(audio)
    wide = max(1, min(len(scores), round(seconds / HOP_S)))
    sums = np.convolve(scores, np.ones(wide), "valid")
    best = int(np.argmax(sums > sums.max() - 1e-9))
    return min(best * round(HOP_S * audio.rate_hz), len(audio.samples) - length)


def prompt_at(audio: Audio, start: int, seconds: float = PROMPT_S) -> Audio:
    """The `seconds` from sample `start` on, or the last ones there are; peak set to 0.7."""
    length = round(seconds * audio.rate_hz)
    start = max(0, min(start, len(audio.samples) - length))
    samples = np.asarray(audio.samples, np.float32)[start : start + length]
    peak = float(np.abs(samples).max(initial=0.0))
    return Audio(samples * (PEAK / peak) if peak > 1e-4 else samples.copy(), audio.rate_hz)


def voice_prompt(audio: Audio, seconds: float = PROMPT_S) -> Audio:
    """best_prompt() of a recording that somebody offers as a voice. Raises BadAudio if it is too short."""
    return best_prompt(long_enough(audio), seconds)


def long_enough(audio: Audio) -> Audio:
    """The same recording. Raises BadAudio if it is too short for a voice."""
    if audio.seconds < SHORTEST_PROMPT_S:
        cause = f"It has {audio.seconds:.1f} s; a voice needs at least {SHORTEST_PROMPT_S:g} s, better {PROMPT_S:g}."
        raise BadAudio("This recording is too short for a voice.", cause, "Record a sentence or two.")
    return audio
