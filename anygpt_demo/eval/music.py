"""Figures of music: what a judge hears in codec copies and in generated pieces, and what captions say of real ones.

    python -m anygpt_demo.eval.music --family runs/family/mini --n 200

Every figure is a share: the judge's hit rate on the material under test divided by its hit rate on the true sound of the same pieces
(`ceiling`), with the raw rate as `raw` and the rate of shuffled pairs, divided alike, as `floor`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.music import MusicCodec
from anygpt_demo.eval.judges_music import PATH, Listener, truth
from anygpt_demo.eval.metrics import figure
from anygpt_demo.media import Audio
from anygpt_demo.synth import music
from anygpt_demo.synth.holdout import MUSIC_PAIRS
from anygpt_demo.train.music_data import RATE_HZ, MusicSet

NAMES = {"tempo": "tempo", "drums": "drums", "instrument_family": "family", "mode": "mode", "genre": "genre"}
Facts = Mapping[str, str]


def compare(found: Sequence[Facts], asked: Sequence[Facts], ceiling: Sequence[Facts] | None = None) -> dict[str, dict[str, Any]]:
    """Figures by fact. found: heard or said; asked: the truth, only facts that count; ceiling: heard in the true sound (None: 1)."""
    figures = {}
    for key, name in NAMES.items():
        rows = [number for number, facts in enumerate(asked) if name in facts]
        if not rows:
            continue
        hits = [float(found[row].get(name) == asked[row][name]) for row in rows]
        other = rows[1:] + rows[:1]
        floor = float(np.mean([found[row].get(name) == asked[wrong][name] for row, wrong in zip(rows, other, strict=True)]))
        top = 1.0 if ceiling is None else max(1e-3, float(np.mean([ceiling[row][name] == asked[row][name] for row in rows])))
        figures[key] = figure([hit / top for hit in hits], ceiling=top, floor=floor / top) | {"raw": round(float(np.mean(hits)), 4)}
    return figures


def is_heldout(piece: music.Piece) -> bool:
    """Whether a piece combines an instrument and a genre that training never combines."""
    return (piece.lead, piece.genre) in MUSIC_PAIRS


def text_to_music(
    made: Sequence[Audio], asked: Sequence[Facts], pieces: Sequence[music.Piece], listener: Listener
) -> dict[str, dict[str, Any]]:
    """Generated sounds against what was asked (facts as music.facts() reads them). pieces: their specifications.

    The ceiling is the judge on FluidSynth's rendering of the same pieces, cut to the same lengths.
    """
    real = [music.render(piece, max(0.5, len(audio.samples) / RATE_HZ)) for piece, audio in zip(pieces, made, strict=True)]
    return compare([listener.hear(audio) for audio in made], asked, [listener.hear(audio) for audio in real])


def music_to_text(captions: Sequence[str], pieces: Sequence[music.Piece]) -> dict[str, dict[str, Any]]:
    """What captions say against the pieces: a fact that is not named counts as missed."""
    return compare([music.facts(caption) for caption in captions], [truth(piece) for piece in pieces])


def round_trip(codec: MusicCodec, data: MusicSet, rows: Sequence[int], listener: Listener, frames: int = 250) -> dict[str, dict[str, Any]]:
    """Codec copies of the first `frames` frames of clips."""
    originals = [Audio(data.wave(row, 0, frames), RATE_HZ) for row in rows]
    copies = [codec.decode(codec.encode(audio)) for audio in originals]
    asked = [truth(data.pieces[row]) for row in rows]
    return compare([listener.hear(audio) for audio in copies], asked, [listener.hear(audio) for audio in originals])


def evaluate(family: Family, folder: Path, judge: Path, n: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("music_recon.tempo", figure), ... for 5 s, 2.5 s and held-out pairs."""
    codec, listener, data = MusicCodec.load(family, heard_s=5.0), Listener.load(judge), MusicSet.open(folder)
    rows = range(min(n, len(data.pieces)))
    unseen = [row for row, piece in enumerate(data.pieces) if is_heldout(piece)][:n]
    for prefix, chosen, frames in (("music_recon", rows, 250), ("music_recon_short", rows, 125), ("music_recon_unseen_pairs", unseen, 250)):
        for key, value in round_trip(codec, data, chosen, listener, frames).items():
            yield f"{prefix}.{key}", value


def main() -> None:
    """Command line: prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--data", type=Path, default=Path("runs/data/music/test"))
    parser.add_argument("--judge", type=Path, default=PATH)
    parser.add_argument("--n", type=int, default=100)
    given = parser.parse_args()
    json.dump({"figures": dict(evaluate(Family.open(given.family), given.data, given.judge, given.n))}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
