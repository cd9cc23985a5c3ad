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


class Marker:
    """Puts the mark into a sound that comes in pieces, and on across them: what comes out, joined, is embed() of the whole.

    A sample is ready when the frames that hold it are: at most SIZE samples are held back until finish().
    """

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.told = 0  # samples that came out
        self._window, self._gains = _window(), np.ones((TURN, SIZE // 2 + 1))
        self._gains[:, LINES[0] : LINES[1]] = np.exp(DEPTH * np.repeat(pattern(), BAND, axis=1))
        self._waiting = np.zeros(HOP)  # samples of the next frame and after: before the sound is silence
        self._half = np.zeros(HOP)  # what the frame before has given to the first half of the next one
        self._frames = 0
        self._count = 0  # samples that came in

    def feed(self, audio: Audio) -> Audio:
        """The next piece; returns what is ready, which may be nothing."""
        self._count += len(audio.samples)
        return self._ready(audio.samples)

    def finish(self) -> Audio:
        """The rest."""
        made = self._ready(np.zeros(SIZE, np.float32)).samples
        rest = made[: len(made) - (self.told - self._count)]
        self.told = self._count
        return Audio(rest, self.rate_hz)

    def _ready(self, samples: np.ndarray) -> Audio:
        waiting = np.concatenate([self._waiting, samples])
        count = max(0, len(waiting) // HOP - 1)
        self._waiting = waiting[count * HOP :]
        if not count:
            return Audio(np.zeros(0, np.float32), self.rate_hz)
        pieces = np.lib.stride_tricks.sliding_window_view(waiting, SIZE)[: count * HOP : HOP] * self._window
        spectra = np.fft.rfft(pieces) * self._gains[np.arange(self._frames, self._frames + count) % TURN]
        marked = np.zeros((count + 1) * HOP)
        marked[:HOP] = self._half
        for number, piece in enumerate(np.fft.irfft(spectra, SIZE) * self._window):
            marked[number * HOP : number * HOP + SIZE] += piece
        self._half = marked[count * HOP :]
        first = HOP if self._frames == 0 else 0  # the silence before the sound
        self._frames += count
        made = np.clip(marked[first : count * HOP], -1.0, 1.0).astype(np.float32)
        self.told += len(made)
        return Audio(made, self.rate_hz)


def embed(audio: Audio) -> Audio:
    """The same sound with the mark; nothing louder than 1 comes out."""
    marker = Marker(audio.rate_hz)
    pieces = [marker.feed(audio), marker.finish()]
    return Audio(np.concatenate([piece.samples for piece in pieces]), audio.rate_hz)


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
