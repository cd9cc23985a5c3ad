"""An inaudible mark in generated sound: a fixed pattern of half a decibel up and down over time and frequency.

It says "made by anygpt_demo" and nothing about anybody. It survives 16-bit files, a change of level and cutting; it needs
a second or more of sound to be found, and whoever wants to remove it can.
"""

from __future__ import annotations

import numpy as np

from anygpt_demo.media import Audio

SIZE = 1024  # samples of a frame, at any rate
HOP = SIZE // 2
BAND = 4  # spectral lines that go up or down together
LINES = (8, 392)  # of the spectrum that carry the mark
TURN = 8  # frames after which the pattern repeats
DEPTH = 0.08  # nepers, 0.7 dB
KEY = 0xA17
FOUND = 6.0  # standard deviations: among sounds without a mark about one in ten million is as high


def pattern() -> np.ndarray:
    """The mark: float64 (TURN, bands) of -1 and 1."""
    bands = (LINES[1] - LINES[0]) // BAND
    return np.random.Generator(np.random.PCG64(KEY)).integers(0, 2, (TURN, bands)) * 2.0 - 1.0


def _window() -> np.ndarray:
    return np.sin(np.pi * (np.arange(SIZE) + 0.5) / SIZE)  # squared and overlapped by half, it sums to one


def embed(audio: Audio) -> Audio:
    """The same sound with the mark; nothing louder than 1 comes out."""
    count = len(audio.samples)
    frames = -(-count // HOP) + 1
    padded = np.zeros((frames + 1) * HOP)
    padded[HOP : HOP + count] = audio.samples
    window, gains = _window(), np.ones((TURN, SIZE // 2 + 1))
    gains[:, LINES[0] : LINES[1]] = np.exp(DEPTH * np.repeat(pattern(), BAND, axis=1))
    pieces = np.lib.stride_tricks.sliding_window_view(padded, SIZE)[::HOP] * window
    spectra = np.fft.rfft(pieces) * gains[np.arange(len(pieces)) % TURN]
    marked = np.zeros_like(padded)
    for number, piece in enumerate(np.fft.irfft(spectra, SIZE) * window):
        marked[number * HOP : number * HOP + SIZE] += piece
    return Audio(np.clip(marked[HOP : HOP + count], -1.0, 1.0).astype(np.float32), audio.rate_hz)


def score(audio: Audio) -> float:
    """How strongly the mark is there, in standard deviations: about 0 without it, more than FOUND with it."""
    wanted = _flat(pattern())
    best = 0.0
    for shift in range(0, HOP, 64):
        samples = audio.samples[shift:]
        if len(samples) < SIZE:
            break
        pieces = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), SIZE)[::HOP] * _window()
        power = np.abs(np.fft.rfft(pieces)[:, LINES[0] : LINES[1]]) ** 2
        bands = power.reshape(len(pieces), -1, BAND).mean(2)
        loud = bands.mean(1) > 1e-10
        levels = np.clip(_flat(0.5 * np.log(bands + 1e-12)), -1.5, 1.5) * loud[:, None]
        noise = float(np.sqrt((levels**2).sum() * (wanted**2).mean())) + 1e-9
        for turn in range(TURN):
            best = max(best, float((levels * wanted[(np.arange(len(levels)) + turn) % TURN]).sum()) / noise)
    return best


def _flat(levels: np.ndarray) -> np.ndarray:
    """Levels (frames, bands) against the mean of their eight neighbours in frequency."""
    kernel = np.full(9, -1 / 8.0)
    kernel[4] = 1.0
    padded = np.pad(levels, ((0, 0), (4, 4)), mode="reflect")
    return np.apply_along_axis(lambda row: np.convolve(row, kernel, "valid"), 1, padded)
