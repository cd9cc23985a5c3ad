"""Synthetic music: balance, held-out pairs, determinism, words."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from anygpt_demo.synth import music
from anygpt_demo.synth.holdout import MUSIC_PAIRS


def pieces(count: int, heldout: bool = False) -> list[music.Piece]:
    rng = random.Random(1)
    return [music.sample_piece(rng, heldout) for _ in range(count)]


def test_the_world_is_large_enough():
    assert len(music.GENRES) >= 12 and len(music.MOODS) >= 10 and len(music.PROGRAMS) >= 36
    assert len(set(music.PROGRAMS.values())) == len(music.PROGRAMS)


@pytest.mark.parametrize("name", ["tempo", "drums", "family", "mode"])
def test_facts_are_balanced(name: str):
    counts = Counter(getattr(piece, name) for piece in pieces(2000))
    assert min(counts.values()) > 0.7 * 2000 / len(counts)


def test_training_never_meets_a_heldout_pair():
    assert not {(piece.lead, piece.genre) for piece in pieces(5000)} & set(MUSIC_PAIRS)
    assert {(piece.lead, piece.genre) for piece in pieces(500, heldout=True)} == set(MUSIC_PAIRS)
    assert all(lead in music.PROGRAMS and genre in music.GENRES for lead, genre in MUSIC_PAIRS)


def test_notes_follow_the_facts():
    for piece in pieces(200):
        notes = music.compose(piece)
        assert notes == music.compose(piece)
        assert any(note.channel == 9 for note in notes) == piece.drums
        assert all(0 <= note.start < 5 and 0 < note.pitch < 128 and 0 < note.velocity < 128 for note in notes)
        scale = {(music.KEYS.index(piece.key) + step) % 12 for step in music.MODES[piece.mode]}
        assert {note.pitch % 12 for note in notes if note.channel != 9} <= scale
        low, high = music.TEMPOS[piece.tempo]
        assert low <= piece.bpm <= high


def test_rendering_is_exact_and_repeatable():
    pytest.importorskip("fluidsynth")
    first, other = (replace(piece, drums=True) for piece in pieces(2))
    sound = music.render(first, 1.0)
    music.render(other, 1.0)
    again = music.render(first, 1.0)
    assert sound.rate_hz == 32000 and sound.samples.shape == (32000,) and sound.samples.dtype == np.float32
    assert np.array_equal(sound.samples, again.samples)
    assert 0.6 < np.abs(sound.samples).max() <= 0.71
    assert not np.array_equal(music.render(replace(first, lead="violin", family="strings"), 1.0).samples, sound.samples)


def test_words_say_the_facts():
    rng = random.Random(3)
    for piece in pieces(400):
        for text in (music.describe(piece, rng, full=True), music.request(piece, rng, full=True)):
            want = {name: getattr(piece, name) for name in ("genre", "mood", "lead", "family", "tempo", "mode")}
            assert music.facts(text) == {**want, "drums": "yes" if piece.drums else "no"}, text
        short = music.facts(music.describe(piece, rng, full=False) + " ")
        assert short and all(value == getattr(piece, name) for name, value in short.items() if name != "drums")
        assert "{" not in music.request(piece, rng)
        typed = music.freely(piece, rng)
        named = music.facts(typed + " ")
        assert named and "{" not in typed
        assert named == {name: want[name] if name in want else "yes" if piece.drums else "no" for name in named}, typed
        assert " a a" not in music.describe(piece, rng) and " an b" not in music.describe(piece, rng)


def test_there_are_many_phrasings():
    piece, rng = pieces(1)[0], random.Random(0)
    assert len({music.describe(piece, rng) for _ in range(400)}) >= 16
    assert len({music.request(piece, rng) for _ in range(400)}) >= 40
