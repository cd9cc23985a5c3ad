"""Figures of the speech codec on held-out clips: intelligibility, quality and words of its copies.

python -m anygpt_demo.eval.speech --family runs/family/mini --sets runs/data/speech --n 60
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anygpt_demo.checkpoints import Family
from anygpt_demo.codecs.speech import SpeechCodec
from anygpt_demo.eval.judges import Listener, intelligibility, quality
from anygpt_demo.eval.metrics import figure, word_error_rates
from anygpt_demo.media import Audio
from anygpt_demo.synth.holdout import HELD_OUT_VOICE
from anygpt_demo.train.speech_data import Clip

RATE_HZ = 16_000


@dataclass(frozen=True)
class Held:
    """A held-out clip."""

    samples: np.ndarray  # float32 at 16 kHz
    text: str  # "" if unknown


def held_out(sets: Path, n: int) -> dict[str, list[Held]]:
    """At most n test clips of each kind: synthetic training voices, the held-out synthetic voice, people with and without text."""
    from anygpt_demo.train.speech_data import open_sets

    kinds: dict[str, list[Held]] = {"seen voices": [], "unseen voice": [], "read by people": [], "other people": []}
    for name, home in open_sets(sets).items():
        for clip in home.clips:
            if clip.split != "test" or not 1 <= clip.samples / RATE_HZ <= 8:
                continue
            if name.startswith("human"):
                kind = "read by people" if clip.text else "other people"
            else:
                kind = "unseen voice" if clip.voice.startswith(HELD_OUT_VOICE) else "seen voices"
            kinds[kind].append(Held(home.wave(clip), clip.text))
    order = np.random.default_rng(0)
    return {kind: [clips[i] for i in order.permutation(len(clips))[:n]] for kind, clips in kinds.items() if clips}


def copies(codec: SpeechCodec, clips: list[Held]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Copy synthesis of each clip from all levels, and from level 1 alone. float32, cut to the clip's length."""
    import torch

    everything: list[np.ndarray] = []
    first: list[np.ndarray] = []
    for clip in clips:
        codes = torch.from_numpy(codec.encode_all(Audio(clip.samples, RATE_HZ)))[:, None]
        with torch.inference_mode():
            for levels, out in ((codes, everything), (codes[:1], first)):
                out.append(codec.tokenizer.decode(levels)[0, 0, : len(clip.samples)].numpy())
    return everything, first


def judge_copies(clips: list[Held], made: list[np.ndarray], listener: Listener | None) -> dict[str, Any]:
    """STOI, PESQ and, where the words are known, judge word errors (ceiling: of the originals)."""
    rolled = made[1:] + made[:1]
    shuffled = [intelligibility(clip.samples[: len(other)], other[: len(clip.samples)]) for clip, other in zip(clips, rolled, strict=True)]
    pairs = [(clip.samples, copy) for clip, copy in zip(clips, made, strict=True)]
    figures = {
        "stoi": figure([intelligibility(*pair) for pair in pairs], ceiling=1, floor=float(np.mean(shuffled))),
        "pesq": figure([quality(*pair) for pair in pairs], ceiling=4.64, floor=1),
    }
    known = [(clip, copy) for clip, copy in zip(clips, made, strict=True) if clip.text and listener and listener.knows(clip.text)]
    if known and listener:
        texts = [clip.text for clip, _ in known]
        heard = [listener.hear(copy) for _, copy in known]
        original, lengths = word_error_rates(texts, [listener.hear(clip.samples) for clip, _ in known])
        copied, _ = word_error_rates(texts, heard)
        floor, _ = word_error_rates(texts, heard[1:] + heard[:1])
        ceiling = float(np.average(original, weights=lengths))
        figures["wer"] = figure(copied, lengths, ceiling=ceiling, floor=float(np.average(floor, weights=lengths)))
        figures["wer minus original"] = figure([a - b for a, b in zip(copied, original, strict=True)], lengths, ceiling=0)
    return figures


def evaluate(family: Family, sets: Path, n: int = 60) -> dict[str, Any]:
    """{"speech codec, <kind of voice>, all levels | level 1": figures}."""
    codec = SpeechCodec.load(family)
    report: dict[str, Any] = {}
    for kind, clips in held_out(sets, n).items():
        texts = [clip.text for clip in clips if clip.text]
        listener = Listener(closed_text(sets, texts, kind)) if texts else None
        for name, made in zip(("all levels", "level 1"), copies(codec, clips), strict=True):
            report[f"speech codec, {kind}, {name}"] = judge_copies(clips, made, listener)
    return report


def phone_accuracy(sets: Path, codebook: int = 1024) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("speech_codec.phone_accuracy", figure); nothing without codes.

    How often the phone that a level-1 code most often stands for in training clips is the phone of a frame of the held-out voice.
    floor: the commonest phone. Pauses are left out.
    """
    from anygpt_demo.train.speech_data import PHONES, SpeechSet, open_sets

    counts = np.zeros((codebook, PHONES))

    def frames(home: SpeechSet, chosen: Callable[[Clip], bool]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for clip in home.clips:
            if chosen(clip) and home.codes is not None and home.coded(clip):
                phones = home.labels(clip)
                known = phones > 0
                yield np.asarray(home.codes[clip.frames_start : clip.frames_start + clip.frames, 0], np.int64)[known], phones[known]

    homes = {name: home for name, home in open_sets(sets).items() if not name.startswith("human")}
    for home in homes.values():
        for codes, phones in frames(home, lambda clip: clip.split == "train"):
            np.add.at(counts, (codes, phones), 1.0)
    right, sizes, usual = [], [], []
    best, commonest = counts.argmax(1), counts.sum(0).argmax()
    for home in homes.values():
        for codes, phones in frames(home, lambda clip: clip.split == "test" and clip.voice.startswith(HELD_OUT_VOICE)):
            right.append(float((best[codes] == phones).mean()))
            usual.append(float((phones == commonest).mean()))
            sizes.append(float(len(phones)))
    if sizes:
        yield "speech_codec.phone_accuracy", figure(right, sizes, ceiling=1.0, floor=float(np.average(usual, weights=sizes)))


def closed_text(sets: Path, texts: list[str], kind: str) -> list[str]:
    """The sentences whose words and pairs the judge may hear: training texts of the same kind of speaker and the test texts."""
    from anygpt_demo.train.speech_data import open_sets

    human = kind == "read by people"
    homes = [home for name, home in open_sets(sets).items() if name.startswith("human") == human]
    return [clip.text for home in homes for clip in home.clips if clip.text][:20_000] + texts


def main() -> None:
    """Command line: prints the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--sets", type=Path, default=Path("runs/data/speech"))
    parser.add_argument("--n", type=int, default=60)
    arguments = parser.parse_args()
    json.dump(evaluate(Family.open(arguments.family), arguments.sets, arguments.n), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
