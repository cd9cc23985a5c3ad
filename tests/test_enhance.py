"""The best seconds of a recording."""

from __future__ import annotations

import numpy as np
import pytest

from anygpt_demo.enhance import PEAK, best_prompt, voice_prompt
from anygpt_demo.errors import BadAudio
from anygpt_demo.media import Audio

RATE = 16_000


def hum(seconds: float, level: float, pitch: float = 140.0) -> np.ndarray:
    """A voice-like sound: harmonics of a wavering pitch."""
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * pitch * (time + 0.01 * np.sin(2 * np.pi * 3 * time) / 3)
    return (level * sum(np.sin(number * phase) / number for number in range(1, 6)) / 2).astype(np.float32)


def hiss(seconds: float, level: float) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def where(whole: np.ndarray, part: Audio) -> float:
    """Second at which a cut begins, found by its shape."""
    cut = part.samples[:4000]

    def likeness(place: int) -> float:
        piece = whole[place : place + 4000]
        return float(np.dot(piece, cut)) / (float(np.linalg.norm(piece)) + 1e-6)

    return max(range(0, len(whole) - 4000, 320), key=likeness) / RATE


def test_a_voice_is_preferred_to_silence_and_noise() -> None:
    whole = np.concatenate([hiss(3, 0.001), hiss(3, 0.15), hum(3, 0.3), hiss(3, 0.001)])
    found = best_prompt(Audio(whole, RATE))
    assert len(found.samples) == 3 * RATE
    assert abs(where(whole, found) - 6.0) < 0.3


def test_clipped_speech_is_avoided() -> None:
    clipped = np.clip(hum(4, 5.0), -1, 1)
    whole = np.concatenate([clipped, hiss(0.5, 0.001), hum(4, 0.3)])
    found = best_prompt(Audio(whole, RATE))
    assert where(whole, found) > 4.0


def test_the_level_is_set_and_the_input_untouched() -> None:
    samples = hum(5, 0.05)
    before = samples.copy()
    found = best_prompt(Audio(samples, RATE), 2.0)
    assert np.abs(found.samples).max() == pytest.approx(PEAK, rel=1e-3)
    assert found.samples.dtype == np.float32
    assert np.array_equal(samples, before)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.5, 2.999])
def test_a_short_recording_comes_back_whole(seconds: float) -> None:
    samples = hum(seconds, 0.3)
    assert len(best_prompt(Audio(samples, RATE)).samples) == len(samples)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_other_rates_and_silence(rate: int) -> None:
    found = best_prompt(Audio(np.zeros(5 * rate, np.float32), rate))
    assert len(found.samples) == 3 * rate
    assert not found.samples.any()


def test_a_voice_needs_a_second() -> None:
    with pytest.raises(BadAudio, match="too short"):
        voice_prompt(Audio(hum(0.9, 0.3), RATE))
    assert len(voice_prompt(Audio(hum(4, 0.3), RATE)).samples) == 3 * RATE
