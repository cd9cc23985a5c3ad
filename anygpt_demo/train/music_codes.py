"""Rendered pieces as codes, for the language model.

runs/data/codes/music/: codes.u16 (n x FRAMES x 4, little endian), replies.u16 (the same pieces as mini learns to play them, see simple()
and steady()), pieces.jsonl (row i belongs to codes i: the facts of a Piece and three captions), bits.u8 (n x FRAMES: onsets and drums of
the score, as in music_data.Labels) and the same for the test pieces but replies, test_codes.u16 (n x 250 x 4), ..., which training must
not touch; "heldout" marks combinations of instrument and genre that no training piece has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.music import MusicCodec
from anygpt_demo.eval.music import is_heldout
from anygpt_demo.media import Audio
from anygpt_demo.synth import music
from anygpt_demo.train.loop import Settings
from anygpt_demo.train.music_data import HOP, RATE_HZ, SECONDS, MusicSet, draw, label, on_grid, sets

FRAMES = 125  # 2.5 s of each piece: 500 tokens, what fits beside a chat
NEW_SEED = 52_001  # plus the seed of the run: of the pieces beyond the codec's own training set
CHUNK = 100
STEADY = (0.0, 0.25, 1.0, 1.25)  # what a change of code costs on each level, as a share of the mean square of a change there


def _row(piece: music.Piece, rng: random.Random) -> str:
    captions = [music.describe(piece, rng, full=True), music.describe(piece, rng), music.describe(piece, rng, full=False)]
    return json.dumps({**dataclasses.asdict(piece), "captions": captions, "heldout": is_heldout(piece)}) + "\n"


def encode_set(codec: MusicCodec, data: MusicSet, rows: Sequence[int], frames: int) -> np.ndarray:
    """The first `frames` frames of clips. Returns uint16 (n, frames, 4)."""
    return np.stack([codec.encode(Audio(data.wave(row, 0, frames), RATE_HZ)) for row in rows]).astype("<u2")


def encode_pieces(codec: MusicCodec, pieces: Sequence[music.Piece], frames: int) -> np.ndarray:
    """Render pieces and encode them. Returns uint16 (n, frames, 4)."""
    return np.stack([codec.encode(music.render(piece, frames * HOP / RATE_HZ, RATE_HZ)) for piece in pieces]).astype("<u2")


def simple(piece: music.Piece) -> music.Piece:
    """The piece in C and with the first sound font: what nobody asks for, a player of few words need not choose from.

    Symbolic music models are often trained in one key: which notes go together is learnt once, not twelve times. Music is read in all keys.
    """
    return dataclasses.replace(piece, key=music.KEYS[0], font=music.Piece.font)


def steady(codes: np.ndarray, vectors: Sequence[np.ndarray], costs: Sequence[float] = STEADY) -> np.ndarray:
    """Codes of pieces with fewer changes that sound the same: on each level the path through the piece's own codes with the
    least sum of squared distances to what was there and of `costs` for changes (Viterbi's algorithm).

    A codec takes the nearest code of each frame, and where two are as near it goes to and fro. Each change has to be guessed by who writes
    codes.
    codes: uint16 (n, frames, levels); vectors: the codebook of each level, float32 (codes, width). Returns codes of the same shape.
    """
    found = codes.copy()
    for level, (book, share) in enumerate(zip(vectors, costs, strict=True)):
        now, before = book[codes[:, 1:, level]], book[codes[:, :-1, level]]
        squares = ((now - before) ** 2).sum(-1)
        if share and squares.any():
            cost = share * float(squares[squares > 0].mean())
            for piece in found:
                piece[:, level] = _path(piece[:, level], book, cost)
    return found


def _path(codes: np.ndarray, book: np.ndarray, cost: float) -> np.ndarray:
    """One level of one piece. codes: (frames,)."""
    choices, place = np.unique(codes, return_inverse=True)
    distance = ((book[choices][:, None] - book[choices]) ** 2).sum(-1)[place]  # (frames, choices)
    least, come_from = distance[0], np.tile(np.arange(len(choices)), (len(codes), 1))
    for frame in range(1, len(codes)):
        best = int(least.argmin())
        change = least > least[best] + cost
        come_from[frame, change] = best
        least = np.where(change, least[best] + cost, least) + distance[frame]
    path = [int(least.argmin())]
    for frame in range(len(codes) - 1, 0, -1):
        path.append(int(come_from[frame, path[-1]]))
    return choices[path[::-1]]


def stamp(codec: MusicCodec) -> str:
    """Ten hex digits that change with the encoder or the codebooks, not with the decoder."""
    digest = hashlib.sha256()
    for key, tensor in codec.model.state_dict().items():
        if key.startswith("encoder.") or key.endswith("codebook.embed"):
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:10]


def _chunk(family: Path, rendered: Path, parts: Path, chunk: int, old: int, pieces: Sequence[music.Piece]) -> np.ndarray:
    """Codes of one chunk and of what is simple() of it, uint16 (2, n, FRAMES, 4), kept in `parts` so that an interrupted run goes on.

    The first `old` pieces lie in `rendered`.
    """
    torch.set_num_threads(1)
    kept = parts / f"{chunk:04d}.npy"
    if kept.is_file():
        return np.load(kept)
    codec, first = MusicCodec.load(Family.open(family), heard_s=SECONDS), chunk * CHUNK
    if first < old:
        codes = encode_set(codec, MusicSet.open(rendered), range(first, first + len(pieces)), FRAMES)
    else:
        codes = encode_pieces(codec, pieces, FRAMES)
    both = np.stack([codes, encode_pieces(codec, [simple(piece) for piece in pieces], FRAMES)])
    draft = kept.with_suffix(f".{os.getpid()}.npy")
    np.save(draft, both)
    draft.replace(kept)
    return both


def _write(folder: Path, prefix: str, codes: np.ndarray, pieces: Sequence[music.Piece], replies: np.ndarray | None = None) -> None:
    """Facts first, codes last: whoever finds the codes finds everything."""
    rng = random.Random(7)
    (folder / f"{prefix}pieces.jsonl").write_text("".join(_row(piece, rng) for piece in pieces), encoding="utf-8")
    bits = np.stack([label(music.compose(piece, SECONDS)).bits[: codes.shape[1]] for piece in pieces])
    bits.tofile(folder / f"{prefix}bits.u8")
    if replies is not None:
        replies.tofile(folder / f"{prefix}replies.u16")
    codes.tofile(folder / f"{prefix}codes.u16.part")
    (folder / f"{prefix}codes.u16.part").replace(folder / f"{prefix}codes.u16")


def make(settings: Settings, count: int = 7500) -> None:
    """Encode `count` training pieces and the test set with the family's codec, on settings.threads processes.

    A fifth of the pieces have any tempo, as the tests have; the rest keep to the grid of the frames, where a rhythm is easy to learn.
    """
    data, tests = sets(settings)
    home = settings.runs / "data" / "codes" / "music"
    home.mkdir(parents=True, exist_ok=True)
    codec = MusicCodec.load(Family.open(settings.family), heard_s=SECONDS)
    _write(home, "test_", encode_set(codec, tests, range(len(tests.pieces)), 250), tests.pieces)
    seed = NEW_SEED + settings.seed
    rng, free = random.Random(seed), min(count // 5, len(data.pieces)) // CHUNK * CHUNK
    pieces = [*data.pieces[:free], *(on_grid(piece, rng) for piece in draw(count - free, seed))]
    chunks = [pieces[start : start + CHUNK] for start in range(0, count, CHUNK)]
    parts_home = home / f"pairs-{stamp(codec)}-{settings.seed}"
    parts_home.mkdir(exist_ok=True)
    work = partial(_chunk, settings.family, settings.runs / "data" / "music" / "train", parts_home)
    tasks = range(len(chunks)), [free] * len(chunks), chunks
    vectors = [layer.codebook.embed.numpy() for layer in codec.model.quantizer.layers]
    if settings.threads == 1:
        _gather(home, map(work, *tasks), pieces, vectors)
        return
    with ProcessPoolExecutor(settings.threads, mp_context=get_context("spawn")) as pool:
        _gather(home, pool.map(work, *tasks), pieces, vectors)


def _gather(home: Path, parts: Iterable[np.ndarray], pieces: Sequence[music.Piece], vectors: Sequence[np.ndarray]) -> None:
    """Collect the chunks; what is there is usable after 1,000 pieces and at every doubling."""
    done: list[np.ndarray] = []
    ready, next_write = 0, 1000
    for part in parts:
        done.append(part)
        ready += part.shape[1]
        print(f"music-codes {ready} / {len(pieces)}", file=sys.stderr, flush=True)
        if ready >= next_write or ready == len(pieces):
            codes, plain = np.concatenate(done, 1)
            _write(home, "", codes, pieces[:ready], steady(plain, vectors))
            next_write = 2 * ready
