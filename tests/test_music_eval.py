"""The figures of music and the parts of the judge that need no training."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from anygpt_demo.eval import judges_music
from anygpt_demo.eval.music import compare, music_to_text
from anygpt_demo.media import Audio
from anygpt_demo.synth import music
from anygpt_demo.train import music_data


def tone(hz: float, seconds: float = 2.0) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hz * torch.arange(int(32000 * seconds)) / 32000)[None]


@pytest.mark.parametrize(("hz", "pitch_class", "register"), [(110.0, 9, 0), (440.0, 9, 1), (523.25, 0, 1), (1174.7, 2, 2)])
def test_the_ear_finds_the_note(hz: float, pitch_class: int, register: int):
    features = judges_music.Ear()(tone(hz))
    assert features.shape == (1, judges_music.BANDS + judges_music.NOTES, 100)
    assert int(features[0, judges_music.BANDS :, 50].argmax()) == 12 * register + pitch_class


@pytest.mark.parametrize("seconds", [0.5, 2.5, 5.0])
def test_an_untrained_judge_hears_legal_facts(seconds: float):
    listener = judges_music.Listener(judges_music.Judge())
    heard = listener.hear(Audio(np.random.default_rng(0).normal(0, 0.1, int(32000 * seconds)).astype(np.float32), 32000))
    piece = music.sample_piece(random.Random(0))
    assert heard.keys() == judges_music.truth(piece).keys()
    assert all(heard[name] in names for name, names in judges_music.CLASSES.items()) and heard["mode"] in judges_music.MODES
    with pytest.raises(ValueError, match="half a second"):
        listener.hear(Audio(np.zeros(100, np.float32), 32000))


def test_perfect_captions_score_one_and_shuffled_ones_do_not():
    rng = random.Random(2)
    pieces = [music.sample_piece(rng) for _ in range(60)]
    figures = music_to_text([music.describe(piece, rng, full=True) for piece in pieces], pieces)
    assert set(figures) == {"tempo", "drums", "instrument_family", "mode", "genre"}
    assert all(value["value"] == 1 and value["floor"] < 0.8 and value["n"] == 60 for value in figures.values())


def test_figures_are_shares_of_the_ceiling():
    asked = [{"tempo": "slow"}, {"tempo": "fast"}, {"tempo": "slow"}, {"drums": "yes"}]
    found = [{"tempo": "slow"}, {"tempo": "slow"}, {"tempo": "fast"}, {"drums": "yes"}]
    ceiling = [{"tempo": "slow"}, {"tempo": "fast"}, {"tempo": "fast"}, {"drums": "yes"}]
    tempo = compare(found, asked, ceiling)["tempo"]
    assert tempo["n"] == 3 and tempo["raw"] == pytest.approx(0.3333, abs=1e-3)
    assert tempo["ceiling"] == pytest.approx(0.6667, abs=1e-3) and tempo["value"] == pytest.approx(0.5, abs=1e-3)


def test_labels_follow_the_score():
    piece = next(piece for piece in music_data.draw(50, 3) if piece.drums)
    labels = music_data.label(music.compose(piece))
    assert labels.bits.shape == (music_data.FRAMES,) and labels.bits[:3].any()
    assert (labels.bits & 28).any() and labels.chords.any() and labels.bass.any()
    sounding = labels.lead[labels.lead > 0]
    scale = {(music.KEYS.index(piece.key) + step) % 12 for step in music.MODES[piece.mode]}
    assert set((sounding % 12).tolist()) <= scale


def test_rendered_sets_are_made_once(tmp_path):
    pytest.importorskip("fluidsynth")
    music_data.make(tmp_path / "set", 2, seed=1, heldout=1.0)
    music_data.make(tmp_path / "set", 5, seed=1)
    data = music_data.MusicSet.open(tmp_path / "set")
    assert len(data.pieces) == 2 and data.wave(1, 10, 20).shape == (20 * music_data.HOP,)
    assert data.labels.bits.shape == (2, music_data.FRAMES)
