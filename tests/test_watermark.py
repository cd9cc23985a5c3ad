"""The mark in generated sound: there, not heard, not found where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from anygpt_demo import watermark
from anygpt_demo.chat import write_file
from anygpt_demo.codecs.speech import built_in_voice
from anygpt_demo.media import Audio, read_audio


@pytest.fixture(scope="module")
def spoken() -> Audio:
    return built_in_voice().audio


def test_it_is_found_after_saving_cutting_and_turning_down(spoken: Audio) -> None:
    assert watermark.score(spoken) < 5
    data, _ = write_file(spoken)
    saved, _ = read_audio(data, rate_hz=16_000, limit_s=30, crop=True)
    assert watermark.score(saved) > watermark.FOUND
    assert watermark.score(Audio(saved.samples[3210:] * 0.3, 16_000)) > watermark.FOUND
    plain, _ = write_file(spoken, generated=False)
    assert watermark.score(read_audio(plain, rate_hz=16_000, limit_s=30, crop=True)[0]) < 5


def test_it_changes_little(spoken: Audio) -> None:
    marked = watermark.embed(spoken)
    change = marked.samples - spoken.samples
    assert len(change) == len(spoken.samples)
    assert 10 * np.log10((spoken.samples**2).sum() / (change**2).sum()) > 20, "decibels between the sound and what was added"


@pytest.mark.parametrize("most", [1, 300, 512, 5000])
def test_it_runs_on_across_pieces(spoken: Audio, most: int) -> None:
    marker, at, lengths = watermark.Marker(spoken.rate_hz), 0, np.random.default_rng(most)
    whole = Audio(spoken.samples[: 20 * most + 700], spoken.rate_hz)
    found: list[Audio] = []
    while at < len(whole.samples):
        step = int(lengths.integers(1, most + 1))
        found.append(marker.feed(Audio(whole.samples[at : at + step], whole.rate_hz)))
        at += step
        assert at - marker.told <= watermark.SIZE + most, "little is held back"
    found.append(marker.finish())
    joined = np.concatenate([piece.samples for piece in found])
    assert marker.told == len(joined) == len(whole.samples)
    assert np.abs(joined - watermark.embed(whole).samples).max() < 1e-6
    if len(whole.samples) > 32_000:
        assert watermark.score(Audio(joined, whole.rate_hz)) > watermark.FOUND


def test_noise_and_short_sounds(spoken: Audio) -> None:
    noise = np.random.default_rng(1).standard_normal(160_000).astype(np.float32) * 0.1
    assert watermark.score(Audio(noise, 32_000)) < 5 < watermark.FOUND < watermark.score(watermark.embed(Audio(noise, 32_000)))
    for count in (0, 1, 700):
        assert len(watermark.embed(Audio(noise[:count], 16_000)).samples) == count
        watermark.score(Audio(noise[:count], 16_000))
