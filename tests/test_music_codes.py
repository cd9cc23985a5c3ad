"""Pieces as codes: what lies on disk fits together and survives an interruption."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from anygpt_demo import checkpoints
from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.music import MusicCodec
from anygpt_demo.models import encodec
from anygpt_demo.synth import music
from anygpt_demo.train import music_codes, music_data
from anygpt_demo.train.loop import Settings

TINY = {**encodec.OFFICIAL, "num_filters": 2, "hidden_size": 8, "codebook_dim": 8, "num_lstm_layers": 1}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    pytest.importorskip("fluidsynth")
    torch.manual_seed(0)
    model = encodec.build(TINY)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_(std=0.01)
    checkpoints.export(tmp_path / "family", "music_codec", TINY, encodec.without_training_buffers(model.state_dict()))
    music_data.make(tmp_path / "runs" / "data" / "music" / "train", 2, seed=0)
    music_data.make(tmp_path / "runs" / "data" / "music" / "test", 2, seed=1, heldout=1.0)
    return Settings(budget_s=1, runs=tmp_path / "runs", family=tmp_path / "family")


def test_codes_and_facts_belong_together(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(music_codes, "CHUNK", 2)
    music_codes.make(settings, count=4)
    home = settings.runs / "data" / "codes" / "music"
    rows = [json.loads(line) for line in (home / "pieces.jsonl").read_text().splitlines()]
    codes = np.fromfile(home / "codes.u16", "<u2").reshape(len(rows), music_codes.FRAMES, 4)
    assert len(rows) == 4 and codes.max() < 2048
    assert all(len(row["captions"]) == 3 and not row["heldout"] for row in rows)
    tests = [json.loads(line) for line in (home / "test_pieces.jsonl").read_text().splitlines()]
    assert all(row["heldout"] for row in tests)
    assert np.fromfile(home / "test_codes.u16", "<u2").reshape(2, 250, 4).max() < 2048
    codec = MusicCodec.load(Family.open(settings.family))
    vectors = [layer.codebook.embed.numpy() for layer in codec.model.quantizer.layers]
    fields = {field.name for field in dataclasses.fields(music.Piece)}
    simple = [music_codes.simple(music.Piece(**{key: row[key] for key in fields})) for row in rows]
    plain = music_codes.encode_pieces(codec, simple, music_codes.FRAMES)
    assert np.fromfile(home / "replies.u16", "<u2").tolist() == music_codes.steady(plain, vectors).ravel().tolist()
    part = next(home.glob("pairs-*/0000.npy"))
    np.save(part, np.zeros_like(np.load(part)))
    music_codes.make(settings, count=4)
    assert not np.fromfile(home / "codes.u16", "<u2").reshape(4, -1)[:2].any()  # the kept part was used again


def test_a_simple_piece_is_the_piece_in_c():
    piece = music.sample_piece(random.Random(5))
    piece = dataclasses.replace(piece, key="G", font="TimGM6mb")
    score, simple = (music.compose(item) for item in (piece, music_codes.simple(piece)))
    assert [note._replace(pitch=0) for note in score] == [note._replace(pitch=0) for note in simple]
    steps = {one.pitch - other.pitch for one, other in zip(score, simple, strict=True) if one.channel != 9}
    assert steps == {7} and music_codes.simple(piece).font == music.Piece.font


def test_the_stamp_ignores_the_decoder(settings: Settings):
    codec = MusicCodec.load(Family.open(settings.family))
    before = music_codes.stamp(codec)
    with torch.no_grad():
        next(codec.model.decoder.parameters()).add_(1)
        assert music_codes.stamp(codec) == before
        next(codec.model.encoder.parameters()).add_(1)
    assert music_codes.stamp(codec) != before


def test_steady_codes_change_only_where_it_pays():
    rng = np.random.default_rng(3)
    book = rng.normal(size=(6, 2)).astype(np.float32)
    codes = rng.integers(0, 6, (3, 5, 2)).astype(np.uint16)
    steady = music_codes.steady(codes, [book, book], (0.0, 0.8))
    assert steady[..., 0].tolist() == codes[..., 0].tolist()  # changes cost nothing there
    steps = ((book[codes[:, 1:, 1]] - book[codes[:, :-1, 1]]) ** 2).sum(-1)
    cost = 0.8 * float(steps[steps > 0].mean())

    def price(path: tuple[int, ...], piece: np.ndarray) -> float:
        away = float(((book[list(path)] - book[piece]) ** 2).sum())
        return away + cost * sum(a != b for a, b in itertools.pairwise(path))

    for piece, found in zip(codes[..., 1], steady[..., 1], strict=True):
        paths = itertools.product(sorted(set(piece.tolist())), repeat=len(piece))
        assert price(tuple(found.tolist()), piece) == pytest.approx(min(price(path, piece) for path in paths), rel=1e-4)
    changes = [(item[:, 1:, 1] != item[:, :-1, 1]).sum() for item in (codes, steady)]
    assert changes[1] < changes[0]
